"""MSI-X: a table of messages a PCI function may send, in a BAR of its own.

PCI Local Bus Specification 3.0, 6.8.2. The guest writes addresses, data and mask bits; we send
only through the `msi` callable, which delivers to local APICs and nowhere else.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

ENTRY = struct.Struct("<QII")  # message address, message data, vector control
CAPABILITY_ID = 0x11
CONTROL_AT = 2  # message control, within the capability
ENABLE, FUNCTION_MASK = 0x8000, 0x4000
MASKED = 1  # vector control, bit 0
MAX_VECTORS = 2048


class MsiX:
    """Table and pending bits of one function; itself the BAR's bus device."""

    def __init__(self, vectors: int, msi: Callable[[int, int], None]) -> None:
        """`msi(address, data)` delivers a message. All vectors start masked, as after reset."""
        self.vectors = min(vectors, MAX_VECTORS)
        self.pba_at = -(-self.vectors * ENTRY.size // 0x800) * 0x800
        self.bar_size = max(0x1000, 1 << (self.pba_at + self.vectors // 8).bit_length())
        self._msi = msi
        self._lock = threading.Lock()
        self._table = bytearray(self.vectors * ENTRY.size)
        self._pending = 0
        self._control = 0
        self.reset()

    def capability(self, bar: int) -> bytes:
        """The capability's body after ID and next pointer: control, table and PBA places."""
        return struct.pack("<HII", self.vectors - 1, bar, self.pba_at | bar)

    def reset(self) -> None:
        """Every vector masked, nothing pending, MSI-X off."""
        with self._lock:
            self._table[:] = ENTRY.pack(0, 0, MASKED) * self.vectors
            self._pending = self._control = 0

    def set_control(self, control: int) -> None:
        """The guest wrote message control (6.8.2.3)."""
        with self._lock:
            self._control = control & (ENABLE | FUNCTION_MASK)
            self._send_pending()

    def notify(self, vector: int) -> bool:
        """Send `vector`, or leave it pending while masked. False when MSI-X is off."""
        with self._lock:
            if not self._control & ENABLE:
                return False
            if vector < self.vectors:
                self._pending |= 1 << vector
                self._send_pending()
            return True

    def _send_pending(self) -> None:
        if self._control & (ENABLE | FUNCTION_MASK) != ENABLE:
            return
        waiting = self._pending
        while waiting:
            vector = (waiting & -waiting).bit_length() - 1
            waiting &= waiting - 1
            address, data, control = ENTRY.unpack_from(self._table, vector * ENTRY.size)
            if not control & MASKED:
                self._pending &= ~(1 << vector)
                self._msi(address, data)

    def bus_read(self, offset: int, size: int) -> int:
        """Table and pending bits; zeros elsewhere."""
        with self._lock:
            if offset < len(self._table):
                return int.from_bytes(self._table[offset : offset + size], "little")
            if offset >= self.pba_at:
                return self._pending >> 8 * (offset - self.pba_at)
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Aligned 4- and 8-byte stores to the table (6.8.2); the pending bits are read-only."""
        if size not in (4, 8) or offset % size or offset + size > len(self._table):
            return
        with self._lock:
            self._table[offset : offset + size] = value.to_bytes(size, "little")
            self._send_pending()
