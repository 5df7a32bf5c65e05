"""Signals that belong to translated code.

An access may reach a page-table entry of another address with the same index: its host address
then lies in memory that is reserved as inaccessible, and the host faults (space.pxd). The handler
only sends the CPU to the access's out-of-line call, where the entry is replaced. Everything else
about a fault stays as it was: faults elsewhere go to the handler that was there before.

Translated code does not look at the clock. A timer of the host pokes it when the guest's local
APIC timer is due; code running elsewhere (the interpreter, Python) polls anyway.
"""

import cython
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.trace import *
from cython.cimports.barevisor.cpu.bt.tsc import host_tsc
from cython.cimports.libc.string import memset

from barevisor.errors import EngineError

NEVER: u64 = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
RIP_SLOT: cython.int = cython.declare(cython.int, 16)
NS_IN_S: u64 = cython.declare(u64, 1000000000)
HOUR_MS: u64 = cython.declare(u64, 3600000)

_watched: cython.pointer(Translator)[256] = cython.declare(cython.pointer(Translator)[256])
_old_segv: sigaction_t = cython.declare(sigaction_t)
_old_bus: sigaction_t = cython.declare(sigaction_t)
_old_fpe: sigaction_t = cython.declare(sigaction_t)
_installed: cython.int = cython.declare(cython.int, 0)

# ---- faults ------------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _trace_of(tr: cython.pointer(Translator), pc: u64) -> cython.pointer(Block):
    """The translation that holds `pc`: they lie in code memory in the order they were made."""
    low: u32 = 0
    high: u32 = tr.indexed
    middle: u32
    while high - low > 1:
        middle = (low + high) >> 1
        if tr.index[middle].entry <= pc:
            low = middle
        else:
            high = middle
    return tr.index[low] if tr.indexed else cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _slow_path(pc: u64, divides: cython.bint) -> u64:
    """Where an access, or a division, at `pc` calls its site, or 0 when `pc` is none of a
    translation."""
    i: cython.int
    n: u32
    at: u32
    tr: cython.pointer(Translator)
    trace: cython.pointer(Block)
    site: cython.pointer(Site)
    right: cython.int
    for i in range(MAX_WATCHED):
        tr = _watched[i]
        if tr == cython.NULL or pc - cython.cast(u64, tr.mem.run) >= tr.mem.used:
            continue
        if tr.crossing <= pc < tr.crossing_end:
            return tr.crossing_fail
        at = cython.cast(u32, pc - cython.cast(u64, tr.mem.run))
        trace = _trace_of(tr, pc)
        if trace == cython.NULL:
            return 0
        best: cython.pointer(Site) = cython.NULL
        for n in range(trace.first_site, trace.first_site + trace.sites):
            site = cython.address(tr.sites[n])
            right = site.flags & SITE_DIVIDES if divides else site.kind == SITE_MEMORY
            if right and site.retry <= at < site.next:
                # An instruction with two accesses: the one that was looked up last.
                if best == cython.NULL or best.retry < site.retry:
                    best = site
        return cython.cast(u64, tr.mem.run) + best.slow if best != cython.NULL else 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _fault(
    number: cython.int, info: cython.pointer(siginfo_t), context: cython.p_void
) -> cython.void:
    machine: cython.pointer(mcontext_t) = cython.address(
        cython.cast(cython.pointer(ucontext_t), context).uc_mcontext
    )
    old: cython.pointer(sigaction_t) = cython.address(_old_segv)
    slow: u64 = _slow_path(cython.cast(u64, machine.gregs[RIP_SLOT]), number == SIGFPE)
    if slow:
        machine.gregs[RIP_SLOT] = slow
        return
    if number == SIGBUS:
        old = cython.address(_old_bus)
    elif number == SIGFPE:
        old = cython.address(_old_fpe)
    if old.sa_flags & SA_SIGINFO:
        old.sa_sigaction(number, info, context)
    elif old.sa_handler == SIG_DFL or old.sa_handler == SIG_IGN:
        sigaction(number, old, cython.NULL)  # it happens again, and ends this process
    else:
        old.sa_handler(number)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _alarm(
    number: cython.int, info: cython.pointer(siginfo_t), context: cython.p_void
) -> cython.void:
    """On the CPU's thread, which may be waiting for the process that runs its user code."""
    cpu: cython.pointer(Cpu) = cython.cast(cython.pointer(Cpu), info.si_value)
    cpu.urgent = -1
    if cpu.user_pid:
        kill(cpu.user_pid, SIGUSR1)


def faults_install():
    """See faults.pxd."""
    global _installed
    action: sigaction_t
    bad: cython.int
    if _installed:
        return 0
    memset(cython.address(action), 0, cython.sizeof(sigaction_t))
    action.sa_flags = SA_SIGINFO | SA_ONSTACK
    action.sa_sigaction = _fault
    sigemptyset(cython.address(action.sa_mask))
    bad = sigaction(SIGSEGV, cython.address(action), cython.address(_old_segv))
    bad |= sigaction(SIGBUS, cython.address(action), cython.address(_old_bus))
    bad |= sigaction(SIGFPE, cython.address(action), cython.address(_old_fpe))
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART
    action.sa_sigaction = _alarm
    bad |= sigaction(SIGRTMIN + 3, cython.address(action), cython.NULL)
    if bad:
        raise EngineError("the host refuses signal handlers", "BAREVISOR_BT=interpret")
    _installed = 1
    return 0


def faults_watch(tr):
    """See faults.pxd. With the GIL: one at a time."""
    i: cython.int
    for i in range(MAX_WATCHED):
        if _watched[i] == cython.NULL:
            _watched[i] = tr
            return 0
    raise EngineError(f"more than {MAX_WATCHED} translating VMs in one process")


@cython.cfunc
@cython.exceptval(check=False)
def faults_forget(tr: cython.pointer(Translator)) -> cython.void:
    """See faults.pxd."""
    i: cython.int
    for i in range(MAX_WATCHED):
        if _watched[i] == tr:
            _watched[i] = cython.NULL


# ---- the timer ---------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _new_timer(cpu: cython.pointer(Cpu), thread: cython.int) -> cython.int:
    event: sigevent
    timer: timer_t = cython.NULL
    timer_free(cpu)
    memset(cython.address(event), 0, cython.sizeof(sigevent))
    event.sigev_notify = SIGEV_THREAD_ID
    event.sigev_signo = SIGRTMIN + 3
    event.sigev_value.sival_ptr = cpu
    event.sigev_tid = thread
    if timer_create(CLOCK_MONOTONIC, cython.address(event), cython.address(timer)):
        return -1
    cpu.timer = timer
    cpu.timer_thread = thread
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def timer_arm(cpu: cython.pointer(Cpu)) -> cython.void:
    """See faults.pxd. Without a timer (none left on the host) the guest is poked at once: it
    polls more often than it need."""
    when: itimerspec
    now: u64 = host_tsc()
    ms: u64 = 0
    ticks: u64 = 0
    cpu.armed_deadline = cpu.timer_deadline
    if cpu.timer_deadline <= now:
        cpu.urgent = -1
        return
    if cpu.timer_thread != cpu.thread and _new_timer(cpu, cpu.thread):
        cpu.urgent = -1
        return
    memset(cython.address(when), 0, cython.sizeof(itimerspec))
    if cpu.timer_deadline != NEVER:
        ticks = cpu.timer_deadline - now
        ms = ticks // cpu.vm.tsc_khz
        ticks = ticks % cpu.vm.tsc_khz
        if ms > HOUR_MS:
            ms = HOUR_MS
        when.it_value.tv_sec = ms // 1000
        when.it_value.tv_nsec = (ms % 1000) * 1000000 + ticks * 1000000 // cpu.vm.tsc_khz + 1
    timer_settime(cpu.timer, 0, cython.address(when), cython.NULL)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sleep_mask(signals: cython.pointer(sigset_t)) -> cython.void:
    """See faults.pxd."""
    pthread_sigmask(SIG_BLOCK, cython.NULL, signals)
    sigaddset(signals, SIGRTMIN + 3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def timer_free(cpu: cython.pointer(Cpu)) -> cython.void:
    """See faults.pxd."""
    if cpu.timer_thread:
        timer_delete(cpu.timer)
    cpu.timer_thread = 0
