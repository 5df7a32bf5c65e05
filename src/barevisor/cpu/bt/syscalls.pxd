from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.apicbus cimport pv_send_ipi
from barevisor.cpu.bt.mode cimport update_mode

cdef enum:                   # KVM_HC_*
    HC_VAPIC_POLL_IRQ = 1
    HC_SEND_IPI = 10
    HC_SCHED_YIELD = 11

cdef bint is_intel(Cpu* cpu) noexcept nogil
cdef void flat_segment(Cpu* cpu, u32 seg, u32 selector, u32 attr) noexcept nogil
cdef void enter_flat(Cpu* cpu, u32 selector, u32 cpl, bint long_code) noexcept nogil
cdef int h_syscall(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sysret(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sysenter(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sysexit(Cpu* cpu, Op* op) noexcept nogil
cdef int h_vmcall(Cpu* cpu, Op* op) noexcept nogil
cdef int h_vmmcall(Cpu* cpu, Op* op) noexcept nogil
cdef void enter_sysret(Cpu* cpu, u32 code, u32 stack, bint long_code) noexcept nogil
cdef u64 send_ipi(Cpu* cpu) noexcept nogil
