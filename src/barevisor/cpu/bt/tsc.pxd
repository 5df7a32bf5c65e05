# The time stamp counter. The VM's is the host's, or runs at the rate that a guest which came from
# elsewhere was told of; the guest's is that plus one offset for the VM and one for the CPU.
from barevisor.cpu.bt.state cimport *

cdef extern from "x86intrin.h":
    u64 __rdtsc() nogil

cdef extern from *:
    ctypedef unsigned long long u128 "unsigned __int128"

cdef enum:
    TSC_FRACTION = 48        # bits behind the point, as in the VMCS (SDM, "TSC multiplier")

cdef enum:
    TSC_ONE = 0x1000000000000
    FAR_TICKS = 0x4000000000000000  # decades


cdef inline u64 host_tsc() noexcept nogil:
    return __rdtsc()


cdef inline u64 vm_tsc(Vm* vm) noexcept nogil:
    """The host's TSC at the VM's rate."""
    return <u64>((<u128>__rdtsc() * vm.tsc_ratio) >> TSC_FRACTION)


cdef inline u64 host_ticks(Vm* vm, u64 ticks) noexcept nogil:
    """How long the host's TSC takes for as many of the VM's; cut at FAR_TICKS."""
    cdef u128 wide = <u128>ticks * vm.tsc_inverse
    wide = (wide + TSC_ONE - 1) >> TSC_FRACTION
    return <u64>wide if wide < FAR_TICKS else FAR_TICKS


cdef inline u64 tsc_delta(Cpu* cpu) noexcept nogil:
    """Guest TSC minus the VM's (SDM, "IA32_TSC_ADJUST": a write to the TSC moves it too)."""
    return cpu.vm.tsc_offset + cpu.tsc_adjust


cdef inline u64 guest_tsc(Cpu* cpu) noexcept nogil:
    return vm_tsc(cpu.vm) + tsc_delta(cpu)


cdef inline bint tsc_as_host(Cpu* cpu) noexcept nogil:
    """RDTSC on the host gives the guest's."""
    return tsc_delta(cpu) == 0 and cpu.vm.tsc_ratio == TSC_ONE
