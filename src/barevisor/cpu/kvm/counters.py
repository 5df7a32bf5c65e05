"""KVM's statistics of a vCPU, which it counts anyway (KVM_GET_STATS_FD, api.rst 4.133)."""

from __future__ import annotations

import os
import struct
from collections import Counter

HEADER = struct.Struct("<6I")  # flags, name size, descriptors, offsets of ID, descriptors, data
DESCRIPTOR = struct.Struct("<IhHII")  # flags, exponent, size, offset, bucket size; then the name
MAX_DESCRIPTORS = 1024


def total(fds: list[int]) -> dict[str, int]:
    """The sums over the vCPUs whose statistics descriptors these are; closes them."""
    sums: Counter[str] = Counter()
    for fd in fds:
        try:
            sums.update(read(fd))
        finally:
            os.close(fd)
    return dict(sums)


def read(fd: int) -> dict[str, int]:
    """Single values by name; histograms are left out."""
    _, name_size, count, _, rows_at, data_at = HEADER.unpack(os.pread(fd, HEADER.size, 0))
    step = DESCRIPTOR.size + name_size
    rows = os.pread(fd, min(count, MAX_DESCRIPTORS) * step, rows_at)
    found = {}
    for at in range(0, len(rows) - step + 1, step):
        _, _, size, offset, _ = DESCRIPTOR.unpack_from(rows, at)
        name = rows[at + DESCRIPTOR.size : at + step].split(b"\0")[0].decode("ascii", "replace")
        if size == 1:
            found[name] = int.from_bytes(os.pread(fd, 8, data_at + offset), "little")
    return found
