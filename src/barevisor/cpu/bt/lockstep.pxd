# Translator against interpreter, trace by trace, on real guests.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.trace cimport Translator
from barevisor.cpu.bt.fpstate cimport fxrstor64, fxsave64
from libc.string cimport memcpy

cdef enum:
    LOG_STORES = 128
    LOG_BYTES = 64

cdef struct Store:           # one of the interpreter
    u8* host
    u32 size
    u32 pad
    u8 before[LOG_BYTES]
    u8 after[LOG_BYTES]

cdef struct StoreLog:        # what it stores in one trace
    u32 count
    u32 uncompared           # more, or larger, than fits, or what cannot be undone was done
    Store stores[LOG_STORES]

cdef struct Snapshot:        # what an instruction of a trace may change, memory apart
    u64 regs[16]
    u64 rip
    u32 fl
    u32 pad
    u8 vec[512]              # from here on only where the trace may change them: see _looks_at_fp
    u8 room[528]             # FXSAVE image, to be aligned to 16; its reserved bytes stay 0

cdef struct Comparison:
    StoreLog log
    Snapshot start           # of the trace
    Snapshot expected        # what the interpreter came to
    Snapshot found           # and the translation

# Run what is in the block's translation in the interpreter, undo it, run the translation, and
# compare. ST_NEXT, what the interpreter ended with, or EXIT_INTERNAL with the difference.
cdef int lockstep_run(Cpu* cpu, Block* head) noexcept nogil

cdef inline bint in_lockstep(Vm* vm) noexcept nogil:
    """Does every store of the interpreter take the slow path, to be noted?"""
    cdef Translator* tr = <Translator*> vm.translator
    return tr != NULL and tr.lockstep


cdef inline void note_store(Vm* vm, u8* host, u32 size) noexcept nogil:
    """Before a store of the interpreter: where, and what was there."""
    cdef Translator* tr = <Translator*> vm.translator
    cdef StoreLog* log
    if tr == NULL or not tr.logging:
        return
    log = &(<Comparison*> tr.comparison).log
    if log.count == LOG_STORES or size > LOG_BYTES:
        log.uncompared = 1
        return
    log.stores[log.count].host = host
    log.stores[log.count].size = size
    memcpy(&log.stores[log.count].before[0], host, size)
    log.count += 1


cdef inline void note_done(Vm* vm) noexcept nogil:
    """The interpreter does what cannot be undone: a device's side effect, bits of page tables."""
    cdef Translator* tr = <Translator*> vm.translator
    if tr != NULL and tr.logging:
        (<Comparison*> tr.comparison).log.uncompared = 1
