# Translator against interpreter, trace by trace, on real guests.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.trace cimport Translator
from barevisor.cpu.bt.fpstate cimport fxrstor64, fxsave64

cdef enum:
    LOG_STORES = 128
    LOG_BYTES = 64

cdef struct StoreLog:        # what the interpreter stores in one trace
    u32 count
    u32 overflow             # more, or larger, than fits: the trace is not compared
    u64 host[128]
    u32 size[128]
    u8 before[8192]
    u8 after[8192]

cdef struct Snapshot:        # what an instruction of a trace may change, memory apart
    u64 regs[16]
    u64 rip
    u32 fl
    u32 pad
    u8 vec[512]
    u8 room[528]             # FXSAVE image, to be aligned to 16

# Run the block's instructions in the interpreter, undo them, run the translation, and compare.
# ST_NEXT, what the interpreter ended with, or EXIT_INTERNAL with the difference.
cdef int lockstep_run(Cpu* cpu, Block* trace) noexcept nogil
