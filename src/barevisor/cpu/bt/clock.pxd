# kvm-clock (Documentation/virt/kvm/x86/msr.rst, Linux 6.1) and the rates of TSCs.
from barevisor.cpu.bt.state cimport *

cdef struct PvClock:         # struct pvclock_vcpu_time_info, 32 bytes
    u32 version              # odd while it changes
    u32 pad0
    u64 tsc_timestamp
    u64 system_time          # nanoseconds at tsc_timestamp
    u32 tsc_to_system_mul
    i8 tsc_shift
    u8 flags
    u8 pad[2]

cdef struct WallClock:       # struct pvclock_wall_clock, 12 bytes
    u32 version
    u32 sec
    u32 nsec

cdef enum:
    PVCLOCK_TSC_STABLE = 1

# Writable guest RAM, `size` bytes at `gpa` in one slot, or NULL.
cdef u8* guest_ram(Vm* vm, u64 gpa, u64 size) noexcept nogil
# kvm-clock when the VM's TSC is `tsc`
cdef u64 clock_ns(Vm* vm, u64 tsc) noexcept nogil
# It counts on from `ns`.
cdef void clock_set(Vm* vm, u64 ns) noexcept nogil
cdef void clock_write_system_time(Cpu* cpu) noexcept nogil
cdef void clock_write_wall(Cpu* cpu, u64 gpa) noexcept nogil
