"""Direct execution: user code that runs long at a time runs as it is, on the host's own MMU.

Who enters its kernel often is better off translated: a way into the process and back costs some
20 microseconds. So the engine counts how often each address space enters the kernel, looks at
that count at interrupts, and where user code runs on for long it goes on in a process that has
the guest's user pages at their addresses (mirror.py). Whatever that code does that is not plain
user code (a system call, a fault, an instruction that the process may not execute) stops it before
it happened; the engine takes its registers back and does that one itself. ADR 20.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import get_rflags, set_rflags
from cython.cimports.barevisor.cpu.bt.arch import DB_BS
from cython.cimports.barevisor.cpu.bt.faults import timer_arm
from cython.cimports.barevisor.cpu.bt.fpstate import (
    XCR0_KNOWN,
    XSAVE_HEADER,
    fpu_pull,
    fpu_push,
    xsave_from,
    xsave_to,
)
from cython.cimports.barevisor.cpu.bt.mirror import (
    __WALL,
    PTRACE_GETREGS,
    PTRACE_GETREGSET,
    PTRACE_GETSIGINFO,
    PTRACE_PEEKTEXT,
    PTRACE_SETREGS,
    PTRACE_SETREGSET,
    WIFSTOPPED,
    WSTOPSIG,
    XSTATE_ROOM,
    mirror_close,
    mirror_fault,
    mirror_find,
    mirror_refresh,
    mirror_set_breaks,
    ptrace,
    waitpid,
)
from cython.cimports.barevisor.cpu.bt.mmio import internal_error
from cython.cimports.barevisor.cpu.bt.mode import update_mode
from cython.cimports.barevisor.cpu.bt.registers import (
    CR4_FSGSBASE,
    CR4_PKE,
    CR4_TSD,
    space_key,
)
from cython.cimports.barevisor.cpu.bt.safepoint import SEQ_CST, swap32
from cython.cimports.barevisor.cpu.bt.segments import enter_cs, fetch_descriptor, load_segment
from cython.cimports.barevisor.cpu.bt.tier import must_step
from cython.cimports.barevisor.cpu.bt.tsc import host_tsc
from cython.cimports.libc.string import memcmp, memcpy, memset

USER_CS: u64 = cython.declare(u64, 0x33)
USER_SS: u64 = cython.declare(u64, 0x2B)
FLAGS_SHARED: u64 = cython.declare(u64, FLAGS_ARITH | FLAG_DF | FLAG_AC | FLAG_ID | FLAG_TF)
"""What user code changes by itself; IF, IOPL, NT, RF and VM are as they were."""
FLAGS_BARRED: u32 = cython.declare(u32, FLAG_IOPL | FLAG_NT | FLAG_VM | FLAG_TF | FLAG_RF)
AFFINITY: cython.int = cython.declare(cython.int, 128)
"""Bytes of a CPU mask."""
NO_SYSCALL: u64 = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
SAMPLE_US: u64 = cython.declare(u64, 1000)
LONG_US: u64 = cython.declare(u64, 200)
STAY_US: u64 = cython.declare(u64, 120)
"""From one entry of the kernel to the next, on average: for code that is translated to run directly
from then on, and for code that does to go on so."""
SHORT_US: u64 = cython.declare(u64, 60)
MANY_SHORTS: u32 = cython.declare(u32, 8)
PAGE: u64 = cython.declare(u64, 4096)
PIN_US: u64 = cython.declare(u64, 50000)

GENERAL: cython.int[16] = cython.declare(cython.int[16])
"""Where struct user_regs_struct has the general registers, in encoding order (sys/user.h)."""
GENERAL[:] = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0]

# ---- when --------------------------------------------------------------------------------


def direct_sample(cpu):
    """See direct.pxd. A sample begins where the address space comes to run, or with the last one's
    end; interrupts come some hundred times a second to who is busy."""
    key: u64 = space_key(cpu.cr3)
    spent: u64
    each: u64
    pace: cython.pointer(Pace)
    if cpu.vm.direct != DIRECT_LONG or cpu.cpl != 3 or key != cpu.pace_key:
        return
    spent = (host_tsc() - cpu.pace_since) * 1000 // cpu.vm.tsc_khz
    if spent < SAMPLE_US:
        return
    each = spent // (cpu.entries - cpu.pace_entries + 1)
    pace = pace_of(cpu, key)
    pace.direct = each > (STAY_US if pace.key == key and pace.direct else LONG_US)
    pace.key = key
    pace_begin(cpu, key)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _give_up(cpu: cython.pointer(Cpu)) -> cython.void:
    """This address space is translated again until the next sample says otherwise."""
    key: u64 = space_key(cpu.cr3)
    pace: cython.pointer(Pace) = pace_of(cpu, key)
    if pace.key == key:
        pace.direct = 0
    cpu.shorts = 0
    pace_begin(cpu, key)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _ready(cpu: cython.pointer(Cpu)) -> cython.bint:
    """Is the CPU in the one state that a Linux process runs in?"""
    seg: u32
    if cpu.mode != MODE_CODE64 or cpu.cpl != 3 or cpu.tlb == cpu.tlb_blank or must_step(cpu):
        return False
    if cpu.sysflags & FLAGS_BARRED or not cpu.sysflags & FLAG_IF:
        return False
    if cpu.cr4 & (CR4_TSD | CR4_PKE) or not cpu.cr4 & CR4_FSGSBASE or cpu.xcr0 != XCR0_KNOWN:
        return False
    if cpu.segs[SEG_CS].selector != USER_CS or cpu.segs[SEG_SS].selector != USER_SS:
        return False
    for seg in range(6):
        if seg != SEG_CS and seg != SEG_SS and cpu.segs[seg].selector:
            return False
    return not cpu.vm.debugging and not cpu.vm.nwatches and not cpu.stop_why


# ---- where: both threads on one CPU ------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pin(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror)) -> cython.void:
    """This thread and the process take turns, so one host CPU is enough for both; on two, each turn
    would wake an idle one. For a while only, and then for one turn anywhere, so that the scheduler
    can move them."""
    here: cython.int
    now: u64 = host_tsc()
    if cpu.pinned and (now - cpu.pinned_since) * 1000 // cpu.vm.tsc_khz >= PIN_US:
        sched_setaffinity(m.pid, AFFINITY, cython.address(cpu.affinity[0]))
        m.host_cpu = -1
        direct_unpin(cpu)
        return
    here = cpu.pinned - 1 if cpu.pinned else sched_getcpu()
    if not cpu.pinned:
        if sched_getaffinity(0, AFFINITY, cython.address(cpu.affinity[0])) < 0 or _bind(0, here):
            return
        cpu.pinned = here + 1
        cpu.pinned_since = now
    if m.host_cpu != here:
        _bind(m.pid, here)
        m.host_cpu = here


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _bind(pid: cython.int, here: cython.int) -> cython.int:
    """To one host CPU, if it is one of the first 1024; else nothing is bound."""
    mask: u8[128]
    if here < 0 or here >= AFFINITY * 8:
        return -1
    memset(mask, 0, AFFINITY)
    mask[here >> 3] = cython.cast(u8, 1) << (here & 7)
    return sched_setaffinity(pid, AFFINITY, mask)


def direct_unpin(cpu):
    """See direct.pxd."""
    if cpu.pinned:
        sched_setaffinity(0, AFFINITY, cython.address(cpu.affinity[0]))
        cpu.pinned = 0


# ---- registers ---------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _give(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror)) -> cython.int:
    """The guest's registers to the process; the general ones with the next turn. -1: it refuses
    them. What it has already is not given again, which is the rule: few kernels compute with
    vectors."""
    new: cython.pointer(u8) = m.xstate + XSTATE_ROOM
    r: cython.pointer(user_regs_struct) = cython.address(m.regs)
    words: cython.pointer(u64) = cython.cast(cython.pointer(u64), r)
    i: cython.int
    if m.xstate_size == 0 and _xstate(m, PTRACE_GETREGSET):
        return -1
    for i in range(16):
        words[GENERAL[i]] = cpu.regs[i]
    r.orig_rax = NO_SYSCALL
    r.rip = cpu.rip
    r.eflags = (get_rflags(cpu) & FLAGS_SHARED) | FLAG_IF | 2
    r.cs, r.ss = USER_CS, USER_SS
    r.ds = r.es = r.fs = r.gs = 0
    r.fs_base, r.gs_base = cpu.segbase[SEG_FS], cpu.segbase[SEG_GS]
    fpu_pull(cpu)
    memcpy(new, m.xstate, m.xstate_size)
    xsave_to(cpu, new)
    if _same_xstate(m.xstate, new, m.xstate_size):
        return 0
    memcpy(m.xstate, new, m.xstate_size)
    return _xstate(m, PTRACE_SETREGSET)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _same_xstate(
    has: cython.pointer(u8), new: cython.pointer(u8), size: cython.size_t
) -> cython.bint:
    """Does an XSAVE area say what another does? XSTATE_BV may differ, as both have the data of what
    is in its initial state; but nothing may be in use that the guest does not have."""
    behind: cython.size_t = XSAVE_HEADER + 8
    if cython.cast(cython.pointer(u64), has + XSAVE_HEADER)[0] & ~cython.cast(u64, XCR0_KNOWN):
        return False
    if memcmp(has, new, XSAVE_HEADER):
        return False
    return memcmp(has + behind, new + behind, size - behind) == 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _take(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror)) -> cython.int:
    """And back. m.regs has them, with RIP where the engine goes on."""
    r: cython.pointer(user_regs_struct) = cython.address(m.regs)
    words: cython.pointer(u64) = cython.cast(cython.pointer(u64), r)
    i: cython.int
    if _xstate(m, PTRACE_GETREGSET):
        return -1
    for i in range(16):
        cpu.regs[i] = words[GENERAL[i]]
    cpu.rip = r.rip
    set_rflags(cpu, (get_rflags(cpu) & ~FLAGS_SHARED) | (r.eflags & FLAGS_SHARED))
    # The kernel fills in what is in its initial state (copy_xstate_to_uabi_buf, 6.1).
    xsave_from(cpu, m.xstate, XCR0_KNOWN)
    fpu_push(cpu)
    _take_segments(cpu, r)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _xstate(m: cython.pointer(Mirror), request: cython.int) -> cython.int:
    """Get or set the process's XSAVE area, as large as the host's CPU makes it. 0 or -1."""
    room: iovec
    room.iov_base = m.xstate
    room.iov_len = XSTATE_ROOM if request == PTRACE_GETREGSET else m.xstate_size
    if ptrace(request, m.pid, cython.cast(cython.p_void, NT_X86_XSTATE), cython.address(room)):
        return -1
    m.xstate_size = room.iov_len
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _take_segments(cpu: cython.pointer(Cpu), r: cython.pointer(user_regs_struct)) -> cython.void:
    """User code may have loaded selectors: what they mean, the guest's own tables say. One that
    only the host's have cannot be told from here; the register keeps what it had."""
    desc: u64 = 0
    seg: u32
    selectors: u16[6]
    selectors[SEG_ES], selectors[SEG_DS] = cython.cast(u16, r.es), cython.cast(u16, r.ds)
    selectors[SEG_FS], selectors[SEG_GS] = cython.cast(u16, r.fs), cython.cast(u16, r.gs)
    selectors[SEG_SS], selectors[SEG_CS] = cython.cast(u16, r.ss), cython.cast(u16, r.cs)
    for seg in range(6):
        if seg != SEG_CS and selectors[seg] != cpu.segs[seg].selector:
            load_segment(cpu, seg, selectors[seg])
    cpu.segs[SEG_FS].base = r.fs_base
    cpu.segs[SEG_GS].base = r.gs_base
    if selectors[SEG_CS] != cpu.segs[SEG_CS].selector:
        if fetch_descriptor(cpu, selectors[SEG_CS], EXC_GP, cython.address(desc)) == 0:
            enter_cs(cpu, selectors[SEG_CS], desc, 3)
    cpu.fault_vector = 0
    update_mode(cpu)


# ---- running -----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _gone(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror)) -> cython.int:
    """The process ended, and the guest's registers with it: somebody killed it."""
    mirror_close(m)
    internal_error(cpu, b"the process that ran user code is gone", 0)
    return ST_EXIT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _refused(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror)) -> cython.int:
    """It could not map a page (too many mappings): the engine goes on where the code stopped."""
    status: cython.int = _take(cpu, m)
    if status:
        return _gone(cpu, m)
    mirror_close(m)
    cpu.direct = 0
    _give_up(cpu)
    return ST_NEXT


def direct_run(cpu):
    """See direct.pxd."""
    m: cython.pointer(Mirror)
    since: u64
    status: cython.int
    cpu.link = cython.NULL
    if not _ready(cpu):
        cpu.direct = 0
        return ST_NEXT
    m = mirror_find(cpu)
    if m == cython.NULL:
        cpu.exit_reason = EXIT_NO_MIRROR
        return ST_EXIT
    if mirror_refresh(cpu, m) or _give(cpu, m):
        mirror_close(m)
        cpu.direct = 0
        _give_up(cpu)
        return ST_NEXT
    if cpu.timer_deadline != cpu.armed_deadline or cpu.timer_thread != cpu.thread:
        timer_arm(cpu)
    _pin(cpu, m)
    cpu.direct_runs += 1
    since = host_tsc()
    status = _turns(cpu, m)
    since = host_tsc() - since
    cpu.direct_ticks += since
    if cpu.vm.direct == DIRECT_LONG and cpu.direct != DIRECT_NOW:
        cpu.shorts = cpu.shorts + 1 if since * 1000 // cpu.vm.tsc_khz < SHORT_US else 0
        if cpu.shorts > MANY_SHORTS:
            _give_up(cpu)
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _turns(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror)) -> cython.int:
    """Until the engine is needed. Pages that only the mirror lacked are mapped on the way."""
    stop: cython.int = 0
    info: siginfo_t
    va: u64 = ~cython.cast(u64, 0)
    last: u64 = ~cython.cast(u64, 0)
    last_rip: u64 = 0
    status: cython.int
    while True:
        # Who wants this CPU sets `urgent` and then looks for the process; one of both is seen.
        swap32(cython.cast(cython.pointer(u32), cython.address(cpu.user_pid)), m.pid, SEQ_CST)
        if cpu.urgent:
            cpu.user_pid = 0
            return ST_NEXT if _take(cpu, m) == 0 else _gone(cpu, m)
        if mirror_set_breaks(m):
            cpu.user_pid = 0
            return _refused(cpu, m)
        if ptrace(PTRACE_SETREGS, m.pid, cython.NULL, cython.address(m.regs)):
            cpu.user_pid = 0
            return _gone(cpu, m)
        if ptrace(PTRACE_SYSEMU, m.pid, cython.NULL, cython.NULL):
            cpu.user_pid = 0
            return _gone(cpu, m)
        status = waitpid(m.pid, cython.address(stop), __WALL)
        cpu.user_pid = 0
        if status != m.pid or not WIFSTOPPED(stop):
            return _gone(cpu, m)
        if ptrace(PTRACE_GETREGS, m.pid, cython.NULL, cython.address(m.regs)):
            return _gone(cpu, m)
        # A fault sets RF, and a sensitive instruction that is fetched again would not stop there.
        m.regs.eflags &= ~cython.cast(u64, FLAG_RF)
        if WSTOPSIG(stop) == SIGSEGV:
            if ptrace(PTRACE_GETSIGINFO, m.pid, cython.NULL, cython.address(info)):
                return _gone(cpu, m)
            va = cython.cast(u64, info.si_addr)
            if (info.si_code == SEGV_MAPERR or info.si_code == SEGV_ACCERR) and (
                va != last or m.regs.rip != last_rip
            ):
                last = va
                last_rip = m.regs.rip
                status = mirror_fault(cpu, m, va, m.regs.rip)
                if status == 0 and (not cpu.nrevoked or mirror_refresh(cpu, m) == 0):
                    continue
                if status <= 0:
                    return _refused(cpu, m)
        return _stopped(cpu, m, stop, WSTOPSIG(stop) == SIGSEGV and va - m.regs.rip < PAGE)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _stopped(
    cpu: cython.pointer(Cpu), m: cython.pointer(Mirror), stop: cython.int, at_code: cython.bint
) -> cython.int:
    """The engine's turn, from the instruction that could not be executed, or behind the last.
    `at_code`: it is the code that could not be mapped."""
    info: siginfo_t
    number: cython.int = WSTOPSIG(stop)
    if number == SYSCALL_STOP:
        # SYSCALL and INT 80h have two bytes. RCX and R11 are as SYSCALL leaves them already.
        m.regs.rip -= 2
        m.regs.rax = m.regs.orig_rax
    elif number == SIGTRAP:
        if ptrace(PTRACE_GETSIGINFO, m.pid, cython.NULL, cython.address(info)):
            return _gone(cpu, m)
        if info.si_code == TRAP_HWBKPT:
            # Before a sensitive instruction, which is the engine's alone.
            cpu.direct = DIRECT_NEXT
            return ST_NEXT if _take(cpu, m) == 0 else _gone(cpu, m)
        _trapped(cpu, m, info.si_code)
    elif number == SIGSYS:
        # The host's vsyscall page was called (arch/x86/entry/vsyscall, 6.1), which the filter does
        # not let answer: the host has returned from there. It is for the guest's kernel to answer.
        if ptrace(PTRACE_GETSIGINFO, m.pid, cython.NULL, cython.address(info)):
            return _gone(cpu, m)
        m.regs.rip = cython.cast(u64, info.si_call_addr)
        m.regs.rsp -= 8
    elif number != SIGSEGV and number != SIGBUS and number != SIGILL and number != SIGFPE:
        # Only to stop it: this CPU is wanted, or the process got somebody's signal.
        return ST_NEXT if _take(cpu, m) == 0 else _gone(cpu, m)
    cpu.direct = DIRECT_NEXT if cpu.vm.direct == DIRECT_ALWAYS and not at_code else 0
    return ST_NEXT if _take(cpu, m) == 0 else _gone(cpu, m)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _trapped(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror), code: cython.int) -> cython.void:
    """#BP and #DB are traps: INT3 (CC or CD 03) and INT1 (F1) are to be executed by the engine, a
    single step that user code asked for (POPF) has happened. Some hosts stop at INT1, not behind
    it."""
    last: u32
    if code != SI_KERNEL and m.regs.eflags & FLAG_TF:
        cpu.pending_db |= DB_BS
        return
    last = _byte(m, m.regs.rip - 1)
    if code == SI_KERNEL and last == 3 and _byte(m, m.regs.rip - 2) == 0xCD:
        m.regs.rip -= 2
    elif last == (0xCC if code == SI_KERNEL else 0xF1):
        m.regs.rip -= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _byte(m: cython.pointer(Mirror), va: u64) -> u32:
    """Of the process: a word is read, which must not reach into the next page."""
    word: u64 = ptrace(
        PTRACE_PEEKTEXT, m.pid, cython.cast(cython.p_void, va & ~cython.cast(u64, 7)), cython.NULL
    )
    return (word >> (va & 7) * 8) & 0xFF
