from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.msr cimport msr_read, msr_write
from barevisor.cpu.bt.syscalls cimport is_intel
from barevisor.cpu.bt.tsc cimport guest_tsc

cdef enum:
    XSAVE_LEGACY = 576       # FXSAVE image and XSAVE header
    XSAVE_YMM = 832          # with the YMM halves at their standard offset

cdef CpuidEntry* find_cpuid(Cpu* cpu, u32 leaf, u32 subleaf) noexcept nogil
cdef u32 redirect_leaf(Cpu* cpu, u32 leaf) noexcept nogil
cdef void live_cpuid(Cpu* cpu, u32 leaf, u32 subleaf, CpuidEntry* out) noexcept nogil
cdef int h_cpuid(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rdtsc(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rdtscp(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rdpid(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rdpmc(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rdmsr(Cpu* cpu, Op* op) noexcept nogil
cdef int h_wrmsr(Cpu* cpu, Op* op) noexcept nogil
cdef int h_hlt(Cpu* cpu, Op* op) noexcept nogil
cdef int h_monitor(Cpu* cpu, Op* op) noexcept nogil
cdef int h_mwait(Cpu* cpu, Op* op) noexcept nogil
cdef int h_ud(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rsm(Cpu* cpu, Op* op) noexcept nogil
