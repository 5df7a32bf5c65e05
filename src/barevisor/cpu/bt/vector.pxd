# Vector instructions whose memory accesses depend on a mask, and VZEROUPPER.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.access cimport *
from barevisor.cpu.bt.fpstate cimport *
from barevisor.cpu.bt.mmu cimport check_segment
from barevisor.cpu.bt.paging cimport probe_write
from barevisor.cpu.bt.xstate cimport after_write

# The binder packs what these need of a VEX prefix into Op.imm2.
cdef inline u64 vex_fields(Insn* insn) noexcept nogil:
    return insn.vvvv | (<u64> insn.vex_l << 8) | (<u64> insn.vex_w << 9)

cdef inline u8* vec_reg(Cpu* cpu, u32 number) noexcept nogil:
    return &cpu.vec[32 * number]

cdef inline bint sign(u8* vec, u32 element, u32 size) noexcept nogil:
    """The top bit of an element: what all these masks are made of."""
    return vec[element * size + size - 1] >> 7

cdef int h_vzeroupper(Cpu* cpu, Op* op) noexcept nogil
cdef int h_vzeroall(Cpu* cpu, Op* op) noexcept nogil
cdef int masked_load(Cpu* cpu, Op* op, u8* mask, u32 size, u32 width) noexcept nogil
cdef int masked_store(Cpu* cpu, Op* op, u64 va, u8* data, u8* mask, u32 size, u32 width) noexcept nogil
cdef int h_vmaskmov(Cpu* cpu, Op* op) noexcept nogil
cdef u64 gather_address(Cpu* cpu, Op* op, u32 element, u32 index_size) noexcept nogil
cdef int h_gather(Cpu* cpu, Op* op) noexcept nogil
cdef int masked_bytes(Cpu* cpu, Op* op, u8* data, u8* mask, u32 width) noexcept nogil
cdef int h_maskmovdqu(Cpu* cpu, Op* op) noexcept nogil
cdef void enter_mmx(u8* image) noexcept nogil
cdef int h_maskmovq(Cpu* cpu, Op* op) noexcept nogil
