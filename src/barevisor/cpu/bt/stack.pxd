from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.mmu cimport load_slow, store_slow, load_system
from barevisor.cpu.bt.paging cimport probe_write
from barevisor.cpu.bt.segments cimport *
from libc.string cimport memcpy


cdef struct Stack:           # a stack that is being pushed to or popped from, not yet committed
    Seg seg
    u64 sp
    u64 mask                 # width of the stack pointer: 16, 32 or 64 bits
    u32 idx                  # MMU_*
    u32 error                # error code of #SS (selector of a stack that is being switched to)

cdef void stack_current(Cpu* cpu, Stack* s) noexcept nogil
cdef void stack_of(Cpu* cpu, Stack* s, Seg* seg, u64 sp, u32 cpl) noexcept nogil
cdef int stack_push(Cpu* cpu, Stack* s, u64* items, u32 n, u32 width) noexcept nogil
cdef int push_items(Cpu* cpu, u64* items, u32 n, u32 width) noexcept nogil
cdef int stack_pop(Cpu* cpu, Stack* s, u64* out, u32 n, u32 width) noexcept nogil
cdef int stack_address(Cpu* cpu, Stack* s, u64 sp, u32 size, u64* va) noexcept nogil
cdef bint seg_covers(Seg* seg, u64 offset, u32 size) noexcept nogil
cdef void stack_commit(Cpu* cpu, Stack* s) noexcept nogil
# The legacy TSS's stack for privilege `cpl`, checked as SS (#TS): 0 or ST_FAULT
cdef int inner_stack(Cpu* cpu, u32 cpl, Stack* s) noexcept nogil
