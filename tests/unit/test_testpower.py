"""ACPI's fixed power registers, with what public test images do to them."""

from __future__ import annotations

import pytest

from barevisor.board.bus import Bus
from barevisor.devices import testpower


@pytest.mark.parametrize(
    ("value", "said"),
    [(0x2000, ["exit"]), (0x3400, ["exit"]), (0x2400, ["sleep"]), (0x2800, []), (0x0400, [])],
    ids=["off", "off by our DSDT", "S3", "S4", "not enabled"],
)
def test_sleep_types(value: int, said: list[str]) -> None:
    heard: list[str] = []
    ports = Bus("port")
    testpower.attach(
        ports, lambda kind, detail, code: heard.append(kind), lambda: heard.append("sleep")
    )
    ports.write(0x604, 2, value)
    assert heard == said
    assert ports.read(0x604, 2) == 1


def test_event_registers_keep_what_is_enabled() -> None:
    ports = Bus("port")
    ports.add(0x620, 4, testpower.EventRegisters(), "events")
    ports.write(0x622, 2, 0x400)
    ports.write(0x620, 2, 0xFFFF)
    assert (ports.read(0x620, 2), ports.read(0x622, 2)) == (0, 0x400)
    assert ports.read(0x620, 4) == 0x400_0000


def test_timer_counts_3579545_a_second_in_24_bits() -> None:
    now = 0
    timer = testpower.PmTimer(lambda: now)
    now = 1_000_000_000
    assert timer.bus_read(0, 4) == 3_579_545
    now = 10_000_000_000
    assert timer.bus_read(0, 4) == 35_795_450 & 0xFFFFFF
