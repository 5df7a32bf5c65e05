"""The translator: guest instructions become host code that keeps guest registers in registers.

Most instructions are copied as they are. A memory operand is looked up in the linear page table
(space.pxd) and replaced by the host address; branches go to other translations; what is sensitive,
rare or awkward is left to the interpreter, one instruction at a time, from within the translation
(SITE_STEP). Nothing of an instruction happens before all its accesses are found good, so every
fault is raised by the interpreter, from exact state.
"""

import cython
from cython.cimports.barevisor.cpu.bt.analyse import (
    branch_target,
    find_liveness,
    gather_code,
    undefined_behind,
)
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.branches import (
    write_call_direct,
    write_cross,
    write_exit,
    write_indirect,
    write_jcc,
    write_jump,
    write_ret,
)
from cython.cimports.barevisor.cpu.bt.codemem import code_add
from cython.cimports.barevisor.cpu.bt.codepages import arena_full, find_slot
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.fields import *
from cython.cimports.barevisor.cpu.bt.moves import (
    write_copy,
    write_lea,
    write_leave,
    write_pop,
    write_push,
)
from cython.cimports.barevisor.cpu.bt.operands import (
    before_look_up,
    flags_loaded,
    flags_saved,
    new_fragment,
    new_site,
    write_call,
)
from cython.cimports.barevisor.cpu.bt.space import CODE_BELOW, CPU_SPAN, MAX_CODE_PAGES
from cython.cimports.barevisor.cpu.bt.spills import *
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.trace import *
from cython.cimports.barevisor.cpu.bt.tsc import host_tsc
from cython.cimports.libc.string import memcpy, memset

# ---- one instruction ---------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_step(w: cython.pointer(Work), i: u32) -> cython.void:
    """The interpreter executes it."""
    site: cython.pointer(Site)
    flags_saved(w)
    site = new_site(w, i, SITE_STEP)
    if w.act[i] == ACT_END:
        site.flags |= SITE_DISPATCH
    write_call(w, site)
    w.flags = IN_MEMORY
    w.stack_aligned = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_privileged(w: cython.pointer(Work), i: u32) -> cython.void:
    """CLI, STI and SWAPGS at CPL 0, which a kernel executes at each entry and lock. STI is done
    here only while nothing waits to be delivered, so that its shadow makes no difference."""
    a: cython.pointer(Asm) = w.a
    act: u32 = w.act[i]
    site: cython.pointer(Site)
    flags_saved(w)
    site = new_site(w, i, SITE_STEP)
    gs_test(a, at_cpl())
    new_fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
    if act == ACT_STI:
        gs_test(a, at_attention())
        new_fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
        gs_op(a, 0x81, 1, at_sysflags(), 0)  # or
        a4(a, FLAG_IF)
    elif act == ACT_CLI:
        gs_op(a, 0x81, 4, at_sysflags(), 0)  # and
        a4(a, ~cython.cast(u32, FLAG_IF))
    else:
        gs_load(a, S0, at_segbase() + 8 * SEG_GS)
        gs_load(a, S1, at_kernel_gs())
        gs_store(a, S0, at_kernel_gs())
        gs_store(a, S1, at_segbase() + 8 * SEG_GS)
        gs_store(a, S1, at_gs_base())
    w.flags = IN_MEMORY


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _same_behind(w: cython.pointer(Work), i: u32) -> cython.void:
    """Instruction i crosses into a page that may be another one by now: what is there of it must
    be what was translated, else the interpreter has it. Through the code TLB, as a fetch goes."""
    a: cython.pointer(Asm) = w.a
    at: u32 = 4096 - w.offset[i]
    left: u32 = w.insns[i].length - at
    size: u32
    site: cython.pointer(Site) = new_site(w, i, SITE_STEP)
    site.flags |= SITE_DISPATCH
    before_look_up(w, i)
    gs_load(a, S0, at_page_va())
    lea(a, S0, S0, R_NONE, 0, 4096, 8)
    code_entry(a, S1, S0, at_itlb(), TLB_SIZE - 1)
    cmp_host(a, S0, S1, itlb_tag())
    new_fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
    load_at(a, S1, S1, itlb_host())
    while left:
        size = 4 if left >= 4 else 2 if left >= 2 else 1
        cmp_value(a, S1, at + w.offset[i] - 4096, size, cython.address(w.raw[at]))
        new_fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
        at += size
        left -= size
    w.flags &= ~cython.cast(u32, IN_HOST)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _one(w: cython.pointer(Work), i: u32) -> cython.void:
    """Instruction i."""
    act: u32 = w.act[i]
    first: u32 = w.tr.count
    n: u32
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    if w.crosses and i + 1 == w.count and ACT_STEP != act != ACT_END:
        spills_forget(w)
        _same_behind(w, i)
    if act == ACT_JCC:
        spills_store(w)
    elif act > ACT_VZERO:
        spills_forget(w)
    if act == ACT_COPY:
        write_copy(w, i)
    elif act == ACT_LEA:
        write_lea(w, i)
    elif act == ACT_PUSH or act == ACT_PUSH_IMM:
        write_push(w, i)
    elif act == ACT_POP:
        write_pop(w, i)
    elif act == ACT_LEAVE:
        write_leave(w, i)
    elif act == ACT_JCC:
        write_jcc(w, i)
    elif act == ACT_JMP:
        write_jump(w, i, branch_target(w, i))
    elif act == ACT_CALL:
        write_call_direct(w, i)
    elif act == ACT_CALL_IND or act == ACT_JMP_IND:
        write_indirect(w, i)
    elif act == ACT_RET:
        write_ret(w, i)
    elif act == ACT_FLAG:
        flags_loaded(w)
        a1(w.a, insn.opcode)
        w.flags = IN_HOST
    elif act == ACT_PAUSE:
        a1(w.a, 0xF3)
        a1(w.a, 0x90)
    elif act == ACT_VZERO:
        a1(w.a, 0xC5)
        a1(w.a, 0xFC if insn.vex_l else 0xF8)
        a1(w.a, 0x77)
    elif ACT_CLI <= act <= ACT_SWAPGS:
        write_privileged(w, i)
    elif act != ACT_NOP:
        write_step(w, i)
    if act > ACT_VZERO and act != ACT_JCC:
        spills_forget(w)
    for n in range(first, w.tr.count):
        w.tr.sites[n].next = w.a.size
        if w.flags & IN_HOST:
            w.tr.sites[n].flags |= SITE_FLAGS


# ---- out of line -------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _unaligned(w: cython.pointer(Work), frag: cython.pointer(Fragment)) -> cython.void:
    """Not aligned, but perhaps within the page: mov S1d, reg_d; and S1d, 4095; cmp; jbe back. Loads
    across two pages are joined by a stub; the rest is for the interpreter."""
    a: cython.pointer(Asm) = w.a
    site: cython.pointer(Site) = cython.address(w.tr.sites[frag.site])
    crossing: cython.pointer(Site)
    a1(a, 0x41 | (frag.register >> 3) << 2)
    a1(a, 0x89)
    a1(a, 0xC0 | (frag.register & 7) << 3 | S1 & 7)
    a1(a, 0x41)
    a1(a, 0x81)
    a1(a, 0xE0 | S1 & 7)
    a4(a, 0xFFF)
    a1(a, 0x41)
    a1(a, 0x81)
    a1(a, 0xF8 | S1 & 7)
    a4(a, 4096 - frag.size)
    bind_to(a, jcc(a, 6), frag.back)
    if not site.flags & SITE_WRITE and frag.size <= CROSS_SIZE:
        if frag.register != S0:
            mov_rr(a, S0, frag.register)
        call_host(a, w.tr.crossing)
        bind_to(a, jcc(a, CC_NE), frag.found)
    crossing = new_site(w, w.count, SITE_STEP)
    crossing.offset = site.offset
    crossing.length = site.length
    crossing.next = site.next
    crossing.flags = site.flags & SITE_FLAGS
    write_call(w, crossing)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _edge(w: cython.pointer(Work), frag: cython.pointer(Fragment)) -> cython.void:
    """The taken side of a branch that has something to do first."""
    if frag.save:
        save_flags(w.a)
    if 0 <= frag.target < 4096:
        write_exit(w, frag.size, frag.target, False)
    else:
        write_cross(w, frag.size, frag.target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _out_of_line(w: cython.pointer(Work)) -> cython.void:
    """All fragments; some make more of them. The edges, which make none of their own kind, are
    hot; everything else lies apart from the traces."""
    n: u32 = 0
    frag: cython.pointer(Fragment)
    for n in range(w.tr.nfragments):
        frag = cython.address(w.tr.fragments[n])
        if frag.kind == FRAG_EDGE:
            bind_here(w.a, frag.at)
            _edge(w, frag)
            frag.kind = FRAG_DONE
    asm_split(w.a, cython.cast(u64, w.tr.mem.run) + w.tr.cold)
    n = 0
    while n < w.tr.nfragments and not w.a.overflow:
        _cold(w, cython.address(w.tr.fragments[n]))
        n += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _cold(w: cython.pointer(Work), frag: cython.pointer(Fragment)) -> cython.void:
    """One of those that lie apart."""
    site: cython.pointer(Site) = cython.address(w.tr.sites[frag.site])
    if frag.kind == FRAG_DONE:
        return
    if frag.kind == FRAG_TRAP:
        write_call(w, site)
    elif frag.kind == FRAG_CALL and site.slow:
        bind_to(w.a, frag.at, site.slow)
    else:
        bind_here(w.a, frag.at)
        if frag.kind == FRAG_CALL:
            write_call(w, site)
        elif frag.kind == FRAG_UNALIGNED:
            _unaligned(w, frag)
        else:
            call_host(w.a, w.tr.load_vectors)
            bind_to(w.a, jmp(w.a), frag.back)


# ---- the trace ---------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _nop5(a: cython.pointer(Asm)) -> cython.void:
    """One instruction of five bytes: evict.py puts a jump in its place."""
    a1(a, 0x0F)
    a1(a, 0x1F)
    a1(a, 0x44)
    a1(a, 0x00)
    a1(a, 0x00)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _entries(w: cython.pointer(Work)) -> cython.void:
    """The ways in (translate.pxd)."""
    a: cython.pointer(Asm) = w.a
    frag: cython.pointer(Fragment)
    at: u32
    a1(a, 0x4D)  # lea S0, [S0 - start], with a displacement of 32 bits whatever it is
    a1(a, 0x8D)
    a1(a, 0x80 | (S0 & 7) << 3 | S0 & 7)
    a4(a, cython.cast(u32, -cython.cast(i64, w.start)))
    # cmp S0, the window's entry of this code page
    gs_op(a, 0x3B, S0, 8 * w.trace.page - CODE_BELOW + CPU_SPAN, 1)
    new_fragment(w, FRAG_CALL, jcc(a, CC_NE), new_site(w, w.count, SITE_PAGE))
    gs_store(a, S0, at_page_va())
    a1(a, 0x90)
    if not w.vec:
        _nop5(a)
        return
    gs_test(a, at_vec_live())
    at = jcc(a, CC_E)
    a1(a, 0x90)
    _nop5(a)
    frag = new_fragment(w, FRAG_VECTORS, at, cython.NULL)
    frag.back = TRACE_VECTOR


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _tail(w: cython.pointer(Work)) -> cython.void:
    """A trace that was cut goes on behind itself."""
    site: cython.pointer(Site)
    if w.count and w.act[w.count - 1] >= ACT_LAST:
        return
    spills_forget(w)
    if w.stuck:
        flags_saved(w)
        site = new_site(w, w.count, SITE_LEAVE)
        site.target = cython.cast(i32, w.end)
        write_call(w, site)
    else:
        write_jump(w, w.count, cython.cast(i32, w.end))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write(w: cython.pointer(Work)) -> cython.void:
    """All code of the trace, into w.a."""
    i: u32
    site: cython.pointer(Site)
    w.tr.nfragments = 0
    _entries(w)
    w.flags = IN_MEMORY
    w.unstored = 0
    spills_forget(w)
    for i in range(w.count):
        _one(w, i)
    _tail(w)
    _out_of_line(w)
    # Where a dead trace's ways in are redirected to: by the linear address, and by the page.
    site = new_site(w, w.count, SITE_BRANCH)
    site.flags |= SITE_DEAD
    w.trace.dead = w.a.size
    write_call(w, site)
    site = new_site(w, w.count, SITE_EXIT)
    site.flags |= SITE_DEAD
    site.target = cython.cast(i32, w.start)
    write_call(w, site)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _keep(w: cython.pointer(Work)) -> cython.int:
    """Copy the code to code memory and enter the trace into its page's list. 0 or -1."""
    tr: cython.pointer(Translator) = w.tr
    trace: cython.pointer(Block) = w.trace
    slot: cython.pointer(Slot) = find_slot(w.cpu.vm, trace.gpa)
    page: u64 = (trace.gpa - slot.gpa) >> 12
    n: u32
    at: u32 = cython.cast(u32, tr.mem.used)
    cold: u32 = w.a.size - w.a.split
    site: cython.pointer(Site)
    if w.a.overflow:  # too long for the buffer: it stays with the interpreter
        tr.count = trace.first_site
        return 0
    if at + w.a.split + 16 > tr.cold_start or tr.cold + cold > tr.mem.size:
        return -1
    trace.entry = cython.cast(u64, code_add(tr.mem, cython.address(w.a.bytes[0]), w.a.split))
    memcpy(tr.mem.write + tr.cold, cython.address(w.a.bytes[w.a.split]), cold)
    tr.cold += cold
    w.kept = 1
    for n in range(trace.first_site, tr.count):
        site = cython.address(tr.sites[n])
        site.retry = at + placed(w.a, site.retry)
        site.next = at + placed(w.a, site.next)
        site.slow = at + placed(w.a, site.slow)
        site.patch = at + placed(w.a, site.patch)
    trace.sites = tr.count - trace.first_site
    trace.bytes = cython.sizeof(Block) + w.a.size
    trace.dead = at + placed(w.a, trace.dead)
    trace.page_next = slot.page_blocks[page]
    slot.page_blocks[page] = trace
    tr.index[tr.indexed] = trace
    tr.indexed += 1
    tr.traces += 1
    tr.guest_bytes += w.end - w.start
    tr.host_bytes += w.a.size
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _page_number(tr: cython.pointer(Translator), slot: cython.pointer(Slot), gpa: u64) -> u32:
    """The number of a code page, which gets one if it has none."""
    number: cython.pointer(u32) = cython.address(slot.code_numbers[(gpa - slot.gpa) >> 12])
    if number[0] == 0:
        tr.pages += 1
        number[0] = tr.pages
    return number[0]


def translate_block(cpu, head):
    """See translate.pxd."""
    vm: cython.pointer(Vm) = cpu.vm
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), vm.translator)
    w: Work
    status: cython.int
    began: u64 = host_tsc()
    if (
        arena_full(vm, cython.sizeof(Block))
        or tr.indexed >= MAX_TRACES
        or tr.count + 4096 > tr.limit
        or tr.pages + 1 >= MAX_CODE_PAGES
    ):
        return -1
    w.tr = tr
    w.cpu = cpu
    w.a = cython.address(tr.asm_)
    asm_start(w.a, cython.cast(u64, tr.mem.run) + tr.mem.used)
    w.start = cython.cast(u32, head.host & 0xFFF)
    w.page = cython.cast(cython.pointer(u8), head.host - w.start)
    w.mode = head.mode
    w.vec = w.fp = 0
    w.stuck = 0
    w.saved_address = 0
    w.kept = 0
    w.stack_aligned = 0
    w.crosses = 0
    gather_code(cython.address(w))
    if w.count == 0:
        return 0
    w.trace = cython.cast(cython.pointer(Block), vm.arena + vm.arena_used)
    memset(w.trace, 0, cython.sizeof(Block))
    w.trace.host = head.host
    w.trace.gpa = head.gpa
    w.trace.mode = head.mode | MODE_TRACE
    w.trace.size = cython.cast(u16, (4096 if w.crosses else w.end) - w.start)
    w.trace.count = cython.cast(u16, w.count)
    w.trace.page = _page_number(tr, find_slot(vm, head.gpa), head.gpa)
    w.trace.valid = 1
    w.trace.flags = TRACE_VEC * w.vec | TRACE_FP * w.fp
    w.trace.flags |= undefined_behind(cython.address(w)) << TRACE_UNDEFINED
    w.trace.first_site = tr.count
    find_liveness(cython.address(w))
    _write(cython.address(w))
    status = _keep(cython.address(w))
    if w.kept:
        vm.arena_used += cython.sizeof(Block)
        head.trace = w.trace
    tr.ticks += host_tsc() - began
    return status
