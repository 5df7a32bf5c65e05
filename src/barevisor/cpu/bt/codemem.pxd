# Memory for native thunks: one memfd, mapped twice, never writable and executable at once.
from barevisor.cpu.bt.state cimport *

cdef struct CodeMem:
    u8* write                # where bytes are written (read-write mapping)
    u8* run                  # the same bytes, where they execute (read-execute mapping)
    u64 size
    u64 used
    u64 shared               # entries in `table`
    u64* table               # open addressing: hash in the high half, offset + 1 in the low half
    u64 table_size           # a power of two

# The address to execute `code` at, or NULL when it does not fit. Not thread-safe.
cdef void* code_add(CodeMem* mem, u8* code, u32 size) noexcept nogil
# The same, but equal code is kept once. `code` must end with its only way out.
cdef void* code_share(CodeMem* mem, u8* code, u32 size) noexcept nogil
# Forget everything. Nothing in the memory may still run.
cdef void code_reset(CodeMem* mem) noexcept nogil

cdef class CodeMemory:
    cdef CodeMem mem
