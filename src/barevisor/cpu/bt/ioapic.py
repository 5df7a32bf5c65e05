"""The I/O APIC: 24 pins (Intel 82093AA data sheet; version 0x11, as KVM's).

Runs behind MMIO exits and irq_line, so plain Python under one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from barevisor.cpu.vmstate import IoApicState

BASE = 0xFEC0_0000
SIZE = 0x1000
PINS = 24
VERSION = 0x11 | (PINS - 1) << 16
SELECT, WINDOW, EOI = 0x00, 0x10, 0x40  # memory-mapped registers
REG_ID, REG_VERSION, REG_ARBITRATION, REG_TABLE = 0x00, 0x01, 0x02, 0x10

# Redirection entry
VECTOR = 0xFF
MODE_SHIFT, MODE_MASK = 8, 7
LOGICAL = 1 << 11
REMOTE_IRR = 1 << 14
LEVEL = 1 << 15
MASKED = 1 << 16
DESTINATION_SHIFT = 56
WRITABLE = 0xFF00_0000_0001_AFFF  # without delivery status and remote IRR
LOW, HIGH = 0xFFFF_FFFF, 0xFFFF_FFFF << 32

Deliver = Callable[[int, bool, int, int, bool], int]
"""(destination, logical, delivery mode, vector, level) -> how many CPUs took it."""


class IoApic:
    """Pins in, interrupt messages out through `deliver`."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        # Re-entrant: a delivered message can reach back as an EOI on the same thread.
        self._lock = threading.RLock()
        self._select = 0
        self._id = 0
        self._table = [MASKED] * PINS
        self._lines = 0

    # ---- pins ----

    def line(self, pin: int, level: bool) -> None:
        """Drive `pin`. A rising edge or a high level sends the entry's message."""
        bit = 1 << pin
        with self._lock:
            rising = level and not self._lines & bit
            self._lines = self._lines | bit if level else self._lines & ~bit
            if self._table[pin] & LEVEL:
                if level:
                    self._service(pin)
            elif rising:
                self._service(pin)

    def _service(self, pin: int) -> None:
        """Send the entry's message: for an edge that just rose, or a level that is high and not
        in service. An edge on a masked pin is lost (82093AA, "Interrupt Mask")."""
        entry = self._table[pin]
        level = bool(entry & LEVEL)
        if entry & MASKED or (level and (entry & REMOTE_IRR or not self._lines & 1 << pin)):
            return
        taken = self._deliver(
            entry >> DESTINATION_SHIFT, bool(entry & LOGICAL), entry >> MODE_SHIFT & MODE_MASK,
            entry & VECTOR, level,
        )  # fmt: skip
        if level and taken:
            self._table[pin] |= REMOTE_IRR

    def eoi(self, vector: int) -> None:
        """A local APIC ended level-triggered `vector`: lines that are still high fire again."""
        with self._lock:
            for pin, entry in enumerate(self._table):
                if entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR and entry & VECTOR == vector:
                    self._table[pin] = entry & ~REMOTE_IRR
                    self._service(pin)

    # ---- state ----

    def get_state(self) -> IoApicState:
        """A copy."""
        from barevisor.cpu.vmstate import IoApicState

        with self._lock:
            return IoApicState(self._id, self._select, list(self._table), self._lines)

    def set_state(self, state: IoApicState) -> None:
        """Replace it; nothing is sent. What a guest could not have set is cut off."""
        with self._lock:
            self._id, self._select = state.id & 0xF, state.select & 0xFF
            self._table = [e & (WRITABLE | REMOTE_IRR) for e in state.table[:PINS]]
            self._table += [MASKED] * (PINS - len(self._table))
            self._lines = state.lines & (1 << PINS) - 1

    # ---- registers ----

    def read(self, offset: int) -> int:
        """A 32-bit load at BASE + offset."""
        with self._lock:
            if offset == SELECT:
                return self._select
            return self._read_register(self._select) if offset == WINDOW else 0

    def write(self, offset: int, value: int) -> None:
        """A 32-bit store at BASE + offset."""
        with self._lock:
            if offset == SELECT:
                self._select = value & 0xFF
            elif offset == WINDOW:
                self._write_register(self._select, value & LOW)
            elif offset == EOI:
                self.eoi(value & VECTOR)

    def _read_register(self, number: int) -> int:
        if number in (REG_ID, REG_ARBITRATION):
            return self._id << 24
        if number == REG_VERSION:
            return VERSION
        pin, high = divmod(number - REG_TABLE, 2)
        if not 0 <= pin < PINS:
            return 0
        return self._table[pin] >> (32 if high else 0) & LOW

    def _write_register(self, number: int, value: int) -> None:
        if number == REG_ID:
            self._id = value >> 24 & 0xF
            return
        pin, high = divmod(number - REG_TABLE, 2)
        if not 0 <= pin < PINS:
            return
        old = self._table[pin]
        new = old & LOW | value << 32 if high else old & HIGH | value
        entry = new & WRITABLE | old & REMOTE_IRR
        if not entry & LEVEL:
            # An edge entry has no remote IRR; Linux clears a stuck one by this detour.
            entry &= ~REMOTE_IRR
        self._table[pin] = entry
        if entry & LEVEL:
            self._service(pin)
