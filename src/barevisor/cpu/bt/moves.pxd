from barevisor.cpu.bt.trace cimport *

cdef void write_copy(Work* w, u32 i) noexcept nogil
cdef void write_lea(Work* w, u32 i) noexcept nogil
cdef void push_room(Work* w, u32 i) noexcept nogil
cdef void store_pushed(Work* w) noexcept nogil
cdef void write_push(Work* w, u32 i) noexcept nogil
cdef void write_pop(Work* w, u32 i) noexcept nogil
cdef void write_leave(Work* w, u32 i) noexcept nogil
