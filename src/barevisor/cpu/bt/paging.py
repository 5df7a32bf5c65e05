"""Page walks: from a linear to a guest-physical address (SDM, "Paging").

32-bit, PAE and 4-level paging, with NX, WP, U/S, SMEP, SMAP, protection keys, reserved bits,
accessed and dirty. A guest address reaches host memory only through a slot, so whatever the guest
computes, nothing outside its RAM can be named.
"""

import cython
from cython.cimports.barevisor.cpu.bt.codepages import find_slot, host_at
from cython.cimports.barevisor.cpu.bt.lockstep import note_done
from cython.cimports.barevisor.cpu.bt.registers import *
from cython.cimports.barevisor.cpu.bt.state import *

PTE_NX: u64 = cython.declare(u64, 1 << 63)
PTE_ADDR: u64 = cython.declare(u64, 0x000FFFFFFFFFF000)
PTE_IGNORED: u64 = cython.declare(u64, 0x7FF0000000000000)
PDPTE_RESERVED: u64 = cython.declare(u64, 0x1E6)
PSE36_RESERVED: u64 = cython.declare(u64, 1 << 21)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)
LARGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFE00000)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _page_fault(cpu: cython.pointer(Cpu), va: u64, access: u32, idx: u32, bits: u32) -> cython.int:
    """#PF (SDM, "Page-Fault Exceptions"); `bits` of the error code are PF_P, PF_RSVD, PF_KEY."""
    error: u32 = bits
    if access == ACCESS_WRITE:
        error |= PF_WRITE
    if idx == MMU_USER:
        error |= PF_USER
    if access == ACCESS_EXEC and (
        (cpu.efer & EFER_NXE and cpu.cr4 & CR4_PAE) or cpu.cr4 & CR4_SMEP
    ):
        error |= PF_FETCH
    cpu.fault_address = va
    return set_fault(cpu, EXC_PF, error)


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
    host = host_at(slot, gpa)
    if not slot.readonly:
        slot_out[0] = cython.cast(u64, host)
    if wide:
        return cython.cast(cython.pointer(u64), host)[0]
    return cython.cast(cython.pointer(u32), host)[0]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_bits(cpu: cython.pointer(Cpu), host: u64, entry: u64, bits: u64, wide: u32) -> cython.bint:
    """Accessed and dirty bits. False: another CPU has changed the entry meanwhile, and it must be
    read again: bits set in an entry that is not present any more would be somebody's data."""
    if (entry & bits) == bits or host == 0:
        return True
    note_done(cpu.vm)
    if wide:
        return __sync_bool_compare_and_swap_8(
            cython.cast(cython.pointer(u64), host), entry, entry | bits
        )
    return __sync_bool_compare_and_swap_4(
        cython.cast(cython.pointer(u32), host),
        cython.cast(u32, entry),
        cython.cast(u32, entry | bits),
    )


def page_walk(cpu, va, access, idx, out):
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
    at: Level
    if not (cpu.cr0 & CR0_PG):
        out.gpa = cython.cast(u32, va)
        out.writable = 1
        out.global_page = 0
        out.large = 0
        return 0
    if not (cpu.efer & EFER_LMA):
        va = cython.cast(u32, va)
    if _root(cpu, va, cython.address(at)):
        return ST_FAULT
    while True:
        _read_level(cpu, va, cython.address(at))
        if not (at.entry & PTE_P):
            return _page_fault(cpu, va, access, idx, 0)
        if at.entry & at.reserved:
            return _page_fault(cpu, va, access, idx, PF_P | PF_RSVD)
        if at.level == 3 and at.wide and not (cpu.efer & EFER_LMA):
            if at.entry & (PDPTE_RESERVED | PTE_NX):  # PAE PDPTEs have no rights of their own
                return _page_fault(cpu, va, access, idx, PF_P | PF_RSVD)
            at.table = at.entry & PTE_ADDR
            at.level = 2
            continue
        at.allowed &= at.entry
        at.no_exec |= at.entry & PTE_NX
        if at.level == 1:
            break
        if at.entry & PTE_PS:
            if at.level == 4:
                return _page_fault(cpu, va, access, idx, PF_P | PF_RSVD)
            if at.wide or (cpu.cr4 & CR4_PSE):
                break
        if not _set_bits(cpu, at.host, at.entry, PTE_A, at.wide):
            return WALK_AGAIN
        at.table = at.entry & (PTE_ADDR if at.wide else cython.cast(u64, 0xFFFFF000))
        at.level -= 1
    return _leaf(cpu, va, access, idx, cython.address(at), out)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _root(cpu: cython.pointer(Cpu), va: u64, at: cython.pointer(Level)) -> cython.int:
    """Where the mode's walk begins. 0, or ST_FAULT: #GP(0), `va` is not canonical."""
    at.wide = 1
    at.allowed = PTE_RW | PTE_US
    at.no_exec = 0
    at.reserved = (~cpu.phys_mask) & cython.cast(u64, 0x000FFFFFFFFFFFFF)
    if not (cpu.efer & EFER_NXE):
        at.reserved |= PTE_NX
    if cpu.efer & EFER_LMA:
        if not canonical(va):
            return set_fault(cpu, EXC_GP, 0)
        at.level = 4
        at.table = cpu.cr3 & PTE_ADDR
    elif cpu.cr4 & CR4_PAE:
        at.level = 3
        at.reserved |= PTE_IGNORED  # which only 4-level paging has
        at.table = cpu.cr3 & cython.cast(u64, 0xFFFFFFE0)
    else:
        at.level = 2
        at.wide = 0
        at.table = cpu.cr3 & cython.cast(u64, 0xFFFFF000)
        at.reserved = 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read_level(cpu: cython.pointer(Cpu), va: u64, at: cython.pointer(Level)) -> cython.void:
    """The entry for `va` in at.table."""
    index: u64
    if not at.wide:
        at.shift = 12 + 10 * (at.level - 1)
        index = (va >> at.shift) & 1023
        at.entry = _entry(cpu.vm, at.table + index * 4, 0, cython.address(at.host))
        return
    at.shift = 12 + 9 * (at.level - 1)
    index = (va >> at.shift) & 511  # at level 3 of PAE va has 32 bits: four entries
    at.entry = _entry(cpu.vm, at.table + index * 8, 1, cython.address(at.host))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _leaf(
    cpu: cython.pointer(Cpu), va: u64, access: u32, idx: u32,
    at: cython.pointer(Level), out: cython.pointer(Walk),
) -> cython.int:  # fmt: skip
    """The entry that maps the page: its reserved bits, the rights, and what they allow later."""
    entry: u64 = at.entry
    span: u64 = cython.cast(u64, 1) << at.shift
    keyed: cython.int
    if at.level > 1 and at.wide and (entry & (span - 1) & cython.cast(u64, 0x3FFFE000)):
        return _page_fault(cpu, va, access, idx, PF_P | PF_RSVD)
    if at.level > 1 and not at.wide and entry & PSE36_RESERVED:
        return _page_fault(cpu, va, access, idx, PF_P | PF_RSVD)
    keyed = _key_denied(cpu, access, idx, at.allowed, entry)
    if keyed or _denied(cpu, access, idx, at.allowed, at.no_exec):
        return _page_fault(cpu, va, access, idx, PF_P | PF_KEY if keyed else PF_P)
    if not _set_bits(
        cpu, at.host, entry, PTE_A | PTE_D if access == ACCESS_WRITE else PTE_A, at.wide
    ):
        return WALK_AGAIN
    if not at.wide and at.level == 2:  # PSE-36: bits 13-20 are address bits 32-39
        out.gpa = (entry & cython.cast(u64, 0xFFC00000)) | ((entry & 0x1FE000) << 19)
    else:
        out.gpa = entry & PTE_ADDR & ~(span - 1)
    out.gpa |= va & (span - 1)
    out.large = at.shift if at.level > 1 else 0
    out.global_page = 1 if entry & PTE_G and cpu.cr4 & CR4_PGE else 0
    out.writable = (
        1
        if access == ACCESS_WRITE
        or (
            entry & PTE_D
            and not _denied(cpu, ACCESS_WRITE, idx, at.allowed, at.no_exec)
            and not _key_denied(cpu, ACCESS_WRITE, idx, at.allowed, entry)
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
        if not allowed & PTE_US:
            return 1
        if access == ACCESS_WRITE and not allowed & PTE_RW:
            return 1
    else:
        if access != ACCESS_EXEC:
            if allowed & PTE_US and idx == MMU_SUPERVISOR and cpu.cr4 & CR4_SMAP:
                return 1
            if access == ACCESS_WRITE and not allowed & PTE_RW and cpu.cr0 & CR0_WP:
                return 1
        elif allowed & PTE_US and cpu.cr4 & CR4_SMEP:
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
    if allowed & PTE_US:
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


def peek_user(cpu, va, out):
    """See paging.pxd."""
    at: Level
    span: u64
    if _root(cpu, va, cython.address(at)):
        cpu.fault_vector = 0
        return -1
    while True:
        _read_level(cpu, va, cython.address(at))
        if not (at.entry & PTE_P) or at.entry & at.reserved:
            return -1
        at.allowed &= at.entry
        at.no_exec |= at.entry & PTE_NX
        if at.level == 1 or at.entry & PTE_PS:
            break
        at.table = at.entry & PTE_ADDR
        at.level -= 1
    span = cython.cast(u64, 1) << at.shift
    if not at.entry & PTE_A or not at.allowed & PTE_US or at.level == 4:
        return -1
    if at.level > 1 and at.entry & (span - 1) & cython.cast(u64, 0x3FFFE000):
        return -1
    out.large = at.level > 1
    out.gpa = (at.entry & PTE_ADDR & ~(span - 1)) | (va & (span - 1) & LARGE_MASK)
    out.rights = 0
    if at.allowed & PTE_RW and at.entry & PTE_D:
        out.rights |= PG_WRITE
    if not (at.no_exec and cpu.efer & EFER_NXE):
        out.rights |= PG_EXEC
    return 0


def pdptes_valid(cpu, cr3):
    """SDM, "PDPTE Registers": loading CR3 in PAE mode checks the four entries there."""
    n: u32
    host: u64 = 0
    entry: u64
    reserved: u64 = ~cpu.phys_mask | PDPTE_RESERVED
    for n in range(4):
        entry = _entry(
            cpu.vm, (cr3 & cython.cast(u64, 0xFFFFFFE0)) + n * 8, 1, cython.address(host)
        )
        if entry & PTE_P and entry & reserved:
            return 0
    return 1


def translate(cpu, va, access, idx, gpa):
    """Guest-physical address of linear `va` for this access. 0 or ST_FAULT."""
    walk: Walk
    status: cython.int = page_walk(cpu, va, access, idx, cython.address(walk))
    gpa[0] = walk.gpa
    return status


def probe_write(cpu, va, size, idx):
    """Would a store to [va, va+size) fault? Nothing is written (accessed and dirty bits are)."""
    walk: Walk
    last: u64 = va + size - 1
    if not (cpu.efer & EFER_LMA):
        last = cython.cast(u32, last)
    if page_walk(cpu, va, ACCESS_WRITE, idx, cython.address(walk)):
        return ST_FAULT
    if (va & PAGE_MASK) != (last & PAGE_MASK):
        if page_walk(cpu, last & PAGE_MASK, ACCESS_WRITE, idx, cython.address(walk)):
            return ST_FAULT
    return 0
