"""Unpacked kernels in a cache folder of the user's, ready to be copied into guest RAM.

A file holds a kernel's non-zero parts with their physical addresses; nearly half of a kernel is
zeros (.bss is part of a stripped vmlinux). It is written under another name and renamed, so it is
whole or absent; on load its header's checksum, sizes and bounds are checked, and its owner.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from barevisor.boot.files import StrPath, map_file
from barevisor.errors import ConfigError
from barevisor.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from barevisor.boot import elf

MAGIC = b"BAREKRN2"
HEAD = "<8sI40sQQQI"
"""Magic, CRC-32 of all that follows up to the data, key, entry, start, end, number of extents."""
KEY = "<QQQqq"
EXTENT = "<QQQ"
CRC_FROM = 12
GRANULE = 64 << 10
"""Zeros are skipped in pieces of this size."""
KEEP = 4
MAX_EXTENTS = 1 << 16


class Kernel(NamedTuple):
    """What to copy where: extents are (physical, offset in `data`, size), inside start..end."""

    entry: int
    start: int
    end: int
    extents: tuple[tuple[int, int, int], ...]
    data: memoryview


def key_of(path: StrPath) -> bytes:
    """Names a version of a file without reading it. 40 bytes."""
    st = os.stat(path)
    return struct.pack(KEY, st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def from_elf(data: memoryview) -> Kernel:
    """The loadable parts of a vmlinux, zeros left out. Raises ConfigError."""
    from barevisor.boot import elf  # a kept kernel needs none

    parsed = elf.parse(data)
    if parsed.bits != 64:
        raise ConfigError("the kernel is a 32-bit one", "give an x86-64 kernel")
    loads = parsed.loads
    extents = [run for s in loads for run in _runs(data, s)]
    end = loads[-1].physical + loads[-1].memory_size
    return Kernel(parsed.entry_physical(), loads[0].physical, end, tuple(extents), data)


def _runs(data: memoryview, s: elf.Segment) -> Iterator[tuple[int, int, int]]:
    """The segment's non-zero granules, neighbours joined."""
    zero = bytes(GRANULE)
    begin: int | None = None
    for at in range(0, s.file_size, GRANULE):
        piece = bytes(data[s.offset + at : s.offset + min(at + GRANULE, s.file_size)])
        blank = piece == zero[: len(piece)]
        if blank and begin is not None:
            yield s.physical + begin, s.offset + begin, at - begin
            begin = None
        elif not blank and begin is None:
            begin = at
    if begin is not None:
        yield s.physical + begin, s.offset + begin, s.file_size - begin


def load(path: StrPath, key: bytes) -> Kernel | None:
    """The kernel kept in `path`, or None when there is none, or not a sound one of ours."""
    try:
        st = os.stat(path)
        if st.st_uid != os.geteuid() or st.st_mode & 0o022:
            return None
        data = map_file(path)
    except (OSError, ConfigError):
        return None
    head = struct.calcsize(HEAD)
    if len(data) < head:
        return None
    magic, crc, its_key, entry, start, end, count = struct.unpack_from(HEAD, data)
    table_end = head + count * struct.calcsize(EXTENT)
    if magic != MAGIC or its_key != key or count > MAX_EXTENTS or table_end > len(data):
        return None
    if zlib.crc32(data[CRC_FROM:table_end]) != crc:
        return None
    extents = tuple(struct.iter_unpack(EXTENT, data[head:table_end]))
    if sum(size for _, _, size in extents) != len(data) - table_end:
        return None
    for physical, offset, size in extents:
        if offset + size > len(data) or not start <= physical <= physical + size <= end:
            return None
    return Kernel(entry, start, end, extents, data)


def save(path: StrPath, key: bytes, kernel: Kernel) -> None:
    """Keep `kernel`, and forget the oldest ones. A cache that cannot be written is no error."""
    head_size = struct.calcsize(HEAD) + len(kernel.extents) * struct.calcsize(EXTENT)
    at, rows = head_size, []
    for physical, _, size in kernel.extents:
        rows.append(struct.pack(EXTENT, physical, at, size))
        at += size
    tail = struct.pack(
        "<40sQQQI", key, kernel.entry, kernel.start, kernel.end, len(kernel.extents)
    ) + b"".join(rows)
    import tempfile  # at most once a kernel
    from pathlib import Path

    path = Path(path)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".unpack-")
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(struct.pack("<8sI", MAGIC, zlib.crc32(tail)) + tail)
                for _, offset, size in kernel.extents:
                    f.write(kernel.data[offset : offset + size])
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _prune(path.parent)


def _prune(where: Path) -> None:
    kept = sorted(where.glob("*.kernel"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for old in kept[KEEP:]:
        old.unlink(missing_ok=True)
