"""The test devices, on buses, with what public test images do to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from barevisor.board.bus import Bus
from barevisor.board.irq import IrqLine
from barevisor.board.ram import GuestRam
from barevisor.devices import testdev
from barevisor.errors import GuestError


@dataclass
class Board:
    ports: Bus
    memory: Bus
    ends: list[tuple[str, int]] = field(default_factory=list)
    lines: list[tuple[int, bool]] = field(default_factory=list)
    flushed: list[tuple[int, int]] = field(default_factory=list)


@pytest.fixture
def board() -> Iterator[Board]:
    b = Board(Bus("port"), Bus("memory"))
    ram = GuestRam([(0, 1 << 20)])
    ram.on_write = lambda gpa, size: b.flushed.append((gpa, size))
    testdev.attach(
        b.ports, b.memory, ram, cpus=3,
        irq=lambda gsi: IrqLine(lambda level: b.lines.append((gsi, level))).source(),
        end=lambda kind, detail, code: b.ends.append((kind, code)),
    )  # fmt: skip
    yield b
    ram.close()


@pytest.mark.parametrize(("value", "size", "code"), [(0, 1, 1), (1, 4, 3), (0x31, 1, 99)])
def test_debug_exit(value: int, size: int, code: int, board: Board) -> None:
    board.ports.write(0xF4, size, value)
    assert board.ends == [("exit", code)]


@pytest.mark.parametrize(
    ("key", "data"),
    [
        pytest.param(0x00, b"QEMU", id="signature"),
        pytest.param(0x01, b"\1\0\0\0", id="id"),
        pytest.param(0x03, (1 << 20).to_bytes(8, "little"), id="RAM size"),
        pytest.param(0x05, b"\3\0\0\0", id="CPUs"),
        pytest.param(0x0F, b"\3\0\0\0", id="most CPUs"),
        pytest.param(0x19, bytes(4), id="no files"),
        pytest.param(0x77, bytes(4), id="unknown key"),
    ],
)
def test_fw_cfg(key: int, data: bytes, board: Board) -> None:
    for _ in range(2):  # selecting starts over
        board.ports.write(0x510, 2, key)
        assert bytes(board.ports.read(0x511, 1) for _ in data) == data


def test_latch_at_any_width_and_at_both_places(board: Board) -> None:
    board.ports.write(0xE0, 4, 0x44332211)
    assert board.ports.read(0xE8, 4) == 0x44332211
    assert board.ports.read(0xE1, 2) == 0x3322
    board.ports.write(0xEB, 1, 0x99)
    assert board.ports.read(0xE0, 4) == 0x99332211
    board.ports.write(0xE3, 4, 0xAABBCCDD)
    assert board.ports.read(0xE0, 4) == 0xDD332211


def test_flush_tells_the_engine(board: Board) -> None:
    board.ports.write(0xE4, 4, 0x5123)
    assert board.flushed == [(0x5000, 0x1000)]
    with pytest.raises(GuestError):
        board.ports.write(0xE4, 4, 0xFFFF_F000)
    with pytest.raises(GuestError):
        board.ports.write(0xE4, 1, 0)


def test_interrupt_lines(board: Board) -> None:
    for port, value in ((0x2000, 1), (0x2017, 1), (0x2000, 0), (0x2018, 1)):
        board.ports.write(port, 1, value)
    assert board.lines == [(0, True), (23, True), (0, False)]


def test_mmio_memory(board: Board) -> None:
    board.memory.write(0xFF00_0010, 8, 0x1122334455667788)
    assert board.memory.read(0xFF00_0014, 4) == 0x11223344
    board.memory.write(0xFF00_FFFE, 4, 0xAABBCCDD)
    assert board.memory.read(0xFF00_FFFE, 2) == 0xCCDD
    assert board.memory.read(0xFF00_FFFE, 4) == 0xCCDD
    assert board.memory.read(0xFF01_0000, 4) == 0xFFFF_FFFF
