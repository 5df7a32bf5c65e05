"""ACPI's fixed power registers (ACPI 6.5, 4.8.3), for bare test images that know them from QEMU.

Our own tables are hardware-reduced and need none of these. `attach` puts them on a bus.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from barevisor.board import map as board_map
from barevisor.board.bus import Bus

SLEEP_ENABLE = 1 << 13
SLEEP_OFF, SLEEP_S3, SLEEP_S5 = 0, 1, 5
"""SLP_TYPx: the first two are QEMU's, the last is what our DSDT says."""
TIMER_HZ, TIMER_MASK = 3_579_545, (1 << 24) - 1


class PowerControl:
    """PM1a control. A power off is success; `suspend` returns when the machine wakes."""

    def __init__(self, end: Callable[[str, str, int], None], suspend: Callable[[], None]) -> None:
        self._end = end
        self._suspend = suspend

    def bus_read(self, offset: int, size: int) -> int:
        """In ACPI mode (SCI_EN)."""
        return 1 if offset == 0 else 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Other sleep types are not here."""
        value <<= 8 * offset
        if not value & SLEEP_ENABLE:
            return
        kind = value >> 10 & 7
        if kind == SLEEP_S3:
            self._suspend()
        elif kind in (SLEEP_OFF, SLEEP_S5):
            self._end("exit", "power off", 0)


class EventRegisters:
    """PM1a status and enable, two bytes each. Nothing happens here, so status stays 0."""

    def __init__(self) -> None:
        self._enabled = bytearray(2)

    def bus_read(self, offset: int, size: int) -> int:
        """The bytes from `offset` on."""
        return int.from_bytes((bytes(2) + self._enabled)[offset : offset + size], "little")

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Enable bits are kept; there is no status to clear."""
        for at, byte in enumerate(value.to_bytes(size, "little"), offset - 2):
            if 0 <= at < 2:
                self._enabled[at] = byte


class PmTimer:
    """24 bits at 3.579545 MHz."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock

    def bus_read(self, offset: int, size: int) -> int:
        """The count, shifted for a read inside it."""
        return (self._clock() * TIMER_HZ // 1_000_000_000 & TIMER_MASK) >> 8 * offset

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Read-only."""


def attach(ports: Bus, end: Callable[[str, str, int], None], suspend: Callable[[], None]) -> None:
    """`end` is the machine's."""
    ports.add(board_map.PORT_TEST_PM, 2, PowerControl(end, suspend), "test power")
    ports.add(board_map.PORT_TEST_PM_TIMER, 4, PmTimer(), "test timer")
    ports.add(board_map.PORT_TEST_PM_EVENTS, 4, EventRegisters(), "test events")
