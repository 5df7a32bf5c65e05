from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.mmu cimport load_system, set_system
from barevisor.cpu.bt.mode cimport update_mode


cdef inline u32 desc_attr(u64 desc) noexcept nogil:
    """Seg.attr of a descriptor."""
    return <u32> (((desc >> 40) & 0xFF) | ((desc >> 44) & 0xF00))


cdef inline u32 desc_type(u64 desc) noexcept nogil:
    """Type with S: below 16 for system descriptors."""
    return <u32> ((desc >> 40) & 0x1F)


cdef inline u64 desc_base(u64 desc) noexcept nogil:
    return ((desc >> 16) & 0xFFFFFF) | ((desc >> 32) & <u64> 0xFF000000)


cdef inline u32 desc_limit(u64 desc) noexcept nogil:
    cdef u32 limit = <u32> ((desc & 0xFFFF) | ((desc >> 32) & 0xF0000))
    if desc & (<u64> 1 << 55):
        return (limit << 12) | 0xFFF
    return limit


cdef inline u64 table_address(Cpu* cpu, u32 selector) noexcept nogil:
    """Linear address of the selector's descriptor."""
    cdef u64 base = cpu.segs[SEG_LDT].base if selector & 4 else cpu.gdt_base
    base += selector & 0xFFF8
    return base if cpu.efer & EFER_LMA else base & <u64> 0xFFFFFFFF

cdef bint in_table(Cpu* cpu, u32 selector, u32 size) noexcept nogil
cdef int fetch_descriptor(Cpu* cpu, u32 selector, u32 vector, u64* desc) noexcept nogil
cdef int fetch_not_null(Cpu* cpu, u32 selector, u32 vector, u64* desc) noexcept nogil
cdef int mark_accessed(Cpu* cpu, u32 selector, u64* desc) noexcept nogil
cdef void fill_segment(Seg* seg, u32 selector, u64 desc) noexcept nogil
cdef void clear_segment(Seg* seg, u32 selector) noexcept nogil
cdef void real_segment(Cpu* cpu, u32 seg, u32 selector) noexcept nogil
cdef int use_segment(Cpu* cpu, u32 seg, u32 selector, u64 desc) noexcept nogil
cdef int load_segment(Cpu* cpu, u32 seg, u32 selector) noexcept nogil
cdef int load_stack_segment(Cpu* cpu, u32 selector) noexcept nogil
cdef int check_stack_desc(Cpu* cpu, u32 selector, u32 cpl, u32 vector, u64 desc) noexcept nogil
cdef int load_ldt(Cpu* cpu, u32 selector, u32 vector) noexcept nogil
cdef int load_tr(Cpu* cpu, u32 selector) noexcept nogil
cdef int system_descriptor(Cpu* cpu, u32 selector, u64* desc, u64* base) noexcept nogil
cdef void drop_segments(Cpu* cpu) noexcept nogil
cdef void enter_cs(Cpu* cpu, u32 selector, u64 desc, u32 cpl) noexcept nogil
