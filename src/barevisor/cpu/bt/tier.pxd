# The second tier at run time: when to translate, how to enter, and what a site's call comes to.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.trace cimport Translator
from barevisor.cpu.bt.codemem cimport CodeMemory

# Translate cpu.hot, if anything is.
cdef void tier_translate(Cpu* cpu) noexcept nogil
cdef enum:
    RUNS_AGAIN = 64          # before a block whose translation died, or failed, is tried again
    R_NONE = 255

ctypedef int (*enter_t)(u64 code) noexcept nogil
ctypedef void (*load_gs_t)(u64 base) noexcept nogil

# Run a translation; cpu.regs[REG_RIP] is its address. ST_*
cdef int enter_trace(Cpu* cpu, Block* trace) noexcept nogil

ctypedef int (*run_t)(Cpu* cpu, Block* head) noexcept nogil

cdef class TranslatorOwner:
    cdef Translator* tr
    cdef CodeMemory code
    cdef u32 after
    cdef int template_fd

# Is something to be done before the next instruction?
cdef bint interrupted(Cpu* cpu) noexcept nogil

# Whatever must happen between two instructions: they are interpreted one at a time.
cdef inline u32 must_step(Cpu* cpu) noexcept nogil:
    return cpu.shadow | cpu.mmio_n | cpu.io_ready | cpu.debug_step | (cpu.sysflags & FLAG_TF) \
        | <u32> (cpu.dr[7] & 0xFF) | cpu.pending_db | cpu.exclusive
