from barevisor.cpu.bt.state cimport *

cdef extern from *:
    u64 __sync_fetch_and_or(u64* at, u64 bits) nogil
    u32 __sync_fetch_and_or_4(u32* at, u32 bits) nogil
    int __builtin_ctzll(unsigned long long x) nogil


cdef inline u32 block_hash(u64 host) noexcept nogil:
    """Where Vm.hash keeps the blocks that start at host address `host`."""
    return <u32> ((host ^ (host >> HASH_BITS)) & (HASH_SIZE - 1))


cdef enum:                   # access kinds
    ACCESS_READ = 0
    ACCESS_WRITE = 1
    ACCESS_EXEC = 2

cdef struct Walk:            # what a page walk found
    u64 gpa                  # of the byte
    u32 writable             # a store may skip the walk from now on (also dirty already)
    u32 global_page          # 1 or 0
    u32 large                # 0, or log2 of the page's size when above 4 KiB

ctypedef u32 (*apic_read_t)(Cpu* cpu, u32 offset) noexcept nogil
ctypedef void (*apic_write_t)(Cpu* cpu, u32 offset, u32 value) noexcept nogil
ctypedef u32 (*data_break_t)(Cpu* cpu, u64 va, u32 size, u32 write) noexcept nogil

# All take linear addresses and an mmu index (MMU_*); they set cpu.fault_* (not cpu.rip) on ST_FAULT
cdef int translate(Cpu* cpu, u64 va, u32 access, u32 idx, u64* gpa) noexcept nogil
cdef int load_slow(Cpu* cpu, u64 va, u32 size, void* out, u32 idx) noexcept nogil
cdef int store_slow(Cpu* cpu, u64 va, u32 size, void* data, u32 idx) noexcept nogil
# Would a store to all of [va, va+size) succeed? 0 or ST_FAULT. For checks before a commit.
cdef int probe_write(Cpu* cpu, u64 va, u32 size, u32 idx) noexcept nogil
# The same, and the page goes into the TLB if stores to it may be direct. 0 or ST_FAULT
cdef int prime_write(Cpu* cpu, u64 va, u32 size, u32 idx) noexcept nogil
# System structures: whatever the CPL, read/written as supervisor (implicit access)
cdef int load_system(Cpu* cpu, u64 va, u32 size, void* out) noexcept nogil
cdef int store_system(Cpu* cpu, u64 va, u32 size, void* data) noexcept nogil
# Legacy-mode segment limit and rights for [offset, offset+size) of segment `seg`:
# 0, or ST_FAULT with #GP(0)/#SS(0) set
cdef int check_segment(Cpu* cpu, u32 seg, u64 offset, u32 size, u32 write) noexcept nogil
cdef void tlb_flush(Cpu* cpu, int keep_global) noexcept nogil
cdef void tlb_flush_page(Cpu* cpu, u64 va) noexcept nogil
# A code page of the current privilege: host address of the byte at linear `va`. 0 or ST_FAULT;
# code outside RAM sets EXIT_INTERNAL and returns ST_EXIT.
cdef int fetch(Cpu* cpu, u64 va, u64* host, u64* gpa) noexcept nogil
cdef Slot* find_slot(Vm* vm, u64 gpa) noexcept nogil
cdef u8* phys_to_host(Vm* vm, u64 gpa, u64* bytes_left) noexcept nogil
# Blocks made from [gpa, gpa+size) are stale. 1 if any was dropped.
cdef int code_written(Vm* vm, u64 gpa, u64 size) noexcept nogil
# Blocks are about to be made from this page: stores to it must take the slow path
cdef void watch_code_page(Vm* vm, Slot* slot, u64 page) noexcept nogil
# Blocks died, or translations of the lower (0) or upper (1) half of the address space changed
cdef void forget_jumps(Cpu* cpu, u64 half) noexcept nogil
