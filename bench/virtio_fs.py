"""What one virtio-fs request costs the server: from the notification to the used buffer.

    python bench/virtio_fs.py [ROOT]

Drives the device with the fake driver, so there is no guest in the numbers. Medians.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

from barevisor.devices.virtio.fs import Fs
from barevisor.devices.virtio.fuse import abi
from barevisor.devices.virtio.fuse.abi import Op
from barevisor.testing.fuse import REQUESTS, FuseClient

ROUNDS = 3000
PIECE = 64 << 10


class Bench:
    """Requests one at a time, timing only the device's part."""

    def __init__(self, root: str) -> None:
        self.client = FuseClient(Fs("tag", root))

    def once(self, op: int, nodeid: int, body: bytes, room: list[int]) -> float:
        size = abi.IN_HEADER.size + len(body)
        head = abi.IN_HEADER.pack(size, op, 1, nodeid, 0, 0, 0, 0, 0)
        driver = self.client.driver
        driver.add(REQUESTS, [head, body] if body else [head], [16, *room], indirect=True)
        start = time.perf_counter()
        driver.kick(REQUESTS)
        took = time.perf_counter() - start
        driver.collect(REQUESTS)
        return took

    def report(
        self,
        name: str,
        op: int,
        nodeid: int,
        body: bytes,
        room: list[int],
        *,
        rounds: int = ROUNDS,
        each: int = 1,
    ) -> None:
        times = [self.once(op, nodeid, body, room) for _ in range(rounds)]
        middle = statistics.median(times) / each
        print(f"{name:34s} {middle * 1e6:8.1f} us   best {min(times) / each * 1e6:8.1f}")


def main() -> None:
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "/usr/share")
    bench = Bench(root)
    crowd, large = crowded(root), sized(root)
    node = bench.client.walk(os.path.relpath(crowd, root)).nodeid
    big = bench.client.walk(os.path.relpath(large, root)).nodeid
    name = os.listdir(crowd)[0].encode() + b"\0"
    bench.report("LOOKUP", Op.LOOKUP, node, name, [128])
    bench.report("LOOKUP of nothing", Op.LOOKUP, node, b"nothing\0", [128])
    bench.report("GETATTR", Op.GETATTR, node, abi.GETATTR_IN.pack(0, 0), [104])
    for size in (4 << 10, 128 << 10, 1 << 20):
        body, pages = abi.READ_IN.pack(0, 0, size), [4096] * (size >> 12)
        bench.report(f"READ {size >> 10} KiB", Op.READ, big, body, pages, rounds=500)
    for name, op in (("READDIR", Op.READDIR), ("READDIRPLUS", Op.READDIRPLUS)):
        count = len(bench.client.listdir(node, plus=op == Op.READDIRPLUS, size=PIECE))
        raw = bench.client.call(op, node, abi.READ_IN.pack(0, 0, PIECE), room=PIECE)
        count = min(count, max(1, len(raw) // (48 if op == Op.READDIR else 176)))
        body = abi.READ_IN.pack(0, 0, PIECE)
        bench.report(f"{name}, about each entry", op, node, body, [PIECE], rounds=50, each=count)
    bench.client.close()


def crowded(root: str) -> str:
    """The directory with the most names, two levels down."""
    level = [e.path for e in os.scandir(root) if e.is_dir(follow_symlinks=False)]
    return max(level, key=lambda path: len(os.listdir(path)))


def sized(root: str) -> str:
    """A file of 2 MiB or more."""
    for folder, _, files in os.walk(root):
        for path in (f"{folder}/{name}" for name in files):
            if not os.path.islink(path) and os.path.getsize(path) > 2 << 20:
                return path
    raise SystemExit(f"no file over 2 MiB beneath {root}")


if __name__ == "__main__":
    main()
