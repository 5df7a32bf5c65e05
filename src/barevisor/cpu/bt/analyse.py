"""What a translation will be: its instructions, the rule for each, which flags somebody reads."""

import cython
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.bind import (
    H_RAISE_UD,
    HINT_LEA,
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
    _hint,
    gate,
    overwrites,
)
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.thunk import is_divide
from cython.cimports.barevisor.cpu.bt.tlb import fetch
from cython.cimports.barevisor.cpu.bt.trace import *
from cython.cimports.libc.string import memcpy

from barevisor.cpu.bt import decode as decoder

LOOK_AHEAD: u32 = cython.declare(u32, 12)
PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)
NATIVE = {
    "nop": ACT_NOP, "prefetch": ACT_NOP, "pause": ACT_PAUSE,
    "clc": ACT_FLAG, "stc": ACT_FLAG, "cmc": ACT_FLAG,
    "cli": ACT_CLI, "sti": ACT_STI, "swapgs": ACT_SWAPGS,
    "vzeroupper": ACT_VZERO, "vzeroall": ACT_VZERO, "jmp_rel": ACT_JMP,
}  # fmt: skip
"""Exec names besides the binder's shapes that become host code."""
CONDITIONS = (
    FLAG_OF, FLAG_CF, FLAG_ZF, FLAG_CF | FLAG_ZF, FLAG_SF, FLAG_PF, FLAG_SF | FLAG_OF,
    FLAG_SF | FLAG_OF | FLAG_ZF,
)  # fmt: skip
"""Flags by condition code; its lowest bit only negates (SDM, "EFLAGS Condition Codes")."""

# ---- which rule --------------------------------------------------------------------------


def install() -> None:
    """The rule of each exec name, by itself or by the binder's shape; flags by condition. Once a
    process, after bind.install."""
    shapes = {
        SHAPE_COPY: ACT_COPY, SHAPE_JCC: ACT_JCC, SHAPE_PUSH: ACT_PUSH,
        SHAPE_PUSH_IMM: ACT_PUSH_IMM, SHAPE_POP: ACT_POP, SHAPE_CALL_REL: ACT_CALL,
        SHAPE_RET: ACT_RET, SHAPE_CALL_IND: ACT_CALL_IND, SHAPE_JMP_IND: ACT_JMP_IND,
        SHAPE_LEAVE: ACT_LEAVE,
    }  # fmt: skip
    for place, name in enumerate(decoder.exec_names()):
        _rule[place] = NATIVE.get(name, shapes.get(_exec[place].shape, ACT_STEP))
    for place, bits in enumerate(CONDITIONS):
        _condition[place] = bits


def high_byte(insn, f):
    """See analyse.pxd."""
    if insn.rex or insn.vex:
        return False
    if f.gpr8 & 1 and f.reg_class == CLS_GPR and 4 <= insn.reg < 8:
        return True
    return f.gpr8 & 2 and f.rm_class == CLS_GPR and not insn.mem and 4 <= insn.rm < 8


def is_spilled(number):
    """Guest registers that have no host register."""
    return 9 <= number <= 11


def host_of(number):
    """The host register of a guest register that has one."""
    return H_SP if number == 4 else number


def spills_of(insn, f):
    """Bits of the distinct spilled registers that are explicit register operands."""
    bits: u32 = 0
    if f.reg_class == CLS_GPR and is_spilled(insn.reg):
        bits |= cython.cast(u32, 1) << insn.reg
    if f.vvvv_class == CLS_GPR and is_spilled(insn.vvvv):
        bits |= cython.cast(u32, 1) << insn.vvvv
    if f.rm_class == CLS_GPR and not insn.mem and insn.has_modrm and is_spilled(insn.rm):
        bits |= cython.cast(u32, 1) << insn.rm
    return bits


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _needs_rex(insn: cython.pointer(Insn), f: cython.pointer(RowFacts)) -> cython.bint:
    """Would the host form need a REX prefix (which AH..BH do not allow)?"""
    if insn.osize == 8 or spills_of(insn, f):
        return True
    if f.reg_class == CLS_GPR and not (f.gpr8 & 1) and insn.reg == 4:
        return True
    return f.rm_class == CLS_GPR and not (f.gpr8 & 2) and insn.rm == 4


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _addressable(insn: cython.pointer(Insn), offset: u32) -> cython.bint:
    """Can the linear address be computed with what write_address() does?"""
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
    spills: u32 = spills_of(insn, f)
    count: u32 = (spills >> 9 & 1) + (spills >> 10 & 1) + (spills >> 11 & 1)
    if mode & MODE_FP_TRAP and f.unit != UNIT_NONE:
        return False
    if f.attrs & RF_VSIB or (f.regs_read | f.regs_written) & 0xFFF0:
        return False
    if count > (1 if insn.mem else 2):
        return False
    if high_byte(insn, f):
        if insn.mem and f.reg_access & ACC_WRITE:
            return False
        if not insn.mem and _needs_rex(insn, f):
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
        if _hint[f.hint] == HINT_LEA:
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


def gather_code(w):
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
        if f.fallback and gate(w.cpu, f, w.mode) == H_RAISE_UD:
            insn.row = f.fallback
            f = facts(insn.row)
        act = _rule_of(w, insn, f, pos)
        if w.tr.lockstep and not _repeatable(insn, act):
            w.stuck = 1
            break
        w.act[w.count] = cython.cast(u8, act)
        w.offset[w.count] = cython.cast(u16, pos)
        if act == ACT_VZERO or _uses_vectors(insn, f, act):
            w.vec = w.fp = 1
        elif f.unit != UNIT_NONE:
            w.fp = 1
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


def branch_target(w, i):
    """Where a direct branch goes, from the start of the page."""
    return cython.cast(i32, w.offset[i] + w.insns[i].length + cython.cast(i64, w.insns[i].imm))


def flags_needed(w, target):
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


def find_liveness(w):
    """live[i], live_in[i]: flags that may be read behind and before instruction i."""
    i: cython.int = cython.cast(cython.int, w.count) - 1
    act: u32 = w.act[i]
    f: cython.pointer(RowFacts)
    now: u32 = ALL_FLAGS
    if act == ACT_JMP or act == ACT_CALL:
        now = flags_needed(w, branch_target(w, i))
    elif act < ACT_LAST and not w.stuck:
        now = flags_needed(w, cython.cast(i32, w.end))
    while i >= 0:
        act = w.act[i]
        f = facts(w.insns[i].row)
        w.live[i] = cython.cast(u16, now)
        if act == ACT_JCC:
            now |= _condition[(w.insns[i].opcode & 15) >> 1] | flags_needed(w, branch_target(w, i))
        elif act >= ACT_STEP and act != ACT_CALL and act != ACT_JMP:
            now = ALL_FLAGS
        elif act == ACT_COPY or act == ACT_FLAG:
            now = (now & ~overwrites(cython.address(w.insns[i]), f)) | (f.flags_read & ALL_FLAGS)
        w.live_in[i] = cython.cast(u16, now)
        i -= 1


def undefined_behind(w):
    """Flags that the manual leaves undefined behind the trace: some CPUs keep what was there. A
    shift by a count that may be 0 leaves undefined what was."""
    i: u32
    bits: u32 = 0
    f: cython.pointer(RowFacts)
    for i in range(w.count):
        f = facts(w.insns[i].row)
        if w.act[i] == ACT_COPY or w.act[i] == ACT_FLAG:
            bits = (bits & ~overwrites(cython.address(w.insns[i]), f)) | f.flags_undefined
    return bits & ALL_FLAGS
