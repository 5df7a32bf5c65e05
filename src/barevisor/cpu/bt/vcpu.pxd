# One virtual CPU: the run loop and CpuState.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.mirror cimport Mirror
from barevisor.cpu.bt.cpustate cimport MP_HALTED, MP_RUNNABLE, MP_WAIT_SIPI
from barevisor.cpu.bt.sleep cimport *
from barevisor.cpu.bt.vmcore cimport VmCore

cdef int run_guest(Cpu* cpu) noexcept nogil

cdef class BtVcpu:
    cdef Cpu* cpu
    cdef VmCore core
    cdef object board        # answers for the ports and MMIO of the engine (bt/chips.py)
    cdef readonly int index
    cdef bint kicked
    cdef list waiting        # exits that one instruction made beyond its first
    cdef int reading         # EXIT_PIO_READ or EXIT_MMIO_READ: complete_read answers it
    cdef int exception       # to deliver before the next instruction, or -1
    cdef u32 exception_error
    cdef object tracer       # called with the blocks that ran

    cdef int _allocate(self) except -1
    cdef object _exit(self)
    cdef object _debug_stop(self)
    cdef object _make_mirror(self)
    cdef object _take_trace(self)
    cdef object _woken(self, int why)
    cdef object _kicked(self)
    cdef object _deliver_exception(self)
    cdef object _settle(self)
    cdef object _restart(self)
    cdef void _start(self, u32 vector)
    cdef object _pio_read(self)
    cdef object _pio_write(self)
    cdef object _mmio_read(self)
    cdef object _mmio_write(self)
    cdef void _answer_mmio(self, u64 gpa, u32 size, u64 value)
