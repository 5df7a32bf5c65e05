"""The device's side of a split virtqueue (virtio v1.2, 2.7), over memory the guest controls.

The guest wrote every byte here and may rewrite it while we read. So a descriptor is copied once
and only the copy is looked at, every loop is bounded by a size we checked, and every violation
is one GuestError, which the transport turns into DEVICE_NEEDS_RESET (2.1.2).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from barevisor.board.ram import GuestRam
from barevisor.errors import GuestError

NEXT, WRITE, INDIRECT = 1, 2, 4  # 2.7.5, flags of a descriptor
NO_INTERRUPT = 1  # 2.7.6, flags of the available ring
DESC = struct.Struct("<QIHH")  # struct virtq_desc: addr, len, flags, next
USED = struct.Struct("<II")  # struct virtq_used_elem: id, len
MAX_SIZE = 1024
MAX_INDIRECT = 1024  # Linux fills an indirect table beyond the queue's size; the bound is ours
MAX_BYTES = (1 << 32) - 1  # 2.7.5.2: a buffer has less than 2^32 bytes in total


class Chain:
    """One buffer: views the device may read, then views it may fill, and its head's index."""

    __slots__ = ("head", "places", "readable", "room", "size", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.size = 0
        """Bytes that the device may read."""
        self.room = 0
        """Bytes that the device may write."""
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []
        self.places: list[tuple[int, int]] = []
        """(gpa, size) of each writable view."""

    def read(self, limit: int) -> bytes:
        """A copy of at most `limit` readable bytes; the guest may have written more."""
        out = bytearray()
        for view in self.readable:
            out += view[: limit - len(out)]
            if len(out) >= limit:
                break
        return bytes(out)

    def write(self, data: bytes | memoryview) -> int:
        """Scatter over the writable views; returns how many bytes found room."""
        at = 0
        for view in self.writable:
            part = data[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
            if at == len(data):
                break
        return at


class Queue:
    """A live queue: `pop` chains, `push` them back, then `signal` once for the batch.

    Not thread-safe: the device's lock covers it.
    """

    def __init__(
        self,
        ram: GuestRam,
        index: int,
        size: int,
        rings: tuple[int, int, int],
        *,
        indirect: bool,
        event_idx: bool,
        interrupt: Callable[[int], None],
    ) -> None:
        """`rings`: the guest-physical descriptor table, driver area and device area.

        Raises GuestError when the size, an alignment or an address is not what 2.7 allows.
        """
        desc, driver, device = rings
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise GuestError(f"queue {index} has size {size}")
        if desc % 16 or driver % 2 or device % 4:
            raise GuestError(f"queue {index} is misaligned: {desc:#x} {driver:#x} {device:#x}")
        self.index, self.size = index, size
        self.stopped = False
        """Set from any thread: `pop` yields nothing more."""
        self._ram = ram
        self._indirect, self._event_idx, self._interrupt = indirect, event_idx, interrupt
        self._desc = ram.view(desc, 16 * size)
        # Native 16-bit accesses: one load or store each, as the driver expects of idx fields.
        self._avail = ram.view(driver, 6 + 2 * size).cast("H")
        self._used_bytes = ram.writable(device, 6 + 8 * size)
        self._used = self._used_bytes.cast("H")
        self._used_gpa = device
        # Nearly every buffer is in the first range; its views are sliced without a search.
        low = ram.ranges[0]
        self._low, self._low_size = low.gpa, low.size
        self._low_view = ram.view(low.gpa, low.size)
        self._low_writable = ram.writable(low.gpa, low.size)
        self._next_avail = self._next_used = self._signalled = 0
        self._barrier = threading.Lock()

    def close(self) -> None:
        """Let go of guest memory. Nothing may be called after it."""
        rings = (self._desc, self._avail, self._used, self._used_bytes)
        for view in (*rings, self._low_view, self._low_writable):
            view.release()

    def _fence(self) -> None:
        # Both sides store their index, then load the other's (2.7.10, 2.7.13.4.1). x86 may
        # let the load pass the store; the locked instruction inside this acquire forbids it.
        with self._barrier:
            pass

    def pop(self) -> Chain | None:
        """The next available buffer, or None, after which the driver will notify of one.

        Raises GuestError on any malformed ring or chain.
        """
        if self.stopped:
            return None
        last = self._next_avail
        available = self._avail[1]
        if available == last:
            if self._event_idx:
                self._used[2 + 4 * self.size] = last
                self._fence()
                available = self._avail[1]
            if available == last:
                return None
        if (available - last & 0xFFFF) > self.size:
            raise GuestError(f"queue {self.index}: {available - last & 0xFFFF} chains available")
        head = self._avail[2 + (last & self.size - 1)]
        self._next_avail = last + 1 & 0xFFFF
        return self._walk(head)

    def _walk(self, head: int) -> Chain:
        chain = Chain(head)
        table = self._links(chain, self._desc, self.size, head)
        if table is not None:
            addr, length = table
            count = length // DESC.size
            if not self._indirect:
                raise GuestError(f"queue {self.index}: indirect descriptor was not negotiated")
            if length % DESC.size or not 0 < count <= MAX_INDIRECT:
                raise GuestError(f"queue {self.index}: indirect table of {length} bytes")
            view = self._ram.view(addr, length)
            if self._links(chain, view, count, 0) is not None:
                raise GuestError(f"queue {self.index}: indirect table inside another")
        return chain

    def _links(
        self, chain: Chain, table: memoryview, count: int, index: int
    ) -> tuple[int, int] | None:
        """Follow one table's links; the place of an indirect table when one ends them."""
        start = length = kind = 0  # the run of adjacent descriptors so far: one view for all
        for _ in range(count):  # 2.7.5.2: no loops, so a table of `count` has at most that many
            if index >= count:
                raise GuestError(f"queue {self.index}: descriptor {index} in a table of {count}")
            addr, more, flags, following = DESC.unpack_from(table, index * 16)
            if flags & INDIRECT:
                if flags & NEXT:
                    raise GuestError(f"queue {self.index}: indirect descriptor with a next")
                if length:
                    self._take(chain, start, length, kind)
                return addr, more
            if length and addr == start + length and flags & WRITE == kind:
                length += more
            else:
                if length:
                    self._take(chain, start, length, kind)
                start, length, kind = addr, more, flags & WRITE
            if not flags & NEXT:
                if length:
                    self._take(chain, start, length, kind)
                return None
            index = following
        raise GuestError(f"queue {self.index}: chain longer than its table ({count})")

    def _take(self, chain: Chain, start: int, length: int, kind: int) -> None:
        """Add [start, start+length) to the chain. Raises GuestError unless all of it is RAM."""
        at = start - self._low
        known = start >= self._low and length <= self._low_size and at <= self._low_size - length
        if kind:
            chain.writable.append(
                self._low_writable[at : at + length] if known else self._ram.writable(start, length)
            )
            chain.places.append((start, length))
            chain.room += length
        elif chain.writable:  # 2.7.4.2
            raise GuestError(f"queue {self.index}: readable descriptor after a writable one")
        else:
            chain.readable.append(
                self._low_view[at : at + length] if known else self._ram.view(start, length)
            )
            chain.size += length
        if chain.size + chain.room > MAX_BYTES:
            raise GuestError(f"queue {self.index}: a buffer of 4 GiB or more")

    def push(self, chain: Chain, written: int) -> None:
        """Give the buffer back with `written` bytes stored in its writable part."""
        left = written
        for gpa, size in chain.places:
            if left <= 0:
                break
            self._ram.written(gpa, min(size, left))
            left -= size
        slot = self._next_used & self.size - 1
        USED.pack_into(self._used_bytes, 4 + 8 * slot, chain.head, written)
        self._next_used = self._next_used + 1 & 0xFFFF
        self._used[1] = self._next_used  # after the element: x86 keeps stores in order

    def signal(self) -> None:
        """Interrupt the driver for what was pushed since the last call, if it asked (2.7.7)."""
        new, old = self._next_used, self._signalled
        if new == old:
            return
        self._signalled = new
        self._ram.written(self._used_gpa, len(self._used_bytes))
        self._fence()
        if self._event_idx:
            event = self._avail[2 + self.size]
            wanted = (new - event - 1 & 0xFFFF) < (new - old & 0xFFFF)
        else:
            wanted = not self._avail[0] & NO_INTERRUPT
        if wanted:
            self._interrupt(self.index)
