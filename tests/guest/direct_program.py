"""What user code does that brings its kernel in: run by test_direct.py here and in the guest, which
must print the same."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import signal
import struct
import sys
import threading
import zlib

READ, WRITE, EXECUTE = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
LIBC = ctypes.CDLL(None, use_errno=True)
COUNTED = 40_000


def busy(seed: int, rounds: int) -> str:
    """Long enough to be noticed."""
    chosen = random.Random(seed)
    words: dict[int, int] = {}
    digest = hashlib.sha256()
    for n in range(rounds):
        key = chosen.getrandbits(16)
        words[key] = words.get(key, 0) + n
        if n % 4000 == 0:
            digest.update(zlib.compress(repr(sorted(words.items())[:300]).encode()))
    return digest.hexdigest()


def code_that_changes() -> int:
    """One page, writable and executable, and another mapping of the same file that writes it."""
    fd = os.memfd_create("code")
    os.ftruncate(fd, 4096)
    run = mmap.mmap(fd, 4096, flags=mmap.MAP_SHARED, prot=READ | WRITE | EXECUTE)
    write = mmap.mmap(fd, 4096, flags=mmap.MAP_SHARED, prot=READ | WRITE)
    call = ctypes.CFUNCTYPE(ctypes.c_uint)(ctypes.addressof(ctypes.c_char.from_buffer(run)))
    total = 0
    for n in range(2000):
        (write if n % 3 else run)[0:6] = b"\xb8" + struct.pack("<I", n) + b"\xc3"
        total += call()
    return total


def faults() -> list[object]:
    """Of children that end by them."""
    found: list[object] = []
    codes = {
        "null": b"\x31\xc0\x8b\x00\xc3", "ud2": b"\x0f\x0b", "divide": b"\x31\xc9\xf7\xf1\xc3",
        "hlt": b"\xf4", "int3": b"\xcc", "wild": b"\x48\xb8" + b"\xff" * 7 + b"\x7f\xff\xe0",
    }  # fmt: skip
    for name, code in codes.items():
        pid = os.fork()
        if pid == 0:
            page = mmap.mmap(-1, 4096, prot=READ | WRITE | EXECUTE)
            page[: len(code)] = code
            busy(1, COUNTED // 4)
            ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
            os._exit(0)
        found.append((name, os.waitpid(pid, 0)[1] & 0x7F))
    return found


def signals() -> bool:
    """A timer's, in the middle of a loop."""
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    while len(seen) < 30:
        busy(2, 500)
    signal.setitimer(signal.ITIMER_REAL, 0, 0)
    return len(seen) >= 30


def rights() -> list[object]:
    """mprotect and munmap take effect at once: the child's store ends it."""
    found: list[object] = []
    for how in ("read-only", "unmapped"):
        pid = os.fork()
        if pid == 0:
            page = mmap.mmap(-1, 4096)
            at = ctypes.addressof(ctypes.c_char.from_buffer(page))
            for n in range(COUNTED):
                page[n % 4096] = n & 0xFF
            if how == "unmapped":
                LIBC.munmap(ctypes.c_void_p(at), 4096)
            else:
                LIBC.mprotect(ctypes.c_void_p(at), 4096, READ)
            ctypes.memset(at, 1, 1)
            os._exit(0)
        found.append((how, os.waitpid(pid, 0)[1] & 0x7F))
    return found


def copies() -> list[int]:
    """After a fork each has its own."""
    data = bytearray(1 << 20)
    read, write = os.pipe()
    for child in range(3):
        if os.fork() == 0:
            for n in range(0, len(data), 64):
                data[n] = child + 1
            os.write(write, struct.pack("<I", sum(data)))
            os._exit(0)
    for _ in range(3):
        os.wait()
    return [*sorted(struct.unpack("<3I", os.read(read, 12))), sum(data)]


def threads() -> list[str]:
    """Of one address space, on whatever CPUs there are."""
    found = {}
    several = [
        threading.Thread(target=lambda n=n: found.__setitem__(n, busy(n, COUNTED)))
        for n in range(3)
    ]
    for one in several:
        one.start()
    for one in several:
        one.join()
    return [found[n] for n in range(3)]


if __name__ == "__main__":
    for step in (code_that_changes, faults, signals, rights, copies, threads):
        sys.stdout.write(f"{step.__name__} {step()}\n")
        sys.stdout.flush()
    sys.stdout.write(busy(7, COUNTED))
