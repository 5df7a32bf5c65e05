"""Branches of translated code: within the page, to another one, and to computed targets."""

import cython
from cython.cimports.barevisor.cpu.bt.analyse import (
    branch_target,
    flags_needed,
    host_of,
    is_spilled,
)
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.fields import *
from cython.cimports.barevisor.cpu.bt.moves import push_room, store_pushed
from cython.cimports.barevisor.cpu.bt.operands import (
    flags_loaded,
    flags_saved,
    look_operand,
    look_stack,
    new_fragment,
    new_site,
    site_number,
)
from cython.cimports.barevisor.cpu.bt.space import SPACE_BELOW
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.trace import *


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _dispatch(w: cython.pointer(Work), i: u32, undo: cython.int) -> cython.void:
    """An indirect branch to the linear address in S0. Flags are in Cpu.fl."""
    a: cython.pointer(Asm) = w.a
    site: cython.pointer(Site) = new_site(w, i, SITE_BRANCH)
    site.undo = cython.cast(i16, undo)
    gs_test(a, at_urgent())
    new_fragment(w, FRAG_CALL, jcc(a, CC_NE), site)
    gs_set(a, at_branch(), site_number(w, site))
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
        site = new_site(w, i, SITE_BRANCH)
        site.undo = cython.cast(i16, undo)
        gs_test(w.a, at_urgent())
        new_fragment(w, FRAG_CALL, jcc(w.a, CC_NE), site)
    site = new_site(w, i, SITE_CROSS)
    site.undo = cython.cast(i16, undo)
    site.patch = jmp_aligned(w.a)
    new_fragment(w, FRAG_CALL, site.patch, site)


def write_cross(w, i, target):
    """... to `target`, from the start of the page."""
    gs_load(w.a, S0, at_page_va())
    lea(w.a, S0, S0, R_NONE, 0, cython.cast(u32, target), 8)
    _cross(w, i, target < 0, 0)


def write_exit(w, i, target, backward):
    """Go to `target` in the page; backwards, look whether somebody wants the guest to stop."""
    site: cython.pointer(Site)
    site = new_site(w, i, SITE_EXIT)
    site.target = target
    if backward:
        gs_test(w.a, at_urgent())
        site.patch = jcc_aligned(w.a, CC_E)
    else:
        site.patch = jmp_aligned(w.a)
    new_fragment(w, FRAG_CALL, site.patch, site)
    if backward:
        site = new_site(w, i, SITE_LEAVE)
        site.target = target
        new_fragment(w, FRAG_CALL, jmp(w.a), site)


def write_jump(w, i, target):
    """The trace ends with a direct jump (or by being cut)."""
    if 0 <= target < 4096:
        if flags_needed(w, target):
            flags_saved(w)
        write_exit(w, i, target, target <= w.end)
        return
    flags_saved(w)
    write_cross(w, i, target)


def write_jcc(w, i):
    """Jcc: the way that is taken leaves the trace."""
    target: i32 = branch_target(w, i)
    condition: u32 = w.insns[i].opcode & 15
    near: cython.bint = 0 <= target < 4096
    backward: cython.bint = target <= w.offset[i]
    save: cython.bint
    site: cython.pointer(Site)
    frag: cython.pointer(Fragment)
    over: u32
    flags_loaded(w)
    save = not w.flags & IN_MEMORY and (not near or flags_needed(w, target) != 0)
    if near and not backward and not save:
        site = new_site(w, i, SITE_EXIT)
        site.target = target
        site.patch = jcc_aligned(w.a, condition)
        new_fragment(w, FRAG_CALL, site.patch, site)
        return
    if backward and near:  # a loop: the next round is the straight way
        over = jcc(w.a, condition ^ 1)
        if save:
            save_flags(w.a)
        write_exit(w, i, target, backward)
        bind_here(w.a, over)
        return
    frag = new_fragment(w, FRAG_EDGE, jcc(w.a, condition), cython.NULL)
    frag.target = target
    frag.save = save
    frag.size = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _return_address(w: cython.pointer(Work), i: u32) -> cython.void:
    """_push_room was called: push what RET will find; it stays in S0."""
    lea(w.a, S1, S0, S1, 0, 0, 8)
    gs_load(w.a, S0, at_page_va())
    lea(w.a, S0, S0, R_NONE, 0, cython.cast(u32, w.offset[i] + w.insns[i].length), 8)
    store_pushed(w)


def write_call_direct(w, i):
    """CALL rel32."""
    target: i32 = branch_target(w, i)
    after: i32 = w.offset[i] + w.insns[i].length
    if not 0 <= target < 4096 or flags_needed(w, target):
        flags_saved(w)
    push_room(w, i)
    _return_address(w, i)
    if 0 <= target < 4096:
        write_exit(w, i, target, target <= w.end)
        return
    lea(w.a, S0, S0, R_NONE, 0, cython.cast(u32, target - after), 8)
    _cross(w, i, target < 0, -8)


def write_indirect(w, i):
    """JMP or CALL to a register or to what memory holds."""
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    base: u32
    flags_saved(w)
    if insn.mem:
        base = look_operand(w, i, 8, 0)
        load_host(w.a, S0, base, S1)
    elif is_spilled(insn.rm):
        gs_load(w.a, S0, 8 * insn.rm)
    else:
        mov_rr(w.a, S0, host_of(insn.rm))
    if w.act[i] == ACT_JMP_IND:
        _dispatch(w, i, 0)
        return
    gs_store(w.a, S0, at_target())
    push_room(w, i)
    _return_address(w, i)
    gs_load(w.a, S0, at_target())
    _dispatch(w, i, -8)


def write_ret(w, i):
    """RET, RET imm16."""
    extra: u32 = 8 + (cython.cast(u32, w.insns[i].imm) & 0xFFFF if w.insns[i].imm_size else 0)
    flags_saved(w)
    look_stack(w, i, H_SP, 4, 0)
    load_host(w.a, S0, H_SP, S1)
    lea(w.a, H_SP, H_SP, R_NONE, 0, extra, 8)
    _dispatch(w, i, extra)
