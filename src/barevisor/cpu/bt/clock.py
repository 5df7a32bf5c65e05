"""kvm-clock, and how fast TSCs run: the host's, and the guest's. C signatures are in clock.pxd.

The guest reads time as `system_time + scale(TSC - tsc_timestamp)`. All vCPUs get the same base
and scale, and the TSC is one for the machine, so the clock is the same on all of them and
PVCLOCK_TSC_STABLE_BIT is true.
"""

import time

import cython
from cython.cimports.barevisor.cpu.bt.atomics import __sync_synchronize
from cython.cimports.barevisor.cpu.bt.codepages import code_written, find_slot, host_at
from cython.cimports.barevisor.cpu.bt.tsc import TSC_FRACTION, host_tsc, tsc_delta, vm_tsc
from cython.cimports.posix.time import CLOCK_REALTIME, clock_gettime, timespec

from barevisor.cpu.x86 import hostcpuid

MEASURE_NS = 10_000_000
NS_IN_S = cython.declare("u64", 1_000_000_000)
LOW_HALF = cython.declare("u64", 0xFFFFFFFF)


# ---- the host's TSC --------------------------------------------------------------------------


def sample() -> tuple:
    """(TSC, CLOCK_MONOTONIC_RAW in ns): of several tries the one that took the shortest."""
    best = None
    for _ in range(8):
        before: u64 = host_tsc()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        after: u64 = host_tsc()
        if best is None or after - before < best[0]:
            best = (after - before, before + (after - before) // 2, now)
    return best[1], best[2]


def tsc_khz(since: tuple) -> int:
    """From CPUID where it says so (SDM, leaf 0x15; VMware's leaf 0x40000010), else measured."""
    told = _announced_khz()
    if told:
        return told
    wait = MEASURE_NS - (time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - since[1])
    if wait > 0:
        time.sleep(wait / 1e9)
    tsc, ns = sample()
    return round((tsc - since[0]) * 1_000_000 / (ns - since[1]))


def _announced_khz() -> int:
    if hostcpuid.cpuid(0)[0] >= 0x15:
        denominator, numerator, crystal, _ = hostcpuid.cpuid(0x15)
        if denominator and numerator and crystal:
            return crystal * numerator // denominator // 1000
    if hostcpuid.cpuid(1)[2] >> 31 and 0x40000010 <= hostcpuid.cpuid(0x40000000)[0] < 0x40010000:
        return hostcpuid.cpuid(0x40000010)[0]
    return 0


def tsc_rates(host_khz: int, khz: int) -> tuple:
    """(ratio, inverse) of struct Vm, for a guest whose TSC is to run at `khz`."""
    return (khz << TSC_FRACTION) // host_khz, -(-(host_khz << TSC_FRACTION) // khz)


# ---- kvm-clock -------------------------------------------------------------------------------


def guest_ram(vm, gpa, size):
    """A hostile guest may name any address: it must be writable and within one slot."""
    slot: cython.pointer(Slot) = find_slot(vm, gpa)
    if slot == cython.NULL or slot.readonly or size > slot.size - (gpa - slot.gpa):
        return cython.NULL
    return host_at(slot, gpa)


def clock_scale(khz: int) -> tuple:
    """(mul, shift) of struct pvclock_vcpu_time_info for a TSC of `khz`: mul in [2^31, 2^32)."""
    shift = 0
    while (1_000_000 << 32) >> shift >= khz << 32:
        shift += 1
    while (1_000_000 << (32 - shift)) // khz < 1 << 31:
        shift -= 1
    mul = (1_000_000 << (32 - shift)) // khz
    return mul, shift


def clock_set(vm, ns):
    vm.clock_base_ns = ns
    vm.clock_base_tsc = vm_tsc(vm)


def clock_ns(vm, tsc):
    ticks: u64 = tsc - vm.clock_base_tsc
    if vm.clock_shift < 0:
        ticks >>= -vm.clock_shift
    else:
        ticks <<= vm.clock_shift
    # 64 by 32 bits in two halves.
    return (
        vm.clock_base_ns
        + (ticks >> 32) * vm.clock_mul
        + (((ticks & LOW_HALF) * vm.clock_mul) >> 32)
    )


def clock_write_system_time(cpu):
    """Fill the structure that MSR_KVM_SYSTEM_TIME_NEW names; a bad address is ignored."""
    vm: cython.pointer(Vm) = cpu.vm
    gpa: u64 = cpu.msr_kvm_system_time & ~cython.cast(u64, 1)
    tsc: u64 = vm_tsc(vm)
    to: cython.pointer(PvClock)
    if not cpu.msr_kvm_system_time & 1:
        return
    to = cython.cast(cython.pointer(PvClock), guest_ram(vm, gpa, cython.sizeof(PvClock)))
    if to == cython.NULL:
        return
    version: u32 = to.version | 1
    to.version = version
    __sync_synchronize()
    to.tsc_timestamp = tsc + tsc_delta(cpu)
    to.system_time = clock_ns(vm, tsc)
    to.tsc_to_system_mul = vm.clock_mul
    to.tsc_shift = cython.cast(i8, vm.clock_shift)
    to.flags = PVCLOCK_TSC_STABLE
    __sync_synchronize()
    to.version = version + 1
    code_written(vm, cpu, gpa, cython.sizeof(PvClock))


def clock_write_wall(cpu, gpa):
    """The time of day at which kvm-clock was 0."""
    now: timespec
    ns: u64
    to: cython.pointer(WallClock)
    if gpa == 0:
        return  # not asked for: what a restored state says of a guest that never did
    to = cython.cast(cython.pointer(WallClock), guest_ram(cpu.vm, gpa, cython.sizeof(WallClock)))
    if to == cython.NULL:
        return
    clock_gettime(CLOCK_REALTIME, cython.address(now))
    ns = cython.cast(u64, now.tv_sec) * NS_IN_S + cython.cast(u64, now.tv_nsec)
    ns -= clock_ns(cpu.vm, vm_tsc(cpu.vm))
    version: u32 = to.version | 1
    to.version = version
    __sync_synchronize()
    to.sec = cython.cast(u32, ns // NS_IN_S)
    to.nsec = cython.cast(u32, ns % NS_IN_S)
    __sync_synchronize()
    to.version = version + 1
    code_written(cpu.vm, cpu, gpa, cython.sizeof(WallClock))
