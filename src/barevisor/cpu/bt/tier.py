"""The second tier: blocks that run often are translated, and run from then on as host code.

Each interpreted block starts with an Op that counts (count_run). At the end of the count the
dispatcher translates the block; from then on the same Op enters the translation. A translation
calls `_called` when it can't go on: an access that the page table does not have, an instruction
for the interpreter, a branch that is not linked yet. What is decided here is where it goes on.
"""

import os

import cython
from cython.cimports.barevisor.cpu.bt.access import next_op
from cython.cimports.barevisor.cpu.bt.blocks import drop_code, find_or_build, lookup_block
from cython.cimports.barevisor.cpu.bt.codemem import CodeMemory
from cython.cimports.barevisor.cpu.bt.codepages import find_slot, may_write
from cython.cimports.barevisor.cpu.bt.decode import facts
from cython.cimports.barevisor.cpu.bt.evict import evict_forward
from cython.cimports.barevisor.cpu.bt.faults import (
    faults_forget,
    faults_install,
    faults_watch,
    timer_arm,
)
from cython.cimports.barevisor.cpu.bt.paging import ACCESS_WRITE, translate
from cython.cimports.barevisor.cpu.bt.registers import canonical
from cython.cimports.barevisor.cpu.bt.safepoint import (
    resume_others,
    stop_others,
    vm_lock,
    vm_unlock,
    wait_quiet,
)
from cython.cimports.barevisor.cpu.bt.space import *
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.stubs import stubs_write
from cython.cimports.barevisor.cpu.bt.tlb import fetch, prime_read, prime_write
from cython.cimports.barevisor.cpu.bt.trace import *
from cython.cimports.barevisor.cpu.bt.translate import translate_block
from cython.cimports.libc.stdlib import free
from cython.cimports.posix.mman import (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from barevisor.cpu.bt.rowfacts import mnemonic_names
from barevisor.errors import EngineError

DIRECT_REACH: u64 = cython.declare(u64, 0x80002000)  # of a 32-bit displacement, from its page
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)
MAX_SITES = cython.declare(cython.size_t, 4 << 20)

# ---- making it ---------------------------------------------------------------------------


@cython.cfunc
def _reserve(size: cython.size_t) -> cython.p_void:
    at: cython.p_void = mmap(
        cython.NULL, size, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
    )  # fmt: skip
    if at == MAP_FAILED:
        raise EngineError("no address space for the translator", "BAREVISOR_BT=interpret")
    return at


@cython.cclass
class TranslatorOwner:
    """Owns a VM's Translator and its code memory."""

    def __cinit__(self, code_bytes: int, after: int, lockstep: bool = False):
        self.after = after
        self.template_fd = -1
        self.code = CodeMemory(code_bytes)
        self.tr = cython.cast(cython.pointer(Translator), _reserve(cython.sizeof(Translator)))
        self.tr.sites = cython.cast(cython.pointer(Site), _reserve(MAX_SITES * cython.sizeof(Site)))
        self.tr.index = cython.cast(
            cython.pointer(cython.pointer(Block)),
            _reserve(MAX_TRACES * cython.sizeof(cython.p_void)),
        )
        self.tr.limit = MAX_SITES
        self.tr.sites[0].kind = SITE_MISS
        self.tr.sites[0].register = R_NONE
        self.tr.count = 1
        self.tr.lockstep = lockstep
        self.tr.mem = cython.address(self.code.mem)
        faults_install()
        faults_watch(self.tr)
        self.tr.cold = self.tr.cold_start = code_bytes * 3 // 8
        if stubs_write(self.tr, cython.cast(cython.p_void, _called)):
            raise EngineError("code memory is too small for the translator's stubs")
        self.template_fd = space_template(self.tr.miss)

    def __dealloc__(self):
        if self.tr == cython.NULL:
            return
        faults_forget(self.tr)
        if self.tr.sites != cython.NULL:
            munmap(self.tr.sites, MAX_SITES * cython.sizeof(Site))
        if self.tr.index != cython.NULL:
            munmap(self.tr.index, MAX_TRACES * cython.sizeof(cython.p_void))
        if self.template_fd >= 0:
            os.close(self.template_fd)
        free(self.tr.comparison)
        munmap(self.tr, cython.sizeof(Translator))

    def stats(self):
        """What was translated since the start."""
        tr: cython.pointer(Translator) = self.tr
        return {
            "traces": tr.traces, "guest_bytes": tr.guest_bytes, "host_bytes": tr.host_bytes,
            "drops": tr.drops, "ticks": tr.ticks, "sites": tr.count,
            "code_bytes": tr.mem.used + tr.cold - tr.cold_start,
            "memory": tr.calls[SITE_MEMORY], "interpreted": tr.calls[SITE_STEP],
            "exits": tr.calls[SITE_EXIT], "leaves": tr.calls[SITE_LEAVE],
            "branches": tr.calls[SITE_MISS] + tr.calls[SITE_CROSS] + tr.calls[SITE_PAGE],
            "compared": tr.compared,
        }  # fmt: skip

    def steps(self):
        """How often translations left an instruction to the interpreter, by mnemonic."""
        names: list = mnemonic_names()
        found: dict = {}
        for row in range(2048):
            if self.tr.steps[row]:
                name = names[facts(row).mnemonic]
                found[name] = found.get(name, 0) + self.tr.steps[row]
        return found


# ---- entering ----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count_run(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """The first Op of a block: count down, then have it translated."""
    op.imm -= 1
    if cython.cast(i64, op.imm) > 0:
        return next_op(cpu, op)
    op.imm = RUNS_AGAIN
    if cpu.spaces == cython.NULL:
        return next_op(cpu, op)
    cpu.hot = op.block
    cpu.rip = cpu.regs[REG_RIP]
    cpu.icount -= op.block.count
    return ST_NEXT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_trace(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """The first Op of a translated block."""
    trace: cython.pointer(Block) = op.block.trace
    tr: cython.pointer(Translator)
    if trace == cython.NULL or not trace.valid:
        op.block.trace = cython.NULL
        op.handler = count_run
        op.imm = RUNS_AGAIN
        return next_op(cpu, op)
    if cpu.tlb == cpu.tlb_blank or (cpu.budget | cpu.urgent) < 0:  # alignment checks: see mode.py
        return next_op(cpu, op)
    tr = cython.cast(cython.pointer(Translator), cpu.vm.translator)
    cpu.icount -= op.block.count
    if tr.lockstep:
        return cython.cast(run_t, tr.compare)(cpu, op.block)
    return enter_trace(cpu, trace)


def enter_trace(cpu, trace):
    """See tier.pxd."""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), cpu.vm.translator)
    cpu.page_va = cpu.regs[REG_RIP] & PAGE_MASK
    _select(cpu, tr, cpu.gs_loaded == 0)
    if cpu.timer_deadline != cpu.armed_deadline or cpu.timer_thread != cpu.thread:
        timer_arm(cpu)
    return cython.cast(enter_t, tr.enter)(_go_to(cpu, trace.entry + TRACE_INNER))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _select(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), always: cython.bint
) -> cython.void:
    """GS points to the window of the present address space and privilege."""
    if space_select(cpu) or always:
        cpu.gs_loaded = 1
        cython.cast(load_gs_t, tr.load_gs)(cython.cast(u64, cpu.space.table))


def tier_translate(cpu):
    """See tier.pxd."""
    head: cython.pointer(Block) = cpu.hot
    vm: cython.pointer(Vm) = cpu.vm
    flushes: u32 = vm.flushes
    status: cython.int = 0
    cpu.hot = cython.NULL
    if head == cython.NULL or not head.valid or head.trace != cython.NULL:
        return
    vm_lock(vm, cpu)
    if head.valid and head.trace == cython.NULL:
        status = translate_block(cpu, head)
    if head.trace != cython.NULL:
        head.ops[0].handler = run_trace
    vm_unlock(vm)
    if status:
        stop_others(vm, cpu)
        if vm.flushes == flushes:
            drop_code(vm)
        resume_others(vm, cpu)


# ---- what a site calls -------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _called(cpu: cython.pointer(Cpu)) -> u64:
    """The host address where translated code goes on, or 0: leave with cpu.status."""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), cpu.vm.translator)
    site: cython.pointer(Site) = cython.address(tr.sites[cpu.site])
    cpu.status = ST_NEXT
    tr.calls[site.kind] += 1
    if site.kind == SITE_MEMORY:
        return _memory(cpu, tr, site)
    if site.kind == SITE_STEP:
        return _interpret(cpu, tr, site)
    if site.kind == SITE_EXIT and not tr.lockstep:
        return _link(cpu, tr, site)
    if site.kind == SITE_BRANCH or site.kind == SITE_CROSS:
        return _branch(cpu, tr, site)
    if site.kind == SITE_MISS:
        return _branch(cpu, tr, cython.address(tr.sites[cpu.branch]))
    if site.kind == SITE_PAGE:
        return _other_page(cpu, tr, site)
    cpu.rip = cpu.page_va + site.target
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _go_on(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), trace: cython.pointer(Block),
    offset: u32, flags: u32,
) -> u64:  # fmt: skip
    cpu.resume_vec = trace.flags & TRACE_VEC
    cpu.resume_flags = flags & SITE_FLAGS
    return cython.cast(u64, tr.mem.run) + offset


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _go_to(cpu: cython.pointer(Cpu), way_in: u64) -> u64:
    """Go on at a translation's start, which loads what it needs."""
    cpu.resume_vec = 0
    cpu.resume_flags = 0
    return way_in


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _site_address(cpu: cython.pointer(Cpu), site: cython.pointer(Site)) -> u64:
    """The linear address that a site's access is about."""
    if site.register != R_NONE:
        return cpu.regs[site.register] + site.disp
    return cpu.target if site.flags & SITE_SAVED else cpu.missed_va


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _memory(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), site: cython.pointer(Site)
) -> u64:
    """Enter the page of an access into the table, or let the interpreter have the instruction."""
    va: u64 = _site_address(cpu, site)
    entry: cython.pointer(TlbEntry) = cython.address(cpu.tlb[(va >> 12) & (TLB_SIZE - 1)])
    page: u64 = va & PAGE_MASK
    write: u32 = site.flags & SITE_WRITE
    if (va & 0xFFF) + site.size > 4096:
        return _interpret(cpu, tr, site)
    if write and tr.lockstep:
        return _memory_in_lockstep(cpu, tr, site, va)
    if (entry.wtag if write else entry.rtag) != page:
        if write:
            if prime_write(cpu, va, site.size, cpu.mmu_idx):
                return _interpret(cpu, tr, site)
        elif prime_read(cpu, va, cpu.mmu_idx):
            return _interpret(cpu, tr, site)
        if (entry.wtag if write else entry.rtag) != page:
            return _interpret(cpu, tr, site)
    if not write:
        space_fill(cpu.space, va, entry.host, 0, cython.cast(u32, entry.gpa & TLB_GLOBAL))
    elif not _fill_store(cpu, va, entry):
        return _interpret(cpu, tr, site)
    if not site.trace.valid:
        cpu.rip = cpu.page_va + site.offset
        return 0
    cpu.missed_va = va
    return _go_on(cpu, tr, site.trace, site.retry, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _memory_in_lockstep(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), site: cython.pointer(Site), va: u64
) -> u64:
    """A store's entry where the TLB has none for stores, because the interpreter's are noted."""
    gpa: u64 = 0
    slot: cython.pointer(Slot) = cython.NULL
    if translate(cpu, va, ACCESS_WRITE, cpu.mmu_idx, cython.address(gpa)) == 0:
        slot = find_slot(cpu.vm, gpa)
    if slot == cython.NULL or slot.readonly or slot.code_pages[(gpa - slot.gpa) >> 12]:
        return _interpret(cpu, tr, site)
    # Not shared: gone at the next load of CR3, whether or not it is a global page.
    space_fill(cpu.space, va, slot.host + ((gpa - slot.gpa) & PAGE_MASK), cpu.vm.write_shift, 0)
    may_write(cpu, slot, (gpa - slot.gpa) >> 12)
    slot.stores[2 * ((gpa - slot.gpa) >> 12)] = va & PAGE_MASK
    cpu.missed_va = va
    return _go_on(cpu, tr, site.trace, site.retry, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _fill_store(cpu: cython.pointer(Cpu), va: u64, entry: cython.pointer(TlbEntry)) -> cython.bint:
    """Let translated code store to a page, unless it has become a code page. The two linear
    addresses that it does so through are kept: codepages.py takes the right back by them."""
    vm: cython.pointer(Vm) = cpu.vm
    i: u32
    page: u64 = va & PAGE_MASK
    slot: cython.pointer(Slot) = find_slot(vm, entry.gpa & PAGE_MASK)
    number: u64 = ((entry.gpa & PAGE_MASK) - slot.gpa) >> 12
    pair: cython.pointer(u64) = slot.stores + 2 * number
    mask: u64 = 0
    allowed: cython.bint
    vm_lock(vm, cpu)
    allowed = not slot.code_pages[number] and entry.wtag == page
    if allowed:
        if pair[0] != page and pair[1] != page:
            for i in range(vm.ncpus if pair[1] else 0):
                if vm.cpus[i] != cython.NULL and space_protect(vm.cpus[i], pair[1]):
                    mask |= cython.cast(u64, 1) << i
            mask &= ~(cython.cast(u64, 1) << cpu.index)
            if mask:
                # A store by that address may be under way, and who makes this a code page would
                # not find the address any more.
                wait_quiet(cpu, mask)
            pair[1] = pair[0]
            pair[0] = page
        space_fill(
            cpu.space, va, entry.host, vm.write_shift, cython.cast(u32, entry.gpa & TLB_GLOBAL)
        )
    vm_unlock(vm)
    return allowed


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _interpret(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), site: cython.pointer(Site)
) -> u64:
    """One instruction; then on behind it, if nothing came up."""
    block: cython.pointer(Block) = cython.NULL
    trace: cython.pointer(Block) = site.trace
    rip: u64 = cpu.page_va + site.offset
    next_rip: u64 = rip + site.length
    flushes: u32 = cpu.vm.flushes
    mode: u32 = cpu.mode
    cpl: u32 = cpu.cpl
    flags: u32 = site.flags
    next_at: u32 = site.next
    status: cython.int
    cpu.rip = rip
    block = site.step
    status = 0
    if block == cython.NULL or not block.valid or block.mode != (mode | MODE_ONE):
        status = find_or_build(cpu, mode | MODE_ONE, cython.address(block))
        if status == 0 and not block.crosses and cpu.vm.flushes == flushes:
            site.step = block
    if status == 0:
        cpu.budget = 0
        cpu.regs[REG_RIP] = rip
        cpu.icount += block.count
        tr.steps[block.ops[0].row] += 1
        status = block.ops[0].handler(cpu, block.ops)
    cpu.status = status
    if status != ST_NEXT or cpu.exit_reason:
        return 0
    if flags & SITE_DISPATCH:
        tr.early = tr.lockstep
        return 0 if tr.lockstep else _onward(cpu, tr)
    if cpu.rip != next_rip or cpu.mode != mode or cpu.cpl != cpl or cpu.vm.flushes != flushes:
        return 0
    tr.early = 1
    if not _may_go_on(cpu) or not trace.valid:
        return 0
    tr.early = 0
    _select(cpu, tr, False)
    return _go_on(cpu, tr, trace, next_at, flags)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _may_go_on(cpu: cython.pointer(Cpu)) -> cython.bint:
    """May translated code run, or is something else to be done first?"""
    if cpu.timer_deadline != cpu.armed_deadline:
        timer_arm(cpu)
    if cpu.budget < 0 or cpu.tlb == cpu.tlb_blank or cpu.direct:
        return False
    return not interrupted(cpu)


def interrupted(cpu):
    """See tier.pxd."""
    if cpu.urgent < 0 or must_step(cpu) or cpu.attention & ~ATT_INTERRUPT:
        return True
    return cpu.attention and cpu.sysflags & FLAG_IF


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _onward(cpu: cython.pointer(Cpu), tr: cython.pointer(Translator)) -> u64:
    """Behind a system instruction: on in the translation at cpu.rip, if there is one and nothing
    else is to be done first; else 0."""
    trace: cython.pointer(Block)
    if not _may_go_on(cpu):
        return 0
    trace = _trace_at(cpu, cpu.rip)
    if trace == cython.NULL:
        return 0
    cpu.page_va = cpu.rip & PAGE_MASK
    _select(cpu, tr, False)
    return _go_to(cpu, trace.entry + TRACE_INNER)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _trace_at(cpu: cython.pointer(Cpu), va: u64) -> cython.pointer(Block):
    """The translation for `va`, or NULL (also when the fetch would fault). cpu.rip is `va`."""
    host: u64 = 0
    gpa: u64 = 0
    block: cython.pointer(Block)
    cpu.rip = va
    if cpu.urgent or fetch(cpu, va, cython.address(host), cython.address(gpa)):
        cpu.exit_reason = EXIT_NONE
        return cython.NULL
    block = lookup_block(cpu.vm, host, cpu.mode)
    if block == cython.NULL or block.trace == cython.NULL or not block.trace.valid:
        return cython.NULL
    return block.trace


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _link(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), site: cython.pointer(Site)
) -> u64:
    """A branch within the page: from now on it goes to its target directly."""
    trace: cython.pointer(Block) = _trace_at(cpu, cpu.page_va + site.target)
    entry: u64
    if trace == cython.NULL:
        return 0
    entry = trace.entry + TRACE_INNER
    if site.trace.valid and trace.host & PAGE_MASK == site.trace.host & PAGE_MASK:
        if trace.flags & TRACE_VEC and site.trace.flags & TRACE_VEC:
            entry = trace.entry + TRACE_VECTOR
        _patch(tr, site, entry)
    elif site.flags & SITE_DEAD and site.trace.host == trace.host:
        evict_forward(tr, site.trace, trace)
    return _go_to(cpu, trace.entry + TRACE_INNER)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _patch(tr: cython.pointer(Translator), site: cython.pointer(Site), target: u64) -> cython.void:
    """The site's branch goes to `target`: a store of four aligned bytes, seen whole or not yet."""
    at: cython.pointer(u32) = cython.cast(cython.pointer(u32), tr.mem.write + site.patch)
    at[0] = cython.cast(u32, target - (cython.cast(u64, tr.mem.run) + site.patch + 4))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _branch(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), site: cython.pointer(Site)
) -> u64:
    """A branch to the linear address missed_va: note where its translation is."""
    va: u64 = cpu.missed_va
    trace: cython.pointer(Block)
    if not canonical(va) and site.length:
        # SDM, CALL, RET, JMP: a target that is not canonical is #GP at the branch itself.
        cpu.regs[4] -= site.undo
        return _interpret(cpu, tr, site)
    trace = _trace_at(cpu, va)
    if trace == cython.NULL or tr.lockstep:
        return 0
    if site.flags & SITE_DEAD:
        if site.trace.host == trace.host:
            evict_forward(tr, site.trace, trace)
    elif site.kind == SITE_CROSS:
        if site.trace.valid:
            _patch(tr, site, trace.entry)
    else:
        space_jump(cpu.space, va, trace.entry)
    space_code(cpu.space, trace.page, va)
    return _go_to(cpu, trace.entry)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _other_page(
    cpu: cython.pointer(Cpu), tr: cython.pointer(Translator), site: cython.pointer(Site)
) -> u64:
    """A translation was entered whose page the window does not have at that address: find the
    right one. Where the address is not canonical, the branch that went there has to raise #GP. A
    direct one came over the end of the canonical addresses; which is not known, and it is reported
    at its target."""
    va: u64 = cpu.missed_va + site.offset
    cpu.missed_va = va
    if not canonical(va) and va - cpu.page_va + DIRECT_REACH < 2 * DIRECT_REACH:
        cpu.rip = va
        return 0
    return _branch(cpu, tr, cython.address(tr.sites[cpu.branch]))


def handlers() -> dict[str, int]:
    """Handler addresses by name."""
    return {"count_run": entry_of(count_run)}
