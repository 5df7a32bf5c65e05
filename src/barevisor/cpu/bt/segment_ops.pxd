from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.far cimport far_operand
from barevisor.cpu.bt.segments cimport *
from barevisor.cpu.bt.stack cimport *

cdef int h_mov_sreg_r(Cpu* cpu, Op* op) noexcept nogil
cdef int h_mov_r_sreg(Cpu* cpu, Op* op) noexcept nogil
cdef int h_push_sreg(Cpu* cpu, Op* op) noexcept nogil
cdef int h_pop_sreg(Cpu* cpu, Op* op) noexcept nogil
cdef int load_far_pointer(Cpu* cpu, Op* op, u32 seg) noexcept nogil
cdef int h_lds(Cpu* cpu, Op* op) noexcept nogil
cdef int h_les(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lfs(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lgs(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lss(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lldt(Cpu* cpu, Op* op) noexcept nogil
cdef int h_ltr(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sldt(Cpu* cpu, Op* op) noexcept nogil
cdef int h_str(Cpu* cpu, Op* op) noexcept nogil
cdef int store_selector(Cpu* cpu, Op* op, u32 seg) noexcept nogil
cdef int verify(Cpu* cpu, Op* op, u32 write) noexcept nogil
cdef int h_verr(Cpu* cpu, Op* op) noexcept nogil
cdef int h_verw(Cpu* cpu, Op* op) noexcept nogil
cdef int probe_descriptor(Cpu* cpu, u32 selector, u32 types, u64* desc, bint* found) noexcept nogil
cdef int h_lar(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lsl(Cpu* cpu, Op* op) noexcept nogil
cdef int h_arpl(Cpu* cpu, Op* op) noexcept nogil
cdef int load_table(Cpu* cpu, Op* op, u64* base, u32* limit) noexcept nogil
cdef int store_table(Cpu* cpu, Op* op, u64 base, u32 limit) noexcept nogil
cdef int h_lgdt(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lidt(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sgdt(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sidt(Cpu* cpu, Op* op) noexcept nogil
cdef bint umip_blocks(Cpu* cpu) noexcept nogil
cdef int read_base(Cpu* cpu, Op* op, u32 seg) noexcept nogil
cdef int write_base(Cpu* cpu, Op* op, u32 seg) noexcept nogil
cdef int h_rdfsbase(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rdgsbase(Cpu* cpu, Op* op) noexcept nogil
cdef int h_wrfsbase(Cpu* cpu, Op* op) noexcept nogil
cdef int h_wrgsbase(Cpu* cpu, Op* op) noexcept nogil
cdef int h_swapgs(Cpu* cpu, Op* op) noexcept nogil
