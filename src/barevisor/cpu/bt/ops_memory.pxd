from barevisor.cpu.bt.state cimport *

cdef int mem_read_slow(Cpu* cpu, Op* op) noexcept nogil
cdef int mem_write_slow(Cpu* cpu, Op* op) noexcept nogil
