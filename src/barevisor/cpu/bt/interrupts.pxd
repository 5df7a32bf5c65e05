from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.mmu cimport load_system, store_slow, load_slow
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.segments cimport *
from barevisor.cpu.bt.stack cimport *
from libc.string cimport memcpy
from barevisor.cpu.bt.task cimport task_switch, push_task_error, TASK_INTERRUPT

cdef enum:                   # `kind` of deliver
    KIND_EXCEPTION = 0       # cpu.rip is what is pushed (the faulting instruction, or the next one)
    KIND_SOFT = 1            # INT n, INT3, INTO: DPL is checked, cpu.rip is the next instruction
    KIND_EXTERNAL = 2
    KIND_NMI = 3
    KIND_SOFT_VME = 4        # INT n in virtual-8086 mode that CR4.VME sends through the 8086 table

# Deliver through the IDT; faults met on the way become further exceptions, double fault or
# shutdown. ST_NEXT, or ST_EXIT (shutdown, or the frame was stored to a device).
cdef int deliver(Cpu* cpu, u32 vector, u32 error, u32 kind) noexcept nogil
cdef int deliver_fault(Cpu* cpu) noexcept nogil
# One attempt: 0, or ST_FAULT with cpu.fault_* set and nothing changed.
cdef int deliver_once(Cpu* cpu, u32 vector, u32 error, u32 kind) noexcept nogil
cdef bint contributory(u32 vector) noexcept nogil
cdef bint combines(u32 first, u32 second) noexcept nogil
cdef void note_exception(Cpu* cpu, u32 vector) noexcept nogil
cdef u64 flags_image(Cpu* cpu, u32 vector, u32 kind) noexcept nogil
cdef int deliver_real(Cpu* cpu, u32 vector, u32 kind) noexcept nogil
cdef int deliver_long(Cpu* cpu, u32 vector, u32 error, u32 kind) noexcept nogil
cdef int long_gate(Cpu* cpu, u32 vector, u32 kind, u64* gate, u64* desc) noexcept nogil
cdef int long_stack(Cpu* cpu, u32 ist, u32 cpl, u64* sp) noexcept nogil
cdef int store_frame(Cpu* cpu, u64* sp, u64* frame, u32 size, u32 cpl) noexcept nogil
cdef int deliver_protected(Cpu* cpu, u32 vector, u32 error, u32 kind) noexcept nogil
cdef int through_gate(Cpu* cpu, u64 gate, u32 error, u64 flags) noexcept nogil
cdef int gate_target(Cpu* cpu, u64 gate, u64* desc, u32* cpl) noexcept nogil
cdef void enter_handler(Cpu* cpu, u64 gate, u64 desc, u32 cpl) noexcept nogil


cdef inline u32 vm86_order(u32 i) noexcept nogil:
    """Data segments in the order in which an interrupt from virtual-8086 mode pushes them."""
    return SEG_GS if i == 0 else SEG_FS if i == 1 else SEG_DS if i == 2 else SEG_ES
