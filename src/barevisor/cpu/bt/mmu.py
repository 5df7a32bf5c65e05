"""Guest-physical and linear memory: page walks, the TLB's slow path, self-modifying code.

The fast path (a TLB hit) is inlined into every handler by access.pxd. What comes here are
misses, accesses that cross a page, memory-mapped I/O, stores to pages that code was decoded
from, and implicit accesses to descriptor tables. A guest address reaches host memory only
through a slot, so whatever the guest computes, nothing outside its RAM can be named.

Page walks follow SDM, "Paging": 32-bit, PAE and 4-level, with NX, WP, U/S, SMEP, SMAP, reserved
bits, accessed and dirty. Memory-mapped reads restart: the first attempt leaves with
EXIT_MMIO_READ, the answer is kept in cpu.mmio_done, and the instruction runs again from its
start. A memory-mapped store is the last thing an instruction does, so it leaves afterwards.
"""

import cython
from cython.cimports.barevisor.cpu.bt.codepages import find_slot, kill_range, may_write
from cython.cimports.barevisor.cpu.bt.lockstep import LOG_BYTES, LOG_STORES, StoreLog
from cython.cimports.barevisor.cpu.bt.safepoint import vm_lock, vm_unlock
from cython.cimports.barevisor.cpu.bt.space import (
    space_flush,
    space_flush_page,
    space_flush_private,
)
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.stops import (
    STOP_ON_READ,
    STOP_ON_WRITE,
    watch_access,
    watch_page,
)
from cython.cimports.barevisor.cpu.bt.translate import Translator
from cython.cimports.libc.string import memcpy, memset

CR0_WP: u64 = cython.declare(u64, 1 << 16)
CR0_PG: u64 = cython.declare(u64, 1 << 31)
CR4_PSE: u64 = cython.declare(u64, 1 << 4)
CR4_PAE: u64 = cython.declare(u64, 1 << 5)
CR4_SMEP: u64 = cython.declare(u64, 1 << 20)
CR4_SMAP: u64 = cython.declare(u64, 1 << 21)
CR4_PKE: u64 = cython.declare(u64, 1 << 22)
CR4_PKS: u64 = cython.declare(u64, 1 << 24)
EFER_LMA: u64 = cython.declare(u64, 1 << 10)
EFER_NXE: u64 = cython.declare(u64, 1 << 11)
PTE_NX: u64 = cython.declare(u64, 1 << 63)
PTE_ADDR: u64 = cython.declare(u64, 0x000FFFFFFFFFF000)
PTE_IGNORED: u64 = cython.declare(u64, 0x7FF0000000000000)
PDPTE_RESERVED: u64 = cython.declare(u64, 0x1E6)
PSE36_RESERVED: u64 = cython.declare(u64, 1 << 21)
PAGE: u64 = cython.declare(u64, 4096)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)

_apic_read: apic_read_t = cython.declare(apic_read_t, cython.NULL)
_apic_write: apic_write_t = cython.declare(apic_write_t, cython.NULL)
_data_break: data_break_t = cython.declare(data_break_t, cython.NULL)


def install_hooks(apic_read: int, apic_write: int, data_break: int) -> None:
    """Addresses of apic_mmio_read, apic_mmio_write and data_breakpoint.

    They are hooks because those modules import this one.
    """
    global _apic_read, _apic_write, _data_break
    _apic_read = cython.cast(apic_read_t, cython.cast(cython.size_t, apic_read))
    _apic_write = cython.cast(apic_write_t, cython.cast(cython.size_t, apic_write))
    _data_break = cython.cast(data_break_t, cython.cast(cython.size_t, data_break))


# ---- guest-physical memory ---------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def phys_to_host(
    vm: cython.pointer(Vm), gpa: u64, bytes_left: cython.pointer(u64)
) -> cython.pointer(u8):
    """Host address of guest-physical `gpa` and how many bytes of the slot follow, or NULL."""
    slot: cython.pointer(Slot) = find_slot(vm, gpa)
    if slot == cython.NULL:
        return cython.NULL
    bytes_left[0] = slot.size - (gpa - slot.gpa)
    return cython.cast(cython.pointer(u8), slot.host + (gpa - slot.gpa))


# ---- page walks --------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _page_fault(cpu: cython.pointer(Cpu), va: u64, access: u32, idx: u32, bits: u32) -> cython.int:
    """#PF with the error code of SDM, "Page-Fault Exceptions"; `bits` are P (1), RSVD (8)
    and PK (32)."""
    error: u32 = bits
    if access == ACCESS_WRITE:
        error |= 2
    if idx == MMU_USER:
        error |= 4
    if access == ACCESS_EXEC and (
        (cpu.efer & EFER_NXE and cpu.cr4 & CR4_PAE) or cpu.cr4 & CR4_SMEP
    ):
        error |= 16
    cpu.fault_vector = EXC_PF
    cpu.fault_error = error
    cpu.fault_address = va
    return ST_FAULT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _entry(vm: cython.pointer(Vm), gpa: u64, wide: u32, slot_out: cython.pointer(u64)) -> u64:
    """One paging-structure entry; an address outside RAM reads as all ones, as a bus does.
    slot_out: where its accessed and dirty bits can be set, 0 if nowhere. Read-only memory may be
    read-only for this process too."""
    slot: cython.pointer(Slot) = find_slot(vm, gpa)
    host: cython.pointer(u8)
    slot_out[0] = 0
    if slot == cython.NULL:
        return ~cython.cast(u64, 0) if wide else cython.cast(u64, 0xFFFFFFFF)
    host = cython.cast(cython.pointer(u8), slot.host + (gpa - slot.gpa))
    if not slot.readonly:
        slot_out[0] = cython.cast(u64, host)
    if wide:
        return cython.cast(cython.pointer(u64), host)[0]
    return cython.cast(cython.pointer(u32), host)[0]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_bits(host: u64, entry: u64, bits: u64, wide: u32) -> cython.bint:
    """Accessed and dirty bits. False: another CPU has changed the entry meanwhile, and it must be
    read again: bits set in an entry that is not present any more would be somebody's data."""
    if (entry & bits) == bits or host == 0:
        return True
    if wide:
        return __sync_bool_compare_and_swap_8(
            cython.cast(cython.pointer(u64), host), entry, entry | bits
        )
    return __sync_bool_compare_and_swap_4(
        cython.cast(cython.pointer(u32), host),
        cython.cast(u32, entry),
        cython.cast(u32, entry | bits),
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _walk(
    cpu: cython.pointer(Cpu), va: u64, access: u32, idx: u32, out: cython.pointer(Walk)
) -> cython.int:
    """0 and `out`, or ST_FAULT with cpu.fault_* set."""
    status: cython.int = WALK_AGAIN
    # Each turn but the last means that another CPU of the guest has just written an entry.
    while status == WALK_AGAIN:
        status = _walk_once(cpu, va, access, idx, out)
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _walk_once(
    cpu: cython.pointer(Cpu), va: u64, access: u32, idx: u32, out: cython.pointer(Walk)
) -> cython.int:
    """One try: also WALK_AGAIN."""
    level: cython.int
    shift: cython.int
    wide: u32 = 1
    entry: u64 = 0
    table: u64
    host: u64 = 0
    span: u64
    reserved: u64
    allowed: u64 = 6  # R/W and U/S survive only if every level grants them
    no_exec: u64 = 0
    size_bit: u64
    keyed: cython.int
    if not (cpu.cr0 & CR0_PG):
        out.gpa = cython.cast(u32, va)
        out.writable = 1
        out.global_page = 0
        out.large = 0
        return 0
    reserved = (~cpu.phys_mask) & cython.cast(u64, 0x000FFFFFFFFFFFFF)
    if not (cpu.efer & EFER_NXE):
        reserved |= PTE_NX
    if cpu.efer & EFER_LMA:
        if cython.cast(u64, cython.cast(i64, va << 16) >> 16) != va:
            cpu.fault_vector = EXC_GP
            cpu.fault_error = 0
            return ST_FAULT
        level = 4
        table = cpu.cr3 & PTE_ADDR
    elif cpu.cr4 & CR4_PAE:
        va = cython.cast(u32, va)
        level = 3
        reserved |= PTE_IGNORED  # which only 4-level paging has
        table = cpu.cr3 & cython.cast(u64, 0xFFFFFFE0)
    else:
        va = cython.cast(u32, va)
        level = 2
        wide = 0
        table = cpu.cr3 & cython.cast(u64, 0xFFFFF000)
        reserved = 0
    while True:
        if wide:
            shift = 12 + 9 * (level - 1)
            if level == 3 and not (cpu.efer & EFER_LMA):
                entry = _entry(cpu.vm, table + ((va >> 30) & 3) * 8, 1, cython.address(host))
            else:
                entry = _entry(cpu.vm, table + ((va >> shift) & 511) * 8, 1, cython.address(host))
        else:
            shift = 12 + 10 * (level - 1)
            entry = _entry(cpu.vm, table + ((va >> shift) & 1023) * 4, 0, cython.address(host))
        if not (entry & 1):
            return _page_fault(cpu, va, access, idx, 0)
        if entry & reserved:
            return _page_fault(cpu, va, access, idx, 9)
        if level == 3 and wide and not (cpu.efer & EFER_LMA):
            if entry & (PDPTE_RESERVED | PTE_NX):  # PAE PDPTEs have no rights of their own
                return _page_fault(cpu, va, access, idx, 9)
            table = entry & PTE_ADDR
            level = 2
            continue
        allowed &= entry
        no_exec |= entry & PTE_NX
        size_bit = entry & 0x80
        if level == 1:
            break
        if size_bit:
            if level == 4:
                return _page_fault(cpu, va, access, idx, 9)
            if wide or (cpu.cr4 & CR4_PSE):
                break
        if not _set_bits(host, entry, 0x20, wide):
            return WALK_AGAIN
        table = entry & (PTE_ADDR if wide else cython.cast(u64, 0xFFFFF000))
        level -= 1
    span = cython.cast(u64, 1) << shift
    if level > 1 and wide and (entry & (span - 1) & cython.cast(u64, 0x3FFFE000)):
        return _page_fault(cpu, va, access, idx, 9)
    if level > 1 and not wide and entry & PSE36_RESERVED:
        return _page_fault(cpu, va, access, idx, 9)
    keyed = _key_denied(cpu, access, idx, allowed, entry)
    if keyed or _denied(cpu, access, idx, allowed, no_exec):
        return _page_fault(cpu, va, access, idx, 33 if keyed else 1)
    if not _set_bits(host, entry, 0x60 if access == ACCESS_WRITE else 0x20, wide):
        return WALK_AGAIN
    if not wide and level == 2:  # PSE-36: bits 13-20 are address bits 32-39
        out.gpa = (entry & cython.cast(u64, 0xFFC00000)) | ((entry & 0x1FE000) << 19)
    else:
        out.gpa = entry & PTE_ADDR & ~(span - 1)
    out.gpa |= va & (span - 1)
    out.large = shift if level > 1 else 0
    out.global_page = 1 if (entry & 0x100) and (cpu.cr4 & 0x80) else 0
    out.writable = (
        1
        if access == ACCESS_WRITE
        or (
            (entry & 0x40)
            and not _denied(cpu, ACCESS_WRITE, idx, allowed, no_exec)
            and not _key_denied(cpu, ACCESS_WRITE, idx, allowed, entry)
        )
        else 0
    )
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _denied(
    cpu: cython.pointer(Cpu), access: u32, idx: u32, allowed: u64, no_exec: u64
) -> cython.int:
    """SDM, "Determination of Access Rights"."""
    if idx == MMU_USER:
        if not (allowed & 4):
            return 1
        if access == ACCESS_WRITE and not (allowed & 2):
            return 1
    else:
        if access != ACCESS_EXEC:
            if (allowed & 4) and idx == MMU_SUPERVISOR and (cpu.cr4 & CR4_SMAP):
                return 1
            if access == ACCESS_WRITE and not (allowed & 2) and (cpu.cr0 & CR0_WP):
                return 1
        elif (allowed & 4) and (cpu.cr4 & CR4_SMEP):
            return 1
    return 1 if access == ACCESS_EXEC and no_exec and (cpu.efer & EFER_NXE) else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _key_denied(
    cpu: cython.pointer(Cpu), access: u32, idx: u32, allowed: u64, leaf: u64
) -> cython.int:
    """SDM, "Protection Keys": PKRU for pages of user-mode addresses, IA32_PKRS for the others;
    data accesses in IA-32e mode only."""
    rights: u64
    if access == ACCESS_EXEC or not cpu.efer & EFER_LMA:
        return 0
    if allowed & 4:
        if not cpu.cr4 & CR4_PKE:
            return 0
        rights = cpu.pkru
    elif idx != MMU_USER and cpu.cr4 & CR4_PKS:
        rights = cpu.pkrs
    else:
        return 0
    rights >>= 2 * ((leaf >> 59) & 15)
    if rights & 1:
        return 1
    if access == ACCESS_WRITE and rights & 2 and (idx == MMU_USER or cpu.cr0 & CR0_WP):
        return 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pdptes_valid(cpu: cython.pointer(Cpu), cr3: u64) -> cython.int:
    """SDM, "PDPTE Registers": loading CR3 in PAE mode checks the four entries there."""
    n: u32
    host: u64 = 0
    entry: u64
    reserved: u64 = ~cpu.phys_mask | PDPTE_RESERVED
    for n in range(4):
        entry = _entry(
            cpu.vm, (cr3 & cython.cast(u64, 0xFFFFFFE0)) + n * 8, 1, cython.address(host)
        )
        if entry & 1 and entry & reserved:
            return 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def translate(
    cpu: cython.pointer(Cpu), va: u64, access: u32, idx: u32, gpa: cython.pointer(u64)
) -> cython.int:
    """Guest-physical address of linear `va` for this access. 0 or ST_FAULT."""
    walk: Walk
    status: cython.int = _walk(cpu, va, access, idx, cython.address(walk))
    gpa[0] = walk.gpa
    return status


# ---- the TLBs ----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tlb_flush(cpu: cython.pointer(Cpu), keep_global: cython.int) -> cython.void:
    """Forget all translations, or all but those of global pages."""
    idx: cython.uint
    memset(cpu.large_pages, 0, 128 if keep_global else 256)
    cpu.huge_pages[0] = 0
    forget_jumps(cpu, 0)
    if not keep_global or cpu.private_code:
        forget_jumps(cpu, 1)
        cpu.private_code = 0
    if keep_global:
        _flush_used(cpu)
        space_flush_private(cpu)
        return
    space_flush(cpu)
    cpu.huge_pages[1] = 0
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
            if not cpu.tlbs[word >> 4][n].gpa & 1:
                cpu.tlbs[word >> 4][n] = cpu.tlb_blank[n]
    for word in range(32):
        bits = cpu.itlb_used[word]
        cpu.itlb_used[word] = 0
        while bits:
            n = (word & 15) * 64 + cython.cast(cython.uint, __builtin_ctzll(bits))
            bits &= bits - 1
            if not cpu.itlbs[word >> 4][n].gpa & 1:
                cpu.itlbs[word >> 4][n] = cpu.itlb_blank[n]


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def forget_jumps(cpu: cython.pointer(Cpu), half: u64) -> cython.void:
    """Branch targets of the lower (0) or upper (1) half must be looked up again."""
    cpu.stamps[half] += 0x10000


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tlb_flush_page(cpu: cython.pointer(Cpu), va: u64) -> cython.void:
    """Forget one page's translations, global or not; all of it, where it was a larger page, even
    if the page tables do not say so any more (SDM, INVLPG)."""
    idx: cython.uint
    n: cython.uint = cython.cast(cython.uint, (va >> 12) & (TLB_SIZE - 1))
    word: cython.uint = cython.cast(cython.uint, (va >> 27) & 15)
    if (cpu.huge_pages[0] | cpu.huge_pages[1]) >> ((va >> 30) & 63) & 1:
        tlb_flush(cpu, 0)
        return
    if (cpu.large_pages[word] | cpu.large_pages[16 + word]) >> ((va >> 21) & 63) & 1:
        _flush_large(cpu, va)
        space_flush_page(cpu, va, 1)
    space_flush_page(cpu, va, 0)
    forget_jumps(cpu, va >> 63)
    for idx in range(MMU_COUNT):
        cpu.tlbs[idx][n] = cpu.tlb_blank[n]
    for idx in range(2):
        cpu.itlbs[idx][n] = cpu.itlb_blank[n]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flush_large(cpu: cython.pointer(Cpu), va: u64) -> cython.void:
    """Forget the entries that were cut from the 2 MiB page around `va`: half of each TLB's
    places could hold one."""
    idx: cython.uint
    n: cython.uint
    first: cython.uint = cython.cast(cython.uint, (va >> 12) & (TLB_SIZE - 1) & ~511)
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
    word: cython.uint = cython.cast(cython.uint, (va >> 27) & 15) + 16 * walk.global_page
    if walk.large == 0:
        return (walk.gpa & PAGE_MASK) | walk.global_page
    if walk.large == 21:
        cpu.large_pages[word] |= cython.cast(u64, 1) << ((va >> 21) & 63)
    else:
        cpu.huge_pages[walk.global_page] |= cython.cast(u64, 1) << ((va >> 30) & 63)
    return (walk.gpa & PAGE_MASK) | walk.global_page | 2


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _fill(
    cpu: cython.pointer(Cpu),
    va: u64,
    idx: u32,
    walk: cython.pointer(Walk),
    slot: cython.pointer(Slot),
) -> cython.void:
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
    if (
        walk.writable
        and not slot.readonly
        and not slot.code_pages[number]
        and not _in_lockstep(cpu.vm)
    ):
        entry.wtag = page
        if may_write(cpu, slot, number):
            return
    entry.wtag = cpu.tlb_blank[(va >> 12) & (TLB_SIZE - 1)].wtag


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _in_lockstep(vm: cython.pointer(Vm)) -> cython.bint:
    """Does every store of the interpreter take the slow path, to be noted?"""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), vm.translator)
    return tr != cython.NULL and tr.lockstep


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


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fetch(
    cpu: cython.pointer(Cpu), va: u64, host: cython.pointer(u64), gpa: cython.pointer(u64)
) -> cython.int:
    """Find the code byte at linear `va` and enter its page into the code TLB."""
    walk: Walk
    slot: cython.pointer(Slot)
    user: cython.uint = 1 if cpu.cpl == 3 else 0
    entry: cython.pointer(ItlbEntry) = cython.address(cpu.itlbs[user][(va >> 12) & (TLB_SIZE - 1)])
    if entry.tag != (va & PAGE_MASK):
        if _walk(cpu, va, ACCESS_EXEC, MMU_USER if user else MMU_SUPERVISOR, cython.address(walk)):
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
def internal_error(
    cpu: cython.pointer(Cpu), reason: cython.pointer(cython.const[cython.char]), gpa: u64
) -> cython.void:
    """EXIT_INTERNAL: the text in exit_data, an address in exit_gpa."""
    i: cython.uint
    memset(cython.address(cpu.exit_data[0]), 0, 64)
    for i in range(63):
        if reason[i] == 0:
            break
        cpu.exit_data[i] = cython.cast(u8, reason[i])
    cpu.exit_reason = EXIT_INTERNAL
    cpu.exit_gpa = gpa


# ---- loads and stores that missed --------------------------------------------------------


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _is_apic(cpu: cython.pointer(Cpu), gpa: u64) -> cython.bint:
    """The page of the local APIC, when there is one and it is in xAPIC mode."""
    return (
        cpu.vm.irqchip
        and (gpa & PAGE_MASK) == (cpu.apic_base & PAGE_MASK)
        and (cpu.apic_base & 0xC00) == 0x800
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _mmio_load(
    cpu: cython.pointer(Cpu), gpa: u64, size: u32, out: cython.pointer(u8)
) -> cython.int:
    """A read outside RAM in pieces of at most 8 bytes: from the APIC, answered, or an exit."""
    i: cython.uint
    piece: u32
    value: u32
    found: cython.int
    while size:
        piece = 8 if size > 8 else size
        if _is_apic(cpu, gpa):
            value = _apic_read(cpu, cython.cast(u32, gpa & 0xFF0))
            memset(out, 0, piece)
            memcpy(
                out,
                cython.cast(cython.pointer(u8), cython.address(value)),
                4 if piece > 4 else piece,
            )
        else:
            found = 0
            for i in range(cpu.mmio_n):
                if cpu.mmio_done[i].gpa == gpa and cpu.mmio_done[i].size == piece:
                    memcpy(out, cython.address(cpu.mmio_done[i].value), piece)
                    found = 1
                    break
            if not found:
                cpu.exit_reason = EXIT_MMIO_READ
                cpu.exit_gpa = gpa
                cpu.exit_size = piece
                return ST_EXIT
        gpa += piece
        out += piece
        size -= piece
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _mmio_store(
    cpu: cython.pointer(Cpu), gpa: u64, size: u32, data: cython.pointer(u8)
) -> cython.int:
    """A store outside RAM (or to read-only memory): the APIC takes it, or it is an exit."""
    value: u32 = 0
    if _is_apic(cpu, gpa):
        memcpy(
            cython.cast(cython.pointer(u8), cython.address(value)), data, 4 if size > 4 else size
        )
        _apic_write(cpu, cython.cast(u32, gpa & 0xFF0), value)
        return ST_BREAK
    if cpu.exit_reason == EXIT_MMIO_WRITE:
        return _mmio_store_more(cpu, gpa, size, data)
    if cpu.exit_reason or size > cython.sizeof(cpu.exit_data):
        # XSAVE to a device: hostile, and more than one exit can carry.
        internal_error(cpu, b"one store writes too much device memory", gpa)
        return ST_BREAK
    cpu.exit_reason = EXIT_MMIO_WRITE
    cpu.exit_gpa = gpa
    cpu.exit_size = size
    cpu.exit_count = 0
    memcpy(cython.address(cpu.exit_data[0]), data, size)
    return ST_BREAK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _mmio_store_more(
    cpu: cython.pointer(Cpu), gpa: u64, size: u32, data: cython.pointer(u8)
) -> cython.int:
    """An instruction stores more than once to devices (a frame on a stack there, two pages): what
    does not follow the first piece goes to mmio_done, exit_count entries of it. The reads that
    were there have been used: stores come last."""
    more: cython.pointer(MmioDone)
    piece: u32
    if (
        cpu.exit_count == 0
        and cpu.exit_gpa + cpu.exit_size == gpa
        and cpu.exit_size + size <= cython.sizeof(cpu.exit_data)
    ):
        memcpy(cython.address(cpu.exit_data[cpu.exit_size]), data, size)
        cpu.exit_size += size
        return ST_BREAK
    while size:
        if cpu.exit_count == MAX_MMIO_DONE:
            internal_error(cpu, b"one instruction stores too much to device memory", gpa)
            return ST_BREAK
        more = cython.address(cpu.mmio_done[cpu.exit_count])
        piece = 8 if size > 8 else size
        more.gpa = gpa
        more.size = piece
        more.value = 0
        memcpy(cython.address(more.value), data, piece)
        cpu.exit_count += 1
        gpa += piece
        data += piece
        size -= piece
    return ST_BREAK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _load_page(
    cpu: cython.pointer(Cpu), va: u64, size: u32, out: cython.pointer(u8), idx: u32
) -> cython.int:
    """A load that stays within one page."""
    walk: Walk
    slot: cython.pointer(Slot)
    entry: cython.pointer(TlbEntry) = cython.address(cpu.tlbs[idx][(va >> 12) & (TLB_SIZE - 1)])
    if va - entry.rtag <= 4096 - size:
        _copy(out, cython.cast(cython.pointer(u8), entry.host + (va - entry.rtag)), size)
        return 0
    if _walk(cpu, va, ACCESS_READ, idx, cython.address(walk)):
        return ST_FAULT
    if cpu.dr[7] & 0xFF:
        cpu.pending_db |= _data_break(cpu, va, size, 0)
    if cpu.vm.nwatches:
        watch_access(cpu, va, size, STOP_ON_READ)
    slot = find_slot(cpu.vm, walk.gpa)
    if slot == cython.NULL:
        return _mmio_load(cpu, walk.gpa, size, out)
    _fill(cpu, va, idx, cython.address(walk), slot)
    _copy(out, cython.cast(cython.pointer(u8), slot.host + (walk.gpa - slot.gpa)), size)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _misaligned(cpu: cython.pointer(Cpu), va: u64, size: u32, idx: u32) -> cython.int:
    """SDM, "Alignment Check Exception (#AC)": asked only when CR0.AM and RFLAGS.AC are on at
    CPL 3 (then mode.py leaves the fast path without a TLB); system accesses are exempt."""
    if idx != MMU_USER or not (size == 2 or size == 4 or size == 8) or not va & (size - 1):
        return 0
    cpu.fault_vector = EXC_AC
    cpu.fault_error = 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_slow(
    cpu: cython.pointer(Cpu), va: u64, size: u32, out: cython.p_void, idx: u32
) -> cython.int:
    """Any load, also across a page boundary. 0, ST_FAULT, or ST_EXIT (MMIO: restart)."""
    status: cython.int
    first: u32 = cython.cast(u32, 4096 - (va & 0xFFF))
    target: cython.pointer(u8) = cython.cast(cython.pointer(u8), out)
    if cpu.tlb == cpu.tlb_blank and _misaligned(cpu, va, size, idx):
        return ST_FAULT
    if first >= size:
        return _load_page(cpu, va, size, target, idx)
    status = _load_page(cpu, va, first, target, idx)
    if status:
        return status
    return _load_page(cpu, _next_page(cpu, va), size - first, target + first, idx)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _next_page(cpu: cython.pointer(Cpu), va: u64) -> u64:
    """The page behind `va`; below 64-bit mode linear addresses wrap at 4 GiB."""
    va = (va & PAGE_MASK) + PAGE
    return va if cpu.efer & EFER_LMA else cython.cast(u64, cython.cast(u32, va))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store_page(
    cpu: cython.pointer(Cpu), va: u64, size: u32, data: cython.pointer(u8), idx: u32
) -> cython.int:
    """A store that stays within one page."""
    dropped: cython.int
    walk: Walk
    slot: cython.pointer(Slot)
    entry: cython.pointer(TlbEntry) = cython.address(cpu.tlbs[idx][(va >> 12) & (TLB_SIZE - 1)])
    if va - entry.wtag <= 4096 - size:
        _copy(cython.cast(cython.pointer(u8), entry.host + (va - entry.wtag)), data, size)
        return 0
    if _walk(cpu, va, ACCESS_WRITE, idx, cython.address(walk)):
        return ST_FAULT
    if cpu.dr[7] & 0xFF:
        cpu.pending_db |= _data_break(cpu, va, size, 1)
    if cpu.vm.nwatches:
        watch_access(cpu, va, size, STOP_ON_WRITE)
    slot = find_slot(cpu.vm, walk.gpa)
    if slot == cython.NULL or slot.readonly:
        return _mmio_store(cpu, walk.gpa, size, data)
    _fill(cpu, va, idx, cython.address(walk), slot)
    if va - entry.wtag <= 4096 - size:
        _copy(cython.cast(cython.pointer(u8), entry.host + (va - entry.wtag)), data, size)
        return 0
    vm_lock(cpu.vm, cpu)
    dropped = _kill(cpu.vm, slot, walk.gpa, size)
    _note_store(cpu.vm, slot.host + (walk.gpa - slot.gpa), size)
    _copy(cython.cast(cython.pointer(u8), slot.host + (walk.gpa - slot.gpa)), data, size)
    vm_unlock(cpu.vm)
    # Among thousands of blocks this is slow: a kick does not wait for the block's other stores.
    return ST_BREAK if dropped or cpu.attention & ATT_KICK else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _note_store(vm: cython.pointer(Vm), host: u64, size: u32) -> cython.void:
    """Before a store, for lockstep.py: where, and what was there."""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), vm.translator)
    log: cython.pointer(StoreLog)
    if tr == cython.NULL or not tr.logging:
        return
    log = cython.cast(cython.pointer(StoreLog), tr.log)
    if log.count == LOG_STORES or size > LOG_BYTES:
        log.overflow = 1
        return
    log.host[log.count] = host
    log.size[log.count] = size
    memcpy(
        cython.address(log.before[LOG_BYTES * log.count]), cython.cast(cython.p_void, host), size
    )
    log.count += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _kill(vm: cython.pointer(Vm), slot: cython.pointer(Slot), gpa: u64, size: u32) -> cython.int:
    """With the lock held: no block stays that a store to [gpa, gpa+size) changes."""
    page: u64 = (gpa - slot.gpa) >> 12
    return kill_range(vm, slot, page, gpa, gpa + size) if slot.code_pages[page] else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def hold(cpu: cython.pointer(Cpu), va: u64, size: u32) -> cython.pointer(u8):
    """See mmu.pxd."""
    gpa: u64 = 0
    slot: cython.pointer(Slot)
    if (va & 0xFFF) + size > PAGE or cpu.dr[7] & 0xFF or cpu.vm.nwatches:
        return cython.NULL
    if cpu.tlb == cpu.tlb_blank and va & (size - 1):
        return cython.NULL  # perhaps #AC
    if translate(cpu, va, ACCESS_WRITE, cpu.mmu_idx, cython.address(gpa)):
        return cython.NULL
    slot = find_slot(cpu.vm, gpa)
    if slot == cython.NULL or slot.readonly:
        return cython.NULL
    vm_lock(cpu.vm, cpu)
    cpu.dropped = _kill(cpu.vm, slot, gpa, size)
    _note_store(cpu.vm, slot.host + (gpa - slot.gpa), size)
    return cython.cast(cython.pointer(u8), slot.host + (gpa - slot.gpa))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _copy(to: cython.pointer(u8), source: cython.pointer(u8), size: u32) -> cython.void:
    """What a CPU does in one access is one access here: memcpy may store two bytes one by one."""
    if size == 8:
        cython.cast(cython.pointer(u64), to)[0] = cython.cast(cython.pointer(u64), source)[0]
    elif size == 4:
        cython.cast(cython.pointer(u32), to)[0] = cython.cast(cython.pointer(u32), source)[0]
    elif size == 2:
        cython.cast(cython.pointer(u16), to)[0] = cython.cast(cython.pointer(u16), source)[0]
    else:
        memcpy(to, source, size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store_slow(
    cpu: cython.pointer(Cpu), va: u64, size: u32, data: cython.p_void, idx: u32
) -> cython.int:
    """Any store; both pages are checked before either is written. 0, ST_FAULT or ST_BREAK."""
    status: cython.int
    first: u32 = cython.cast(u32, 4096 - (va & 0xFFF))
    source: cython.pointer(u8) = cython.cast(cython.pointer(u8), data)
    if cpu.tlb == cpu.tlb_blank and _misaligned(cpu, va, size, idx):
        return ST_FAULT
    if first >= size:
        return _store_page(cpu, va, size, source, idx)
    if probe_write(cpu, va, size, idx):
        return ST_FAULT
    status = _store_page(cpu, va, first, source, idx)
    return status | _store_page(cpu, _next_page(cpu, va), size - first, source + first, idx)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def probe_write(cpu: cython.pointer(Cpu), va: u64, size: u32, idx: u32) -> cython.int:
    """Would a store to [va, va+size) fault? Nothing is written (accessed and dirty bits are)."""
    walk: Walk
    last: u64 = va + size - 1
    if not (cpu.efer & EFER_LMA):
        last = cython.cast(u32, last)
    if _walk(cpu, va, ACCESS_WRITE, idx, cython.address(walk)):
        return ST_FAULT
    if (va & PAGE_MASK) != (last & PAGE_MASK):
        if _walk(cpu, last & PAGE_MASK, ACCESS_WRITE, idx, cython.address(walk)):
            return ST_FAULT
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def prime_write(cpu: cython.pointer(Cpu), va: u64, size: u32, idx: u32) -> cython.int:
    """Before a read-modify-write: fault now, or make the page writable through the TLB, so that
    a LOCKed instruction works on guest RAM itself and not on a copy."""
    walk: Walk
    slot: cython.pointer(Slot)
    if (va & 0xFFF) + size > PAGE:
        return probe_write(cpu, va, size, idx)
    if _walk(cpu, va, ACCESS_WRITE, idx, cython.address(walk)):
        return ST_FAULT
    slot = find_slot(cpu.vm, walk.gpa)
    if slot != cython.NULL:
        _fill(cpu, va, idx, cython.address(walk), slot)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def prime_read(cpu: cython.pointer(Cpu), va: u64, idx: u32) -> cython.int:
    """Enter the page of `va` into the TLB, if loads from it may be direct. 0 or ST_FAULT"""
    walk: Walk
    slot: cython.pointer(Slot)
    if _walk(cpu, va, ACCESS_READ, idx, cython.address(walk)):
        return ST_FAULT
    slot = find_slot(cpu.vm, walk.gpa)
    if slot != cython.NULL:
        _fill(cpu, va, idx, cython.address(walk), slot)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_system(cpu: cython.pointer(Cpu), va: u64, size: u32, out: cython.p_void) -> cython.int:
    """A descriptor table, TSS or gate: a supervisor access whatever the CPL (SDM, "Paging":
    implicit supervisor-mode accesses; RFLAGS.AC does not relax SMAP for them)."""
    return load_slow(cpu, va, size, out, MMU_SUPERVISOR)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store_system(cpu: cython.pointer(Cpu), va: u64, size: u32, data: cython.p_void) -> cython.int:
    """The same for a store (TSS state, pushed frames of an inner level)."""
    status: cython.int = store_slow(cpu, va, size, data, MMU_SUPERVISOR)
    return 0 if status == ST_BREAK else status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_system(cpu: cython.pointer(Cpu), va: u64, bits: u8) -> cython.int:
    """See mmu.pxd."""
    byte: u8 = 0
    status: cython.int = 0
    entry: cython.pointer(TlbEntry) = cython.address(
        cpu.tlbs[MMU_SUPERVISOR][(va >> 12) & (TLB_SIZE - 1)]
    )
    if va - entry.wtag > 4095:
        status = prime_write(cpu, va, 1, MMU_SUPERVISOR)
    if status:
        return status
    if va - entry.wtag <= 4095:
        __sync_fetch_and_or_1(cython.cast(cython.pointer(u8), entry.host + (va - entry.wtag)), bits)
        return 0
    # In a page with code, or on a device: not in one step.
    status = load_system(cpu, va, 1, cython.address(byte))
    byte |= bits
    return status if status else store_system(cpu, va, 1, cython.address(byte))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def check_segment(
    cpu: cython.pointer(Cpu), seg: u32, offset: u64, size: u32, write: u32
) -> cython.int:
    """SDM, "Limit Checking" and "Type Checking" for a data access outside 64-bit mode."""
    last: u64 = offset + size - 1
    top: u64
    attr: u32 = cpu.segs[seg].attr
    bad: cython.int = 0
    if not cpu.segs[seg].usable:
        bad = 1
    elif (attr & 0x0C) == 0x04:  # expand-down data: valid offsets lie above the limit
        top = cython.cast(u64, 0xFFFFFFFF) if attr & 0x400 else cython.cast(u64, 0xFFFF)
        bad = offset <= cpu.segs[seg].limit or last > top
    else:
        bad = last > cpu.segs[seg].limit
    if not bad and not (cpu.mode & (MODE_REAL | MODE_VM86)):
        if write:
            bad = (attr & 0x0A) != 0x02  # code, or data that is not writable
        else:
            bad = (attr & 0x0A) == 0x08  # execute-only code
    if not bad:
        return 0
    cpu.fault_vector = EXC_SS if seg == SEG_SS else EXC_GP
    cpu.fault_error = 0
    return ST_FAULT
