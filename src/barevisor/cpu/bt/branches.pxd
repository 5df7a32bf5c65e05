from barevisor.cpu.bt.trace cimport *

cdef void write_cross(Work* w, u32 i, i32 target) noexcept nogil
cdef void write_exit(Work* w, u32 i, i32 target, bint backward) noexcept nogil
cdef void write_jump(Work* w, u32 i, i32 target) noexcept nogil
cdef void write_jcc(Work* w, u32 i) noexcept nogil
cdef void write_call_direct(Work* w, u32 i) noexcept nogil
cdef void write_indirect(Work* w, u32 i) noexcept nogil
cdef void write_ret(Work* w, u32 i) noexcept nogil
