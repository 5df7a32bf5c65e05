"""Guest RAM: memory of this process, mapped once, in one or two guest-physical ranges.

The guest writes every byte here while we read, so callers copy once and check the copy.
Addresses and lengths come from the guest: everything is bounded before a view exists.

Anonymous and not a memfd, unless the engine wants a file (Engine.file_memory): Linux gives huge
pages to the former by default and to the latter not (Documentation/admin-guide/mm/transhuge.rst,
6.1). On kvm each page that a guest touches first is an exit, and a start touches 16,000 small
pages or 500 large ones.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable
from contextlib import suppress

from barevisor.errors import GuestError, HostError
from barevisor.records import NamedTuple

PAGE = 4096
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_NORESERVE = 0x4000  # asm-generic/mman.h; mmap has it from Python 3.13 on
HUGE = 2 << 20
"""A large page of the host's and of nested paging: both addresses must agree in what is below."""


def _memory_file(size: int) -> int:
    """A memfd that nobody can shrink under its mappings. Raises OSError."""
    fd = os.memfd_create("barevisor-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


class RamRange(NamedTuple):
    """[gpa, gpa+size) is at `offset` of the mapping; `offset` 0 is aligned to HUGE."""

    gpa: int
    size: int
    offset: int


class GuestRam:
    """All RAM of one guest. `ranges` are in ascending order and do not touch."""

    def __init__(self, ranges: list[tuple[int, int]], *, file: bool = False) -> None:
        """`ranges`: (gpa, size) pairs, page-aligned; `file`: it lies in a memfd. Raises HostError
        when memory is short."""
        self.size = sum(size for _, size in ranges)
        self._fd = -1
        try:
            if file:
                self._fd = _memory_file(self.size + HUGE)
            flags = MAP_NORESERVE | (mmap.MAP_SHARED if file else PRIVATE)
            self._map = mmap.mmap(self._fd, self.size + HUGE, flags=flags)
        except (OSError, OverflowError, ValueError) as e:
            self._close_file()
            raise HostError(f"guest RAM of {self.size >> 20} MiB: {e}", "lower --memory") from e
        with suppress(OSError):  # a kernel without huge pages
            self._map.madvise(mmap.MADV_HUGEPAGE)
        # JUSTIFICATION: engines map this address into the guest; it stays valid until close().
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self._skip = -ctypes.addressof(self._anchor) % HUGE
        self.host_address = ctypes.addressof(self._anchor) + self._skip
        self._view = memoryview(self._map)[self._skip : self._skip + self.size]
        self.ranges: list[RamRange] = []
        offset = 0
        for gpa, size in ranges:
            self.ranges.append(RamRange(gpa, size, offset))
            offset += size
        self.on_write: Callable[[int, int], None] = lambda gpa, size: None
        """The engine's memory_written: called after every store made through this object."""

    def file(self, offset: int) -> tuple[int, int] | None:
        """The descriptor of the file that it lies in, and where `offset` of a range is there."""
        return None if self._fd < 0 else (self._fd, self._skip + offset)

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

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
        return bytes(self._view[at : at + size])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Store and tell the engine. Raises GuestError."""
        at = self._offset(gpa, len(data))
        self._view[at : at + len(data)] = data
        self.on_write(gpa, len(data))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._map.closed

    def close(self) -> None:
        """Unmap and close. Engines and views must be gone; idempotent."""
        if self.closed:
            return
        del self._anchor
        self._view.release()
        self._map.close()
        self._close_file()
