from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.atomics cimport *

# Run until something must leave to Python; always ST_EXIT with cpu.exit_reason set
cdef int execute(Cpu* cpu) noexcept nogil
