# DIV and IDIV: they may fail, and a failed host DIV would be a SIGFPE.
from barevisor.cpu.bt.state cimport *

cdef extern from *:
    ctypedef unsigned long long u128 "unsigned __int128"

cdef int divide_register(Cpu* cpu, Op* op) noexcept nogil
cdef int divide_memory(Cpu* cpu, Op* op, u8* host) noexcept nogil
