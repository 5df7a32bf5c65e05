"""Mirrors of guest address spaces in processes of their own (see mirror.pxd and ADR 20).

The process runs nothing of its own but one loop, which makes the calls (mmap, munmap) that stand
in a list that it can read and not write. It is traced: while guest code runs in it, no call is
made, whatever that code does.
"""

import os

import cython
from cython.cimports.barevisor.cpu.bt.atomics import __sync_fetch_and_or_1
from cython.cimports.barevisor.cpu.bt.codepages import find_slot, host_at, watch_code_page
from cython.cimports.barevisor.cpu.bt.paging import (
    ACCESS_EXEC,
    ACCESS_READ,
    ACCESS_WRITE,
    PG_EXEC,
    PG_WRITE,
    Leaf,
    Walk,
    page_walk,
    peek_user,
)
from cython.cimports.barevisor.cpu.bt.registers import space_key
from cython.cimports.barevisor.cpu.bt.safepoint import SEQ_CST, fence, vm_lock, vm_unlock
from cython.cimports.barevisor.cpu.bt.sensitive import SENSITIVE_CPUID, SENSITIVE_RDTSCP, sensitive
from cython.cimports.barevisor.cpu.bt.tsc import tsc_as_host
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.posix.mman import (
    MAP_FAILED,
    MAP_FIXED,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from barevisor.cpu.bt import userprocess

SYS_MMAP: u64 = cython.declare(u64, 9)
SYS_MUNMAP: u64 = cython.declare(u64, 11)
END: u64 = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
MAP_POPULATE: u64 = cython.declare(u64, 0x8000)
PAGE: u64 = cython.declare(u64, 4096)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)
LARGE: u64 = cython.declare(u64, 0x200000)
LARGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFE00000)
USER_END: u64 = cython.declare(u64, 0x7FFFFFFFF000)
"""TASK_SIZE of Linux with 4-level paging (arch/x86/include/asm/page_64_types.h, 6.1)."""
AROUND: u64 = cython.declare(u64, 32)
"""Pages that one fault may map: a power of two."""
STUB_SPAN: u64 = cython.declare(u64, userprocess.SPAN)
STUB_TABLE: u64 = cython.declare(u64, userprocess.TABLE)
STUB_SERVICE: u64 = cython.declare(u64, userprocess.SERVICE)
RAM_FD: u64 = cython.declare(u64, userprocess.RAM_FD)

# ---- which one ---------------------------------------------------------------------------


def mirror_find(cpu):
    """See mirror.pxd. One that another thread traces is of no use here."""
    n: cython.uint
    m: cython.pointer(Mirror)
    key: u64 = space_key(cpu.cr3)
    if cpu.mirrors == cython.NULL:
        return cython.NULL
    for n in range(MIRRORS):
        m = cython.address(cpu.mirrors[n])
        if m.pid and m.key == key and m.thread == cpu.thread:
            if m.traps_tsc == tsc_as_host(cpu):
                mirror_close(m)
                return cython.NULL
            cpu.mirror_clock += 1
            m.used = cpu.mirror_clock
            return m
    return cython.NULL


def mirror_place(cpu):
    """See mirror.pxd."""
    n: cython.uint
    oldest: cython.pointer(Mirror)
    m: cython.pointer(Mirror)
    if cpu.mirrors == cython.NULL:
        cpu.mirrors = cython.cast(cython.pointer(Mirror), calloc(MIRRORS, cython.sizeof(Mirror)))
        if cpu.mirrors == cython.NULL:
            raise MemoryError
    oldest = cpu.mirrors
    for n in range(MIRRORS):
        m = cython.address(cpu.mirrors[n])
        if m.pid and (m.thread != cpu.thread or m.key == space_key(cpu.cr3)):
            mirror_close(m)
        if m.used < oldest.used:
            oldest = m
    mirror_close(oldest)
    return oldest


def mirror_adopt(cpu, m, ram):
    """See mirror.pxd. It stops behind the last instruction of its start (userprocess.py)."""
    status: cython.int = 0
    table: cython.int = os.memfd_create("barevisor-calls", os.MFD_CLOEXEC)
    try:
        os.ftruncate(table, OPS_BYTES)
        ops: cython.p_void = mmap(
            cython.NULL, OPS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, table, 0
        )
        if ops == MAP_FAILED:
            return -1
        m.ops = cython.cast(cython.pointer(u64), ops)
        m.traps_tsc = not tsc_as_host(cpu)
        m.pid, m.stub = userprocess.spawn(ram, table, traps_tsc=m.traps_tsc)
    finally:
        os.close(table)
    options: cython.size_t = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD
    m.thread = cpu.thread
    m.host_cpu = -1
    m.key = space_key(cpu.cr3)
    cpu.mirror_clock += 1
    m.used = cpu.mirror_clock
    m.pages = cython.cast(
        cython.pointer(MirrorPage), calloc(MIRROR_PLACES, cython.sizeof(MirrorPage))
    )
    m.xstate = cython.cast(cython.pointer(u8), calloc(2, XSTATE_ROOM))
    if m.pages == cython.NULL or m.xstate == cython.NULL:
        return -1
    if waitpid(m.pid, cython.address(status), __WALL) != m.pid:
        return -1
    if not WIFSTOPPED(status) or WSTOPSIG(status) != SIGTRAP:
        return -1
    if ptrace(PTRACE_SETOPTIONS, m.pid, cython.NULL, cython.cast(cython.p_void, options)):
        return -1
    if ptrace(PTRACE_GETREGS, m.pid, cython.NULL, cython.address(m.regs)) or m.regs.rax:
        return -1
    m.traps_cpuid = m.regs.rbx == 0
    return _drop_all(m)


def mirror_close(m):
    """See mirror.pxd. Idempotent."""
    status: cython.int = 0
    if m.pid:
        kill(m.pid, SIGKILL)
        waitpid(m.pid, cython.address(status), __WALL)
    if m.ops != cython.NULL:
        munmap(m.ops, OPS_BYTES)
    free(m.pages)
    free(m.xstate)
    memset(m, 0, cython.sizeof(Mirror))


def mirrors_free(cpu):
    """See mirror.pxd."""
    n: cython.uint
    if cpu.mirrors == cython.NULL:
        return
    for n in range(MIRRORS):
        mirror_close(cython.address(cpu.mirrors[n]))
    free(cpu.mirrors)
    cpu.mirrors = cython.NULL


# ---- calls that the process makes --------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _op(m: cython.pointer(Mirror), number: u64) -> cython.pointer(u64):
    """Room for one more call; MAX_OPS bounds what one refresh or fault adds between _serve's."""
    op: cython.pointer(u64) = m.ops + m.nops * OP_WORDS
    m.nops += 1
    op[0] = number
    return op


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _unmap(m: cython.pointer(Mirror), va: u64, size: u64) -> cython.void:
    op: cython.pointer(u64) = cython.NULL
    if m.nops:
        op = m.ops + (m.nops - 1) * OP_WORDS
        if op[0] == SYS_MUNMAP and op[1] + op[2] == va:
            op[2] += size
            return
    op = _op(m, SYS_MUNMAP)
    op[1] = va
    op[2] = size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _map(m: cython.pointer(Mirror), va: u64, size: u64, rights: u32, offset: u64) -> cython.void:
    op: cython.pointer(u64) = cython.NULL
    wanted: u64 = PROT_READ
    if rights & PG_WRITE:
        wanted |= PROT_WRITE
    if rights & PG_EXEC:
        wanted |= PROT_EXEC
    if m.nops:
        op = m.ops + (m.nops - 1) * OP_WORDS
        if (
            op[0] == SYS_MMAP
            and op[1] + op[2] == va
            and op[3] == wanted
            and op[6] + op[2] == offset
        ):
            op[2] += size
            return
    op = _op(m, SYS_MMAP)
    op[1] = va
    op[2] = size
    op[3] = wanted
    op[4] = cython.cast(u64, MAP_SHARED | MAP_FIXED) | MAP_POPULATE
    op[5] = RAM_FD
    op[6] = offset


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _serve(m: cython.pointer(Mirror)) -> cython.int:
    """Have the calls made, with registers that are not the guest's. 0, or -1: one was refused, or
    the process is gone."""
    regs: user_regs_struct
    status: cython.int = 0
    number: cython.int
    if m.nops == 0:
        return 0
    m.ops[m.nops * OP_WORDS] = END
    m.nops = 0
    regs = m.regs
    regs.rip = m.stub + STUB_SERVICE
    regs.rbx = m.stub + STUB_TABLE
    regs.orig_rax = END
    if ptrace(PTRACE_SETREGS, m.pid, cython.NULL, cython.address(regs)):
        return -1
    while True:
        if ptrace(PTRACE_CONT, m.pid, cython.NULL, cython.NULL):
            return -1
        if waitpid(m.pid, cython.address(status), __WALL) != m.pid or not WIFSTOPPED(status):
            return -1
        number = WSTOPSIG(status)
        if number == SIGTRAP:
            break
        if number == SIGSEGV or number == SIGBUS or number == SIGSYS:
            return -1
    # Another signal only means that the guest is to stop, which it is asked before it goes on.
    if ptrace(PTRACE_GETREGS, m.pid, cython.NULL, cython.address(regs)):
        return -1
    return 0 if regs.rax == 0 else -1


# ---- pages -------------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _enter(m: cython.pointer(Mirror), va: u64) -> cython.pointer(MirrorPage):
    """The entry of a page, made if there is none. There is room."""
    at: u32 = mirror_place_of(va)
    while m.pages[at].va and m.pages[at].va != va | 1:
        at = (at + 1) & (MIRROR_PLACES - 1)
    if not m.pages[at].va:
        m.pages[at].va = va | 1
        m.count += 1
    return cython.address(m.pages[at])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _drop_all(m: cython.pointer(Mirror)) -> cython.int:
    """Nothing is mapped any more. 0 or -1."""
    memset(m.pages, 0, MIRROR_PLACES * cython.sizeof(MirrorPage))
    m.count = m.stale = m.listed = m.nops = 0
    memset(m.breaks, 0, cython.sizeof(m.breaks))
    m.breaks_changed = 1
    _unmap(m, 0, m.stub)
    _unmap(m, m.stub + STUB_SPAN, USER_END - STUB_SPAN - m.stub)
    return _serve(m)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _mark(cpu: cython.pointer(Cpu), slot: cython.pointer(Slot), page: u64) -> cython.void:
    """Who watches the page, or stores to it while it is watched, will tell this CPU."""
    __sync_fetch_and_or_1(
        cython.address(slot.mirrored[page]), cython.cast(u8, 1) << (cpu.index & 7)
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _may_store(
    cpu: cython.pointer(Cpu), slot: cython.pointer(Slot), page: u64, count: u64
) -> cython.bint:
    """May the process store to these pages? As tlb.py: note it, then look again (codepages.py)."""
    i: u64
    if slot.readonly:
        return False
    for i in range(page, page + count):
        _mark(cpu, slot, i)
    fence(SEQ_CST)
    for i in range(page, page + count):
        if slot.code_pages[i]:
            return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _may_run(
    cpu: cython.pointer(Cpu), m: cython.pointer(Mirror), slot: cython.pointer(Slot), page: u64,
    va: u64,
) -> cython.bint:  # fmt: skip
    """May the process run the code of this page at `va`? From now on stores to it are seen, and
    sensitive instructions stop it, if there are not too many."""
    vm: cython.pointer(Vm) = cpu.vm
    found: i16[4]
    count: u32
    before: u64 = _host_of(cpu, va - PAGE)
    behind: u64 = _host_of(cpu, va + PAGE)
    vm_lock(vm, cpu)
    watch_code_page(cpu, slot, page)
    _mark(cpu, slot, page)
    count = sensitive(
        cython.cast(cython.pointer(u8), slot.host + page * PAGE),
        cython.cast(cython.pointer(u8), before),
        cython.cast(cython.pointer(u8), behind),
        vm.sensitive_also
        | (0 if m.traps_cpuid else SENSITIVE_CPUID)
        | (0 if m.traps_tsc else SENSITIVE_RDTSCP),
        found,
    )
    vm_unlock(vm)
    return count == 0 or _break_at(m, va, found, count)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _break_at(
    m: cython.pointer(Mirror), va: u64, found: cython.pointer(i16), count: u32
) -> cython.bint:
    """Have the process stop before these instructions of the page, unless too many do already."""
    i: u32
    room: u32 = 0
    _forget_breaks(m, va)
    for i in range(MIRROR_BREAKS):
        room += m.breaks[i] == 0
    if room < count:
        return False
    for i in range(MIRROR_BREAKS):
        if m.breaks[i] == 0 and count:
            count -= 1
            m.breaks[i] = va + cython.cast(u64, cython.cast(i64, found[count]))
            m.breaks_changed = 1
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _forget_breaks(m: cython.pointer(Mirror), va: u64) -> cython.void:
    """Of the page at `va`."""
    i: u32
    for i in range(MIRROR_BREAKS):
        if m.breaks[i] and m.breaks[i] & PAGE_MASK == va:
            m.breaks[i] = 0
            m.breaks_changed = 1


def mirror_set_breaks(m):
    """See mirror.pxd. SDM, "Debug Control Register (DR7)": each enabled for execution, or not."""
    i: u64
    enabled: u64 = 0
    if not m.breaks_changed:
        return 0
    m.breaks_changed = 0
    if _poke_debug(m, 7, 0):
        return -1
    for i in range(MIRROR_BREAKS):
        if m.breaks[i]:
            enabled |= cython.cast(u64, 1) << 2 * i
            if _poke_debug(m, i, m.breaks[i]):
                return -1
    return _poke_debug(m, 7, enabled)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _poke_debug(m: cython.pointer(Mirror), number: u64, value: u64) -> cython.int:
    at: u64 = DEBUG_REGISTERS + 8 * number
    done: cython.long = ptrace(
        PTRACE_POKEUSER, m.pid, cython.cast(cython.p_void, at), cython.cast(cython.p_void, value)
    )
    return 0 if done == 0 else -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _host_of(cpu: cython.pointer(Cpu), va: u64) -> u64:
    """Where a user page lies in this process, 0 if it is not to be had without a fault."""
    leaf: Leaf
    slot: cython.pointer(Slot)
    gpa: u64
    if va >= USER_END or peek_user(cpu, va, cython.address(leaf)):
        return 0
    gpa = leaf.gpa | (va & (LARGE - PAGE) if leaf.large else 0)
    slot = find_slot(cpu.vm, gpa)
    return 0 if slot == cython.NULL else cython.cast(u64, host_at(slot, gpa))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _map_page(
    cpu: cython.pointer(Cpu), m: cython.pointer(Mirror), va: u64, leaf: cython.pointer(Leaf),
    access: u32,
) -> cython.int:  # fmt: skip
    """Map 4 KiB, or all of a large page of data. 1: not for this access (no RAM, code that must not
    run directly, a store to code)."""
    page: cython.pointer(MirrorPage)
    rights: u32 = leaf.rights & PG_WRITE
    size: u64 = PAGE
    gpa: u64 = leaf.gpa
    slot: cython.pointer(Slot) = find_slot(cpu.vm, gpa)
    if slot == cython.NULL or not slot.has_file:
        return 1
    if (
        leaf.large
        and not leaf.rights & PG_EXEC
        and gpa - slot.gpa + LARGE <= slot.size
        and (va & LARGE_MASK) - m.stub + LARGE >= LARGE + STUB_SPAN
    ):
        if not rights or _may_store(cpu, slot, (gpa - slot.gpa) >> 12, LARGE >> 12):
            size = LARGE
            va &= LARGE_MASK
    if leaf.large and size == PAGE:
        gpa |= va & (LARGE - PAGE)
        if gpa - slot.gpa >= slot.size:
            return 1
    if access == ACCESS_EXEC:
        if not leaf.rights & PG_EXEC or not _may_run(cpu, m, slot, (gpa - slot.gpa) >> 12, va):
            return 1
        rights = PG_EXEC
    elif rights and size == PAGE and not _may_store(cpu, slot, (gpa - slot.gpa) >> 12, 1):
        rights = 0
    if access == ACCESS_WRITE and not rights & PG_WRITE:
        return 1
    page = _enter(m, va)
    gpa |= rights | PG_MAPPED | (PG_LARGE if size == LARGE else 0)
    page.gpa = gpa
    _map(m, va, size, rights, slot.file_offset + ((gpa & PAGE_MASK) - slot.gpa))
    cpu.direct_maps += size >> 12
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _holds(cpu: cython.pointer(Cpu), page: cython.pointer(MirrorPage)) -> cython.bint:
    """Do the guest's page tables, and the watch over code, still allow this mapping?"""
    leaf: Leaf
    gpa: u64 = page.gpa & PAGE_MASK
    slot: cython.pointer(Slot) = find_slot(cpu.vm, gpa)
    number: u64
    if slot == cython.NULL or peek_user(cpu, page.va & PAGE_MASK, cython.address(leaf)):
        return False
    if page.gpa & PG_LARGE:
        if not leaf.large or leaf.gpa != gpa:
            return False
    elif (leaf.gpa | (page.va & (LARGE - PAGE) if leaf.large else 0)) != gpa:
        return False
    number = (gpa - slot.gpa) >> 12
    if page.gpa & PG_EXEC:
        return leaf.rights & PG_EXEC and slot.code_pages[number]
    if page.gpa & PG_WRITE:
        return leaf.rights & PG_WRITE and _may_store(
            cpu, slot, number, 512 if page.gpa & PG_LARGE else 1
        )
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _unmap_page(m: cython.pointer(Mirror), page: cython.pointer(MirrorPage)) -> cython.void:
    """The entry stays, for the page's next mapping."""
    if page.gpa & PG_MAPPED:
        _unmap(m, page.va & PAGE_MASK, LARGE if page.gpa & PG_LARGE else PAGE)
    if page.gpa & PG_EXEC:
        _forget_breaks(m, page.va & PAGE_MASK)
    page.gpa = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _take_revoked(cpu: cython.pointer(Cpu)) -> cython.void:
    """Forget what others revoked (codepages.py), in all mirrors of this CPU."""
    n: cython.uint
    i: u32
    k: u32
    count: u32
    revoked: u64[32]
    m: cython.pointer(Mirror)
    gpa: u64
    vm_lock(cpu.vm, cpu)
    count = cpu.nrevoked
    for k in range(min(count, REVOKED)):
        revoked[k] = cpu.revoked[k]
    cpu.nrevoked = 0
    vm_unlock(cpu.vm)
    for n in range(MIRRORS):
        m = cython.address(cpu.mirrors[n])
        if not m.pid:
            continue
        for i in range(MIRROR_PLACES):
            if not m.pages[i].gpa & (PG_WRITE | PG_EXEC):
                continue
            gpa = m.pages[i].gpa & PAGE_MASK
            for k in range(min(count, REVOKED)):
                if count > REVOKED or (
                    revoked[k] & m.pages[i].gpa & (PG_WRITE | PG_EXEC)
                    and (revoked[k] & PAGE_MASK) - gpa
                    < (LARGE if m.pages[i].gpa & PG_LARGE else PAGE)
                ):
                    m.pages[i].gpa |= PG_REVOKED
                    m.stale = 1
                    break


def mirror_refresh(cpu, m):
    """See mirror.pxd."""
    i: u32
    page: cython.pointer(MirrorPage)
    if cpu.nrevoked:
        _take_revoked(cpu)
    if m.count > MIRROR_FULL and _drop_all(m):
        return -1
    if m.stale or m.listed > MIRROR_LISTED:
        for i in range(MIRROR_PLACES):
            page = cython.address(m.pages[i])
            if page.gpa and (page.gpa & PG_REVOKED or not _holds(cpu, page)):
                _unmap_page(m, page)
                if m.nops == MAX_OPS and _serve(m):
                    return -1
    else:
        for i in range(m.listed):
            page = mirror_page(m, m.list[i])
            if page != cython.NULL and page.gpa and not _holds(cpu, page):
                _unmap_page(m, page)
    m.stale = 0
    m.listed = 0
    return -1 if _foresee(cpu, m) else _serve(m)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _foresee(cpu: cython.pointer(Cpu), m: cython.pointer(Mirror)) -> cython.int:
    """The page that the kernel was asked for last (CR2), and has brought: it is needed next."""
    leaf: Leaf
    page: cython.pointer(MirrorPage)
    access: u32 = ACCESS_READ
    va: u64 = cpu.cr2 & PAGE_MASK
    if va >= USER_END or va - m.stub < STUB_SPAN or peek_user(cpu, va, cython.address(leaf)):
        return 0
    page = mirror_page(m, va)
    if page == cython.NULL and leaf.large:
        page = mirror_page(m, va & LARGE_MASK)
    if page != cython.NULL and page.gpa & PG_MAPPED:
        if page.gpa & (PG_WRITE | PG_EXEC) or not leaf.rights & PG_WRITE:
            return 0
        access = ACCESS_WRITE
    elif va == cpu.rip & PAGE_MASK:
        access = ACCESS_EXEC
    if m.count + AROUND > MIRROR_FULL and _drop_all(m):
        return -1
    _map_around(cpu, m, va, cython.address(leaf), access)
    return 0


def mirror_fault(cpu, m, va, rip):
    """See mirror.pxd. A fault where the page is mapped already is a store's. Others are a load's or
    a store's, and what is dirty is mapped for both. Pages around it are mapped as well, where that
    needs no walk that sets bits."""
    leaf: Leaf
    page: cython.pointer(MirrorPage) = mirror_page(m, va & PAGE_MASK)
    execute: cython.bint = (va & PAGE_MASK) == (rip & PAGE_MASK) or va - rip < 15
    access: u32 = ACCESS_EXEC if execute else ACCESS_READ
    va &= PAGE_MASK
    if va >= USER_END or va - m.stub < STUB_SPAN:
        return 1
    if execute and page != cython.NULL and page.gpa & PG_EXEC:
        execute = False  # it runs code there already
        access = ACCESS_WRITE
    elif not execute and page != cython.NULL and page.gpa & PG_MAPPED:
        access = ACCESS_WRITE
    if _look_up(cpu, va, access, cython.address(leaf)):
        return 1
    if m.count + AROUND > MIRROR_FULL and _drop_all(m):
        return -1
    if _map_around(cpu, m, va, cython.address(leaf), access):
        return 1
    return _serve(m)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _map_around(
    cpu: cython.pointer(Cpu), m: cython.pointer(Mirror), va: u64, leaf: cython.pointer(Leaf),
    access: u32,
) -> cython.int:  # fmt: skip
    """Map the page at `va` for `access`, and those around it that are not mapped yet and may be. 1:
    not even that one."""
    first: u64 = va & ~(AROUND * PAGE - 1)
    at: u64
    page: cython.pointer(MirrorPage)
    if _map_page(cpu, m, va, leaf, access):
        return 1
    if access != ACCESS_EXEC:
        access = ACCESS_READ
    for at in range(first, first + AROUND * PAGE, 4096):
        if at == va or at - m.stub < STUB_SPAN or peek_user(cpu, at, leaf):
            continue
        if leaf.large:
            break
        page = mirror_page(m, at)
        if page != cython.NULL and page.gpa & PG_MAPPED:
            continue
        if access == ACCESS_EXEC and not leaf.rights & PG_EXEC:
            continue
        _map_page(cpu, m, at, leaf, access)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _look_up(
    cpu: cython.pointer(Cpu), va: u64, access: u32, out: cython.pointer(Leaf)
) -> cython.int:
    """peek_user, once the bits are set that this access sets. -1: it faults."""
    walk: Walk
    if peek_user(cpu, va, out) == 0 and (access != ACCESS_WRITE or out.rights & PG_WRITE):
        return 0
    if page_walk(cpu, va, access, MMU_USER, cython.address(walk)):
        cpu.fault_vector = 0
        return -1
    return peek_user(cpu, va, out)
