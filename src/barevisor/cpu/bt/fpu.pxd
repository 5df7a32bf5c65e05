# x87 control instructions and MXCSR.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.access cimport *
from barevisor.cpu.bt.fpstate cimport *
from barevisor.cpu.bt.paging cimport probe_write
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.native cimport fnstsw, fnclex, fnstenv, fldenv
from barevisor.cpu.bt.xstate cimport read_parts, write_parts, after_write

cdef enum:                   # the host's 28-byte environment, as 32-bit words
    ENV_FCW = 0
    ENV_FSW = 1
    ENV_FTW = 2
    ENV_FIP = 3
    ENV_WORDS = 7

# The guest's status word, with ES and B as its own masks make them.
cdef u32 guest_fsw(Cpu* cpu) noexcept nogil
# An unmasked x87 exception waits for the next waiting instruction: its status, or 0.
cdef int pending(Cpu* cpu, Op* op) noexcept nogil
cdef void set_control(Cpu* cpu, u32 fcw) noexcept nogil
cdef void get_environment(Cpu* cpu, u32* env) noexcept nogil
cdef void set_environment(Cpu* cpu, u32* env) noexcept nogil
cdef void pack_environment(u32* env, u32 size, u8* out) noexcept nogil
cdef void unpack_environment(u8* data, u32 size, u32* env) noexcept nogil
cdef int h_fldcw(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fnstcw(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fnstsw(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fnclex(Cpu* cpu, Op* op) noexcept nogil
cdef void init_x87(Cpu* cpu) noexcept nogil
cdef int h_fninit(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fwait(Cpu* cpu, Op* op) noexcept nogil
cdef int h_emms(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fnstenv(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fldenv(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fnsave(Cpu* cpu, Op* op) noexcept nogil
cdef int h_frstor(Cpu* cpu, Op* op) noexcept nogil
cdef int h_ldmxcsr(Cpu* cpu, Op* op) noexcept nogil
cdef int h_stmxcsr(Cpu* cpu, Op* op) noexcept nogil
