# FP instructions while the guest has unmasked some numeric exception.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.access cimport *
from barevisor.cpu.bt.decode cimport facts, UNIT_X87, UNIT_MMX
from barevisor.cpu.bt.fpstate cimport *
from barevisor.cpu.bt.fpu cimport pending
from barevisor.cpu.bt.native cimport fnstsw
from barevisor.cpu.bt.thunk cimport run_thunk

cdef enum:
    CR4_OSXMMEXCPT = 0x400
    PRE_COMPUTATION = 7      # invalid, denormal, zero divide: nothing is stored
    FSW_KEPT = 0x27F         # what a faulting instruction leaves in FSW: flags, SF, C1
    NUMERIC_RANGE = 0x18     # overflow, underflow: a memory destination stays as it is

cdef struct Before:          # what an SSE instruction may change
    u64 regs[16]
    u32 fl
    u32 pad
    u8 vec[512]

# In MODE_FP_TRAP, for each copied instruction of unit x87, MMX, SSE or AVX: register form:
# op.handler = trap_register; memory form: op.thunk = trap_memory, under the usual memory handler.
# op.imm2 is the address of the thunk in both.
cdef int trap_register(Cpu* cpu, Op* op) noexcept nogil
cdef int trap_memory(Cpu* cpu, Op* op, u8* host) noexcept nogil
cdef int trap_x87(Cpu* cpu, Op* op, u8* host) noexcept nogil
cdef int trap_sse(Cpu* cpu, Op* op, u8* host) noexcept nogil
cdef int done(Cpu* cpu, Op* op) noexcept nogil
cdef bint undo_x87(Cpu* cpu, Op* op, u8* image, u32 before) noexcept nogil
