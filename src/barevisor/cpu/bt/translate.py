"""The translator: guest instructions become host code that keeps guest registers in registers.

Most instructions are copied as they are. A memory operand is looked up in the linear page table
(space.pxd) and replaced by the host address; branches go to other translations; what is sensitive,
rare or awkward is left to the interpreter, one instruction at a time, from within the translation
(SITE_STEP). Nothing of an instruction happens before all its accesses are found good, so every
fault is raised by the interpreter, from exact state.

Flags: look-ups destroy the host's. Before the first one behind which somebody may still read the
guest's, they are saved to Cpu.fl, and they are loaded back for the instruction that reads them.
Flags that are overwritten unread, in this translation, are not kept; of those an exception in
between shows stale values in the RFLAGS that it pushes.
"""

import cython
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.bind import (
    SHAPE_CALL_IND,
    SHAPE_CALL_REL,
    SHAPE_COPY,
    SHAPE_JCC,
    SHAPE_JMP_IND,
    SHAPE_LEAVE,
    SHAPE_POP,
    SHAPE_PUSH,
    SHAPE_PUSH_IMM,
    SHAPE_RET,
    _exec,
    gate,
    overwrites,
)
from cython.cimports.barevisor.cpu.bt.codemem import code_add
from cython.cimports.barevisor.cpu.bt.codepages import find_slot
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.emit import Form
from cython.cimports.barevisor.cpu.bt.space import (
    CODE_BELOW,
    CPU_SPAN,
    MAX_CODE_PAGES,
    SPACE_BELOW,
)
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.thunk import is_divide, plan_form
from cython.cimports.barevisor.cpu.bt.tlb import fetch
from cython.cimports.barevisor.cpu.bt.tsc import host_tsc
from cython.cimports.libc.string import memcpy, memset

from barevisor.cpu.bt import decode as decoder

ALL_FLAGS: u32 = cython.declare(u32, 0x8D5)
LOOK_AHEAD: u32 = cython.declare(u32, 12)
NATIVE = {
    "nop": ACT_NOP, "prefetch": ACT_NOP, "pause": ACT_PAUSE,
    "clc": ACT_FLAG, "stc": ACT_FLAG, "cmc": ACT_FLAG,
    "cli": ACT_CLI, "sti": ACT_STI, "swapgs": ACT_SWAPGS,
    "vzeroupper": ACT_VZERO, "vzeroall": ACT_VZERO, "jmp_rel": ACT_JMP,
}  # fmt: skip
"""Exec names besides the binder's shapes that become host code."""

FIELD_SEGBASE: u32 = cython.declare(u32)
FIELD_PAGE_VA: u32 = cython.declare(u32)
FIELD_TARGET: u32 = cython.declare(u32)
FIELD_URGENT: u32 = cython.declare(u32)
FIELD_VEC_LIVE: u32 = cython.declare(u32)
FIELD_CPL: u32 = cython.declare(u32)
FIELD_ATTENTION: u32 = cython.declare(u32)
FIELD_SYSFLAGS: u32 = cython.declare(u32)
FIELD_KERNEL_GS: u32 = cython.declare(u32)
FIELD_GS_BASE: u32 = cython.declare(u32)
FIELD_ITLB: u32 = cython.declare(u32)
FIELD_BRANCH: u32 = cython.declare(u32)
ITLB_TAG: u32 = cython.declare(u32)
ITLB_HOST: u32 = cython.declare(u32)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)


@cython.cfunc
def _fields() -> cython.void:
    global FIELD_CPL, FIELD_ATTENTION, FIELD_SYSFLAGS, FIELD_KERNEL_GS, FIELD_GS_BASE
    global FIELD_SEGBASE, FIELD_PAGE_VA, FIELD_TARGET, FIELD_URGENT, FIELD_VEC_LIVE
    global FIELD_ITLB, ITLB_TAG, ITLB_HOST, FIELD_BRANCH
    none: cython.pointer(Cpu) = cython.NULL
    entry: cython.pointer(ItlbEntry) = cython.NULL
    FIELD_ITLB = field_of(cython.address(none.itlb))
    FIELD_BRANCH = field_of(cython.address(none.branch))
    ITLB_TAG = field_of(cython.address(entry.tag))
    ITLB_HOST = field_of(cython.address(entry.host))
    FIELD_SEGBASE = field_of(cython.address(none.segbase[0]))
    FIELD_PAGE_VA = field_of(cython.address(none.page_va))
    FIELD_TARGET = field_of(cython.address(none.target))
    FIELD_URGENT = field_of(cython.address(none.urgent))
    FIELD_VEC_LIVE = field_of(cython.address(none.vec_live))
    FIELD_CPL = field_of(cython.address(none.cpl))
    FIELD_ATTENTION = field_of(cython.address(none.attention))
    FIELD_SYSFLAGS = field_of(cython.address(none.sysflags))
    FIELD_KERNEL_GS = field_of(cython.address(none.kernel_gs_base))
    FIELD_GS_BASE = field_of(cython.address(none.segs[SEG_GS].base))


_fields()

# ---- which rule --------------------------------------------------------------------------


def _rules() -> None:
    """The rule of each exec name (by the binder's shape, or by name)."""
    shapes = {
        SHAPE_COPY: ACT_COPY, SHAPE_JCC: ACT_JCC, SHAPE_PUSH: ACT_PUSH,
        SHAPE_PUSH_IMM: ACT_PUSH_IMM, SHAPE_POP: ACT_POP, SHAPE_CALL_REL: ACT_CALL,
        SHAPE_RET: ACT_RET, SHAPE_CALL_IND: ACT_CALL_IND, SHAPE_JMP_IND: ACT_JMP_IND,
        SHAPE_LEAVE: ACT_LEAVE,
    }  # fmt: skip
    for place, name in enumerate(decoder.exec_names()):
        _rule[place] = NATIVE.get(name, shapes.get(_exec[place].shape, ACT_STEP))
    for place, name in enumerate(decoder.hint_names()):
        if name == "lea":
            _lea_hint[0] = place


def install() -> None:
    """Once a process, after bind.install."""
    _rules()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _high_byte(insn: cython.pointer(Insn), f: cython.pointer(RowFacts)) -> cython.bint:
    """Is an operand AH, CH, DH or BH?"""
    if insn.rex or insn.vex:
        return False
    if f.gpr8 & 1 and f.reg_class == CLS_GPR and 4 <= insn.reg < 8:
        return True
    return f.gpr8 & 2 and f.rm_class == CLS_GPR and not insn.mem and 4 <= insn.rm < 8


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _spilled(number: u32) -> cython.bint:
    """Guest registers that have no host register."""
    return 9 <= number <= 11


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _host(number: u32) -> u32:
    """The host register of a guest register that has one."""
    return H_SP if number == 4 else number


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _spills(insn: cython.pointer(Insn), f: cython.pointer(RowFacts)) -> u32:
    """Bits of the distinct spilled registers that are explicit register operands."""
    bits: u32 = 0
    if f.reg_class == CLS_GPR and _spilled(insn.reg):
        bits |= cython.cast(u32, 1) << insn.reg
    if f.vvvv_class == CLS_GPR and _spilled(insn.vvvv):
        bits |= cython.cast(u32, 1) << insn.vvvv
    if f.rm_class == CLS_GPR and not insn.mem and insn.has_modrm and _spilled(insn.rm):
        bits |= cython.cast(u32, 1) << insn.rm
    return bits


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _needs_rex(insn: cython.pointer(Insn), f: cython.pointer(RowFacts)) -> cython.bint:
    """Would the host form need a REX prefix (which AH..BH do not allow)?"""
    if insn.mem or insn.osize == 8 or _spills(insn, f):
        return True
    if f.reg_class == CLS_GPR and not (f.gpr8 & 1) and insn.reg == 4:
        return True
    return f.rm_class == CLS_GPR and not (f.gpr8 & 2) and insn.rm == 4


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _addressable(insn: cython.pointer(Insn), offset: u32) -> cython.bint:
    """Can the linear address be computed with what address() does?"""
    disp: i64 = cython.cast(i64, insn.disp)
    if insn.base == REG_RIP:
        disp += offset + insn.length
    if insn.asize == 4 and (insn.seg == SEG_FS or insn.seg == SEG_GS):
        return False
    if insn.base == REG_NONE and insn.index == REG_NONE:
        return True
    return disp == cython.cast(i64, cython.cast(i32, disp))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _copyable(
    insn: cython.pointer(Insn), f: cython.pointer(RowFacts), offset: u32, mode: u32
) -> cython.bint:
    """Can this instruction run as the host's own?"""
    spills: u32 = _spills(insn, f)
    count: u32 = (spills >> 9 & 1) + (spills >> 10 & 1) + (spills >> 11 & 1)
    if mode & MODE_FP_TRAP and f.unit != UNIT_NONE:
        return False
    if f.attrs & RF_VSIB or (f.regs_read | f.regs_written) & 0xFFF0:
        return False
    if count > (1 if insn.mem else 2) or (_high_byte(insn, f) and _needs_rex(insn, f)):
        return False
    if not insn.mem:
        return True
    return f.mem != 0 and mem_size(insn) != 0 and _addressable(insn, offset)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _rule_of(
    w: cython.pointer(Work), insn: cython.pointer(Insn), f: cython.pointer(RowFacts), offset: u32
) -> u32:
    """ACT_* for one instruction."""
    act: u32 = _rule[f.exec]
    if gate(w.cpu, f, w.mode) >= 0:
        return ACT_END
    if act == ACT_PAUSE and w.cpu.vm.ncpus > 1:
        return ACT_STEP  # its handler yields to the CPU that this one waits for
    if act == ACT_COPY:
        if f.hint == _lea_hint[0]:
            if insn.mem and _addressable(insn, offset):
                return ACT_LEA
            return ACT_STEP
        return ACT_COPY if _copyable(insn, f, offset, w.mode) else ACT_STEP
    if ACT_PUSH <= act <= ACT_LEAVE or ACT_CALL <= act <= ACT_JMP_IND:
        if insn.osize != 8 or (insn.mem and not _addressable(insn, offset)):
            act = ACT_STEP
        elif (act == ACT_POP and insn.mem) or (act == ACT_RET and insn.imm & 0xFFFF > 0x7000):
            act = ACT_STEP
    if (act == ACT_JMP or act == ACT_JCC) and insn.osize == 2:
        act = ACT_STEP
    if act == ACT_STEP and f.attrs & RF_ENDS:
        return ACT_END
    return act


# ---- gathering ---------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _repeatable(insn: cython.pointer(Insn), act: u32) -> cython.bint:
    """For lockstep: does it run as host code, and twice with one result? Not RDRAND and RDSEED;
    divisions are the interpreter's own, with other undefined flags."""
    if ACT_STEP <= act < ACT_LAST or act == ACT_END or is_divide(insn):
        return False
    return not (insn.map == 1 and insn.opcode == 0xC7 and not insn.mem and not insn.vex)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _gather(w: cython.pointer(Work)) -> cython.void:
    """Decode from w.start up to the page's end, a jump, or TRACE_LIMIT."""
    pos: u32 = w.start
    insn: cython.pointer(Insn)
    f: cython.pointer(RowFacts)
    act: u32
    w.count = 0
    while w.count < TRACE_LIMIT and pos < 4096:
        insn = cython.address(w.insns[w.count])
        if decode(w.page + pos, 4096 - pos, w.mode, insn) and not _crossing(w, pos, insn):
            w.stuck = 1
            break
        f = facts(insn.row)
        if f.fallback and gate(w.cpu, f, w.mode) == GATE_UD:
            insn.row = f.fallback
            f = facts(insn.row)
        act = _rule_of(w, insn, f, pos)
        if w.tr.lockstep and not _repeatable(insn, act):
            w.stuck = 1
            break
        w.act[w.count] = cython.cast(u8, act)
        w.offset[w.count] = cython.cast(u16, pos)
        if act == ACT_VZERO or _uses_vectors(insn, f, act):
            w.vec = 1
        pos += insn.length
        w.count += 1
        if act >= ACT_LAST or (w.tr.lockstep and act == ACT_JCC):
            break
    w.end = pos


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _crossing(w: cython.pointer(Work), pos: u32, insn: cython.pointer(Insn)) -> cython.bint:
    """Decode an instruction that starts at `pos` and ends in the next page, as it is now."""
    host: u64 = 0
    gpa: u64 = 0
    first: u32 = 4096 - pos
    if first >= 15 or w.tr.lockstep:
        return False
    if fetch(w.cpu, (w.cpu.rip & PAGE_MASK) + 4096, cython.address(host), cython.address(gpa)):
        w.cpu.fault_vector = 0
        w.cpu.exit_reason = EXIT_NONE
        return False
    memcpy(cython.address(w.raw[0]), w.page + pos, first)
    memcpy(cython.address(w.raw[first]), cython.cast(cython.p_void, host), 15 - first)
    w.crosses = decode(cython.address(w.raw[0]), 15, w.mode, insn) == DEC_OK
    return w.crosses


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _uses_vectors(insn: cython.pointer(Insn), f: cython.pointer(RowFacts), act: u32) -> cython.bint:
    if act != ACT_COPY:
        return False
    return (
        f.unit == UNIT_SSE
        or f.unit == UNIT_AVX
        or f.reg_class == CLS_VEC
        or f.rm_class == CLS_VEC
        or f.vvvv_class == CLS_VEC
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _target(w: cython.pointer(Work), i: u32) -> i32:
    """Where a direct branch goes, from the start of the page."""
    return cython.cast(i32, w.offset[i] + w.insns[i].length + cython.cast(i64, w.insns[i].imm))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _needed(w: cython.pointer(Work), target: i32) -> u32:
    """Flags that code at `target` may read before it overwrites them: all, unless it is in the
    page and tells."""
    insn: Insn
    f: cython.pointer(RowFacts)
    pending: u32 = ALL_FLAGS
    _n: u32
    act: u32
    pos: i64 = target
    if w.tr.lockstep:
        return ALL_FLAGS
    for _n in range(LOOK_AHEAD):
        if not 0 <= pos < 4096:
            return pending
        if decode(w.page + pos, cython.cast(u32, 4096 - pos), w.mode, cython.address(insn)):
            return pending
        f = facts(insn.row)
        act = _rule_of(w, cython.address(insn), f, cython.cast(u32, pos))
        pos += insn.length
        if act == ACT_JMP:
            pos += cython.cast(i64, insn.imm)
        elif act == ACT_COPY or act == ACT_FLAG:
            if f.flags_read & pending:
                return pending
            pending &= ~overwrites(cython.address(insn), f)
        elif act > ACT_PLAIN:
            return pending
        if pending == 0:
            return 0
    return pending


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _liveness(w: cython.pointer(Work)) -> cython.void:
    """live[i], live_in[i]: flags that may be read behind and before instruction i."""
    i: cython.int = cython.cast(cython.int, w.count) - 1
    act: u32 = w.act[i]
    f: cython.pointer(RowFacts)
    now: u32 = ALL_FLAGS
    if act == ACT_JMP or act == ACT_CALL:
        now = _needed(w, _target(w, i))
    elif act < ACT_LAST and not w.stuck:
        now = _needed(w, cython.cast(i32, w.end))
    while i >= 0:
        act = w.act[i]
        f = facts(w.insns[i].row)
        w.live[i] = cython.cast(u16, now)
        if act == ACT_JCC:
            now |= _condition_flags(w.insns[i].opcode) | _needed(w, _target(w, i))
        elif act >= ACT_STEP and act != ACT_CALL and act != ACT_JMP:
            now = ALL_FLAGS
        elif act == ACT_COPY or act == ACT_FLAG:
            now = (now & ~overwrites(cython.address(w.insns[i]), f)) | (f.flags_read & ALL_FLAGS)
        w.live_in[i] = cython.cast(u16, now)
        i -= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _undefined(w: cython.pointer(Work)) -> u32:
    """Flags that the manual leaves undefined behind the trace: some CPUs keep what was there."""
    i: u32
    bits: u32 = 0
    f: cython.pointer(RowFacts)
    for i in range(w.count):
        f = facts(w.insns[i].row)
        if w.act[i] == ACT_COPY or w.act[i] == ACT_FLAG:
            bits = (bits & ~cython.cast(u32, f.flags_written)) | f.flags_undefined
    return bits & ALL_FLAGS


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _condition_flags(opcode: u32) -> u32:
    """SDM, "EFLAGS Condition Codes"."""
    kind: u32 = (opcode & 15) >> 1
    if kind == 0:
        return FLAG_OF
    if kind == 1:
        return FLAG_CF
    if kind == 2:
        return FLAG_ZF
    if kind == 3:
        return FLAG_CF | FLAG_ZF
    if kind == 4:
        return FLAG_SF
    if kind == 5:
        return FLAG_PF
    if kind == 6:
        return FLAG_SF | FLAG_OF
    return FLAG_SF | FLAG_OF | FLAG_ZF


# ---- flags -------------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _saved(w: cython.pointer(Work)) -> cython.void:
    """Cpu.fl has the flags. Changes S0."""
    if not w.flags & IN_MEMORY:
        save_flags(w.a)
        w.flags |= IN_MEMORY


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _loaded(w: cython.pointer(Work)) -> cython.void:
    """The host's EFLAGS have the flags."""
    if not w.flags & IN_HOST:
        restore_flags(w.a)
        w.flags |= IN_HOST


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _before_look_up(w: cython.pointer(Work), i: u32) -> cython.void:
    """The host's flags are about to be destroyed."""
    if w.live_in[i]:
        _saved(w)


# ---- sites and fragments -----------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _site(w: cython.pointer(Work), i: u32, kind: u32) -> cython.pointer(Site):
    """A new site of instruction i (or of the trace's end: i = count)."""
    tr: cython.pointer(Translator) = w.tr
    site: cython.pointer(Site) = cython.address(tr.sites[tr.count])
    if tr.count + 1 >= tr.limit:
        w.a.overflow = 1
        return site
    tr.count += 1
    memset(site, 0, cython.sizeof(Site))
    site.trace = w.trace
    site.kind = cython.cast(u8, kind)
    site.register = R_NONE
    if i < w.count:
        site.offset = w.offset[i]
        site.length = w.insns[i].length
    else:
        site.offset = cython.cast(u16, w.start)
    return site


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _number(w: cython.pointer(Work), site: cython.pointer(Site)) -> u32:
    return cython.cast(u32, site - w.tr.sites)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call(w: cython.pointer(Work), site: cython.pointer(Site)) -> cython.void:
    """call call_site; dd number"""
    site.slow = w.a.size
    call_host(w.a, w.tr.call_site)
    a4(w.a, _number(w, site))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _fragment(
    w: cython.pointer(Work), kind: u32, at: u32, site: cython.pointer(Site)
) -> cython.pointer(Fragment):
    tr: cython.pointer(Translator) = w.tr
    frag: cython.pointer(Fragment) = cython.address(tr.fragments[tr.nfragments])
    if tr.nfragments + 1 >= MAX_FRAGMENTS:
        w.a.overflow = 1
        return frag
    tr.nfragments += 1
    memset(frag, 0, cython.sizeof(Fragment))
    frag.kind = kind
    frag.at = at
    frag.site = _number(w, site) if site != cython.NULL else 0
    return frag


# ---- memory operands ---------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _address(w: cython.pointer(Work), i: u32, site: cython.pointer(cython.uchar)) -> u32:
    """The host register with the operand's linear address: a guest register's own (then *site
    gets the guest's number), or S0. May change S0 and S1, not flags."""
    a: cython.pointer(Asm) = w.a
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    disp: u32 = cython.cast(u32, insn.disp)
    base: u32 = insn.base
    index: u32 = insn.index
    far: cython.bint = insn.seg == SEG_FS or insn.seg == SEG_GS
    site[0] = R_NONE
    if (
        base < 16 and not _spilled(base) and index == REG_NONE and disp == 0
        and insn.asize == 8 and not far
    ):  # fmt: skip
        site[0] = cython.cast(u8, base)
        return _host(base)
    if far:
        gs_load(a, S0, FIELD_SEGBASE + 8 * insn.seg)
        if base == REG_RIP:
            gs_load(a, S1, FIELD_PAGE_VA)
            disp += w.offset[i] + insn.length
        elif base != REG_NONE and _spilled(base):
            gs_load(a, S1, 8 * base)
        if base == REG_NONE:
            lea(a, S0, S0, R_NONE, 0, disp, 8)
        else:
            lea(a, S0, S0, S1 if base == REG_RIP or _spilled(base) else _host(base), 0, disp, 8)
        if index != REG_NONE:
            if _spilled(index):
                gs_load(a, S1, 8 * index)
            lea(a, S0, S0, S1 if _spilled(index) else index, insn.scale, 0, 8)
        return S0
    if base == REG_RIP:
        gs_load(a, S0, FIELD_PAGE_VA)
        lea(a, S0, S0, R_NONE, 0, disp + w.offset[i] + insn.length, 8)
    elif base == REG_NONE and index == REG_NONE:
        mov_imm64(a, S0, insn.disp)
    else:
        if index != REG_NONE and _spilled(index):
            gs_load(a, S1, 8 * index)
            index = S1
        if base != REG_NONE and _spilled(base):
            gs_load(a, S0, 8 * base)
            base = S0
        lea(
            a, S0, R_NONE if base == REG_NONE else S0 if base == S0 else _host(base),
            R_NONE if index == REG_NONE else index, insn.scale, disp, 8,
        )  # fmt: skip
    if insn.asize == 4:
        a1(a, 0x45)  # mov S0d, S0d
        a1(a, 0x89)
        a1(a, 0xC0 | (S0 & 7) << 3 | S0 & 7)
    return S0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _test_low(a: cython.pointer(Asm), reg: u32, mask: u32) -> cython.void:
    """test reg8, imm8"""
    if reg >= 4:
        a1(a, 0x40 | reg >> 3)
    a1(a, 0xF6)
    a1(a, 0xC0 | reg & 7)
    a1(a, mask)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _look(
    w: cython.pointer(Work), i: u32, reg: u32, guest: u32, size: u32, write: u32, alignment: u32
) -> cython.void:
    """Look up [reg, +size); S1 = host minus linear address. `alignment`: ALIGN_*."""
    a: cython.pointer(Asm) = w.a
    site: cython.pointer(Site) = _site(w, i, SITE_MEMORY)
    frag: cython.pointer(Fragment)
    mask: u32 = 1
    at: u32
    site.register = cython.cast(u8, guest)
    site.size = cython.cast(u16, size)
    if guest == H_STACK_TOP:
        site.register = 4
        site.disp = -8
    if w.saved_address:
        site.flags |= SITE_SAVED
    if write:
        site.flags |= SITE_WRITE
    while mask < size:
        mask <<= 1
    if size > 1 and alignment != ALIGN_KNOWN:
        _test_low(a, reg, mask - 1)
        at = jcc(a, CC_NE)
        if alignment == ALIGN_ANY:
            frag = _fragment(w, FRAG_UNALIGNED, at, site)
            frag.back = a.size
            frag.register = cython.cast(u8, reg)
            frag.size = size
        else:
            # The interpreter raises what is to be raised, and behind it nothing is known of RSP.
            _fragment(w, FRAG_CALL, at, _site(w, i, SITE_STEP))
            w.tr.sites[w.tr.count - 1].flags |= SITE_DISPATCH
    site.retry = a.size
    look_up(a, reg, (w.cpu.vm.write_shift << 3) if write else 0)
    _fragment(w, FRAG_CALL, jcc(a, CC_E), site)
    w.flags &= ~cython.cast(u32, IN_HOST)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _look_stack(w: cython.pointer(Work), i: u32, reg: u32, guest: u32, write: u32) -> cython.void:
    """Eight bytes at [RSP] or RSP - 8. One test of RSP's alignment is enough while it is known
    how RSP moves."""
    _look(w, i, reg, guest, 8, write, ALIGN_KNOWN if w.stack_aligned else ALIGN_MUST)
    w.stack_aligned = 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _look_operand(w: cython.pointer(Work), i: u32, size: u32, write: u32) -> u32:
    """Look up the memory operand; the host register with its linear address."""
    guest: cython.uchar = 0
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    alignment: u32 = ALIGN_ANY
    reg: u32
    _before_look_up(w, i)
    reg = _address(w, i, cython.address(guest))
    if w.saved_address and guest == R_NONE:
        gs_store(w.a, S0, FIELD_TARGET)  # S0 will be needed before the access
    if facts(insn.row).attrs & RF_ALIGN:
        alignment = ALIGN_MUST
    elif insn.base == 4 and insn.index == REG_NONE and size <= 8 and not insn.disp & (size - 1):
        if insn.asize == 8 and insn.seg != SEG_FS and insn.seg != SEG_GS and not size & (size - 1):
            alignment = ALIGN_KNOWN if w.stack_aligned else ALIGN_ANY
            if size == 8 and not w.stack_aligned:
                alignment = ALIGN_MUST
                w.stack_aligned = 1
    _look(w, i, reg, guest, size, write, alignment)
    return reg


# ---- copied instructions -----------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _operand(
    w: cython.pointer(Work), cls: u32, access: u32, number: u32, byte: u32, rex: u32,
    form: cython.pointer(Form),
) -> u32:  # fmt: skip
    """The host register to encode. Spilled registers are loaded into what scratch is free."""
    n: u32
    if cls != CLS_GPR:
        return number
    if byte and 4 <= number < 8:
        if not rex:
            return number  # AH..BH
        form.rex = 1
    if not _spilled(number):
        return _host(number)
    for n in range(w.nborrowed):
        if w.borrowed[n] == number:
            w.borrowed_write |= (access >> 1 & 1) << n
            return w.lent[n]
    n = w.nborrowed
    w.nborrowed += 1
    w.borrowed[n] = cython.cast(u8, number)
    w.borrowed_write |= (access >> 1 & 1) << n
    gs_load(w.a, w.lent[n], 8 * number)
    return w.lent[n]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _give_back(w: cython.pointer(Work)) -> cython.void:
    """Store the spilled registers that the instruction wrote."""
    n: u32
    for n in range(w.nborrowed):
        if w.borrowed_write >> n & 1:
            gs_store(w.a, w.lent[n], 8 * w.borrowed[n])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _copy(w: cython.pointer(Work), i: u32) -> cython.void:
    """The instruction itself, its memory operand replaced."""
    form: Form
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    f: cython.pointer(RowFacts) = facts(insn.row)
    rex: u32 = insn.rex or insn.vex
    base: u32 = R_NONE
    index: u32 = R_NONE
    number: u32
    trap: cython.pointer(Site)
    memset(cython.address(form), 0, cython.sizeof(Form))
    plan_form(cython.address(form), insn, f)
    w.nborrowed = 0
    w.borrowed_write = 0
    w.lent[0] = S0
    w.lent[1] = S1
    if insn.mem:
        w.saved_address = _spills(insn, f) != 0
        base = _look_operand(w, i, mem_size(insn), f.mem & ACC_WRITE)
        w.saved_address = 0
        index = S1
        form.mem = 1
        w.lent[0] = S1
        if _spills(insn, f):
            lea(w.a, S0, base, S1, 0, 0, 8)
            base = S0
            index = R_NONE
    number = _operand(w, f.reg_class, f.reg_access, insn.reg, f.gpr8 & 1, rex, cython.address(form))
    if insn.has_modrm:
        form.reg = cython.cast(u8, number)
    elif f.reg_class == CLS_GPR:
        form.plus_r = 1
        form.rm = cython.cast(u8, number)
    form.vvvv = cython.cast(
        u8, _operand(w, f.vvvv_class, f.vvvv_access, insn.vvvv, 0, rex, cython.address(form))
    )
    if not insn.mem and insn.has_modrm:
        form.rm = cython.cast(
            u8, _operand(w, f.rm_class, f.rm_access, insn.rm, f.gpr8 & 2, rex, cython.address(form))
        )
    if _reads_flags(w, i, f):
        _loaded(w)
    if is_divide(insn):
        trap = _site(w, i, SITE_STEP)
        trap.flags |= SITE_DIVIDES
        trap.retry = w.a.size
        _fragment(w, FRAG_TRAP, 0, trap)
    put(w.a, cython.address(form), base, index)
    _give_back(w)
    if (f.flags_written | f.flags_undefined) & ALL_FLAGS:
        w.flags = IN_HOST
    _watch_stack(w, insn, f)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _reads_flags(w: cython.pointer(Work), i: u32, f: cython.pointer(RowFacts)) -> cython.bint:
    """Must the host's flags be the guest's before this? Also when some are to stay."""
    changed: u32 = (f.flags_written | f.flags_undefined) & ALL_FLAGS
    if f.flags_read & ALL_FLAGS:
        return True
    return changed and w.live[i] & ~overwrites(cython.address(w.insns[i]), f)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _watch_stack(
    w: cython.pointer(Work), insn: cython.pointer(Insn), f: cython.pointer(RowFacts)
) -> cython.void:
    """Is RSP still a multiple of eight? ADD, SUB and AND of a constant tell."""
    writes: cython.bint = (
        f.reg_class == CLS_GPR and f.reg_access & ACC_WRITE and insn.reg == 4
    ) or (f.rm_class == CLS_GPR and f.rm_access & ACC_WRITE and not insn.mem and insn.rm == 4)
    if not writes or insn.map or insn.vex:
        if writes:
            w.stack_aligned = 0
        return
    if (insn.opcode == 0x83 or insn.opcode == 0x81) and insn.osize == 8 and not insn.imm & 7:
        if insn.reg == 4:
            w.stack_aligned = 1
            return
        if insn.reg == 0 or insn.reg == 5:
            return
    w.stack_aligned = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _lea(w: cython.pointer(Work), i: u32) -> cython.void:
    """LEA: the address without a segment base."""
    a: cython.pointer(Asm) = w.a
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    guest: cython.uchar = 0
    seg: u8 = insn.seg
    reg: u32
    to: u32 = S0 if _spilled(insn.reg) else _host(insn.reg)
    whole: cython.bint = (
        insn.asize == 8
        and insn.base < 16
        and not _spilled(insn.base)
        and (insn.index == REG_NONE or not _spilled(insn.index))
    )
    if whole:
        lea(
            a, to, _host(insn.base), R_NONE if insn.index == REG_NONE else insn.index, insn.scale,
            cython.cast(u32, insn.disp), insn.osize if to != S0 else 8,
        )  # fmt: skip
        if to != S0:
            if insn.reg == 4 and not (
                insn.base == 4 and not insn.disp & 7 and insn.osize == 8 and insn.index == REG_NONE
            ):
                w.stack_aligned = 0
            return
        reg = S0
    else:
        insn.seg = SEG_DS
        reg = _address(w, i, cython.address(guest))
        insn.seg = seg
    if insn.osize == 2:
        if _spilled(insn.reg):
            a1(a, 0x66)
            gs_op(a, 0x89, reg, 8 * insn.reg, 0)
            return
        a1(a, 0x66)
    elif insn.osize == 4 and _spilled(insn.reg):
        a1(a, 0x45)  # mov S0d, reg_d
        a1(a, 0x89)
        a1(a, 0xC0 | (reg & 7) << 3 | S0 & 7)
        gs_store(a, S0, 8 * insn.reg)
        return
    elif _spilled(insn.reg):
        gs_store(a, reg, 8 * insn.reg)
        return
    a1(a, 0x40 | (8 if insn.osize == 8 else 0) | (reg >> 3) << 2 | to >> 3)  # mov to, reg
    a1(a, 0x89)
    a1(a, 0xC0 | (reg & 7) << 3 | to & 7)
    if insn.reg == 4:
        w.stack_aligned = 0


# ---- the stack ---------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _push_room(w: cython.pointer(Work), i: u32) -> cython.void:
    """S0 = RSP - 8, S1 = host minus linear address, checked for a store of eight bytes."""
    _before_look_up(w, i)
    lea(w.a, S0, H_SP, R_NONE, 0, cython.cast(u32, -8), 8)
    _look_stack(w, i, S0, H_STACK_TOP, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store_pushed(w: cython.pointer(Work)) -> cython.void:
    """Store S0 at host address S1, and only then move RSP: the host may fault (faults.py)."""
    store_host(w.a, S0, S1, R_NONE)
    lea(w.a, H_SP, H_SP, R_NONE, 0, cython.cast(u32, -8), 8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _push(w: cython.pointer(Work), i: u32) -> cython.void:
    """PUSH of a register, a constant or memory."""
    form: Form
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    number: u32 = insn.rm if insn.has_modrm else insn.reg
    base: u32
    if w.act[i] == ACT_PUSH_IMM:
        _push_room(w, i)
        memset(cython.address(form), 0, cython.sizeof(Form))
        form.w = 1
        form.opcode = 0xC7
        form.has_modrm = 1
        form.mem = 1
        form.imm_size = 4
        form.imm = insn.imm
        put(w.a, cython.address(form), S0, S1)
        mov_rr(w.a, H_SP, S0)
        return
    if insn.mem:
        base = _look_operand(w, i, 8, 0)
        load_host(w.a, S0, base, S1)
        gs_store(w.a, S0, FIELD_TARGET)
        _push_room(w, i)
        lea(w.a, S1, S0, S1, 0, 0, 8)
        gs_load(w.a, S0, FIELD_TARGET)
        _store_pushed(w)
        return
    _push_room(w, i)
    if _spilled(number):
        lea(w.a, S1, S0, S1, 0, 0, 8)
        gs_load(w.a, S0, 8 * number)
        _store_pushed(w)
        return
    store_host(w.a, _host(number), S0, S1)
    mov_rr(w.a, H_SP, S0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pop(w: cython.pointer(Work), i: u32) -> cython.void:
    """POP of a register."""
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    number: u32 = insn.rm if insn.has_modrm else insn.reg
    _before_look_up(w, i)
    _look_stack(w, i, H_SP, 4, 0)
    if number == 4:
        load_host(w.a, H_SP, H_SP, S1)
        w.stack_aligned = 0
        return
    if _spilled(number):
        load_host(w.a, S0, H_SP, S1)
        gs_store(w.a, S0, 8 * number)
    else:
        load_host(w.a, number, H_SP, S1)
    lea(w.a, H_SP, H_SP, R_NONE, 0, 8, 8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _leave(w: cython.pointer(Work), i: u32) -> cython.void:
    """LEAVE: RSP = RBP, POP RBP."""
    _before_look_up(w, i)
    _look(w, i, 5, 5, 8, 0, ALIGN_ANY)
    load_host(w.a, S0, 5, S1)
    lea(w.a, H_SP, 5, R_NONE, 0, 8, 8)
    mov_rr(w.a, 5, S0)
    w.stack_aligned = 0


# ---- branches ----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _dispatch(w: cython.pointer(Work), i: u32, undo: cython.int) -> cython.void:
    """An indirect branch to the linear address in S0. Flags are in Cpu.fl."""
    a: cython.pointer(Asm) = w.a
    site: cython.pointer(Site) = _site(w, i, SITE_BRANCH)
    site.undo = cython.cast(i16, undo)
    gs_test(a, FIELD_URGENT)
    _fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
    gs_set(a, FIELD_BRANCH, _number(w, site))
    a1(a, 0x45)  # movzx S1d, S0w
    a1(a, 0x0F)
    a1(a, 0xB7)
    a1(a, 0xC0 | (S1 & 7) << 3 | S0 & 7)
    a1(a, 0x65)  # jmp gs:[S1*8 - SPACE_BELOW]
    a1(a, 0x42)
    a1(a, 0xFF)
    a1(a, 0x24)
    a1(a, 0xD5)
    a4(a, cython.cast(u32, -SPACE_BELOW))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _cross(w: cython.pointer(Work), i: u32, backward: cython.bint, undo: cython.int) -> cython.void:
    """A direct branch to S0, in another page. Code that only goes forward comes to an end, so only
    backwards it looks whether somebody wants the guest to stop."""
    site: cython.pointer(Site)
    if backward:
        site = _site(w, i, SITE_BRANCH)
        site.undo = cython.cast(i16, undo)
        gs_test(w.a, FIELD_URGENT)
        _fragment(w, FRAG_CALL, jcc(w.a, CC_NE), site)
    site = _site(w, i, SITE_CROSS)
    site.undo = cython.cast(i16, undo)
    site.patch = jmp_aligned(w.a)
    _fragment(w, FRAG_CALL, site.patch, site)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _cross_to(w: cython.pointer(Work), i: u32, target: i32) -> cython.void:
    """... to `target`, from the start of the page."""
    gs_load(w.a, S0, FIELD_PAGE_VA)
    lea(w.a, S0, S0, R_NONE, 0, cython.cast(u32, target), 8)
    _cross(w, i, target < 0, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _exit(w: cython.pointer(Work), i: u32, target: i32, backward: cython.bint) -> cython.void:
    """Go to `target` in the page; backwards, look whether somebody wants the guest to stop."""
    site: cython.pointer(Site)
    site = _site(w, i, SITE_EXIT)
    site.target = target
    if backward:
        gs_test(w.a, FIELD_URGENT)
        site.patch = jcc_aligned(w.a, CC_E)
    else:
        site.patch = jmp_aligned(w.a)
    _fragment(w, FRAG_CALL, site.patch, site)
    if backward:
        site = _site(w, i, SITE_LEAVE)
        site.target = target
        _fragment(w, FRAG_CALL, jmp(w.a), site)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _jump(w: cython.pointer(Work), i: u32, target: i32) -> cython.void:
    """The trace ends with a direct jump (or by being cut)."""
    if 0 <= target < 4096:
        if _needed(w, target):
            _saved(w)
        _exit(w, i, target, target <= w.end)
        return
    _saved(w)
    _cross_to(w, i, target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _jcc(w: cython.pointer(Work), i: u32) -> cython.void:
    """Jcc: the way that is taken leaves the trace."""
    target: i32 = _target(w, i)
    condition: u32 = w.insns[i].opcode & 15
    near: cython.bint = 0 <= target < 4096
    backward: cython.bint = target <= w.offset[i]
    save: cython.bint
    site: cython.pointer(Site)
    frag: cython.pointer(Fragment)
    over: u32
    _loaded(w)
    save = not w.flags & IN_MEMORY and (not near or _needed(w, target) != 0)
    if near and not backward and not save:
        site = _site(w, i, SITE_EXIT)
        site.target = target
        site.patch = jcc_aligned(w.a, condition)
        _fragment(w, FRAG_CALL, site.patch, site)
        return
    if backward and near:  # a loop: the next round is the straight way
        over = jcc(w.a, condition ^ 1)
        if save:
            save_flags(w.a)
        _exit(w, i, target, backward)
        bind_here(w.a, over)
        return
    frag = _fragment(w, FRAG_EDGE, jcc(w.a, condition), cython.NULL)
    frag.target = target
    frag.save = save
    frag.backward = backward
    frag.size = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _return_address(w: cython.pointer(Work), i: u32) -> cython.void:
    """_push_room was called: push what RET will find; it stays in S0."""
    lea(w.a, S1, S0, S1, 0, 0, 8)
    gs_load(w.a, S0, FIELD_PAGE_VA)
    lea(w.a, S0, S0, R_NONE, 0, cython.cast(u32, w.offset[i] + w.insns[i].length), 8)
    _store_pushed(w)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call_direct(w: cython.pointer(Work), i: u32) -> cython.void:
    """CALL rel32."""
    target: i32 = _target(w, i)
    after: i32 = w.offset[i] + w.insns[i].length
    if not 0 <= target < 4096 or _needed(w, target):
        _saved(w)
    _push_room(w, i)
    _return_address(w, i)
    if 0 <= target < 4096:
        _exit(w, i, target, target <= w.end)
        return
    lea(w.a, S0, S0, R_NONE, 0, cython.cast(u32, target - after), 8)
    _cross(w, i, target < 0, -8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _indirect(w: cython.pointer(Work), i: u32) -> cython.void:
    """JMP or CALL to a register or to what memory holds."""
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    base: u32
    _saved(w)
    if insn.mem:
        base = _look_operand(w, i, 8, 0)
        load_host(w.a, S0, base, S1)
    elif _spilled(insn.rm):
        gs_load(w.a, S0, 8 * insn.rm)
    else:
        mov_rr(w.a, S0, _host(insn.rm))
    if w.act[i] == ACT_JMP_IND:
        _dispatch(w, i, 0)
        return
    gs_store(w.a, S0, FIELD_TARGET)
    _push_room(w, i)
    _return_address(w, i)
    gs_load(w.a, S0, FIELD_TARGET)
    _dispatch(w, i, -8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _ret(w: cython.pointer(Work), i: u32) -> cython.void:
    """RET, RET imm16."""
    extra: u32 = 8 + (cython.cast(u32, w.insns[i].imm) & 0xFFFF if w.insns[i].imm_size else 0)
    _saved(w)
    _look_stack(w, i, H_SP, 4, 0)
    load_host(w.a, S0, H_SP, S1)
    lea(w.a, H_SP, H_SP, R_NONE, 0, extra, 8)
    _dispatch(w, i, extra)


# ---- one instruction ---------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _step(w: cython.pointer(Work), i: u32) -> cython.void:
    """The interpreter executes it."""
    site: cython.pointer(Site)
    _saved(w)
    site = _site(w, i, SITE_STEP)
    if w.act[i] == ACT_END:
        site.flags |= SITE_DISPATCH
    _call(w, site)
    w.flags = IN_MEMORY
    w.stack_aligned = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _privileged(w: cython.pointer(Work), i: u32) -> cython.void:
    """CLI, STI and SWAPGS at CPL 0, which a kernel executes at each entry and lock. STI is done
    here only while nothing waits to be delivered, so that its shadow makes no difference."""
    a: cython.pointer(Asm) = w.a
    act: u32 = w.act[i]
    site: cython.pointer(Site)
    _saved(w)
    site = _site(w, i, SITE_STEP)
    gs_test(a, FIELD_CPL)
    _fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
    if act == ACT_STI:
        gs_test(a, FIELD_ATTENTION)
        _fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
        gs_op(a, 0x81, 1, FIELD_SYSFLAGS, 0)  # or
        a4(a, FLAG_IF)
    elif act == ACT_CLI:
        gs_op(a, 0x81, 4, FIELD_SYSFLAGS, 0)  # and
        a4(a, ~cython.cast(u32, FLAG_IF))
    else:
        gs_load(a, S0, FIELD_SEGBASE + 8 * SEG_GS)
        gs_load(a, S1, FIELD_KERNEL_GS)
        gs_store(a, S0, FIELD_KERNEL_GS)
        gs_store(a, S1, FIELD_SEGBASE + 8 * SEG_GS)
        gs_store(a, S1, FIELD_GS_BASE)
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
    site: cython.pointer(Site) = _site(w, i, SITE_STEP)
    site.flags |= SITE_DISPATCH
    _before_look_up(w, i)
    gs_load(a, S0, FIELD_PAGE_VA)
    lea(a, S0, S0, R_NONE, 0, 4096, 8)
    code_entry(a, S1, S0, FIELD_ITLB, TLB_SIZE - 1)
    cmp_host(a, S0, S1, ITLB_TAG)
    _fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
    load_at(a, S1, S1, ITLB_HOST)
    while left:
        size = 4 if left >= 4 else 2 if left >= 2 else 1
        cmp_value(a, S1, at + w.offset[i] - 4096, size, cython.address(w.raw[at]))
        _fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
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
        _same_behind(w, i)
    if act == ACT_COPY:
        _copy(w, i)
    elif act == ACT_LEA:
        _lea(w, i)
    elif act == ACT_PUSH or act == ACT_PUSH_IMM:
        _push(w, i)
    elif act == ACT_POP:
        _pop(w, i)
    elif act == ACT_LEAVE:
        _leave(w, i)
    elif act == ACT_JCC:
        _jcc(w, i)
    elif act == ACT_JMP:
        _jump(w, i, _target(w, i))
    elif act == ACT_CALL:
        _call_direct(w, i)
    elif act == ACT_CALL_IND or act == ACT_JMP_IND:
        _indirect(w, i)
    elif act == ACT_RET:
        _ret(w, i)
    elif act == ACT_FLAG:
        _loaded(w)
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
        _privileged(w, i)
    elif act != ACT_NOP:
        _step(w, i)
    for n in range(first, w.tr.count):
        w.tr.sites[n].next = w.a.size
        if w.flags & IN_HOST:
            w.tr.sites[n].flags |= SITE_FLAGS


# ---- out of line -------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _unaligned(w: cython.pointer(Work), frag: cython.pointer(Fragment)) -> cython.void:
    """Not aligned, but perhaps within the page: mov S1d, reg_d; and S1d, 4095; cmp; jbe back"""
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
    crossing = _site(w, w.count, SITE_STEP)
    crossing.offset = site.offset
    crossing.length = site.length
    crossing.next = site.next
    crossing.flags = site.flags & SITE_FLAGS
    _call(w, crossing)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _edge(w: cython.pointer(Work), frag: cython.pointer(Fragment)) -> cython.void:
    """The taken side of a branch that has something to do first."""
    if frag.save:
        save_flags(w.a)
    if 0 <= frag.target < 4096:
        _exit(w, frag.size, frag.target, frag.backward)
    else:
        _cross_to(w, frag.size, frag.target)


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
        _call(w, site)
    elif frag.kind == FRAG_CALL and site.slow:
        bind_to(w.a, frag.at, site.slow)
    else:
        bind_here(w.a, frag.at)
        if frag.kind == FRAG_CALL:
            _call(w, site)
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
    _fragment(w, FRAG_CALL, jcc(a, CC_NE), _site(w, w.count, SITE_PAGE))
    gs_store(a, S0, FIELD_PAGE_VA)
    a1(a, 0x90)
    if not w.vec:
        _nop5(a)
        return
    gs_test(a, FIELD_VEC_LIVE)
    at = jcc(a, CC_E)
    a1(a, 0x90)
    _nop5(a)
    frag = _fragment(w, FRAG_VECTORS, at, cython.NULL)
    frag.back = TRACE_VECTOR


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _tail(w: cython.pointer(Work)) -> cython.void:
    """A trace that was cut goes on behind itself."""
    site: cython.pointer(Site)
    if w.count and w.act[w.count - 1] >= ACT_LAST:
        return
    if w.stuck:
        _saved(w)
        site = _site(w, w.count, SITE_LEAVE)
        site.target = cython.cast(i32, w.end)
        _call(w, site)
    else:
        _jump(w, w.count, cython.cast(i32, w.end))


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
    for i in range(w.count):
        _one(w, i)
    _tail(w)
    _out_of_line(w)
    # Where a dead trace's ways in are redirected to: by the linear address, and by the page.
    site = _site(w, w.count, SITE_BRANCH)
    site.flags |= SITE_DEAD
    w.trace.dead = w.a.size
    _call(w, site)
    site = _site(w, w.count, SITE_EXIT)
    site.flags |= SITE_DEAD
    site.target = cython.cast(i32, w.start)
    _call(w, site)


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
        vm.arena_used + cython.sizeof(Block) > vm.arena_size
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
    w.vec = 0
    w.stuck = 0
    w.saved_address = 0
    w.kept = 0
    w.stack_aligned = 0
    w.crosses = 0
    _gather(cython.address(w))
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
    w.trace.flags = (TRACE_VEC if w.vec else 0) | _undefined(cython.address(w)) << TRACE_UNDEFINED
    w.trace.first_site = tr.count
    _liveness(cython.address(w))
    _write(cython.address(w))
    status = _keep(cython.address(w))
    if w.kept:
        vm.arena_used += cython.sizeof(Block)
        head.trace = w.trace
    tr.ticks += host_tsc() - began
    return status
