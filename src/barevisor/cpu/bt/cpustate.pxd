# Between struct Cpu and the contract's CpuState. Only while the guest does not run.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport CR0_PE
from barevisor.cpu.bt.fpstate cimport XCR0_KNOWN, XCR0_X87

cdef enum:                   # Cpu.mp_state
    MP_RUNNABLE = 0
    MP_WAIT_SIPI = 1
    MP_HALTED = 2

cdef object save_registers(Cpu* cpu)
cdef int load_registers(Cpu* cpu, object regs) except -1
# All but an exception that waits for delivery, which is the vCPU's
cdef object save_state(Cpu* cpu)
cdef int load_state(Cpu* cpu, object state) except -1
# SDM, "Processor State After Reset" and "First Instruction Executed"
cdef object reset_state(u32 index, u32 irqchip)

cdef object save_segment(Cpu* cpu, int number)
cdef int load_segment(Cpu* cpu, int number, object segment) except -1
cdef object save_msrs(Cpu* cpu)
cdef int load_msrs(Cpu* cpu, dict msrs) except -1
cdef int load_lapic(Cpu* cpu, bytes page, u64 cr8) except -1
