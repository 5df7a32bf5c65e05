"""The windows of translated code: linear page tables, code pages and jump tables (see space.pxd).

Supervisor code has one window for every address space, whose private entries go at each load of
CR3; user code has one for each of the last few, kept by CR3 with its PCID (SDM, "Process-Context
Identifiers"), so that a context switch costs a load of GS. Nothing here decides about access: what
is entered was allowed by paging.py's walk and is in the TLB.
"""

import os
from array import array

import cython
from cython.cimports.barevisor.cpu.bt.mirror import mirrors_flush_page, mirrors_flush_user
from cython.cimports.barevisor.cpu.bt.registers import space_key
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.libc.errno import ENOMEM, errno
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.posix.mman import (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mmap,
    munmap,
)

TABLE_BYTES: u64 = cython.declare(u64, 1 << 32)
WINDOW_BYTES: u64 = cython.declare(u64, (1 << 32) + SPACE_BELOW)
MAP_FIXED_NOREPLACE: cython.int = cython.declare(cython.int, 0x100000)
MADV_NOHUGEPAGE: cython.int = cython.declare(cython.int, 15)
MADV_DONTNEED: cython.int = cython.declare(cython.int, 4)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)
FREE_KEY: u64 = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
CR4_PCIDE: u64 = cython.declare(u64, 1 << 17)

# ---- making and freeing ------------------------------------------------------------------


@cython.cfunc
@cython.exceptval(check=False)
def space_allocate_cpu() -> cython.pointer(Cpu):
    """See space.pxd. The pages are a memfd's, to be mapped again below each window."""
    fd: cython.int = os.memfd_create("barevisor-cpu", os.MFD_CLOEXEC)
    os.ftruncate(fd, CPU_SPAN)
    at: cython.p_void = mmap(cython.NULL, CPU_SPAN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    cpu: cython.pointer(Cpu) = cython.NULL
    if at == MAP_FAILED or cython.sizeof(Cpu) > CPU_SPAN:
        os.close(fd)
        return cython.NULL
    cpu = cython.cast(cython.pointer(Cpu), at)
    cpu.self = cython.cast(u64, at)
    cpu.memory_fd = fd
    return cpu


@cython.cfunc
@cython.exceptval(check=False)
def space_create(cpu: cython.pointer(Cpu)) -> cython.int:
    """See space.pxd."""
    n: cython.uint
    space: cython.pointer(Space) = cython.cast(
        cython.pointer(Space), calloc(SPACE_COUNT, cython.sizeof(Space))
    )
    if space == cython.NULL:
        return -1
    cpu.spaces = space
    for n in range(SPACE_COUNT):
        if _map(cpu, cython.address(space[n])):
            return -1
        space[n].idx = n if n == MMU_SUPERVISOR else MMU_SUPERVISOR_AC if n == 1 else MMU_USER
        space[n].key = FREE_KEY
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def _map(cpu: cython.pointer(Cpu), space: cython.pointer(Space)) -> cython.int:
    """One window. Huge pages would make a few table entries cost megabytes."""
    logs: cython.pointer(u32)
    at: cython.p_void = mmap(
        cython.NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
    )  # fmt: skip
    if at == MAP_FAILED:
        return -1
    base: u64 = cython.cast(u64, at) + SPACE_BELOW
    space.table = cython.cast(cython.pointer(u64), base)
    madvise(at, WINDOW_BYTES, MADV_NOHUGEPAGE)
    if (
        mmap(
            cython.cast(cython.p_void, base - CPU_SPAN), CPU_SPAN, PROT_READ | PROT_WRITE,
            MAP_SHARED | MAP_FIXED, cpu.memory_fd, 0,
        )
        == MAP_FAILED
    ):  # fmt: skip
        return -1
    if (
        mmap(
            at, 2 * JUMP_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
            cpu.vm.template_fd, 0,
        )
        == MAP_FAILED
    ):  # fmt: skip
        return -1
    logs = cython.cast(cython.pointer(u32), calloc(2 * FILL_LOG, 4))
    space.jump_log = cython.cast(cython.pointer(u16), calloc(JUMP_LOG + CODE_LOG, 2))
    if logs == cython.NULL or space.jump_log == cython.NULL:
        return -1
    space.fill_log = logs
    space.private_log = logs + FILL_LOG
    space.code_log = space.jump_log + JUMP_LOG
    space.miss = _jumps(space)[0]
    return 0


def space_template(miss):
    """See space.pxd."""
    fd: cython.int = os.memfd_create("barevisor-window", os.MFD_CLOEXEC)
    os.pwrite(fd, array("Q", [miss]) * MAX_CODE_PAGES + array("Q", [NO_PAGE]) * MAX_CODE_PAGES, 0)
    return fd


def space_free(cpu):
    """See space.pxd."""
    n: cython.uint
    spaces: cython.pointer(Space) = cpu.spaces
    cpu.spaces = cpu.space = cython.NULL
    if spaces == cython.NULL:
        return
    for n in range(SPACE_COUNT):
        if spaces[n].table != cython.NULL:
            munmap(
                cython.cast(cython.p_void, cython.cast(u64, spaces[n].table) - SPACE_BELOW),
                WINDOW_BYTES,
            )
        free(spaces[n].fill_log)
        free(spaces[n].jump_log)
    free(spaces)


@cython.cfunc
@cython.exceptval(check=False)
def space_free_cpu(cpu: cython.pointer(Cpu)) -> cython.void:
    """See space.pxd."""
    space_free(cpu)
    os.close(cpu.memory_fd)
    munmap(cython.cast(cython.p_void, cpu.self), CPU_SPAN)


# ---- entries -----------------------------------------------------------------------------


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _jumps(space: cython.pointer(Space)) -> cython.pointer(u64):
    return cython.cast(cython.pointer(u64), cython.cast(u64, space.table) - SPACE_BELOW)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _pages(space: cython.pointer(Space)) -> cython.pointer(u64):
    return cython.cast(cython.pointer(u64), cython.cast(u64, space.table) - CODE_BELOW)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_fill(
    space: cython.pointer(Space), va: u64, host: u64, shift: u32, shared: u32
) -> cython.void:
    """See space.pxd. `shift`: 0 for loads, Vm.write_shift for stores; `shared`: a global page."""
    place: u32 = (cython.cast(u32, va >> 12) + shift) & PAGE_INDEX
    space.table[place] = host - (va & ~cython.cast(u64, 0xFFF))
    if space.filled < FILL_LOG:
        space.fill_log[space.filled] = place
    if space.filled <= FILL_LOG:
        space.filled += 1
    if not shared and space.idx != MMU_USER:
        if space.privates < FILL_LOG:
            space.private_log[space.privates] = place
        if space.privates <= FILL_LOG:
            space.privates += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_jump(space: cython.pointer(Space), va: u64, code: u64) -> cython.void:
    """See space.pxd."""
    place: u32 = cython.cast(u32, va & 0xFFFF)
    _jumps(space)[place] = code
    if space.jumps < JUMP_LOG:
        space.jump_log[space.jumps] = cython.cast(u16, place)
    if space.jumps <= JUMP_LOG:
        space.jumps += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_code(space: cython.pointer(Space), number: u32, va: u64) -> cython.void:
    """See space.pxd."""
    pages: cython.pointer(u64) = _pages(space)
    if pages[number] == NO_PAGE:
        if space.coded < CODE_LOG:
            space.code_log[space.coded] = cython.cast(u16, number)
        if space.coded <= CODE_LOG:
            space.coded += 1
    pages[number] = va & PAGE_MASK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _forget(space: cython.pointer(Space)) -> cython.void:
    """Where code can be executed in one space."""
    n: u32
    pages: cython.pointer(u64) = _pages(space)
    if space.coded > CODE_LOG:
        madvise(pages, JUMP_ROOM, MADV_DONTNEED)
    else:
        for n in range(space.coded):
            pages[space.code_log[n]] = NO_PAGE
    space.coded = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _forget_jumps(space: cython.pointer(Space)) -> cython.void:
    """And what branches to it lead to."""
    n: u32
    jumps: cython.pointer(u64) = _jumps(space)
    _forget(space)
    if space.jumps > JUMP_LOG:
        madvise(jumps, JUMP_ROOM, MADV_DONTNEED)
    else:
        for n in range(space.jumps):
            jumps[space.jump_log[n]] = space.miss
    space.jumps = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _clear(space: cython.pointer(Space)) -> cython.void:
    """Pages and branch targets of one space."""
    n: u32
    _forget(space)
    if space.filled > FILL_LOG:
        madvise(space.table, TABLE_BYTES, MADV_DONTNEED)
    else:
        for n in range(space.filled):
            space.table[space.fill_log[n]] = 0
    space.filled = 0
    space.privates = 0


# ---- which one ---------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_select(cpu: cython.pointer(Cpu)) -> cython.int:
    """See space.pxd."""
    space: cython.pointer(Space) = cpu.space
    if (
        space != cython.NULL
        and space.idx == cpu.mmu_idx
        and (space.idx != MMU_USER or space.key == space_key(cpu.cr3))
    ):
        if space.mode != cpu.mode:
            _forget_jumps(space)
            space.mode = cpu.mode
        return 0
    if cpu.mmu_idx == MMU_USER:
        space = _user_space(cpu, space_key(cpu.cr3))
    else:
        space = cython.address(cpu.spaces[0 if cpu.mmu_idx == MMU_SUPERVISOR else 1])
    if space.mode != cpu.mode:
        _forget_jumps(space)
        space.mode = cpu.mode
    cpu.space = space
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _user_space(cpu: cython.pointer(Cpu), key: u64) -> cython.pointer(Space):
    """The space of this CR3 and PCID; else the one that was not used for longest, emptied."""
    n: cython.uint
    oldest: cython.pointer(Space) = cython.address(cpu.spaces[SPACE_USER])
    cpu.space_clock += 1
    for n in range(SPACE_USER, SPACE_COUNT):
        if cpu.spaces[n].key == key:
            cpu.spaces[n].used = cpu.space_clock
            return cython.address(cpu.spaces[n])
        if cpu.spaces[n].used < oldest.used:
            oldest = cython.address(cpu.spaces[n])
    _clear(oldest)
    oldest.key = key
    oldest.used = cpu.space_clock
    return oldest


# ---- flushes -----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_flush(cpu: cython.pointer(Cpu)) -> cython.void:
    """See space.pxd."""
    n: cython.uint
    mirrors_flush_user(cpu, FREE_KEY)
    if cpu.spaces == cython.NULL:
        return
    for n in range(SPACE_COUNT):
        _clear(cython.address(cpu.spaces[n]))
        if n >= SPACE_USER:
            _free(cpu, cython.address(cpu.spaces[n]))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _free(cpu: cython.pointer(Cpu), space: cython.pointer(Space)) -> cython.void:
    """A user space stands for no CR3 any more."""
    space.key = FREE_KEY
    space.used = 0
    if cpu.space == space:
        cpu.space = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_flush_private(cpu: cython.pointer(Cpu)) -> cython.void:
    """See space.pxd: what supervisor code reached through pages that are not global."""
    n: cython.uint
    i: u32
    space: cython.pointer(Space)
    if cpu.spaces == cython.NULL:
        return
    for n in range(SPACE_USER):
        space = cython.address(cpu.spaces[n])
        if space.privates > FILL_LOG:
            _clear(space)
        for i in range(space.privates):
            space.table[space.private_log[i]] = 0
        space.privates = 0
        if cpu.private_code:
            _forget(space)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_flush_user(cpu: cython.pointer(Cpu), key: u64) -> cython.void:
    """See space.pxd. `key`: a CR3, or ~0 for all of them."""
    n: cython.uint
    mirrors_flush_user(cpu, key)
    if cpu.spaces == cython.NULL:
        return
    for n in range(SPACE_USER, SPACE_COUNT):
        if cpu.spaces[n].key != FREE_KEY and (
            key == FREE_KEY or cpu.spaces[n].key == space_key(key)
        ):
            _clear(cython.address(cpu.spaces[n]))
            _free(cpu, cython.address(cpu.spaces[n]))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_flush_page(cpu: cython.pointer(Cpu), va: u64, large: u32) -> cython.void:
    """See space.pxd. `large`: the 2 MiB around `va`."""
    n: cython.uint
    i: u32
    count: u32 = 512 if large else 1
    first: u32 = cython.cast(
        u32, (va >> 12) & (~cython.cast(u64, 511) if large else ~cython.cast(u64, 0))
    )
    space: cython.pointer(Space)
    mirrors_flush_page(cpu, va, large)
    if cpu.spaces == cython.NULL:
        return
    for n in range(SPACE_COUNT):
        space = cython.address(cpu.spaces[n])
        # INVLPG is about the present PCID and about global pages; a user space of another CR3
        # holds neither, unless that page is global to user code, which costs nothing to flush.
        if space.filled:
            for i in range(first, first + count):
                _forget_entry(space, i)
                _forget_entry(space, i + cpu.vm.write_shift)
        if space.coded:
            _forget_page(space, va, large)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _forget_entry(space: cython.pointer(Space), page: u32) -> cython.void:
    """A store would make the host allocate a part of the table that nothing was entered into."""
    if space.table[page & PAGE_INDEX]:
        space.table[page & PAGE_INDEX] = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _forget_page(space: cython.pointer(Space), va: u64, large: u32) -> cython.void:
    """Code in the page of `va`."""
    n: u32 = 0
    number: u16
    shift: u32 = 21 if large else 12
    pages: cython.pointer(u64) = _pages(space)
    if space.coded > CODE_LOG:
        _forget(space)
        return
    while n < space.coded:
        number = space.code_log[n]
        if (pages[number] ^ va) >> shift == 0:
            pages[number] = NO_PAGE
            space.coded -= 1
            space.code_log[n] = space.code_log[space.coded]
        else:
            n += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_protect(cpu: cython.pointer(Cpu), va: u64) -> cython.int:
    """See space.pxd."""
    n: cython.uint
    found: cython.int = 0
    place: u32 = (cython.cast(u32, va >> 12) + cpu.vm.write_shift) & PAGE_INDEX
    if cpu.spaces == cython.NULL:
        return 0
    for n in range(SPACE_COUNT):
        if cpu.spaces[n].table[place]:
            cpu.spaces[n].table[place] = 0
            found = 1
    return found


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_forget_jumps(cpu: cython.pointer(Cpu)) -> cython.void:
    """See space.pxd."""
    n: cython.uint
    if cpu.spaces == cython.NULL:
        return
    for n in range(SPACE_COUNT):
        _forget_jumps(cython.address(cpu.spaces[n]))


# ---- addresses that share an entry -------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _alias(host: u64, shift: u32, n: u32) -> u64:
    """The n-th of 3 * 64 addresses that an entry for `host` could lead to, or 0: not a user
    address of this process, or `host` itself."""
    size: u64 = cython.cast(u64, 1) << ALIAS_BITS
    move: u64 = cython.cast(u64, shift) << 12
    at: u64 = host
    if n % 3 == 1:
        at = host + move
    elif n % 3 == 2:
        at = host + size - move
    at = (at & (size - 1)) + size * (n // 3)
    return 0 if at == host or at >> 47 else at


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_reserve(host: u64, size: u64, shift: u32) -> cython.int:
    """See space.pxd."""
    n: u32
    k: u32
    at: u64
    got: cython.p_void
    for n in range(192):
        at = _alias(host, shift, n)
        if at == 0:
            continue
        got = mmap(
            cython.cast(cython.p_void, at), size, 0,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0,
        )  # fmt: skip
        if cython.cast(u64, got) == at or (got == MAP_FAILED and errno == ENOMEM and at >> 46):
            continue  # ENOMEM: partly above what a process may have
        if got != MAP_FAILED:
            munmap(got, size)  # a kernel before 4.17 takes the address as a hint
        for k in range(n):
            at = _alias(host, shift, k)
            if at:
                munmap(cython.cast(cython.p_void, at), size)
        return -1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def space_unreserve(host: u64, size: u64, shift: u32) -> cython.void:
    """See space.pxd."""
    n: u32
    at: u64
    for n in range(192):
        at = _alias(host, shift, n)
        if at:
            munmap(cython.cast(cython.p_void, at), size)
