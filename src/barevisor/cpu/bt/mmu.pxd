from barevisor.cpu.bt.state cimport *

cdef extern from *:
    u8 __sync_fetch_and_or_1(u8* at, u8 bits) nogil
    bint __sync_bool_compare_and_swap_8(u64* at, u64 old, u64 new) nogil
    bint __sync_bool_compare_and_swap_4(u32* at, u32 old, u32 new) nogil
    int __builtin_ctzll(unsigned long long x) nogil

cdef enum:
    WALK_AGAIN = 100         # beside ST_*: an entry changed under the walk

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
# The four entries that MOV to CR3 loads in PAE mode: 0 when one has reserved bits set
cdef int pdptes_valid(Cpu* cpu, u64 cr3) noexcept nogil
cdef int load_slow(Cpu* cpu, u64 va, u32 size, void* out, u32 idx) noexcept nogil
cdef int store_slow(Cpu* cpu, u64 va, u32 size, void* data, u32 idx) noexcept nogil
# Would a store to all of [va, va+size) succeed? 0 or ST_FAULT. For checks before a commit.
cdef int probe_write(Cpu* cpu, u64 va, u32 size, u32 idx) noexcept nogil
# The same, and the page goes into the TLB if stores to it may be direct. 0 or ST_FAULT
cdef int prime_write(Cpu* cpu, u64 va, u32 size, u32 idx) noexcept nogil
# EXIT_INTERNAL: a text of at most 63 bytes, and an address
cdef void internal_error(Cpu* cpu, const char* reason, u64 at) noexcept nogil
cdef int prime_read(Cpu* cpu, u64 va, u32 idx) noexcept nogil
# System structures: whatever the CPL, read/written as supervisor (implicit access)
cdef int load_system(Cpu* cpu, u64 va, u32 size, void* out) noexcept nogil
cdef int store_system(Cpu* cpu, u64 va, u32 size, void* data) noexcept nogil
# Set bits of one byte of a descriptor (accessed, busy) in one step, as other CPUs see it
cdef int set_system(Cpu* cpu, u64 va, u8 bits) noexcept nogil
# For a read-modify-write of RAM in one page that the TLB does not allow (a code page), after
# prime_write: the host address, with vm.lock held until vm_unlock, the page's blocks that the store
# changes killed (cpu.dropped: any). NULL, and no lock, where it must go by load_slow and store_slow.
cdef u8* hold(Cpu* cpu, u64 va, u32 size) noexcept nogil
# Legacy-mode segment limit and rights for [offset, offset+size) of segment `seg`:
# 0, or ST_FAULT with #GP(0)/#SS(0) set
cdef int check_segment(Cpu* cpu, u32 seg, u64 offset, u32 size, u32 write) noexcept nogil
cdef void tlb_flush(Cpu* cpu, int keep_global) noexcept nogil
cdef void tlb_flush_page(Cpu* cpu, u64 va) noexcept nogil
# A code page of the current privilege: host address of the byte at linear `va`. 0 or ST_FAULT;
# code outside RAM sets EXIT_INTERNAL and returns ST_EXIT.
cdef int fetch(Cpu* cpu, u64 va, u64* host, u64* gpa) noexcept nogil
cdef u8* phys_to_host(Vm* vm, u64 gpa, u64* bytes_left) noexcept nogil
# Translations of the lower (0) or upper (1) half of the address space changed
cdef void forget_jumps(Cpu* cpu, u64 half) noexcept nogil
