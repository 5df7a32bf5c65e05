"""--trace, and the readers of --trace and --gdb."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from barevisor.board.machine import Machine
from barevisor.config import GdbListen, Trace
from barevisor.cpu import engine
from barevisor.cpu.engine import MachineSpec
from barevisor.debug import trace
from barevisor.errors import ConfigError, HostError
from barevisor.testing.fake_engine import FakeEngine, FakeVm, Sink

MEMORY = 1 << 20


@pytest.mark.parametrize(("text", "expected"), [
    (":1234", GdbListen(port=1234)), (":0,nowait", GdbListen(wait=False)),
    ("0.0.0.0:9,wait", GdbListen("0.0.0.0", 9)), ("[::1]:9", GdbListen("::1", 9)),
    ("unix:/tmp/a b", GdbListen(path="/tmp/a b")),
    ("unix:x,nowait", GdbListen(path="x", wait=False)),
])  # fmt: skip
def test_gdb_address(text: str, expected: GdbListen) -> None:
    assert GdbListen.parse(text) == expected


@pytest.mark.parametrize("text", ["", "1234", ":", ":70000", ":-1", ":12x", "unix:", ":1,no", ":٣"])
def test_bad_gdb_address(text: str) -> None:
    with pytest.raises(ConfigError, match="bad gdb address"):
        GdbListen.parse(text)


def test_trace_is_read() -> None:
    assert Trace.parse("exits") == Trace("exits")
    assert Trace.parse("blocks:a:b") == Trace("blocks", Path("a:b"))
    with pytest.raises(ConfigError, match="no trace of 'all'"):
        Trace.parse("all:x")


@pytest.mark.parametrize(("done", "text"), [
    (engine.PioWrite(0x3F8, 1, b"A"), "pio-write port=0x3f8 size=1 value=0x41"),
    (engine.PioWrite(0x3F8, 2, b"ABCD"), "pio-write port=0x3f8 size=2 count=2 value=0x44434241"),
    (engine.PioRead(0x60, 1), "pio-read port=0x60 size=1"),
    (engine.MmioRead(0xFEE00000, 4), "mmio-read gpa=0xfee00000 size=4"),
    (engine.MmioWrite(0x1000, b"\1\0"), "mmio-write gpa=0x1000 size=2 value=0x1"),
    (engine.Interrupted(), "interrupted"),
    (engine.SystemEvent("reset"), "system-event reset"),
    (engine.InternalError("it\nbroke"), r"internal-error 'it\nbroke'"),
    (engine.DebugStop("step", 16), "debug-stop step address=0x10"),
])  # fmt: skip
def test_an_exit_is_described(done: engine.Exit, text: str) -> None:
    assert trace.describe(done) == text


def test_exits_of_a_machine_are_written(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    steps = [engine.PioWrite(0x80, 1, b"\7"), engine.PioRead(0x61, 1), engine.Shutdown()]
    machine = Machine(FakeEngine(steps), MachineSpec(), MEMORY)
    machine.vcpus[0].set_regs(engine.Registers(rip=0x1234))
    trace.attach(machine, Trace("exits", file))
    machine.start()
    machine.wait(5)
    machine.close()
    lines = file.read_text().splitlines()
    assert float(lines[0].split()[0]) >= 0
    assert [line.split(maxsplit=1)[1] for line in lines][:3] == [
        "cpu0 rip=0x1234 pio-write port=0x80 size=1 value=0x7",
        "cpu0 rip=0x1234 pio-read port=0x61 size=1 value=0xff",
        "cpu0 rip=0x1234 shutdown",
    ]


def test_a_machine_that_moves_is_traced_on(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    first, second = (FakeEngine([engine.PioWrite(0x80, 1, bytes([n]))]) for n in (1, 2))
    machine = Machine(first, MachineSpec(), MEMORY)
    trace.attach(machine, Trace("exits", file))
    sink = Sink()
    machine.ports.add(0x80, 1, sink, "sink")
    machine.start()
    while not sink.seen:
        machine.wait(0.01)
    machine.move(second)
    while len(sink.seen) < 2:
        machine.wait(0.01)
    machine.close()
    writes = [line[-9:] for line in file.read_text().splitlines() if "pio-write" in line]
    assert writes == ["value=0x1", "value=0x2"]


def test_blocks_of_a_machine_that_moves_are_written_on(tmp_path: Path) -> None:
    second = FakeEngine([])
    machine = Machine(FakeEngine([]), MachineSpec(), MEMORY)
    trace.attach(machine, Trace("blocks", tmp_path / "trace"))
    machine.start()
    machine.move(second)
    assert isinstance(second.vm, FakeVm)
    assert second.vm.sink is not None
    machine.close()


def test_blocks_are_written(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    fake = FakeEngine([])
    machine = Machine(fake, MachineSpec(), MEMORY)
    trace.attach(machine, Trace("blocks", file))
    assert isinstance(fake.vm, FakeVm)
    assert fake.vm.sink is not None
    fake.vm.sink(0, [(0xFFFFFFFF81000000, 64, 0, 23), (0x7C00, 16, 3, 2)])
    machine.close()
    assert file.read_text() == (
        "cpu0 ffffffff81000000 64-bit cpl0 23\ncpu0 0000000000007c00 16-bit cpl3 2\n"
    )


def test_a_trace_that_cannot_be_written_ends_the_machine() -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full")
    steps: list[engine.Exit] = [engine.PioWrite(0x80, 1, b"\7")] * 5000
    machine = Machine(FakeEngine(steps), MachineSpec(), MEMORY)
    trace.attach(machine, Trace("exits", Path("/dev/full")))
    machine.start()
    outcome = machine.wait(10)
    machine.close()
    assert outcome is not None
    assert (outcome.kind, outcome.detail) == (
        "stopped", "--trace /dev/full: No space left on device",
    )  # fmt: skip


def test_a_file_that_cannot_be_made() -> None:
    machine = Machine(FakeEngine([]), MachineSpec(), MEMORY)
    with pytest.raises(HostError, match="--trace /nowhere/x: No such file"):
        trace.attach(machine, Trace("exits", Path("/nowhere/x")))
    machine.close()
