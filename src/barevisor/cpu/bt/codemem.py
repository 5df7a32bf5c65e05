"""Memory for native code that is never writable and executable in one mapping.

The code lives in an anonymous memfd that is mapped twice: read-write, through which thunks are
written, and read-execute, where they run. A stray or hostile store that reaches the executable
mapping faults; an attacker who has only a write primitive must first find the other mapping,
whose distance is random. The memfd is sealed against resizing and closed once both mappings
exist, so no third one can be made from it.

Allocation only moves forward; when the memory is full the owner drops all code (`code_reset`)
and starts again.
"""

import fcntl
import os

import cython
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memcpy, memset
from cython.cimports.posix.mman import (
    MAP_FAILED,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from barevisor.errors import EngineError

DEFAULT_SIZE = 32 << 20
ALIGN: u64 = cython.declare(u64, 16)
LOW_HALF: u64 = cython.declare(u64, 0xFFFFFFFF)
FNV_BASIS: u64 = cython.declare(u64, 0xCBF29CE484222325)
FNV_PRIME: u64 = cython.declare(u64, 0x100000001B3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def code_add(mem: cython.pointer(CodeMem), code: cython.pointer(u8), size: u32) -> cython.p_void:
    """Copy `code` behind what is there; NULL when it does not fit."""
    at: u64 = mem.used
    if size > mem.size - at:
        return cython.NULL
    memcpy(mem.write + at, code, size)
    mem.used = (at + size + ALIGN - 1) & ~(ALIGN - 1)
    if mem.used > mem.size:
        mem.used = mem.size
    return cython.cast(cython.p_void, mem.run + at)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def code_share(mem: cython.pointer(CodeMem), code: cython.pointer(u8), size: u32) -> cython.p_void:
    """Find equal code or add it. Past 3/4 of the table nothing more is remembered."""
    tag: u64 = _hash(code, size)
    slot: u64 = tag & (mem.table_size - 1)
    high: u64 = tag & ~LOW_HALF
    at: u64
    while mem.table[slot]:
        at = (mem.table[slot] & LOW_HALF) - 1
        # Equal for `size` bytes is enough: what runs from there runs to the same end.
        if (
            (mem.table[slot] & ~LOW_HALF) == high
            and size <= mem.used - at
            and memcmp(mem.write + at, code, size) == 0
        ):
            return cython.cast(cython.p_void, mem.run + at)
        slot = (slot + 1) & (mem.table_size - 1)
    at = mem.used
    found: cython.p_void = code_add(mem, code, size)
    if found != cython.NULL and mem.shared < mem.table_size - mem.table_size // 4:
        mem.table[slot] = high | (at + 1)
        mem.shared += 1
    return found


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _hash(code: cython.pointer(u8), size: u32) -> u64:
    """FNV-1a, folded so that the low half is as good as the high one."""
    value: u64 = FNV_BASIS
    i: u32
    for i in range(size):
        value = (value ^ code[i]) * FNV_PRIME
    return value ^ (value >> 29)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def code_reset(mem: cython.pointer(CodeMem)) -> cython.void:
    """Forget all code. The bytes stay until they are overwritten; nothing may run them."""
    memset(mem.table, 0, mem.table_size * 8)
    mem.used = 0
    mem.shared = 0


@cython.cclass
class CodeMemory:
    """Owns one code memory of `size` bytes (a multiple of the page, under 4 GiB)."""

    def __cinit__(self, size: int = DEFAULT_SIZE):
        if size <= 0 or size % 4096 or size >= 1 << 32:
            raise EngineError(f"code memory of {size} bytes: not a multiple of 4096 under 4 GiB")
        self.mem.size = size
        self.mem.table_size = 1 << max(6, min(17, (size >> 6).bit_length()))
        self.mem.table = cython.cast(
            cython.pointer(u64), calloc(self.mem.table_size, cython.sizeof(u64))
        )
        if self.mem.table == cython.NULL:
            raise MemoryError
        self._map(size)

    def _map(self, size: int) -> None:
        fd: cython.int = os.memfd_create("barevisor-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            # A shrunk file would turn running code into SIGBUS.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            # JUSTIFICATION: raw mmap and an executable page. The software engine runs copied
            # guest instructions; no mapping is both writable and executable, and the bytes that
            # are written come only from the re-encoder, never straight from the guest.
            write: cython.p_void = mmap(
                cython.NULL, self.mem.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0
            )
            run: cython.p_void = mmap(
                cython.NULL, self.mem.size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0
            )
        finally:
            os.close(fd)
        if write != MAP_FAILED:
            self.mem.write = cython.cast(cython.pointer(u8), write)
        if run != MAP_FAILED:
            self.mem.run = cython.cast(cython.pointer(u8), run)
        if write == MAP_FAILED or run == MAP_FAILED:
            raise EngineError("mmap refuses executable memory (a noexec or SELinux policy?)")

    def __dealloc__(self):
        if self.mem.write != cython.NULL:
            munmap(self.mem.write, self.mem.size)
        if self.mem.run != cython.NULL:
            munmap(self.mem.run, self.mem.size)
        free(self.mem.table)

    def add(self, code: bytes) -> int:
        """Add `code`; the address where it can be called, 0 when it does not fit."""
        data: cython.pointer(u8) = code
        return cython.cast(cython.size_t, code_add(cython.address(self.mem), data, len(code)))

    def share(self, code: bytes) -> int:
        """As `add`, but equal code is kept once."""
        data: cython.pointer(u8) = code
        return cython.cast(cython.size_t, code_share(cython.address(self.mem), data, len(code)))

    def reset(self) -> None:
        """Forget all code; nothing of it may still be called."""
        code_reset(cython.address(self.mem))

    def used(self) -> int:
        """Bytes taken."""
        return self.mem.used

    def mappings(self) -> tuple:
        """(address to write, address to run, size): for tests and for diagnostics."""
        return (
            cython.cast(cython.size_t, self.mem.write),
            cython.cast(cython.size_t, self.mem.run),
            self.mem.size,
        )
