# FXSAVE, XSAVE and their kind.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.access cimport *
from barevisor.cpu.bt.fpstate cimport *
from barevisor.cpu.bt.paging cimport probe_write
from barevisor.cpu.bt.mode cimport update_mode

cdef enum:                   # what distinguishes the XSAVE instructions
    KEEP_INIT = 1            # components in their initial state are not written
    COMPACT = 2              # XCOMP_BV is written
    SUPERVISOR = 4           # CPL 0 only
    PART = 64                # bytes that load and store take at once

# Guest memory of any size, in parts. read: 0, ST_FAULT or ST_EXIT; write: ST_BREAK too. Whoever
# calls write_parts several times has probed the whole range before.
cdef int read_parts(Cpu* cpu, Op* op, u64 va, u32 size, void* out) noexcept nogil
cdef int write_parts(Cpu* cpu, Op* op, u64 va, u32 size, void* data) noexcept nogil
# End of an instruction whose last write returned `status`.
cdef int after_write(Cpu* cpu, Op* op, int status) noexcept nogil
# Which components are not in their initial state. Call fpu_pull first.
cdef u64 components_in_use(Cpu* cpu) noexcept nogil
cdef bint any_set(u8* data, u32 size) noexcept nogil
cdef u64 requested(Cpu* cpu) noexcept nogil
cdef u32 vector_count(Cpu* cpu) noexcept nogil
cdef int refuse_xsave(Cpu* cpu, Op* op, u64 va, u32 how) noexcept nogil
cdef void legacy_image(Cpu* cpu, u8* image) noexcept nogil
cdef int save_components(Cpu* cpu, Op* op, u64 va, u64 what, u8* image) noexcept nogil
cdef int save(Cpu* cpu, Op* op, u32 how) noexcept nogil
cdef bint header_ok(Cpu* cpu, u64* header, u32 how) noexcept nogil
cdef void load_x87(Cpu* cpu, u8* image) noexcept nogil
cdef void load_vectors(Cpu* cpu, u8* data, u32 half) noexcept nogil
cdef void restore_components(Cpu* cpu, u64 what, u64 given, u8* image) noexcept nogil
cdef int restore(Cpu* cpu, Op* op, u32 how) noexcept nogil
cdef int h_fxsave(Cpu* cpu, Op* op) noexcept nogil
cdef int h_fxrstor(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xsave(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xsaveopt(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xsavec(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xsaves(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xrstor(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xrstors(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xgetbv(Cpu* cpu, Op* op) noexcept nogil
cdef int h_xsetbv(Cpu* cpu, Op* op) noexcept nogil
