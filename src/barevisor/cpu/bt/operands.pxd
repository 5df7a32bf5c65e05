from barevisor.cpu.bt.trace cimport *

cdef void flags_saved(Work* w) noexcept nogil
cdef void flags_loaded(Work* w) noexcept nogil
cdef void before_look_up(Work* w, u32 i) noexcept nogil
cdef Site* new_site(Work* w, u32 i, u32 kind) noexcept nogil
cdef u32 site_number(Work* w, Site* site) noexcept nogil
cdef void write_call(Work* w, Site* site) noexcept nogil
cdef Fragment* new_fragment(Work* w, u32 kind, u32 at, Site* site) noexcept nogil
cdef u32 write_address(Work* w, u32 i, unsigned char* site) noexcept nogil
cdef void look_at(Work* w, u32 i, u32 reg, u32 guest, u32 size, u32 write, u32 alignment) noexcept nogil
cdef void look_stack(Work* w, u32 i, u32 reg, u32 guest, u32 write) noexcept nogil
cdef u32 look_operand(Work* w, u32 i, u32 size, u32 write) noexcept nogil
