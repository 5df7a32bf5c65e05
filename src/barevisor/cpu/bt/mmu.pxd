from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.atomics cimport *

# All take linear addresses and an mmu index (MMU_*); they set cpu.fault_* (not cpu.rip) on ST_FAULT
cdef int load_slow(Cpu* cpu, u64 va, u32 size, void* out, u32 idx) noexcept nogil
cdef int store_slow(Cpu* cpu, u64 va, u32 size, void* data, u32 idx) noexcept nogil
# System structures: whatever the CPL, read/written as supervisor (implicit access)
cdef int load_system(Cpu* cpu, u64 va, u32 size, void* out) noexcept nogil
cdef int store_system(Cpu* cpu, u64 va, u32 size, void* data) noexcept nogil
# Set bits of one byte of a descriptor (accessed, busy) in one step, as other CPUs see it
cdef int set_system(Cpu* cpu, u64 va, u8 bits) noexcept nogil
# For a read-modify-write of RAM in one page that the TLB does not allow (a code page), after
# prime_write: the host address, with vm.lock held until vm_unlock, the page's blocks that the store
# changes killed (cpu.dropped: any). NULL, and no lock, where it must go by load_slow and store_slow.
cdef u8* hold(Cpu* cpu, u64 va, u32 size) noexcept nogil
# The #GP of an instruction with an operand at `va` on the stack: #SS(0) if it is the address's fault
cdef void stack_fault(Cpu* cpu, u64 va) noexcept nogil
# Legacy-mode segment limit and rights for [offset, offset+size) of segment `seg`:
# 0, or ST_FAULT with #GP(0)/#SS(0) set
cdef int check_segment(Cpu* cpu, u32 seg, u64 offset, u32 size, u32 write) noexcept nogil
