"""Instructions that become the host's own, with another memory operand; LEA and the stack."""

import cython
from cython.cimports.barevisor.cpu.bt.analyse import (
    high_byte,
    host_of,
    is_spilled,
    spills_of,
)
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.bind import overwrites
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.emit import Form
from cython.cimports.barevisor.cpu.bt.fields import *
from cython.cimports.barevisor.cpu.bt.operands import (
    before_look_up,
    flags_loaded,
    look_at,
    look_operand,
    look_stack,
    new_fragment,
    new_site,
    write_address,
)
from cython.cimports.barevisor.cpu.bt.spills import *
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.thunk import is_divide, plan_form
from cython.cimports.barevisor.cpu.bt.trace import *
from cython.cimports.libc.string import memset

# ---- copied instructions -----------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _operand(
    w: cython.pointer(Work), cls: u32, access: u32, number: u32, byte: u32, rex: u32,
    form: cython.pointer(Form),
) -> u32:  # fmt: skip
    """The host register to encode."""
    if cls != CLS_GPR:
        return number
    if byte and 4 <= number < 8:
        if not rex:
            return number  # AH..BH
        form.rex = 1
    if not is_spilled(number):
        return host_of(number)
    return spill_use(w, number, w.needed >> number & 1, access & ACC_WRITE)


def write_copy(w, i):
    """The instruction itself, its memory operand replaced."""
    form: Form
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    f: cython.pointer(RowFacts) = facts(insn.row)
    rex: u32 = insn.rex or insn.vex
    base: u32 = R_NONE
    index: u32 = R_NONE
    number: u32
    alone: cython.bint = insn.mem or is_divide(insn)
    high: cython.bint = insn.mem and high_byte(insn, f)
    scratch: cython.bint
    trap: cython.pointer(Site)
    memset(cython.address(form), 0, cython.sizeof(Form))
    plan_form(cython.address(form), insn, f)
    w.pinned = 0
    w.needed = spills_needed(insn, f)
    if alone:
        spills_store(w)
    if insn.mem:
        scratch = high or spills_of(insn, f) != 0
        w.saved_address = scratch
        base = look_operand(w, i, mem_size(insn), f.mem & ACC_WRITE)
        w.saved_address = 0
        index = S1
        form.mem = 1
        w.pinned = 1
        spills_forget(w)
        if scratch:
            lea(w.a, S0, base, S1, 0, 0, 8)
            base = S0
            index = R_NONE
    if high:
        rotated(w.a, insn.reg - 4, 8)  # to be read; the host's form has no such register
        number = S1
    else:
        number = _operand(
            w, f.reg_class, f.reg_access, insn.reg, f.gpr8 & 1, rex, cython.address(form)
        )
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
        flags_loaded(w)
    if is_divide(insn):
        trap = new_site(w, i, SITE_STEP)
        trap.flags |= SITE_DIVIDES
        trap.retry = w.a.size
        new_fragment(w, FRAG_TRAP, 0, trap)
    put(w.a, cython.address(form), base, index)
    if alone:
        spills_forget(w)
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
def _is_plain_lea(insn: cython.pointer(Insn)) -> cython.bint:
    """Can the host's LEA do it, with at most two registers in scratch registers?"""
    bits: u32 = 0
    if insn.asize != 8 or insn.osize == 2 or insn.base >= 16:
        return False
    if is_spilled(insn.base):
        bits |= cython.cast(u32, 1) << insn.base
    if is_spilled(insn.index):
        bits |= cython.cast(u32, 1) << insn.index
    if is_spilled(insn.reg):
        bits |= cython.cast(u32, 1) << insn.reg
    return bits >> 9 != 7


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _plain_lea(w: cython.pointer(Work), insn: cython.pointer(Insn)) -> cython.void:
    base: u32 = host_of(insn.base)
    index: u32 = R_NONE if insn.index == REG_NONE else insn.index
    to: u32 = host_of(insn.reg)
    w.pinned = 0
    if is_spilled(insn.base):
        base = spill_use(w, insn.base, True, False)
    if is_spilled(insn.index):
        index = spill_use(w, insn.index, True, False)
    if is_spilled(insn.reg):
        to = spill_use(w, insn.reg, False, True)
    lea(w.a, to, base, index, insn.scale, cython.cast(u32, insn.disp), insn.osize)
    if insn.reg == 4 and not (
        insn.base == 4 and not insn.disp & 7 and insn.osize == 8 and insn.index == REG_NONE
    ):
        w.stack_aligned = 0


def write_lea(w, i):
    """LEA: the address without a segment base."""
    a: cython.pointer(Asm) = w.a
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    guest: cython.uchar = 0
    seg: u8 = insn.seg
    reg: u32
    to: u32 = S0 if is_spilled(insn.reg) else host_of(insn.reg)
    if _is_plain_lea(insn):
        _plain_lea(w, insn)
        return
    spills_forget(w)
    insn.seg = SEG_DS
    reg = write_address(w, i, cython.address(guest))
    insn.seg = seg
    if insn.osize == 2:
        a1(a, 0x66)
        if is_spilled(insn.reg):
            gs_op(a, 0x89, reg, 8 * insn.reg, 0)
            spills_forget(w)
            return
    a1(a, 0x40 | (8 if insn.osize == 8 else 0) | (reg >> 3) << 2 | to >> 3)  # mov to, reg
    a1(a, 0x89)
    a1(a, 0xC0 | (reg & 7) << 3 | to & 7)
    if is_spilled(insn.reg):
        gs_store(a, S0, 8 * insn.reg)
    spills_forget(w)
    if insn.reg == 4:
        w.stack_aligned = 0


# ---- the stack ---------------------------------------------------------------------------


def push_room(w, i):
    """S0 = RSP - 8, S1 = host minus linear address, checked for a store of eight bytes."""
    before_look_up(w, i)
    lea(w.a, S0, H_SP, R_NONE, 0, cython.cast(u32, -8), 8)
    look_stack(w, i, S0, H_STACK_TOP, 1)


def store_pushed(w):
    """Store S0 at host address S1, and only then move RSP: the host may fault (faults.py)."""
    store_host(w.a, S0, S1, R_NONE)
    lea(w.a, H_SP, H_SP, R_NONE, 0, cython.cast(u32, -8), 8)


def write_push(w, i):
    """PUSH of a register, a constant or memory."""
    form: Form
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    number: u32 = insn.rm if insn.has_modrm else insn.reg
    base: u32
    if w.act[i] == ACT_PUSH_IMM:
        push_room(w, i)
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
        base = look_operand(w, i, 8, 0)
        load_host(w.a, S0, base, S1)
        gs_store(w.a, S0, at_target())
        push_room(w, i)
        lea(w.a, S1, S0, S1, 0, 0, 8)
        gs_load(w.a, S0, at_target())
        store_pushed(w)
        return
    push_room(w, i)
    if is_spilled(number):
        lea(w.a, S1, S0, S1, 0, 0, 8)
        gs_load(w.a, S0, 8 * number)
        store_pushed(w)
        return
    store_host(w.a, host_of(number), S0, S1)
    mov_rr(w.a, H_SP, S0)


def write_pop(w, i):
    """POP of a register."""
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    number: u32 = insn.rm if insn.has_modrm else insn.reg
    before_look_up(w, i)
    look_stack(w, i, H_SP, 4, 0)
    if number == 4:
        load_host(w.a, H_SP, H_SP, S1)
        w.stack_aligned = 0
        return
    if is_spilled(number):
        load_host(w.a, S0, H_SP, S1)
        gs_store(w.a, S0, 8 * number)
    else:
        load_host(w.a, number, H_SP, S1)
    lea(w.a, H_SP, H_SP, R_NONE, 0, 8, 8)


def write_leave(w, i):
    """LEAVE: RSP = RBP, POP RBP."""
    before_look_up(w, i)
    look_at(w, i, 5, 5, 8, 0, ALIGN_ANY)
    load_host(w.a, S0, 5, S1)
    lea(w.a, H_SP, 5, R_NONE, 0, 8, 8)
    mov_rr(w.a, 5, S0)
    w.stack_aligned = 0
