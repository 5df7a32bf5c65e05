"""HLT: a vCPU's thread sleeps until there is something to do. C signatures are in sleep.pxd."""

import cython
from cython.cimports.barevisor.cpu.bt.apic import apic_pending, apic_timer_poll
from cython.cimports.barevisor.cpu.bt.atomics import __sync_synchronize
from cython.cimports.barevisor.cpu.bt.cpustate import MP_HALTED, MP_RUNNABLE, MP_WAIT_SIPI
from cython.cimports.barevisor.cpu.bt.faults import sigset_t, sleep_mask
from cython.cimports.barevisor.cpu.bt.safepoint import SEQ_CST, load32
from cython.cimports.barevisor.cpu.bt.tsc import host_tsc
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.posix.unistd import read

NS_IN_S = cython.declare("i64", 1_000_000_000)
SPIN_NS = cython.declare("i64", 60_000)  # about what a sleep in the kernel oversleeps
NEVER = cython.declare("u64", 0xFFFFFFFFFFFFFFFF)


def wait_readable(fd, ns):
    """At most `ns` nanoseconds (-1: for ever). -1: a signal arrived."""
    wanted: pollfd
    limit: timespec
    mask: sigset_t
    sleep_mask(cython.address(mask))
    wanted.fd = fd
    wanted.events = POLLIN
    limit.tv_sec = ns // NS_IN_S
    limit.tv_nsec = ns % NS_IN_S
    if (
        ppoll(
            cython.address(wanted),
            1,
            cython.NULL if ns < 0 else cython.address(limit),
            cython.address(mask),
        )
        < 0
    ):
        return -1 if errno == EINTR else 0
    return 0


def for_good(cpu):
    """Interrupts are off, or this CPU was never started: only an NMI, INIT or SIPI from another CPU
    could end this sleep. Are all others asleep like it? Of two that fall asleep at the same time
    one sees the other; the VMM kicks those that slept already."""
    other: cython.pointer(Cpu)
    i: u32
    for i in range(cpu.vm.ncpus):
        other = cpu.vm.cpus[i]
        if other == cpu or other == cython.NULL:
            continue
        # In this order: who was woken ends its sleep before it forgets why.
        if load32(cython.address(other.attention), SEQ_CST) & (ATT_NMI | ATT_INIT | ATT_SIPI):
            return 0
        if not load32(cython.address(other.sleeping), SEQ_CST) and not other.gone:
            return 0
        if other.mp_state == MP_RUNNABLE:
            return 0
        if other.mp_state == MP_HALTED and other.sysflags & FLAG_IF:
            return 0
    return 1


def why_awake(cpu):
    """WOKE_* when there is something to do, else -1. Looks at the timer first."""
    apic_timer_poll(cpu, host_tsc())
    if cpu.attention & ATT_KICK:
        return WOKE_KICK
    if not cpu.vm.irqchip:
        return WOKE_NEVER
    if cpu.attention & (ATT_INIT | ATT_SIPI):
        return WOKE_INIT
    if cpu.mp_state == MP_WAIT_SIPI:
        return WOKE_NEVER if for_good(cpu) else -1
    if cpu.attention & ATT_NMI and not cpu.nmi_masked:
        return WOKE
    if cpu.sysflags & FLAG_IF:
        return WOKE if apic_pending(cpu) >= 0 else -1
    return WOKE_NEVER if for_good(cpu) else -1


def spin(cpu):
    """Until the timer expires or somebody wakes this CPU: sooner than a sleep would end."""
    while host_tsc() < cpu.timer_deadline and not load32(cython.address(cpu.attention), SEQ_CST):
        _mm_pause()
    return 0


def until_timer(cpu):
    """Nanoseconds: at most an hour, for the product must not overflow. -1: the timer is off."""
    khz: u64 = cpu.vm.tsc_khz
    now: u64
    left: u64
    if cpu.timer_deadline == NEVER:
        return -1
    now = host_tsc()
    if cpu.timer_deadline <= now:
        return 0
    left = cpu.timer_deadline - now
    return min(left // khz, cython.cast(u64, 3_600_000)) * 1_000_000 + left % khz * 1_000_000 // khz


def sleep_until_woken(cpu):
    """Sleep in the kernel until why_awake has an answer, which is returned."""
    why: cython.int
    ns: i64
    woken: u64
    while True:
        cpu.sleeping = 1
        __sync_synchronize()
        why = why_awake(cpu)
        if why >= 0:
            cpu.sleeping = 0
            return why
        ns = until_timer(cpu)
        if 0 <= ns < SPIN_NS:
            why = spin(cpu)
        else:
            why = wait_readable(cpu.wake_fd, ns)
        cpu.sleeping = 0
        read(cpu.wake_fd, cython.address(woken), 8)  # non-blocking
        if why < 0:
            return WOKE_SIGNAL
