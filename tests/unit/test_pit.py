"""The 8254: counts from a clock that the test moves."""

import time

import pytest

from barevisor.cpu.bt.pit import HZ, Pit

TICK = 1_000_000_000 / HZ
SOON = 20.0


class Clock:
    now = 1_000_000

    def __call__(self) -> int:
        return self.now

    def ticks(self, n: int) -> None:
        self.now += round(n * TICK + TICK / 2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pit(clock: Clock) -> Pit:
    return Pit(lambda level: None, clock)


def load(pit: Pit, channel: int, control: int, count: int) -> None:
    pit.write(0x43, channel << 6 | 0x30 | control)
    pit.write(0x40 + channel, count & 0xFF)
    pit.write(0x40 + channel, count >> 8)


def count(pit: Pit, channel: int) -> int:
    return pit.read(0x40 + channel) | pit.read(0x40 + channel) << 8


@pytest.mark.parametrize(
    ("control", "reload", "after", "left"),
    [
        pytest.param(0x0, 1000, 100, 900, id="one-shot"),
        pytest.param(0x0, 1000, 1001, 0xFFFF, id="one-shot-wraps"),
        pytest.param(0x4, 1000, 1100, 900, id="rate"),
        pytest.param(0x6, 1000, 100, 800, id="square-counts-by-two"),
        pytest.param(0x4, 0, 1, 0xFFFF, id="zero-is-65536"),
        pytest.param(0x1, 0x1000, 1, 0x0999, id="bcd"),
    ],
)
def test_count(pit: Pit, clock: Clock, control: int, reload: int, after: int, left: int) -> None:
    load(pit, 1, control, reload)
    clock.ticks(after)
    assert count(pit, 1) == left


def test_latch_holds_while_the_counter_runs(pit: Pit, clock: Clock) -> None:
    load(pit, 1, 0, 1000)
    clock.ticks(10)
    pit.write(0x43, 1 << 6)
    clock.ticks(100)
    assert (count(pit, 1), count(pit, 1)) == (990, 889)


def test_read_back_status(pit: Pit, clock: Clock) -> None:
    load(pit, 1, 0, 10)
    pit.write(0x43, 0xE0 | 1 << 2)
    assert pit.read(0x41) == 0x30
    clock.ticks(11)
    pit.write(0x43, 0xE0 | 1 << 2)
    assert pit.read(0x41) == 0xB0


def test_channel_2_counts_behind_its_gate(pit: Pit, clock: Clock) -> None:
    """How old kernels calibrate the TSC: gate on, mode 0, wait for OUT in port 0x61."""
    pit.write(0x61, 0)
    load(pit, 2, 0, 100)
    clock.ticks(200)
    assert not pit.read(0x61) & 0x20
    pit.write(0x61, 1)
    assert not pit.read(0x61) & 0x20
    clock.ticks(101)
    assert pit.read(0x61) & 0x20


@pytest.mark.parametrize(("control", "periodic"), [(0x0, False), (0x4, True)])
def test_interrupts(control: int, periodic: bool) -> None:
    levels: list[bool] = []
    pit = Pit(levels.append)
    start = time.monotonic()
    load(pit, 0, control, 1193)  # 1 ms
    while levels.count(True) < (5 if periodic else 1):
        assert time.monotonic() < start + SOON, "no interrupts"
        time.sleep(0.001)
    time.sleep(0.005)
    pit.close()
    most = (time.monotonic() - start) * 1000 + 1
    count = levels.count(True)
    assert 5 <= count <= most if periodic else count == 1
    assert levels[-1:] == [False]
    pit.close()
