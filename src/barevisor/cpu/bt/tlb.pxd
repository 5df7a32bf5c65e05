from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.paging cimport Walk

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) nogil
    int __builtin_popcountll(unsigned long long x) nogil

# What page_walk found for `va` in `slot`
cdef void tlb_fill(Cpu* cpu, u64 va, u32 idx, Walk* walk, Slot* slot) noexcept nogil
cdef void tlb_flush(Cpu* cpu, int keep_global) noexcept nogil
cdef void tlb_flush_page(Cpu* cpu, u64 va) noexcept nogil
# Translations of the lower (0) or upper (1) half of the address space changed
cdef void forget_jumps(Cpu* cpu, u64 half) noexcept nogil
# A code page of the current privilege: host address of the byte at linear `va`. 0 or ST_FAULT;
# code outside RAM sets EXIT_INTERNAL and returns ST_EXIT.
cdef int fetch(Cpu* cpu, u64 va, u64* host, u64* gpa) noexcept nogil
# Both return 0 or ST_FAULT with cpu.fault_* set
cdef int prime_read(Cpu* cpu, u64 va, u32 idx) noexcept nogil
# As probe_write, and the page goes into the TLB if stores to it may be direct
cdef int prime_write(Cpu* cpu, u64 va, u32 size, u32 idx) noexcept nogil
