"""Instructions that exist only outside 64-bit mode: PUSHA, POPA, BOUND-less BCD arithmetic, SALC.

All follow the SDM's operation sections under their names. They are rare, so they go through the
dispatcher (finish).
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.arch import write_reg
from cython.cimports.barevisor.cpu.bt.stack import (
    Stack,
    push_items,
    stack_commit,
    stack_current,
    stack_pop,
)
from cython.cimports.barevisor.cpu.bt.state import *


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pusha(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """PUSHA, PUSHAD: AX CX DX BX, the old SP, BP SI DI."""
    items: cython.ulonglong[8]
    i: cython.int
    status: cython.int
    for i in range(8):
        items[i] = cpu.regs[i]
    status = push_items(cpu, items, 8, op.osize)
    return leave(cpu, op, status) if status else leave_after(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def popa(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """POPA, POPAD: the saved SP is thrown away."""
    stack: Stack
    items: cython.ulonglong[8]
    i: cython.int
    status: cython.int
    stack_current(cpu, cython.address(stack))
    status = stack_pop(cpu, cython.address(stack), items, 8, op.osize)
    if status:
        return leave(cpu, op, status)
    stack_commit(cpu, cython.address(stack))
    for i in range(8):
        if i != 3:
            write_reg(cpu, 7 - i, op.osize, items[i])
    return finish(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flags(
    cpu: cython.pointer(Cpu), al: u32, carry: cython.bint, adjust: cython.bint
) -> cython.void:
    """SF ZF PF by AL, CF and AF as given, OF cleared (undefined by the manual)."""
    fl: u32 = 0x200
    if al & 0x80:
        fl |= FL_SF
    if (al & 0xFF) == 0:
        fl |= FL_ZF
    if not __builtin_parity(al & 0xFF):
        fl |= FL_PF
    if carry:
        fl |= FL_CF
    if adjust:
        fl |= FL_AF
    cpu.fl = fl


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_ax(cpu: cython.pointer(Cpu), ah: u32, al: u32) -> cython.void:
    cpu.regs[0] = (cpu.regs[0] & ~cython.cast(u64, 0xFFFF)) | ((ah & 0xFF) << 8) | (al & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def aaa_aas(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """AAA (37) and AAS (3F)."""
    al: u32 = cython.cast(u32, cpu.regs[0] & 0xFF)
    ax: u32 = cython.cast(u32, cpu.regs[0] & 0xFFFF)
    adjust: cython.bint = (al & 15) > 9 or (cpu.fl & FL_AF) != 0
    if adjust:
        ax = ax + 0x106 if op.opcode == 0x37 else ax - 6 - 0x100
    al = ax & 15
    _set_ax(cpu, (ax >> 8) & 0xFF, al)
    _flags(cpu, al, adjust, adjust)
    return finish(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def daa_das(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """DAA (27) and DAS (2F)."""
    old: u32 = cython.cast(u32, cpu.regs[0] & 0xFF)
    al: u32 = old
    carry: cython.bint = (cpu.fl & FL_CF) != 0
    adjust: cython.bint = (old & 15) > 9 or (cpu.fl & FL_AF) != 0
    high: cython.bint = old > 0x99 or carry
    if op.opcode == 0x27:
        al += (6 if adjust else 0) + (0x60 if high else 0)
    else:
        carry = high or (adjust and old < 6)
        al -= (6 if adjust else 0) + (0x60 if high else 0)
        high = carry
    cpu.regs[0] = (cpu.regs[0] & ~cython.cast(u64, 0xFF)) | (al & 0xFF)
    _flags(cpu, al, high, adjust)
    return finish(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def aam(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """AAM imm8: #DE for a base of 0."""
    al: u32 = cython.cast(u32, cpu.regs[0] & 0xFF)
    base: u32 = cython.cast(u32, op.imm & 0xFF)
    if base == 0:
        return fault(cpu, op, EXC_DE, NO_ERROR)
    _set_ax(cpu, al // base, al % base)
    _flags(cpu, al % base, False, False)
    return finish(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def aad(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """AAD imm8."""
    ax: u32 = cython.cast(u32, cpu.regs[0] & 0xFFFF)
    al: u32 = ((ax & 0xFF) + (ax >> 8) * cython.cast(u32, op.imm & 0xFF)) & 0xFF
    _set_ax(cpu, 0, al)
    _flags(cpu, al, False, False)
    return finish(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def salc(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """SALC: AL is FF if carry, else 0."""
    cpu.regs[0] = (cpu.regs[0] & ~cython.cast(u64, 0xFF)) | (0xFF if cpu.fl & FL_CF else 0)
    return finish(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by name, for the block builder."""
    return {
        "pusha": entry_of(pusha),
        "popa": entry_of(popa),
        "aaa": entry_of(aaa_aas),
        "aas": entry_of(aaa_aas),
        "daa": entry_of(daa_das),
        "das": entry_of(daa_das),
        "aam": entry_of(aam),
        "aad": entry_of(aad),
        "salc": entry_of(salc),
    }
