"""Code pages: which pages blocks were made from, and how stores to them kill those blocks.

A page becomes a code page before the first byte of it is decoded (`watch_code_page`), and from
then on no TLB lets stores to it through: each takes the slow path, which under the VM's lock first
kills the blocks that it overlaps and then stores. So whoever sees what was stored, also finds the
blocks gone, and whoever builds anew (under the lock) reads the new bytes. A dead block is unlinked
and marked; links and noted jumps look at the mark. A CPU that is in a dead block finishes it, as a
real one finishes what it has prefetched; its memory stays until all code is dropped.

The page's last stores by way of a TLB: a CPU enters a writable page (store to its TLB), notes
itself in slot.writers (a full barrier) and then looks at slot.code_pages again. Who watches sets
code_pages, then (a full barrier) looks at writers, and takes the right away in the TLBs of those
CPUs. Either the CPU sees the page watched and takes the entry back itself, or its entry is seen.
A CPU whose entry was taken may have checked it just before and not have stored yet: wait_quiet
waits for the end of that instruction, and only then the page is decoded. Devices store first and
call `code_written` then, which looks at code_pages after a barrier: either it sees the page
watched, or the decoder, who has set that before, reads what the device stored.

Mirrors (mirror.pxd) are TLBs in this too: slot.mirrored notes the CPUs that have the page in one,
for stores or, watched like a decoded page, for execution; each right is revoked when it must go.
"""

import cython
from cython.cimports.barevisor.cpu.bt.evict import evict_trace
from cython.cimports.barevisor.cpu.bt.paging import PG_EXEC, PG_WRITE
from cython.cimports.barevisor.cpu.bt.safepoint import (
    SEQ_CST,
    ask,
    fence,
    vm_lock,
    vm_unlock,
    wait_quiet,
)
from cython.cimports.barevisor.cpu.bt.space import space_protect
from cython.cimports.barevisor.cpu.bt.trace import MODE_TRACE

PAGE = cython.declare("u64", 4096)
PAGE_MASK = cython.declare("u64", 0xFFFFFFFFFFFFF000)


def code_written(vm, cpu, gpa, size):
    dropped: cython.int = 0
    end: u64 = gpa + size
    page: u64
    slot: cython.pointer(Slot)
    fence(SEQ_CST)
    while gpa < end:
        slot = find_slot(vm, gpa)
        if slot == cython.NULL:
            return dropped
        page = (gpa - slot.gpa) >> 12
        if slot.code_pages[page]:
            vm_lock(vm, cpu)
            dropped |= kill_range(vm, slot, page, gpa, end)
            vm_unlock(vm)
        gpa = (gpa & PAGE_MASK) + PAGE
    return dropped


def kill_range(vm, slot, page, start, end):
    """Kill the blocks of one page that overlap [start, end); unwatch the page when none stay."""
    dropped: cython.int = 0
    i: u32
    others: u64 = revoke(vm, slot, page, PG_EXEC)
    for i in range(vm.ncpus if others else 0):
        if others >> i & 1:
            ask(vm.cpus[i], ATT_INTERRUPT)  # its mirrors are looked at when it goes on
    at: cython.pointer(cython.pointer(Block)) = cython.address(slot.page_blocks[page])
    block: cython.pointer(Block) = at[0]
    while block != cython.NULL:
        if block.gpa < end and start < block.gpa + block.size:
            block.valid = 0
            vm.dead_bytes += block.bytes
            if block.mode & MODE_TRACE:
                evict_trace(vm, block)
            else:
                unhash(vm, block)
            at[0] = block.page_next
            dropped = 1
        else:
            at = cython.address(block.page_next)
        block = at[0]
    if slot.page_blocks[page] == cython.NULL:
        slot.code_pages[page] = 0
    return dropped


def unhash(vm, dead):
    at: cython.pointer(cython.pointer(Block)) = cython.address(vm.hash[block_hash(dead.host)])
    while at[0] != cython.NULL:
        if at[0] == dead:
            at[0] = dead.hash_next
            return
        at = cython.address(at[0].hash_next)


def watch_code_page(cpu, slot, page):
    vm: cython.pointer(Vm) = cpu.vm
    gpa: u64 = slot.gpa + page * PAGE
    writers: u32
    mask: u64 = 0
    i: u32
    if slot.code_pages[page]:
        return
    slot.code_pages[page] = 1
    fence(SEQ_CST)
    writers = slot.writers[page]
    slot.writers[page] = 0
    for i in range(vm.ncpus):
        if (
            writers >> (i & 7) & 1
            and vm.cpus[i] != cython.NULL
            and (unwrite(vm.cpus[i], gpa) | unstore(vm.cpus[i], slot.stores + 2 * page))
        ):
            mask |= cython.cast(u64, 1) << i
    mask |= revoke(vm, slot, page, PG_WRITE)
    mask &= ~(cython.cast(u64, 1) << cpu.index)
    if mask:
        wait_quiet(cpu, mask)


def revoke(vm, slot, page, right):
    """See codepages.pxd."""
    i: u32
    mask: u64 = 0
    marked: u32 = slot.mirrored[page]
    cpu: cython.pointer(Cpu)
    if not marked:
        return 0
    slot.mirrored[page] = 0
    for i in range(vm.ncpus):
        cpu = vm.cpus[i]
        if not marked >> (i & 7) & 1 or cpu == cython.NULL or cpu.mirrors == cython.NULL:
            continue
        if cpu.nrevoked < REVOKED:
            cpu.revoked[cpu.nrevoked] = slot.gpa + page * PAGE + right
        if cpu.nrevoked <= REVOKED:
            cpu.nrevoked += 1
        mask |= cython.cast(u64, 1) << i
    return mask


def unstore(cpu, stores):
    """The same for translated code, which stores through at most two linear addresses of the page
    (tier.py keeps them)."""
    found: cython.int = 0
    i: u32
    for i in range(2):
        if stores[i]:
            found |= space_protect(cpu, stores[i])
    return found


def unwrite(cpu, gpa):
    """Stores to this page do not go by the TLB any more. 1 if they did. The CPU may be changing
    its TLB at the same time: at worst another page loses the right and gets it back on a miss."""
    found: cython.int = 0
    idx: cython.uint
    n: cython.uint
    entry: cython.pointer(TlbEntry)
    for idx in range(MMU_COUNT):
        entry = cpu.tlbs[idx]
        for n in range(TLB_SIZE):
            if (entry[n].gpa & PAGE_MASK) == gpa and entry[n].wtag != cpu.tlb_blank[n].wtag:
                entry[n].wtag = cpu.tlb_blank[n].wtag
                found = 1
    return found
