from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.apicbus cimport nmi_unblock
from barevisor.cpu.bt.mmu cimport load_system
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.segments cimport *
from barevisor.cpu.bt.stack cimport *
from barevisor.cpu.bt.interrupts cimport deliver, deliver_once, KIND_SOFT, KIND_SOFT_VME, KIND_EXCEPTION
from barevisor.cpu.bt.task cimport task_switch, TASK_RETURN

cdef enum:
    FLAGS_USER = 0x254DD5    # what IRET and POPF load at any privilege: arithmetic TF DF NT AC ID, RF

cdef int soft_interrupt(Cpu* cpu, Op* op, u32 vector, u32 kind) noexcept nogil
cdef int vme_redirect(Cpu* cpu, u32 vector, bint* redirected) noexcept nogil
cdef int h_int(Cpu* cpu, Op* op) noexcept nogil
cdef int h_int3(Cpu* cpu, Op* op) noexcept nogil
cdef int h_into(Cpu* cpu, Op* op) noexcept nogil
cdef int h_int1(Cpu* cpu, Op* op) noexcept nogil
cdef int h_bound(Cpu* cpu, Op* op) noexcept nogil
cdef int h_iret(Cpu* cpu, Op* op) noexcept nogil
cdef int iret_paragraphs(Cpu* cpu, Op* op) noexcept nogil
cdef int iret_task(Cpu* cpu, Op* op) noexcept nogil
cdef int iret_vm86(Cpu* cpu, Op* op, Stack* s, u64* items) noexcept nogil
cdef int iret_protected(Cpu* cpu, Op* op) noexcept nogil
cdef int iret_inner(Cpu* cpu, Op* op, Stack* s, u64* items, u64 desc) noexcept nogil
cdef int iret_outer(Cpu* cpu, Op* op, Stack* s, u64* items, u64 desc) noexcept nogil
cdef int return_stack_desc(Cpu* cpu, u32 selector, u32 cpl, bint long_code, u64* desc) noexcept nogil
cdef void load_return_flags(Cpu* cpu, u64 flags, u32 size, u32 cpl) noexcept nogil
cdef int return_code_desc(Cpu* cpu, u32 selector, u64* desc) noexcept nogil
cdef bint bad_target(Cpu* cpu, u64 desc, u64 target) noexcept nogil
cdef void set_return_stack(Cpu* cpu, u32 selector, u64 desc, u64 sp, u32 size) noexcept nogil
cdef int end_iret(Cpu* cpu) noexcept nogil
cdef void load_iret_flags(Cpu* cpu, u64 flags, u32 size) noexcept nogil
