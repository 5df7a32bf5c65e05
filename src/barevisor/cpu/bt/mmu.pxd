from barevisor.cpu.bt.state cimport *

cdef enum:                   # access kinds
    ACCESS_READ = 0
    ACCESS_WRITE = 1
    ACCESS_EXEC = 2

# All take linear addresses and an mmu index (MMU_*); they set cpu.fault_* (not cpu.rip) on ST_FAULT
cdef int translate(Cpu* cpu, u64 va, u32 access, u32 idx, u64* gpa) noexcept nogil
cdef int load_slow(Cpu* cpu, u64 va, u32 size, void* out, u32 idx) noexcept nogil
cdef int store_slow(Cpu* cpu, u64 va, u32 size, void* data, u32 idx) noexcept nogil
# Would a store to all of [va, va+size) succeed? 0 or ST_FAULT. For checks before a commit.
cdef int probe_write(Cpu* cpu, u64 va, u32 size, u32 idx) noexcept nogil
# System structures: whatever the CPL, read/written as supervisor (implicit access)
cdef int load_system(Cpu* cpu, u64 va, u32 size, void* out) noexcept nogil
cdef int store_system(Cpu* cpu, u64 va, u32 size, void* data) noexcept nogil
# Legacy-mode segment limit and rights for [offset, offset+size) of segment `seg`:
# 0, or ST_FAULT with #GP(0)/#SS(0) set
cdef int check_segment(Cpu* cpu, u32 seg, u64 offset, u32 size, u32 write) noexcept nogil
cdef void tlb_flush(Cpu* cpu, int keep_global) noexcept nogil
cdef void tlb_flush_page(Cpu* cpu, u64 va) noexcept nogil
cdef u8* phys_to_host(Vm* vm, u64 gpa, u64* bytes_left) noexcept nogil
cdef void code_written(Vm* vm, u64 gpa, u64 size) noexcept nogil
