"""The run loop, on an engine that plays a script."""

from __future__ import annotations

import os
import threading
import time

import pytest

from barevisor.board.machine import Machine, Outcome
from barevisor.cpu.engine import (
    CpuState,
    DebugStop,
    Exit,
    Halted,
    InternalError,
    Interrupted,
    MachineSpec,
    MmioRead,
    MmioWrite,
    PioRead,
    PioWrite,
    Shutdown,
    SystemEvent,
)
from barevisor.errors import AddressTaken, ConfigError, EngineError, GuestError
from barevisor.testing.fake_engine import FakeEngine, FakeVcpu, FakeVm, Sink, Step

MIB = 1 << 20


class Recorder:
    """A device that records writes and answers its offset."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def bus_read(self, offset: int, size: int) -> int:
        return 0x1122334455667788 + offset

    def bus_write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


class Hostile:
    def bus_read(self, offset: int, size: int) -> int:
        raise GuestError("no such register")

    def bus_write(self, offset: int, size: int, value: int) -> None:
        raise GuestError("no such register")


def machine(*scripts: list[Step], cpus: int = 1) -> Machine:
    return Machine(FakeEngine(*scripts), MachineSpec(cpus=cpus), 4 * MIB)


def finish(m: Machine) -> Outcome:
    m.start()
    outcome = m.wait(10)
    assert outcome is not None
    return outcome


def fake(m: Machine, index: int = 0) -> FakeVcpu:
    vcpu = m.vcpus[index]
    assert isinstance(vcpu, FakeVcpu)
    return vcpu


@pytest.mark.parametrize(
    ("last", "kind", "detail"),
    [
        pytest.param(Shutdown(), "triple-fault", "vCPU 0", id="triple fault"),
        pytest.param(SystemEvent("shutdown"), "poweroff", "the engine", id="engine shutdown"),
        pytest.param(SystemEvent("reset"), "reset", "the engine", id="engine reset"),
        pytest.param(SystemEvent("crash"), "crash", "the engine", id="engine crash"),
        pytest.param(InternalError("bad", (1, 2)), "internal-error", "bad 0x1 0x2", id="internal"),
        pytest.param(DebugStop("step", 0x1000), "internal-error", "0x1000", id="stray debug exit"),
        pytest.param(Halted(), "halted", "every vCPU", id="halted"),
    ],
)
def test_an_exit_that_ends_the_machine(last: Exit, kind: str, detail: str) -> None:
    with machine([Interrupted(), last]) as m:
        outcome = finish(m)
        assert (outcome.kind, outcome.vcpu) == (kind, 0)
        assert detail in outcome.detail
        assert outcome.state is not None


def test_accesses_reach_their_device_and_reads_are_answered() -> None:
    script: list[Step] = [
        PioWrite(0x10, 2, b"\x34\x12"),
        PioWrite(0x11, 1, b"abc"),
        MmioWrite(0xFE00_0004, b"\1\2\3\4\5\6\7\x08"),
        MmioWrite(0xFE00_0000, b"\1\2\3"),
        PioRead(0x10, 1),
        PioRead(0x10, 2, 2),
        PioRead(0x77, 4),
        MmioRead(0xFE00_0001, 8),
        MmioRead(0xFE00_0000, 3),
        MmioRead(0xFD00_0000, 4),
        Shutdown(),
    ]
    with machine(script) as m:
        device = Recorder()
        m.ports.add(0x10, 2, device, "device")
        m.memory.add(0xFE00_0000, 0x1000, device, "device")
        finish(m)
        assert device.seen == [
            (0, 2, 0x1234), (1, 1, 0x61), (1, 1, 0x62), (1, 1, 0x63),
            (4, 8, 0x0807060504030201), (0, 2, 0x0201), (2, 1, 0x03),
        ]  # fmt: skip
        assert fake(m).answers == [
            b"\x88", b"\x88\x77\x88\x77", b"\xff" * 4,
            (0x1122334455667789).to_bytes(8, "little"), b"\x88\x77\x8a", b"\xff" * 4,
        ]  # fmt: skip


def test_a_guest_error_in_a_device_does_not_end_the_machine() -> None:
    script: list[Step] = [
        PioWrite(0x10, 1, b"\0"), PioWrite(0x10, 1, b"ab"), PioRead(0x10, 2, 2),
        MmioWrite(0xFE00_0000, b"\0"), MmioRead(0xFE00_0000, 4), Halted(),
    ]  # fmt: skip
    with machine(script) as m:
        m.ports.add(0x10, 2, Hostile(), "hostile")
        m.memory.add(0xFE00_0000, 0x1000, Hostile(), "hostile")
        assert finish(m).kind == "halted"
        assert fake(m).answers == [b"\xff" * 4, b"\xff" * 4]
        assert list(m.guest_errors) == ["no such register"] * 6
        assert "guest error: no such register" in m.report()


def test_a_bug_in_a_device_is_raised_by_wait_with_its_traceback() -> None:
    def bug() -> None:
        raise ZeroDivisionError("in a device")

    with machine([bug], [], cpus=2) as m:
        m.start()
        with pytest.raises(ZeroDivisionError, match="in a device") as caught:
            m.wait(10)
        assert any(entry.name == "bug" for entry in caught.traceback)


def test_a_device_ends_the_machine_with_a_code() -> None:
    with machine([lambda: m.end("exit", "debug exit", 85)], [], cpus=2) as m:
        outcome = finish(m)
        assert (outcome.kind, outcome.code, outcome.vcpu) == ("exit", 85, 0)


def test_the_first_outcome_stands_and_its_cpu_is_told() -> None:
    with machine([], [Shutdown()], cpus=2) as m:
        outcome = finish(m)
        m.stop("too late")
        assert m.wait(1) is outcome
        assert (outcome.kind, outcome.vcpu) == ("triple-fault", 1)


def test_wait_times_out_and_stop_ends_it() -> None:
    with machine([]) as m:
        m.start()
        assert m.wait(0.01) is None
        m.stop("timeout")
        outcome = m.wait(10)
        assert outcome is not None
        assert (outcome.kind, outcome.detail) == ("stopped", "timeout")


def test_pause_waits_until_no_vcpu_runs_and_resume_goes_on() -> None:
    gate = threading.Event()
    with machine([gate.wait, PioWrite(0x10, 1, b"x"), Halted()], cpus=1) as m:  # type: ignore
        device = Recorder()
        m.ports.add(0x10, 1, device, "device")
        m.start()
        threading.Timer(0.02, gate.set).start()
        m.pause()
        assert not fake(m).in_run
        assert "RIP" in m.report()
        m.resume()
        outcome = m.wait(10)
        assert outcome is not None
        assert outcome.kind == "halted"
        assert device.seen == [(0, 1, ord("x"))]


def test_pause_and_stop_from_many_threads() -> None:
    with machine([], [], [], cpus=3) as m:
        m.start()
        for _ in range(20):
            m.pause()
            m.pause()
            m.resume()
        m.pause()
        m.stop()
        outcome = m.wait(10)
        assert outcome is not None
        assert outcome.kind == "stopped"


@pytest.mark.parametrize(
    ("second", "mp_state", "ends"),
    [
        pytest.param([], "init", True, id="the other CPU was never started"),
        pytest.param([], "runnable", False, id="the other CPU works"),
        pytest.param([Halted()], "runnable", True, id="the other CPU halted too"),
    ],
)
def test_one_halted_cpu_of_two(second: list[Step], mp_state: str, ends: bool) -> None:
    with machine([Halted()], second, cpus=2) as m:
        fake(m, 1).state.mp_state = mp_state
        m.start()
        outcome = m.wait(5 if ends else 0.05)
        assert (outcome.kind if outcome else None) == ("halted" if ends else None)


def test_report_shows_registers_and_code() -> None:
    with machine([Shutdown()]) as m:
        m.ram.write(0x7FF0, bytes(range(32)))
        fake(m).state.regs.rip = 0x8000
        fake(m).state.regs.r15 = 0xDEAD
        finish(m)
        text = m.report()
    assert "R15: 000000000000dead" in text
    assert "0f <10> 11" in text


def test_irq_sources_are_ored() -> None:
    with machine([]) as m:
        a, b = m.irq(4), m.irq(4)
        for source, level in [(a, True), (b, True), (a, True), (a, False), (b, False), (b, False)]:
            source.set(level)
        m.msi(0xFEE0_0000, 0x41)
        assert m.vm.irqs == [(4, True), (4, False)]  # type: ignore[attr-defined]
        assert m.vm.msis == [(0xFEE0_0000, 0x41)]  # type: ignore[attr-defined]


def test_ram_is_split_at_3_gib_and_writes_are_told() -> None:
    engine = FakeEngine()
    with Machine(engine, MachineSpec(), 0xC000_0000 + MIB) as m:
        assert engine.vm is not None
        assert [slot[:2] for slot in engine.vm.memory.values()] == [
            (0, 0xC000_0000), (1 << 32, MIB),
        ]  # fmt: skip
        m.ram.write(0x1000, b"abc")
        m.ram.write(0x2000, bytes(MIB))
        assert engine.vm.written == [(0x1000, 3), (0x2000, MIB)]


class Picky(FakeVm):
    """Takes RAM at the third address that it is offered, read-only memory at the second."""

    def set_memory(
        self, slot: int, gpa: int, size: int, host_address: int, *, readonly: bool = False,
        file: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().set_memory(slot, gpa, size, host_address, readonly=readonly)
        self.offered = (*getattr(self, "offered", ()), host_address)
        if len(self.offered) in (1, 2, 4):
            raise AddressTaken("not there")


def test_memory_goes_where_the_engine_can_use_it() -> None:
    class Engine(FakeEngine):
        def create_vm(self, spec: MachineSpec) -> FakeVm:
            return Picky(spec, [])

    machine = Machine(Engine(), MachineSpec(), 4 * MIB)
    try:
        machine.add_readonly(0xE000_0000, 4096)
        assert isinstance(machine.vm, Picky)
        assert len(set(machine.vm.offered)) == 5
        assert machine.vm.memory[0] == (0, 4 * MIB, machine.ram.host_address)
        assert machine.vm.memory[1] == (0xE000_0000, 4096, machine.vm.offered[-1])
    finally:
        machine.close()


def test_an_engine_that_can_use_no_address_is_an_error() -> None:
    class Nowhere(FakeVm):
        def set_memory(
            self, slot: int, gpa: int, size: int, host_address: int, *, readonly: bool = False,
            file: tuple[int, int] | None = None,
        ) -> None:  # fmt: skip
            if readonly or size == 4 * MIB:
                raise AddressTaken("not there")

    class Engine(FakeEngine):
        def create_vm(self, spec: MachineSpec) -> FakeVm:
            self.vm = Nowhere(spec, [])
            return self.vm

    engine = Engine()
    with pytest.raises(AddressTaken):
        Machine(engine, MachineSpec(), 4 * MIB)
    assert engine.vm.closed
    with Machine(engine, MachineSpec(), 8 * MIB) as m, pytest.raises(AddressTaken):
        m.add_readonly(0xE000_0000, 4096)


def test_devices_let_go_before_the_memory_goes() -> None:
    m = machine([Halted()])
    view = m.ram.view(0, 4096)
    m.on_close.append(view.release)
    finish(m)
    m.close()
    assert m.ram.closed


def test_what_a_waiter_looks_at_is_not_freed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` on one thread, while another in `wait` reads the state of the CPU that ended it."""
    looks, freed, closed = threading.Event(), threading.Event(), []
    m = machine([])

    def get_state(vcpu: FakeVcpu) -> CpuState:
        looks.set()
        freed.wait(0.2)
        closed.append(m.ram.closed)
        return CpuState()

    monkeypatch.setattr(FakeVcpu, "get_state", get_state)
    m.start()
    waiter = threading.Thread(target=m.wait)
    waiter.start()
    m.stop()
    assert looks.wait(10)
    m.close()
    freed.set()
    waiter.join(10)
    assert closed == [False]
    assert m.ram.closed
    assert m.report() == ""


def test_close_leaves_no_thread_and_no_fd() -> None:
    before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
    engine = FakeEngine([], [])
    m = Machine(engine, MachineSpec(cpus=2), 4 * MIB)
    m.start()
    time.sleep(0.01)
    m.close()
    m.close()
    assert engine.vm is not None
    assert engine.vm.closed
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_a_failed_create_leaves_no_fd() -> None:
    class Broken(FakeEngine):
        def create_vm(self, spec: MachineSpec):  # type: ignore[no-untyped-def]
            raise EngineError("KVM_CREATE_VM: no")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(EngineError):
        Machine(Broken(), MachineSpec(), 4 * MIB)
    with pytest.raises(ConfigError, match="bytes of memory"):
        Machine(FakeEngine(), MachineSpec(), 4097)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_paused_machine_goes_on_elsewhere() -> None:
    first, second = FakeEngine([PioWrite(0x80, 1, b"a")]), FakeEngine([PioWrite(0x80, 1, b"b")])
    sink = Sink()
    rung: list[int] = []
    with Machine(first, MachineSpec(), 4 * MIB) as m:
        m.ports.add(0x80, 1, sink, "sink")
        m.add_doorbell(0x1000, 0, rung.append)
        m.add_late_ports(0x70, 1, lambda at, data: None)
        m.ignore_port(0xCF8, 4)
        state = m.vcpus[0].get_state()
        state.regs.rip = 0x1234
        m.vcpus[0].set_state(state)
        m.start()
        while not sink.seen:
            m.wait(0.01)
        m.move(second)
        while len(sink.seen) < 2:
            m.wait(0.01)
        m.msi(1, 2)
        m.pause()
        assert m.vcpus[0].get_state().regs.rip == 0x1234
        m.resume()
        vm = m.vm
        assert isinstance(vm, FakeVm)
        assert (vm.msis, list(vm.doorbells), rung) == ([(1, 2)], [0x1000], [0])
        assert (list(vm.late_ports), vm.ignored) == ([0x70], [(0xCF8, 4)])
    assert sink.seen == [ord("a"), ord("b")]


def test_a_machine_that_cannot_move_goes_on() -> None:
    class Refusing(FakeEngine):
        def create_vm(self, spec: MachineSpec) -> FakeVm:
            raise EngineError("no room")

    with machine([]) as m:
        m.start()
        with pytest.raises(EngineError, match="no room"):
            m.move(Refusing())
        assert m.wait(0.05) is None
        m.stop()
        outcome = m.wait(5)
        assert outcome is not None
        assert outcome.kind == "stopped"


def test_a_machine_that_does_not_run_does_not_move() -> None:
    with machine([]) as m, pytest.raises(EngineError, match="while it runs"):
        m.move(FakeEngine())
