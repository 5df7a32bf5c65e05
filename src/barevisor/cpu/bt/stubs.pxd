from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.trace cimport Translator

# Write the stubs into empty code memory. `handler`: u64 handler(Cpu*), the host address to go on
# at, or 0 to leave with cpu.status.
cdef int stubs_write(Translator* tr, void* handler) noexcept nogil
