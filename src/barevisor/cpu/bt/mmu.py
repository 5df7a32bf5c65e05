"""Loads and stores that a TLB hit does not answer.

Misses, accesses that cross a page or reach a device, stores to pages that code was decoded from
(whose blocks they drop), and implicit accesses to descriptor tables. Page walks are paging.py's,
the TLBs tlb.py's, devices mmio.py's.
"""

import cython
from cython.cimports.barevisor.cpu.bt.codepages import find_slot, host_at, kill_range
from cython.cimports.barevisor.cpu.bt.debug import data_breakpoint
from cython.cimports.barevisor.cpu.bt.lockstep import in_lockstep, note_store
from cython.cimports.barevisor.cpu.bt.mmio import mmio_load, mmio_store
from cython.cimports.barevisor.cpu.bt.paging import (
    ACCESS_READ,
    ACCESS_WRITE,
    Walk,
    page_walk,
    probe_write,
    translate,
)
from cython.cimports.barevisor.cpu.bt.registers import *
from cython.cimports.barevisor.cpu.bt.safepoint import vm_lock, vm_unlock
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.stops import STOP_ON_READ, STOP_ON_WRITE, watch_access
from cython.cimports.barevisor.cpu.bt.tlb import prime_write, tlb_fill
from cython.cimports.libc.string import memcpy

PAGE: u64 = cython.declare(u64, 4096)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)


def load_slow(cpu, va, size, out, idx):
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


def store_slow(cpu, va, size, data, idx):
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


def hold(cpu, va, size):
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
    note_store(cpu.vm, host_at(slot, gpa), size)
    return host_at(slot, gpa)


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
    if page_walk(cpu, va, ACCESS_READ, idx, cython.address(walk)):
        return ST_FAULT
    if cpu.dr[7] & 0xFF:
        cpu.pending_db |= data_breakpoint(cpu, va, size, 0)
    if cpu.vm.nwatches:
        watch_access(cpu, va, size, STOP_ON_READ)
    slot = find_slot(cpu.vm, walk.gpa)
    if slot == cython.NULL:
        return mmio_load(cpu, walk.gpa, size, out)
    tlb_fill(cpu, va, idx, cython.address(walk), slot)
    _copy(out, host_at(slot, walk.gpa), size)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store_page(
    cpu: cython.pointer(Cpu), va: u64, size: u32, data: cython.pointer(u8), idx: u32
) -> cython.int:
    """A store that stays within one page."""
    gpa: u64
    walk: Walk
    slot: cython.pointer(Slot)
    entry: cython.pointer(TlbEntry) = cython.address(cpu.tlbs[idx][(va >> 12) & (TLB_SIZE - 1)])
    if va - entry.wtag <= 4096 - size:
        _copy(cython.cast(cython.pointer(u8), entry.host + (va - entry.wtag)), data, size)
        return 0
    if va - entry.rtag <= 4096 - size and entry.gpa & TLB_SEEN:
        gpa = (entry.gpa & PAGE_MASK) | (va & 0xFFF)
        slot = find_slot(cpu.vm, gpa)
        if slot.code_pages[(gpa - slot.gpa) >> 12] or in_lockstep(cpu.vm):
            return _store_seen(cpu, slot, gpa, size, data)
    if page_walk(cpu, va, ACCESS_WRITE, idx, cython.address(walk)):
        return ST_FAULT
    if cpu.dr[7] & 0xFF:
        cpu.pending_db |= data_breakpoint(cpu, va, size, 1)
    if cpu.vm.nwatches:
        watch_access(cpu, va, size, STOP_ON_WRITE)
    slot = find_slot(cpu.vm, walk.gpa)
    if slot == cython.NULL or slot.readonly:
        return mmio_store(cpu, walk.gpa, size, data)
    tlb_fill(cpu, va, idx, cython.address(walk), slot)
    if va - entry.wtag <= 4096 - size:
        _copy(cython.cast(cython.pointer(u8), entry.host + (va - entry.wtag)), data, size)
        return 0
    return _store_seen(cpu, slot, walk.gpa, size, data)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store_seen(
    cpu: cython.pointer(Cpu), slot: cython.pointer(Slot), gpa: u64, size: u32,
    data: cython.pointer(u8),
) -> cython.int:  # fmt: skip
    """Where code may lie, or in lockstep."""
    dropped: cython.int
    vm_lock(cpu.vm, cpu)
    dropped = _kill(cpu.vm, slot, gpa, size)
    note_store(cpu.vm, host_at(slot, gpa), size)
    _copy(host_at(slot, gpa), data, size)
    vm_unlock(cpu.vm)
    # Among thousands of blocks this is slow: a kick does not wait for the block's other stores.
    return ST_BREAK if dropped or cpu.attention & ATT_KICK else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _misaligned(cpu: cython.pointer(Cpu), va: u64, size: u32, idx: u32) -> cython.int:
    """SDM, "Alignment Check Exception (#AC)": asked only when CR0.AM and RFLAGS.AC are on at
    CPL 3 (then mode.py leaves the fast path without a TLB); system accesses are exempt."""
    if idx != MMU_USER or not (size == 2 or size == 4 or size == 8) or not va & (size - 1):
        return 0
    return set_fault(cpu, EXC_AC, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _next_page(cpu: cython.pointer(Cpu), va: u64) -> u64:
    """The page behind `va`; below 64-bit mode linear addresses wrap at 4 GiB."""
    va = (va & PAGE_MASK) + PAGE
    return va if cpu.efer & EFER_LMA else cython.cast(u64, cython.cast(u32, va))


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
def _kill(vm: cython.pointer(Vm), slot: cython.pointer(Slot), gpa: u64, size: u32) -> cython.int:
    """With the lock held: no block stays that a store to [gpa, gpa+size) changes."""
    page: u64 = (gpa - slot.gpa) >> 12
    return kill_range(vm, slot, page, gpa, gpa + size) if slot.code_pages[page] else 0


def load_system(cpu, va, size, out):
    """A descriptor table, TSS or gate: a supervisor access whatever the CPL (SDM, "Paging":
    implicit supervisor-mode accesses; RFLAGS.AC does not relax SMAP for them)."""
    return load_slow(cpu, va, size, out, MMU_SUPERVISOR)


def store_system(cpu, va, size, data):
    """The same for a store (TSS state, pushed frames of an inner level)."""
    status: cython.int = store_slow(cpu, va, size, data, MMU_SUPERVISOR)
    return 0 if status == ST_BREAK else status


def set_system(cpu, va, bits):
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


def stack_fault(cpu, va):
    """SDM, "Canonical Addressing": stack references raise #SS(0). What is loaded from there may be
    refused too (a selector), with a #GP of its own. No operand is as long as a page."""
    if not canonical(va) or not canonical(va + PAGE - 1):
        cpu.fault_vector = EXC_SS


def check_segment(cpu, seg, offset, size, write):
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
    return set_fault(cpu, EXC_SS if seg == SEG_SS else EXC_GP, 0) if bad else 0
