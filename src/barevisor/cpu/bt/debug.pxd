from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.interrupts cimport deliver, KIND_EXCEPTION

cdef enum:
    BREAK_EXECUTE = 0        # DR7.R/Wn
    BREAK_WRITE = 1
    BREAK_IO = 2
    BREAK_ACCESS = 3

# Before an instruction at linear address `va`: non-zero when a breakpoint hit, with #DB in
# cpu.fault_*. Takes RFLAGS.RF, which suppresses it once.
cdef u32 code_breakpoint(Cpu* cpu, u64 va) noexcept nogil
# DR6 bits of the breakpoints that an access touches; the caller collects them in pending_db.
cdef u32 data_breakpoint(Cpu* cpu, u64 va, u32 size, u32 write) noexcept nogil
cdef u32 io_breakpoint(Cpu* cpu, u32 port, u32 size) noexcept nogil
# Deliver #DB for what cpu.pending_db collected; as deliver().
cdef int after_step(Cpu* cpu) noexcept nogil
cdef u32 matches(Cpu* cpu, u64 start, u32 size, u32 kinds) noexcept nogil
