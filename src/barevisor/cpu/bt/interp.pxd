from barevisor.cpu.bt.state cimport *

cdef extern from *:
    u32 __sync_fetch_and_or(u32* at, u32 bits) nogil
    u32 __sync_fetch_and_and(u32* at, u32 bits) nogil

# Run until something must leave to Python; always ST_EXIT with cpu.exit_reason set
cdef int execute(Cpu* cpu) noexcept nogil
