# The time stamp counter: the guest's is the host's plus one offset for the VM and one for the CPU.
from barevisor.cpu.bt.state cimport *

cdef extern from "x86intrin.h":
    u64 __rdtsc() nogil


cdef inline u64 host_tsc() noexcept nogil:
    return __rdtsc()


cdef inline u64 tsc_delta(Cpu* cpu) noexcept nogil:
    """Guest TSC minus host TSC (SDM, "IA32_TSC_ADJUST": a write to the TSC moves it too)."""
    return cpu.vm.tsc_offset + cpu.tsc_adjust


cdef inline u64 guest_tsc(Cpu* cpu) noexcept nogil:
    return __rdtsc() + tsc_delta(cpu)
