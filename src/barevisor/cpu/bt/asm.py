"""Host machine code of translations, byte by byte (SDM, "Instruction Format").

Everything that a translation executes is written by these functions or is a guest instruction in
its one canonical encoding (`put`): no byte of the guest's code is taken over as it is. State is
reached through GS (space.pxd), so one translation serves every virtual CPU.
"""

import cython
from cython.cimports.barevisor.cpu.bt.emit import form_prefixes
from cython.cimports.barevisor.cpu.bt.fields import at_fl, at_spill
from cython.cimports.barevisor.cpu.bt.space import CPU_SPAN
from cython.cimports.barevisor.cpu.bt.state import *

NO_SPLIT: u32 = cython.declare(u32, 0xFFFFFFFF)
REX: u32 = cython.declare(u32, 0x40)
# ---- where it will lie -------------------------------------------------------------------


def asm_start(a, base):
    """See asm.pxd."""
    a.size = 0
    a.overflow = 0
    a.base = base
    a.split = NO_SPLIT
    a.gap = 0


def asm_split(a, base):
    """See asm.pxd."""
    a.split = a.size
    a.gap = cython.cast(u32, base - a.base - a.size)


# ---- struct Cpu --------------------------------------------------------------------------


def gs_op(a, opcode, reg, field, w):
    """See asm.pxd. Two-byte opcodes are given as 0x0Fxx."""
    a1(a, 0x65)
    if w or reg & 8:
        a1(a, REX | (8 if w else 0) | (reg >> 3 & 1) << 2)
    if opcode > 0xFF:
        a1(a, 0x0F)
    a1(a, opcode & 0xFF)
    a1(a, 0x04 | (reg & 7) << 3)
    a1(a, 0x25)
    a4(a, field - CPU_SPAN)


def gs_load(a, reg, field):
    """mov r64, gs:[field]"""
    gs_op(a, 0x8B, reg, field, 1)


def gs_store(a, reg, field):
    """mov gs:[field], r64"""
    gs_op(a, 0x89, reg, field, 1)


def gs_test(a, field):
    """cmp dword gs:[field], 0"""
    gs_op(a, 0x83, 7, field, 0)
    a1(a, 0)


def gs_set(a, field, value):
    """mov dword gs:[field], imm32"""
    gs_op(a, 0xC7, 0, field, 0)
    a4(a, value)


# ---- moves -------------------------------------------------------------------------------


def mov_rr(a, to, source):
    """mov r64, r64"""
    a1(a, REX | 8 | (source >> 3) << 2 | to >> 3)
    a1(a, 0x89)
    a1(a, 0xC0 | (source & 7) << 3 | to & 7)


def mov_imm64(a, to, value):
    """mov r64, imm: sign-extended from 32 bits where that suffices"""
    a1(a, REX | 8 | to >> 3)
    if cython.cast(u64, cython.cast(i64, cython.cast(i32, value))) == value:
        a1(a, 0xC7)
        a1(a, 0xC0 | to & 7)
        a4(a, cython.cast(u32, value))
        return
    a1(a, 0xB8 | to & 7)
    a8(a, value)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _operand(
    a: cython.pointer(Asm), reg: u32, base: u32, index: u32, scale: u32, disp: u32
) -> cython.void:
    """ModRM, SIB and displacement of `reg`, [base + index * 2**scale + disp]."""
    small: cython.bint = cython.cast(u32, cython.cast(i32, cython.cast(i8, disp))) == disp
    mod: u32
    if base == R_NONE:
        a1(a, 0x04 | (reg & 7) << 3)
        a1(a, scale << 6 | ((4 if index == R_NONE else index & 7) << 3) | 5)
        a4(a, disp)
        return
    mod = 0x40 if small else 0x80
    if disp == 0 and base & 7 != 5:
        mod = 0
    if index == R_NONE and base & 7 != 4:
        a1(a, mod | (reg & 7) << 3 | base & 7)
    else:
        a1(a, mod | (reg & 7) << 3 | 4)
        a1(a, scale << 6 | ((4 if index == R_NONE else index & 7) << 3) | base & 7)
    if mod == 0x40:
        a1(a, disp & 0xFF)
    elif mod == 0x80:
        a4(a, disp)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _rex(reg: u32, base: u32, index: u32) -> u32:
    """R, X and B."""
    rex: u32 = (reg >> 3 & 1) << 2
    if index != R_NONE:
        rex |= (index >> 3) << 1
    if base != R_NONE:
        rex |= base >> 3
    return rex


def lea(a, to, base, index, scale, disp, size):
    """See asm.pxd. `size`: 2, 4 or 8 bytes of `to` are written."""
    rex: u32 = _rex(to, base, index) | (8 if size == 8 else 0)
    if size == 2:
        a1(a, 0x66)
    if rex:
        a1(a, REX | rex)
    a1(a, 0x8D)
    _operand(a, to, base, index, scale, disp)


def load_host(a, to, base, index):
    """mov r64, [base + index]"""
    a1(a, REX | 8 | _rex(to, base, index))
    a1(a, 0x8B)
    _operand(a, to, base, index, 0, 0)


def store_host(a, source, base, index):
    """mov [base + index], r64"""
    a1(a, REX | 8 | _rex(source, base, index))
    a1(a, 0x89)
    _operand(a, source, base, index, 0, 0)


def load_at(a, to, base, disp):
    """mov r64, [base + disp]"""
    a1(a, REX | 8 | _rex(to, base, R_NONE))
    a1(a, 0x8B)
    _operand(a, to, base, R_NONE, 0, disp)


# ---- comparisons -------------------------------------------------------------------------


def cmp_host(a, reg, base, disp):
    """cmp r64, [base + disp]"""
    a1(a, REX | 8 | _rex(reg, base, R_NONE))
    a1(a, 0x3B)
    _operand(a, reg, base, R_NONE, 0, disp)


def cmp_value(a, base, disp, size, value):
    """See asm.pxd."""
    i: u32
    if size == 2:
        a1(a, 0x66)
    if base & 8:
        a1(a, REX | 1)
    a1(a, 0x80 if size == 1 else 0x81)
    _operand(a, 7, base, R_NONE, 0, disp)
    for i in range(size):
        a1(a, value[i])


def code_entry(a, to, reg, field, mask):
    """See asm.pxd: mov to, reg; shr to, 12; and to, mask; shl to, 5; add to, gs:[field]"""
    mov_rr(a, to, reg)
    _shift(a, 5, to, 12)
    a1(a, REX | to >> 3)
    a1(a, 0x81)
    a1(a, 0xE0 | to & 7)
    a4(a, mask)
    _shift(a, 4, to, 5)
    gs_op(a, 0x03, to, field, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _shift(a: cython.pointer(Asm), extension: u32, reg: u32, count: u32) -> cython.void:
    """shl (4) or shr (5) r64, count"""
    a1(a, REX | 8 | reg >> 3)
    a1(a, 0xC1)
    a1(a, 0xC0 | extension << 3 | reg & 7)
    a1(a, count)


# ---- branches ----------------------------------------------------------------------------


def jmp(a):
    """See asm.pxd."""
    a1(a, 0xE9)
    a4(a, 0)
    return a.size - 4


def jcc(a, condition):
    """See asm.pxd."""
    a1(a, 0x0F)
    a1(a, 0x80 | condition)
    a4(a, 0)
    return a.size - 4


def jmp_aligned(a):
    """See asm.pxd."""
    _pad(a, 1)
    return jmp(a)


def jcc_aligned(a, condition):
    """See asm.pxd."""
    _pad(a, 2)
    return jcc(a, condition)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pad(a: cython.pointer(Asm), opcode: u32) -> cython.void:
    """One NOP of up to three bytes, so that what follows `opcode` bytes is aligned to four."""
    count: u32 = (4 - (a.size + opcode)) & 3
    if count == 1:
        a1(a, 0x90)
    elif count == 2:
        a1(a, 0x66)
        a1(a, 0x90)
    elif count == 3:
        a1(a, 0x0F)
        a1(a, 0x1F)
        a1(a, 0x00)


def bind_here(a, at):
    """The branch whose displacement is at `at` goes to the next instruction written."""
    bind_to(a, at, a.size)


def bind_to(a, at, place):
    """... goes to offset `place`."""
    value: u32 = placed(a, place) - (placed(a, at) + 4)
    if a.overflow:
        return
    cython.cast(cython.pointer(u32), cython.address(a.bytes[at]))[0] = value


def call_host(a, target):
    """See asm.pxd."""
    a1(a, 0xE8)
    a4(a, cython.cast(u32, target - (a.base + placed(a, a.size) + 4)))


# ---- guest instructions ------------------------------------------------------------------


def put(a, form, base, index):
    """See asm.pxd."""
    i: u32
    rex: u32 = 0
    prefix: u8[8]
    if form.mem:
        rex = _rex(form.reg, base, index)
    elif form.has_modrm:
        rex = (form.reg >> 3) << 2 | form.rm >> 3
    elif form.plus_r:
        rex = form.rm >> 3
    for i in range(form_prefixes(form, rex, prefix)):
        a1(a, prefix[i])
    a1(a, (form.opcode & 0xF8) | (form.rm & 7) if form.plus_r else form.opcode)
    if form.mem:
        _operand(a, form.reg, base, index, 0, 0)
    elif form.has_modrm:
        a1(a, 0xC0 | (form.reg & 7) << 3 | (form.rm & 7))
    for i in range(form.imm_size):
        a1(a, cython.cast(u32, form.imm >> (8 * i)) & 0xFF)


def rotated(a, reg, count):
    """rorx S1, reg, count"""
    a1(a, 0xC4)
    a1(a, 0x43 if reg & 8 else 0x63)
    a1(a, 0xFB)
    a1(a, 0xF0)
    a1(a, 0xC0 | (S1 & 7) << 3 | reg & 7)
    a1(a, count)


def look_up(a, reg, table_disp):
    """See asm.pxd: rorx S1, reg, 12; mov S1, gs:[S1d*8 + table_disp]; test S1, S1.

    The address-size prefix cuts the index to 29 bits (SDM, "Effective Address"), and RORX leaves
    the low twelve bits of the address above those.
    """
    rotated(a, reg, 12)
    a1(a, 0x65)
    a1(a, 0x67)
    a1(a, 0x4E)
    a1(a, 0x8B)
    a1(a, 0x14)
    a1(a, 0xD5)
    a4(a, table_disp)
    a1(a, 0x4D)
    a1(a, 0x85)
    a1(a, 0xD2)


def save_flags(a):
    """See asm.pxd: lahf; seto al, with rax put aside. The image is that of Cpu.fl."""
    mov_rr(a, S0, H_RAX)
    a1(a, 0x9F)
    a1(a, 0x0F)
    a1(a, 0x90)
    a1(a, 0xC0)
    a1(a, 0x66)
    gs_op(a, 0x89, H_RAX, at_fl(), 0)
    mov_rr(a, H_RAX, S0)


def restore_flags(a):
    """See asm.pxd. S0 and S1 may be in use: rax is put aside in memory."""
    gs_store(a, H_RAX, at_spill())
    gs_op(a, 0x0FB7, H_RAX, at_fl(), 0)  # no wider than it was stored: else the load waits
    a1(a, 0x04)
    a1(a, 0x7F)
    a1(a, 0x9E)
    gs_load(a, H_RAX, at_spill())
