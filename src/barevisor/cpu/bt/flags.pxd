from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.stack cimport *
from barevisor.cpu.bt.iret cimport load_return_flags

cdef u32 interrupt_flag(Cpu* cpu) noexcept nogil
cdef int h_cli(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sti(Cpu* cpu, Op* op) noexcept nogil
cdef int h_cld(Cpu* cpu, Op* op) noexcept nogil
cdef int h_std(Cpu* cpu, Op* op) noexcept nogil
cdef int h_clc(Cpu* cpu, Op* op) noexcept nogil
cdef int h_stc(Cpu* cpu, Op* op) noexcept nogil
cdef int h_cmc(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lahf(Cpu* cpu, Op* op) noexcept nogil
cdef int h_sahf(Cpu* cpu, Op* op) noexcept nogil
cdef int h_pushf(Cpu* cpu, Op* op) noexcept nogil
cdef int pushf_slow(Cpu* cpu, Op* op) noexcept nogil
cdef int h_popf(Cpu* cpu, Op* op) noexcept nogil
cdef int load_popped_flags(Cpu* cpu, u64 flags, u32 size) noexcept nogil
cdef void set_smap(Cpu* cpu, u32 idx) noexcept nogil
cdef int h_stac(Cpu* cpu, Op* op) noexcept nogil
cdef int h_clac(Cpu* cpu, Op* op) noexcept nogil
