"""The CMOS clock: what it says, what a guest may set, its interrupts."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator

import pytest

from barevisor.devices.rtc import Rtc

MOMENT = datetime.datetime(2026, 11, 22, 13, 45, 59, tzinfo=datetime.UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = MOMENT

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rtc() -> Iterator[Rtc]:
    device = Rtc(clock=Clock())
    yield device
    device.close()


def read(rtc: Rtc, at: int) -> int:
    rtc.bus_write(0, 1, at)
    return rtc.bus_read(1, 1)


def write(rtc: Rtc, at: int, value: int) -> None:
    rtc.bus_write(0, 1, at)
    rtc.bus_write(1, 1, value)


def test_of_late_indices_the_last_counts(rtc: Rtc) -> None:
    rtc.late_index(0, b"\x00\x84")
    assert rtc.bus_read(1, 1) == 0x13


def date(rtc: Rtc) -> list[int]:
    return [read(rtc, at) for at in (0x32, 9, 8, 7, 6, 4, 2, 0)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        pytest.param(0x02, [0x20, 0x26, 0x11, 0x22, 1, 0x13, 0x45, 0x59], id="BCD, 24 hours"),
        pytest.param(0x06, [20, 26, 11, 22, 1, 13, 45, 59], id="binary, 24 hours"),
        pytest.param(0x00, [0x20, 0x26, 0x11, 0x22, 1, 0x81, 0x45, 0x59], id="BCD, 12 hours"),
        pytest.param(0x04, [20, 26, 11, 22, 1, 0x81, 45, 59], id="binary, 12 hours"),
    ],
)
def test_date_and_time(mode: int, expected: list[int], rtc: Rtc) -> None:
    write(rtc, 0x0B, mode)
    assert date(rtc) == expected


def test_no_update_is_ever_in_progress(rtc: Rtc) -> None:
    assert not read(rtc, 0x0A) & 0x80
    assert read(rtc, 0x0D) == 0x80


@pytest.mark.parametrize("hour", range(24))
def test_hours_survive_twelve_hour_mode(hour: int, rtc: Rtc) -> None:
    write(rtc, 0x0B, 0x06)
    write(rtc, 4, hour)
    write(rtc, 0x0B, 0x04)
    twelve = read(rtc, 4)
    write(rtc, 4, twelve)
    write(rtc, 0x0B, 0x06)
    assert read(rtc, 4) == hour


def test_a_guest_sets_the_clock_as_linux_does(rtc: Rtc) -> None:
    write(rtc, 0x0B, 0x82)
    for at, value in ((9, 0x30), (8, 0x02), (7, 0x28), (4, 0x23), (2, 0x59), (0, 0x58)):
        write(rtc, at, value)
    clock = rtc._clock
    assert isinstance(clock, Clock)
    clock.now += 100
    assert date(rtc) == [0x20, 0x30, 0x02, 0x28, 5, 0x23, 0x59, 0x58]
    write(rtc, 0x0B, 0x02)
    clock.now += 2
    assert date(rtc) == [0x20, 0x30, 0x03, 0x01, 6, 0x00, 0x00, 0x00]


def test_no_value_breaks_it(rtc: Rtc) -> None:
    clock = rtc._clock
    assert isinstance(clock, Clock)
    for mode in (0, 2, 4, 6, 0x80):
        for at in (*range(14), 0x32, 0x7F):
            for value in (0, 1, 0x0C, 0x31, 0x99, 0xFF):
                write(rtc, 0x0B, mode)
                write(rtc, at, value)
                date(rtc)
                clock.now += 86400 * 400
    write(rtc, 0x0B, 6)
    write(rtc, 0x32, 99)
    write(rtc, 9, 99)
    clock.now += 86400 * 3660
    assert date(rtc)[:2] == [99, 99]


@pytest.mark.parametrize(
    ("enable", "flag"), [(0x40, 0xC0), (0x10, 0x90)], ids=["periodic", "update"]
)
def test_interrupts(enable: int, flag: int) -> None:
    raised = threading.Event()
    rtc = Rtc(lambda level: raised.set() if level else None)
    before = threading.active_count()
    write(rtc, 0x0A, 0x26)
    write(rtc, 0x0B, 0x02 | enable)
    assert raised.wait(5)
    assert read(rtc, 0x0C) & 0xD0 == flag
    write(rtc, 0x0B, 0x02)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    rtc.close()


def test_alarm() -> None:
    raised = threading.Event()
    rtc = Rtc(lambda level: raised.set() if level else None)
    for at in (1, 3, 5):
        write(rtc, at, 0xFF)
    write(rtc, 0x0B, 0x22)
    assert raised.wait(5)
    assert read(rtc, 0x0C) & 0xA0 == 0xA0
    rtc.close()


@pytest.mark.parametrize(
    ("fraction", "uip"), [(0.0, 0), (0.5, 0), (0.9997, 0), (0.9998, 0x80), (0.9999, 0x80)]
)
def test_an_update_announces_itself(fraction: float, uip: int) -> None:
    clock = Clock()
    clock.now = int(MOMENT) + fraction
    device = Rtc(clock=clock)
    assert read(device, 10) & 0x80 == uip
    write(device, 11, read(device, 11) | 0x80)  # SET: no update comes
    assert read(device, 10) & 0x80 == 0
    device.close()
