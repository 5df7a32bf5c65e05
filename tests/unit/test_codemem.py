"""Code memory is never writable and executable in one mapping, and bounded."""

from __future__ import annotations

import ctypes

import pytest

from barevisor.cpu.bt.codemem import CodeMemory
from barevisor.errors import EngineError

PAGE = 4096
RETURN_42 = bytes.fromhex("b82a000000c3")


def permissions(address: int) -> str:
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, _, rest = line.partition("-")
            end = rest.partition(" ")[0]
            if int(start, 16) <= address < int(end, 16):
                return line.split()[1]
    return ""


def test_two_mappings_none_writable_and_executable() -> None:
    memory = CodeMemory(16 * PAGE)
    write, run, size = memory.mappings()
    assert permissions(write) == permissions(write + size - 1) == "rw-s"
    assert permissions(run) == permissions(run + size - 1) == "r-xs"
    with open("/proc/self/maps") as maps:
        assert [m for m in maps if "w" in m.split()[1] and "x" in m.split()[1]] == []


def test_mappings_go_with_the_owner() -> None:
    memory = CodeMemory(PAGE)
    write, run, _ = memory.mappings()
    del memory
    assert (permissions(write), permissions(run)) == ("", "")


def test_added_code_runs() -> None:
    memory = CodeMemory(PAGE)
    assert ctypes.CFUNCTYPE(ctypes.c_int)(memory.add(RETURN_42))() == 42


def test_full_memory_refuses_and_reset_frees() -> None:
    memory = CodeMemory(PAGE)
    added = 0
    while memory.add(bytes(64)):
        added += 1
    assert added == PAGE // 64
    assert memory.used() == PAGE
    memory.reset()
    assert memory.add(bytes(PAGE + 1)) == 0
    assert memory.add(bytes(PAGE))


def test_equal_code_is_kept_once() -> None:
    memory = CodeMemory(16 * PAGE)
    snippets = [bytes((0xB0, n, 0xC3)) for n in range(200)]
    first = [memory.share(code) for code in snippets]
    used = memory.used()
    assert [memory.share(code) for code in snippets] == first
    assert len(set(first)) == len(first)
    assert memory.used() == used


def test_more_code_than_the_table_remembers_still_works() -> None:
    memory = CodeMemory(PAGE)  # a table of 128 entries
    addresses = [memory.share(bytes((0xB0, n, 0xC3))) for n in range(200)]
    assert all(addresses)


@pytest.mark.parametrize("size", [0, -PAGE, PAGE + 1, 1 << 32], ids=hex)
def test_bad_size(size: int) -> None:
    with pytest.raises(EngineError):
        CodeMemory(size)
