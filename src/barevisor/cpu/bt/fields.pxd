# Where the fields of struct Cpu lie that translated code uses.
from barevisor.cpu.bt.asm cimport field_of
from barevisor.cpu.bt.state cimport *

cdef inline u32 at_attention() noexcept nogil:
    return field_of(&(<Cpu*> NULL).attention)

cdef inline u32 at_branch() noexcept nogil:
    return field_of(&(<Cpu*> NULL).branch)

cdef inline u32 at_cpl() noexcept nogil:
    return field_of(&(<Cpu*> NULL).cpl)

cdef inline u32 at_fl() noexcept nogil:
    return field_of(&(<Cpu*> NULL).fl)

cdef inline u32 at_gs_base() noexcept nogil:
    return field_of(&(<Cpu*> NULL).segs[SEG_GS].base)

cdef inline u32 at_itlb() noexcept nogil:
    return field_of(&(<Cpu*> NULL).itlb)

cdef inline u32 at_kernel_gs() noexcept nogil:
    return field_of(&(<Cpu*> NULL).kernel_gs_base)

cdef inline u32 at_page_va() noexcept nogil:
    return field_of(&(<Cpu*> NULL).page_va)

cdef inline u32 at_segbase() noexcept nogil:
    return field_of(&(<Cpu*> NULL).segbase[0])

cdef inline u32 at_spill() noexcept nogil:
    return field_of(&(<Cpu*> NULL).spill)

cdef inline u32 at_sysflags() noexcept nogil:
    return field_of(&(<Cpu*> NULL).sysflags)

cdef inline u32 at_target() noexcept nogil:
    return field_of(&(<Cpu*> NULL).target)

cdef inline u32 at_urgent() noexcept nogil:
    return field_of(&(<Cpu*> NULL).urgent)

cdef inline u32 at_vec_live() noexcept nogil:
    return field_of(&(<Cpu*> NULL).vec_live)

cdef inline u32 itlb_tag() noexcept nogil:
    return field_of(&(<ItlbEntry*> NULL).tag)

cdef inline u32 itlb_host() noexcept nogil:
    return field_of(&(<ItlbEntry*> NULL).host)
