"""The TLBs: what a page walk found is entered here, and forgotten here.

A hit is inlined into every handler by access.pxd; a place that holds nothing has a tag that no
address matches. Pages whose accesses must be seen (code, breakpoints, watchpoints, lockstep)
are not entered, or not for stores.
"""

import cython
from cython.cimports.barevisor.cpu.bt.codepages import find_slot, may_write
from cython.cimports.barevisor.cpu.bt.lockstep import in_lockstep
from cython.cimports.barevisor.cpu.bt.mmio import internal_error
from cython.cimports.barevisor.cpu.bt.paging import (
    ACCESS_EXEC,
    ACCESS_READ,
    ACCESS_WRITE,
    page_walk,
    probe_write,
)
from cython.cimports.barevisor.cpu.bt.registers import CR4_PCIDE
from cython.cimports.barevisor.cpu.bt.space import (
    space_flush,
    space_flush_page,
    space_flush_private,
)
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.stops import watch_page
from cython.cimports.libc.string import memcpy, memset

PAGE: u64 = cython.declare(u64, 4096)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)
LARGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFE00000)
SEVERAL: u64 = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
FEW_PARTS: cython.int = cython.declare(cython.int, 8)


def tlb_flush(cpu, keep_global):
    """Forget all translations, or all but those of global pages."""
    idx: cython.uint
    if not keep_global or not cpu.cr4 & CR4_PCIDE:  # else a PCID's spaces may hold some still
        _forget_large(cpu, 0)
    forget_jumps(cpu, 0)
    if not keep_global or cpu.private_code:
        forget_jumps(cpu, 1)
        cpu.private_code = 0
    if keep_global:
        _flush_used(cpu)
        space_flush_private(cpu)
        return
    space_flush(cpu)
    _forget_large(cpu, 1)
    memset(cpu.tlb_used, 0, cython.sizeof(cpu.tlb_used))
    memset(cpu.itlb_used, 0, cython.sizeof(cpu.itlb_used))
    for idx in range(MMU_COUNT):
        memcpy(cpu.tlbs[idx], cpu.tlb_blank, TLB_SIZE * cython.sizeof(TlbEntry))
    for idx in range(2):
        memcpy(cpu.itlbs[idx], cpu.itlb_blank, TLB_SIZE * cython.sizeof(ItlbEntry))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flush_used(cpu: cython.pointer(Cpu)) -> cython.void:
    """Forget what is not global. Looks only at the places filled since the last time, for that
    is each context switch's cost; global entries that stay are not looked at again."""
    word: cython.uint
    n: cython.uint
    bits: u64
    for word in range(48):
        bits = cpu.tlb_used[word]
        cpu.tlb_used[word] = 0
        while bits:
            n = (word & 15) * 64 + cython.cast(cython.uint, __builtin_ctzll(bits))
            bits &= bits - 1
            if not cpu.tlbs[word >> 4][n].gpa & TLB_GLOBAL:
                cpu.tlbs[word >> 4][n] = cpu.tlb_blank[n]
    for word in range(32):
        bits = cpu.itlb_used[word]
        cpu.itlb_used[word] = 0
        while bits:
            n = (word & 15) * 64 + cython.cast(cython.uint, __builtin_ctzll(bits))
            bits &= bits - 1
            if not cpu.itlbs[word >> 4][n].gpa & TLB_GLOBAL:
                cpu.itlbs[word >> 4][n] = cpu.itlb_blank[n]


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def forget_jumps(cpu: cython.pointer(Cpu), half: u64) -> cython.void:
    """Branch targets of the lower (0) or upper (1) half must be looked up again."""
    cpu.stamps[half] += 0x10000


def tlb_flush_page(cpu, va):
    """Forget one page's translations, global or not; all of it, where it was a larger page, even
    if the page tables do not say so any more (SDM, INVLPG)."""
    half: cython.uint
    place: cython.pointer(LargePage)
    if (cpu.huge_pages[0] | cpu.huge_pages[1]) >> ((va >> 30) & 63) & 1:
        tlb_flush(cpu, 0)
        return
    forget_jumps(cpu, va >> 63)
    for half in range(2):
        place = _large(cpu, va, half)
        if place.region == SEVERAL:
            _flush_large(cpu, va)
        elif place.region == (va >> 21) + 1:
            place.region = 0
            _flush_parts(cpu, va, place.parts)
    _flush_one(cpu, va)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _flush_one(cpu: cython.pointer(Cpu), va: u64) -> cython.void:
    """Forget 4 KiB."""
    idx: cython.uint
    n: cython.uint = cython.cast(cython.uint, (va >> 12) & (TLB_SIZE - 1))
    space_flush_page(cpu, va, 0)
    for idx in range(MMU_COUNT):
        cpu.tlbs[idx][n] = cpu.tlb_blank[n]
    for idx in range(2):
        cpu.itlbs[idx][n] = cpu.itlb_blank[n]


# ---- large pages -------------------------------------------------------------------------


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _large(cpu: cython.pointer(Cpu), va: u64, shared: u64) -> cython.pointer(LargePage):
    """The place of the 2 MiB around `va`; `shared`: of a global page. The lower and the upper
    half of addresses do not meet: programs' pages come and go beside a kernel's many."""
    at: u64 = ((va >> 21) & 255) | (va >> 63) << 8
    return cython.address(cpu.large_pages[shared * LARGE_COUNT + at])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _forget_large(cpu: cython.pointer(Cpu), shared: u64) -> cython.void:
    """No entries are left that were cut from large pages."""
    cpu.huge_pages[shared] = 0
    if cpu.large_held[shared]:
        cpu.large_held[shared] = 0
        memset(
            cython.address(cpu.large_pages[shared * LARGE_COUNT]),
            0,
            LARGE_COUNT * cython.sizeof(LargePage),
        )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flush_parts(cpu: cython.pointer(Cpu), va: u64, parts: u64) -> cython.void:
    """Forget `parts` of the 2 MiB page around `va`, which are all that is held of it."""
    page: u64
    n: cython.uint
    if __builtin_popcountll(parts) > FEW_PARTS:
        _flush_large(cpu, va)
        return
    while parts:
        page = (va & LARGE_MASK) + cython.cast(u64, __builtin_ctzll(parts)) * 8 * PAGE
        parts &= parts - 1
        for n in range(8):
            _flush_one(cpu, page + n * PAGE)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flush_large(cpu: cython.pointer(Cpu), va: u64) -> cython.void:
    """Forget all that was cut from the 2 MiB page around `va`: half of each TLB's places could
    hold an entry."""
    idx: cython.uint
    n: cython.uint
    first: cython.uint = cython.cast(cython.uint, (va >> 12) & (TLB_SIZE - 1) & ~511)
    space_flush_page(cpu, va, 1)
    for n in range(first, first + 512):
        for idx in range(MMU_COUNT):
            if cpu.tlbs[idx][n].gpa & 2 and (cpu.tlbs[idx][n].rtag ^ va) >> 21 == 0:
                cpu.tlbs[idx][n] = cpu.tlb_blank[n]
        for idx in range(2):
            if cpu.itlbs[idx][n].gpa & 2 and (cpu.itlbs[idx][n].tag ^ va) >> 21 == 0:
                cpu.itlbs[idx][n] = cpu.itlb_blank[n]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _tlb_gpa(cpu: cython.pointer(Cpu), va: u64, walk: cython.pointer(Walk)) -> u64:
    """TlbEntry.gpa of a walk's result; notes large pages for tlb_flush_page."""
    place: cython.pointer(LargePage)
    if walk.large == 0:
        return (walk.gpa & PAGE_MASK) | walk.global_page
    if walk.large == 21:
        place = _large(cpu, va, walk.global_page)
        cpu.large_held[walk.global_page] = 1
        if place.region == 0:
            place.region = (va >> 21) + 1
            place.parts = 0
        elif place.region != (va >> 21) + 1:
            place.region = SEVERAL
        place.parts |= cython.cast(u64, 1) << ((va >> 15) & 63)
    else:
        cpu.huge_pages[walk.global_page] |= cython.cast(u64, 1) << ((va >> 30) & 63)
    return (walk.gpa & PAGE_MASK) | walk.global_page | TLB_CUT


def tlb_fill(cpu, va, idx, walk, slot):
    """Enter a page into the data TLB, unless a data breakpoint or a watchpoint lies in it."""
    page: u64 = va & PAGE_MASK
    number: u64 = (walk.gpa - slot.gpa) >> 12
    entry: cython.pointer(TlbEntry) = cython.address(cpu.tlbs[idx][(va >> 12) & (TLB_SIZE - 1)])
    if (cpu.dr[7] & 0xFF) and _break_page(cpu, page):
        return
    if cpu.vm.nwatches and watch_page(cpu.vm, page):
        return
    entry.rtag = page
    entry.host = slot.host + (number << 12)
    entry.gpa = _tlb_gpa(cpu, va, walk)
    cpu.tlb_used[idx * 16 + ((va >> 18) & 15)] |= cython.cast(u64, 1) << ((va >> 12) & 63)
    if walk.writable and not slot.readonly:
        if not slot.code_pages[number] and not in_lockstep(cpu.vm):
            entry.wtag = page
            if may_write(cpu, slot, number):
                return
        entry.gpa |= TLB_SEEN
    entry.wtag = cpu.tlb_blank[(va >> 12) & (TLB_SIZE - 1)].wtag


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _break_page(cpu: cython.pointer(Cpu), page: u64) -> cython.int:
    """Is a data breakpoint (SDM, "Debug Registers") enabled in or next to this page?"""
    i: cython.uint
    for i in range(4):
        if (cpu.dr[7] >> (2 * i)) & 3 and (cpu.dr[7] >> (16 + 4 * i)) & 3:
            if ((cpu.dr[i] & PAGE_MASK) - page + PAGE) <= 2 * PAGE:
                return 1
    return 0


def fetch(cpu, va, host, gpa):
    """Find the code byte at linear `va` and enter its page into the code TLB."""
    walk: Walk
    slot: cython.pointer(Slot)
    user: cython.uint = 1 if cpu.cpl == 3 else 0
    entry: cython.pointer(ItlbEntry) = cython.address(cpu.itlbs[user][(va >> 12) & (TLB_SIZE - 1)])
    if entry.tag != (va & PAGE_MASK):
        if page_walk(
            cpu, va, ACCESS_EXEC, MMU_USER if user else MMU_SUPERVISOR, cython.address(walk)
        ):
            return ST_FAULT
        slot = find_slot(cpu.vm, walk.gpa)
        if slot == cython.NULL:
            internal_error(cpu, b"instruction fetch outside RAM", walk.gpa)
            return ST_EXIT
        if va >> 63 and not walk.global_page:
            cpu.private_code = 1
        entry.tag = va & PAGE_MASK
        entry.host = slot.host + ((walk.gpa - slot.gpa) & PAGE_MASK)
        entry.gpa = _tlb_gpa(cpu, va, cython.address(walk))
        cpu.itlb_used[user * 16 + ((va >> 18) & 15)] |= cython.cast(u64, 1) << ((va >> 12) & 63)
    host[0] = entry.host + (va & 0xFFF)
    gpa[0] = (entry.gpa & PAGE_MASK) | (va & 0xFFF)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _prime(cpu: cython.pointer(Cpu), va: u64, access: u32, idx: u32) -> cython.int:
    walk: Walk
    slot: cython.pointer(Slot)
    if page_walk(cpu, va, access, idx, cython.address(walk)):
        return ST_FAULT
    slot = find_slot(cpu.vm, walk.gpa)
    if slot != cython.NULL:
        tlb_fill(cpu, va, idx, cython.address(walk), slot)
    return 0


def prime_read(cpu, va, idx):
    """Enter the page of `va` into the TLB, if loads from it may be direct."""
    return _prime(cpu, va, ACCESS_READ, idx)


def prime_write(cpu, va, size, idx):
    """Before a read-modify-write: fault now, or make the page writable through the TLB, so that
    a LOCKed instruction works on guest RAM itself and not on a copy."""
    if (va & 0xFFF) + size > PAGE:
        return probe_write(cpu, va, size, idx)
    return _prime(cpu, va, ACCESS_WRITE, idx)
