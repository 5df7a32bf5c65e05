"""Guest RAM: one memfd, mapped once, in one or two guest-physical ranges.

The guest writes every byte here while we read, so callers copy once and check the copy.
Addresses and lengths come from the guest: everything is bounded before a view exists.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import NamedTuple

from barevisor.errors import GuestError, HostError

PAGE = 4096
BULK = 256 << 10
"""From here on a write goes through the memfd: fresh pages cost no page fault each."""


def _pwrite_all(fd: int, data: bytes | bytearray | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


class RamRange(NamedTuple):
    """[gpa, gpa+size) is backed by the memfd at `offset`."""

    gpa: int
    size: int
    offset: int


class GuestRam:
    """All RAM of one guest. `ranges` are in ascending order and do not touch."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        """`ranges`: (gpa, size) pairs, page-aligned. Raises HostError when memory is short."""
        self.size = sum(size for _, size in ranges)
        self.fd = os.memfd_create("barevisor-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, self.size)
            self._map = mmap.mmap(self.fd, self.size, flags=mmap.MAP_SHARED)
        except (OSError, OverflowError, ValueError) as e:
            os.close(self.fd)
            raise HostError(f"guest RAM of {self.size >> 20} MiB: {e}", "lower --memory") from e
        self._view = memoryview(self._map)
        # JUSTIFICATION: engines map this address into the guest; it stays valid until close().
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.host_address = ctypes.addressof(self._anchor)
        self.ranges: list[RamRange] = []
        offset = 0
        for gpa, size in ranges:
            self.ranges.append(RamRange(gpa, size, offset))
            offset += size
        self.on_write: Callable[[int, int], None] = lambda gpa, size: None
        """The engine's memory_written: called after every store made through this object."""

    def _offset(self, gpa: int, size: int) -> int:
        for r in self.ranges:
            if r.gpa <= gpa and size >= 0 and gpa + size <= r.gpa + r.size:
                return r.offset + gpa - r.gpa
        raise GuestError(f"[{gpa:#x}, +{size:#x}) is not guest RAM")

    def host(self, gpa: int, size: int) -> int:
        """Host address of [gpa, gpa+size). Raises GuestError unless all of it is RAM."""
        return self.host_address + self._offset(gpa, size)

    def view(self, gpa: int, size: int) -> memoryview:
        """A view for reading; the guest may change it at any time. Raises GuestError."""
        at = self._offset(gpa, size)
        return self._view[at : at + size].toreadonly()

    def writable(self, gpa: int, size: int) -> memoryview:
        """A view for writing (readinto); call `written` once the bytes are there."""
        at = self._offset(gpa, size)
        return self._view[at : at + size]

    def written(self, gpa: int, size: int) -> None:
        """Tell the engine that `writable` memory was filled."""
        self.on_write(gpa, size)

    def read(self, gpa: int, size: int) -> bytes:
        """A copy. Raises GuestError."""
        at = self._offset(gpa, size)
        return self._map[at : at + size]

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Store and tell the engine. Raises GuestError."""
        at = self._offset(gpa, len(data))
        if len(data) >= BULK:
            _pwrite_all(self.fd, data, at)
        else:
            self._view[at : at + len(data)] = data
        self.on_write(gpa, len(data))

    def load_file(self, gpa: int, fd: int, offset: int, size: int) -> None:
        """Copy `size` bytes of file `fd` to `gpa` inside the kernel (a third of the time of
        reading into the mapping, which takes a page fault a page). Raises GuestError when it is
        not RAM, HostError when the file ends early. Not for two threads at once."""
        os.lseek(self.fd, self._offset(gpa, size), os.SEEK_SET)
        left = size
        while left:
            done = os.sendfile(self.fd, fd, offset, left)
            if not done:
                raise HostError(f"a file ends {left} bytes too early", "try again")
            offset += done
            left -= done
        self.on_write(gpa, size)

    def close(self) -> None:
        """Unmap and close. Engines and views must be gone; idempotent."""
        if self.fd < 0:
            return
        del self._anchor
        self._view.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1
