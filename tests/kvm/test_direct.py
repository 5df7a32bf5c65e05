"""Direct execution (ADR 20): that it happens, what its process may do, and what if it can't."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

from barevisor.board.ram import GuestRam
from barevisor.cpu import engine
from barevisor.cpu.bt import userprocess
from barevisor.cpu.bt.vm import BtEngine, BtVm
from barevisor.testing import micro
from barevisor.testing.microguests_direct import DIRECT_ROWS, direct

pytestmark = [pytest.mark.timeout(60), pytest.mark.no_kvm]

HIGH = 0x2345 << 32
"""A multiple of 2 MiB between heap and libraries."""
LOOP = direct("an endless loop", f"mov ebx, {micro.SPARE}; l: inc dword [rbx]; jmp l")


@pytest.fixture(autouse=True)
def mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAREVISOR_BT", "direct")


def processes() -> set[int]:
    """Those of all VMs of this process: other tests may keep theirs."""
    tasks = Path("/proc/self/task").glob("*/children")
    pids = {int(pid) for task in tasks for pid in task.read_text().split()}
    return {p for p in pids if Path(f"/proc/{p}/comm").read_text() == "barevisor-user\n"}


class Running:
    """A row on a thread of its own, which its process ends with: to its first exit, or with one
    more once all code was dropped."""

    def __init__(self, row: micro.MicroGuest = LOOP, *, drop: bool = False) -> None:
        image = micro.build(row)
        self.others = processes()
        self.ram = GuestRam([(0, micro.RAM_SIZE)], file=True)
        for at, raw in image.parts.items():
            self.ram.write(at, raw)
        self.vm = BtVm(engine.MachineSpec(irqchip=False))
        self.vm.set_memory(0, 0, micro.RAM_SIZE, self.ram.host_address, file=self.ram.file(0))
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_state(image.state)
        self.ends: list[engine.Exit] = []
        self.thread = threading.Thread(target=self._run, args=(drop,))
        self.thread.start()

    def _run(self, drop: bool) -> None:
        self.ends.append(self.vcpu.run())
        if drop:
            self.vm.set_debug(None)
            self.ends.append(self.vcpu.run())

    @cached_property
    def pid(self) -> int:
        """Of the process that runs LOOP, once it counts."""
        while self.ram.read(micro.SPARE, 4) == bytes(4):
            time.sleep(0.01)
        (pid,) = processes() - self.others
        return pid

    def close(self) -> None:
        self.vcpu.kick()
        self.thread.join()
        self.vm.close()
        self.ram.close()


@pytest.fixture
def running() -> Iterator[Running]:
    one = Running()
    try:
        yield one
    finally:
        one.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_the_table_of_direct_rows_runs_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this all rows could pass translated."""
    counts: list[int] = []
    close = BtVm.close

    def counting(vm: BtVm) -> None:
        if vm._core is not None:
            counts.append(vm.counters()["direct_runs"])
        close(vm)

    monkeypatch.setattr(BtVm, "close", counting)
    for row in DIRECT_ROWS:
        micro.run(BtEngine(), row)
    never = [row.name for row, count in zip(DIRECT_ROWS, counts, strict=True) if not count]
    assert never == []


def test_the_process_can_do_nothing_but_compute(running: Running) -> None:
    found = status(running.pid)
    assert found["Seccomp"] == "2"
    assert found["NoNewPrivs"] == "1"
    assert found["TracerPid"] != "0"
    assert os.listdir(f"/proc/{running.pid}/fd") == [str(userprocess.RAM_FD)]


def test_the_process_has_nothing_of_the_vmm(running: Running) -> None:
    """Its own page, its list, guest RAM without a right that the guest has not given, and what the
    kernel shows everybody."""
    lines = Path(f"/proc/{running.pid}/maps").read_text().splitlines()
    words = [line.split() for line in lines]
    names = {"".join(w[5:6]) for w in words}
    assert names <= {
        "/memfd:barevisor-ram", "/memfd:barevisor-user", "/memfd:barevisor-calls", "[vsyscall]"
    }  # fmt: skip
    rights = {w[5]: w[1] for w in words if len(w) > 5}
    assert rights["/memfd:barevisor-user"] == "r-xp"
    assert rights["/memfd:barevisor-calls"] == "r--s"
    assert not any("w" in w[1] and "x" in w[1] for w in words)


def test_a_kick_stops_it(running: Running) -> None:
    running.vcpu.kick()
    running.thread.join(10)
    assert running.ends == [engine.Interrupted()]
    counted = running.ram.read(micro.SPARE, 4)
    time.sleep(0.05)
    assert running.ram.read(micro.SPARE, 4) == counted


def test_a_signal_to_the_process_changes_nothing(running: Running) -> None:
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        before = running.ram.read(micro.SPARE, 4)
        os.kill(running.pid, number)
        while running.ram.read(micro.SPARE, 4) == before:
            time.sleep(0.001)
    assert not running.ends


def test_a_process_that_is_killed_ends_the_guest(running: Running) -> None:
    os.kill(running.pid, signal.SIGKILL)
    running.thread.join(10)
    (end,) = running.ends
    assert isinstance(end, engine.InternalError)
    assert end.reason == "the process that ran user code is gone"


def test_closing_leaves_no_process() -> None:
    one = Running()
    pid = one.pid
    one.close()
    assert not Path(f"/proc/{pid}").exists()


def test_another_thread_can_go_on(running: Running) -> None:
    assert running.pid
    running.vcpu.kick()
    running.thread.join(10)
    before = running.ram.read(micro.SPARE, 4)
    again = threading.Thread(target=lambda: running.ends.append(running.vcpu.run()))
    again.start()
    while running.ram.read(micro.SPARE, 4) == before:
        time.sleep(0.001)
    running.vcpu.kick()
    again.join(10)
    assert running.ends == [engine.Interrupted()] * 2


def test_code_is_watched_again_after_all_code_was_dropped() -> None:
    """What ran directly before becomes CPUID afterwards: the guest must see its own."""
    spare = f"{micro.SPARE:#x}"
    row = direct(
        "a drop in between",
        f"mov esi, {spare}; call rsi; int 0x80; mov eax, 1; call rsi; mov edi, ebx; mov ebp, 1",
        kernel="k: test ebp, ebp; jne e; report 7; mov word [rsi], 0xA20F; iretq;"
        "e: sub edi, r12d; report edi; end",
        before="mov eax, 1; cpuid; mov r12d, ebx",
        poke={micro.SPARE: b"\x90\x90\xc3"},
    )
    one = Running(row, drop=True)
    one.thread.join(10)
    one.close()
    reported = [int.from_bytes(end.data, "little") for end in one.ends]  # type: ignore[union-attr]
    assert reported == [7, 0]


def test_a_large_page_where_the_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of calls must not become guest memory."""
    monkeypatch.setattr(userprocess, "LOW", HIGH + 0x5000)
    monkeypatch.setattr(userprocess, "HIGH", HIGH + 0x6000)
    tables = micro.SPARE + 0x10000
    row = direct(
        "a large page over it",
        f"mov rbx, {HIGH}; mov dword [rbx], 9; mov dword [rbx+0x5000], 8;"
        f"mov dword [rbx+0x6000], 7; mov ebx, {micro.SPARE}; mov dword [rbx], 6; int 0x80",
        (9, 8, 7, 6),
        "k: report dword [0x200000]; report dword [0x205000]; report dword [0x206000];"
        f"report dword [{micro.SPARE}]; end",
        poke={
            micro.PML4 + (HIGH >> 39 & 511) * 8: micro.entry(tables, 7),
            tables + (HIGH >> 30 & 511) * 8: micro.entry(tables + 0x1000, 7),
            tables + 0x1000 + (HIGH >> 21 & 511) * 8: micro.entry(0x200000, 1 << 63 | 0xE7),
        },
    )
    assert not micro.differences(micro.run(BtEngine(), row), row)


def refuse(ram: int, table: int, *, traps_tsc: bool) -> tuple[int, int]:
    raise PermissionError(1, "no more processes")


def test_a_host_without_such_processes_is_an_error_where_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(userprocess, "spawn", refuse)
    outcome = micro.run(BtEngine(), DIRECT_ROWS[0])
    assert "BAREVISOR_BT=direct: [Errno 1] no more processes" in outcome.end


def test_a_process_that_ends_at_once_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userprocess, "PTRACE", 60)  # exit(2)
    outcome = micro.run(BtEngine(), DIRECT_ROWS[0])
    assert "cannot be traced" in outcome.end
