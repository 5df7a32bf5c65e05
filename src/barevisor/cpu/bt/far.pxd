from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.mmu cimport load_system
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.segments cimport *
from barevisor.cpu.bt.stack cimport *
from barevisor.cpu.bt.iret cimport return_code_desc, bad_target, return_stack_desc, set_return_stack
from barevisor.cpu.bt.task cimport task_switch, TASK_CALL, TASK_JUMP

cdef int far_operand(Cpu* cpu, Op* op, u64* target, u32* selector) noexcept nogil
cdef int far_transfer(Cpu* cpu, Op* op, bint call) noexcept nogil
cdef int h_jmp_far(Cpu* cpu, Op* op) noexcept nogil
cdef int h_call_far(Cpu* cpu, Op* op) noexcept nogil
cdef int h_retf(Cpu* cpu, Op* op) noexcept nogil
cdef int push_return(Cpu* cpu, Op* op) noexcept nogil
cdef int far_paragraphs(Cpu* cpu, Op* op, u64 target, u32 selector, bint call) noexcept nogil
cdef int far_code(Cpu* cpu, Op* op, u64 target, u32 selector, u64 desc, bint call) noexcept nogil
cdef int far_system(Cpu* cpu, Op* op, u32 selector, u64 desc, bint call) noexcept nogil
cdef int far_task(Cpu* cpu, Op* op, u32 selector, bint call) noexcept nogil
cdef int call_gate(Cpu* cpu, Op* op, u32 selector, u64 gate, bint call) noexcept nogil
cdef int gate_code(Cpu* cpu, u32 selector, bint call, u64* desc, u32* cpl) noexcept nogil
cdef int gate_long_target(Cpu* cpu, u32 selector, u64* target) noexcept nogil
cdef int gate_inner_legacy(Cpu* cpu, u64 gate, u32 cpl, u64 back, u32 width, Stack* s) noexcept nogil
cdef int gate_inner_long(Cpu* cpu, u32 cpl, Stack* s, u64 back) noexcept nogil
cdef int far_status(Cpu* cpu, Op* op, int status) noexcept nogil
cdef int retf_outer(Cpu* cpu, Op* op, Stack* s, u64* items, u64 desc, u32 extra) noexcept nogil
