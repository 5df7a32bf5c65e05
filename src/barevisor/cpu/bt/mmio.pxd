from barevisor.cpu.bt.state cimport *

# By guest-physical address. A load: 0, or ST_EXIT (restart); a store: ST_BREAK
cdef int mmio_load(Cpu* cpu, u64 gpa, u32 size, u8* out) noexcept nogil
cdef int mmio_store(Cpu* cpu, u64 gpa, u32 size, u8* data) noexcept nogil
# EXIT_INTERNAL: a text of at most 63 bytes, and an address
cdef void internal_error(Cpu* cpu, const char* reason, u64 at) noexcept nogil
