# Pages that blocks were made from, and the slots that they lie in.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.atomics cimport *


cdef inline u32 block_hash(u64 host) noexcept nogil:
    """Where Vm.hash keeps the blocks that start at host address `host`."""
    return <u32> ((host ^ (host >> HASH_BITS)) & (HASH_SIZE - 1))


cdef inline Slot* find_slot(Vm* vm, u64 gpa) noexcept nogil:
    """The slot that backs `gpa`, or NULL."""
    cdef unsigned int i
    for i in range(vm.nslots):
        if gpa - vm.slots[i].gpa < vm.slots[i].size:
            return &vm.slots[i]
    return NULL


cdef inline u8* host_at(Slot* slot, u64 gpa) noexcept nogil:
    """Where guest-physical `gpa` lies in this process."""
    return <u8*> (slot.host + (gpa - slot.gpa))


cdef inline bint arena_full(Vm* vm, u64 need) noexcept nogil:
    """No room for `need` bytes of blocks, or a quarter of it is taken by dead ones."""
    return vm.arena_used + need > vm.arena_size or vm.dead_bytes > vm.arena_size >> 2


# Any thread, after a store to [gpa, gpa+size): blocks made from it are stale. 1 if any was dropped.
# `cpu` as in vm_lock.
cdef int code_written(Vm* vm, Cpu* cpu, u64 gpa, u64 size) noexcept nogil
# The same for one page, with the lock held, by who stores before letting it go
cdef int kill_range(Vm* vm, Slot* slot, u64 page, u64 start, u64 end) noexcept nogil
# With the lock held: `dead` is not found any more
cdef void unhash(Vm* vm, Block* dead) noexcept nogil
# With the lock held, before a byte of the page is decoded: from now on every store to it takes
# the slow path, on all CPUs, and none is under way
cdef void watch_code_page(Cpu* cpu, Slot* slot, u64 page) noexcept nogil
# Between the TLB's entry and its first use: may stores to this page go by the TLB?
cdef inline bint may_write(Cpu* cpu, Slot* slot, u64 page) noexcept nogil:
    __sync_fetch_and_or_1(&slot.writers[page], <u8> 1 << (cpu.index & 7))
    return not slot.code_pages[page]

# With the lock held: a right of this page in mirrors is no good any more. The CPUs that had it
# marked, a bit each.
cdef u64 revoke(Vm* vm, Slot* slot, u64 page, u32 right) noexcept nogil

# --- inside codepages.py
cdef int unwrite(Cpu* cpu, u64 gpa) noexcept nogil
cdef int unstore(Cpu* cpu, u64* stores) noexcept nogil
