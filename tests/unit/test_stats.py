"""What --stats counts, on a machine without a CPU."""

from __future__ import annotations

from barevisor.board.machine import Machine
from barevisor.board.stats import LIMIT, Report, Row, Stats, Tally
from barevisor.cli import stats as shown
from barevisor.cpu.engine import MachineSpec, MmioRead, PioRead, PioWrite
from barevisor.testing.fake_engine import FakeEngine, Step

MIB = 1 << 20
SCRIPT: list[Step] = [
    PioWrite(0x80, 1, b"\0"), PioRead(0x60, 1), PioRead(0x64, 1), MmioRead(0xFE00_0000, 4),
]  # fmt: skip


class Device:
    def bus_read(self, offset: int, size: int) -> int:
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        pass


def counted(script: list[Step]) -> Report:
    with Machine(FakeEngine(script), MachineSpec(), 4 * MIB, stats=Stats()) as m:
        m.ports.add(0x60, 8, Device(), "keyboard")
        script.append(lambda: m.end("stopped"))
        m.start()
        assert m.wait(10) is not None
    report = m.statistics()
    assert report is not None
    return report


def test_exits_are_counted_by_kind_and_device() -> None:
    found = {(row.kind, row.where): row.times for row in counted(list(SCRIPT)).exits}
    assert found == {
        ("port write", "nobody"): 1, ("port read", "keyboard"): 2, ("mmio read", "nobody"): 1,
    }  # fmt: skip


def test_a_machine_that_was_not_asked_counts_nothing() -> None:
    with Machine(FakeEngine([]), MachineSpec(), 4 * MIB) as m:
        pass
    assert m.statistics() is None


def test_doorbells_and_messages_are_counted() -> None:
    with Machine(FakeEngine([]), MachineSpec(), 4 * MIB, stats=Stats()) as m:
        rung: list[int] = []
        m.add_doorbell(0x1000, 0, rung.append)
        m.vm.doorbells[0x1000][1](5)  # type: ignore[attr-defined]
        m.msi(0xFEE0_0000, 0x41)
    report = m.statistics()
    assert report is not None
    assert rung == [5]
    assert {row.kind: row.times for row in report.calls} == {
        "doorbell": 1, "message-signalled interrupt": 1,
    }  # fmt: skip


def test_a_guest_cannot_make_the_tally_grow() -> None:
    tally = Tally()
    for port in range(3 * LIMIT):
        tally.add(("port read", port), 0.0)
    assert len(tally.cells) == LIMIT + 1
    assert sum(times for times, _ in tally.cells.values()) == 3 * LIMIT


def test_the_table_says_how_many_of_the_engine_s_exits_reached_python() -> None:
    rows = (Row("port read", "com1", 5, 0.001), Row("halted", "", 1, 0.0))
    lines = shown.lines("kvm", Report(rows, (), 1.5, {"exits": 60, "io_exits": 0}))
    assert lines[0] == (
        "engine kvm: 6 exits reached Python, 10.0% of the 60 that kvm counts; "
        "1.0 ms there, 1500.0 ms in the engine"
    )
    assert lines[2].split() == ["port", "read", "(com1)", "5", "1.0", "200.0"]
    assert lines[-1] == "counted by kvm: exits 60"
