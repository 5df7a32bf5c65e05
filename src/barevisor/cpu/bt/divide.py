"""DIV and IDIV (SDM, "DIV", "IDIV"): the only copied instructions that trap on their operands.

Signed division works on magnitudes, so that no step of it can overflow in C. Flags are
undefined afterwards and stay as they are.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import fault, next_op
from cython.cimports.barevisor.cpu.bt.state import *


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _commit(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), quotient: u64, remainder: u64
) -> cython.int:
    """Store the results by operand size (a 32-bit one clears the upper half) and go on."""
    regs: cython.pointer(u64) = cpu.regs
    if op.osize == 1:
        regs[0] = (
            (regs[0] & ~cython.cast(u64, 0xFFFF)) | (quotient & 0xFF) | ((remainder & 0xFF) << 8)
        )
    elif op.osize == 2:
        regs[0] = (regs[0] & ~cython.cast(u64, 0xFFFF)) | (quotient & 0xFFFF)
        regs[2] = (regs[2] & ~cython.cast(u64, 0xFFFF)) | (remainder & 0xFFFF)
    elif op.osize == 4:
        regs[0] = cython.cast(u32, quotient)
        regs[2] = cython.cast(u32, remainder)
    else:
        regs[0] = quotient
        regs[2] = remainder
    return next_op(cpu, op)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _divide_64(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), divisor: u64, signed: u32
) -> cython.int:
    """RDX:RAX by `divisor`. The high half is mostly a sign: then 64 bits suffice."""
    high: u64 = cpu.regs[2]
    low: u64 = cpu.regs[0]
    negative: u64 = high >> 63 if signed else 0
    flip: u64 = negative ^ (divisor >> 63 if signed else 0)
    if negative:
        low = 0 - low
        high = ~high + (low == 0)
    if signed and divisor >> 63:
        divisor = 0 - divisor
    if high >= divisor:
        return fault(cpu, op, EXC_DE, NO_ERROR)
    quotient: u64
    remainder: u64
    if high == 0:
        quotient = low // divisor
        remainder = low % divisor
    else:
        whole: u128 = high
        whole = (whole << 64) | low
        wide: u128 = divisor  # Cython would cut the dividend to the divisor's type
        quotient = cython.cast(u64, whole // wide)
        remainder = cython.cast(u64, whole % wide)
    if signed and quotient > (~cython.cast(u64, 0) >> 1) + flip:
        return fault(cpu, op, EXC_DE, NO_ERROR)
    return _commit(
        cpu, op, 0 - quotient if flip else quotient, 0 - remainder if negative else remainder
    )


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _divide(cpu: cython.pointer(Cpu), op: cython.pointer(Op), divisor: u64) -> cython.int:
    """`divisor` is zero-extended from the operand size."""
    signed: u32 = op.reg & 1  # /6 DIV, /7 IDIV
    bits: u32 = op.osize * 8
    if bits == 64:
        return _divide_64(cpu, op, divisor, signed)
    mask: u64 = (cython.cast(u64, 1) << bits) - 1
    dividend: u64 = cpu.regs[0] & 0xFFFF
    if bits > 8:
        dividend = (cpu.regs[2] & mask) << bits | (cpu.regs[0] & mask)
    negative: u64 = dividend >> (2 * bits - 1) if signed else 0
    flip: u64 = negative ^ (divisor >> (bits - 1) if signed else 0)
    if negative:
        dividend = (0 - dividend) & (mask << bits | mask)
    if negative ^ flip:
        divisor = (0 - divisor) & mask
    if dividend >> bits >= divisor:
        return fault(cpu, op, EXC_DE, NO_ERROR)
    quotient: u64 = dividend // divisor
    remainder: u64 = dividend % divisor
    if signed and quotient > (mask >> 1) + flip:
        return fault(cpu, op, EXC_DE, NO_ERROR)
    return _commit(
        cpu, op, 0 - quotient if flip else quotient, 0 - remainder if negative else remainder
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def divide_register(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """Handler of the register forms."""
    return divide_memory(cpu, op, cython.cast(cython.pointer(u8), cpu) + op.rm_off)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def divide_memory(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), host: cython.pointer(u8)
) -> cython.int:
    """The memory forms, as a thunk: `host` is read once, other CPUs may change it."""
    value: u64 = 0
    if op.osize == 1:
        value = host[0]
    elif op.osize == 2:
        value = cython.cast(cython.pointer(u16), host)[0]
    elif op.osize == 4:
        value = cython.cast(cython.pointer(u32), host)[0]
    else:
        value = cython.cast(cython.pointer(u64), host)[0]
    return _divide(cpu, op, value)
