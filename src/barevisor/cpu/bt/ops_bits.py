"""BT, BTS, BTR, BTC on memory with a bit offset from a register (SDM, BT): the offset is signed
and reaches any word, so the address is not just the operand's. All other bit tests are copied.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.mmu import check_segment, hold, load_slow, store_slow
from cython.cimports.barevisor.cpu.bt.safepoint import vm_unlock
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.tlb import prime_write


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _offset(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> i64:
    """The bit offset, sign-extended from the operand size."""
    if op.osize == 8:
        return cython.cast(i64, cpu.regs[op.reg])
    if op.osize == 4:
        return cython.cast(i32, cpu.regs[op.reg])
    return cython.cast(i16, cpu.regs[op.reg])


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _word(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> u64:
    """Effective address of the word that holds the bit."""
    index: i64 = _offset(cpu, op) >> (6 if op.osize == 8 else 5 if op.osize == 4 else 4)
    return (
        cpu.regs[op.base]
        + (cpu.regs[op.index] << op.scale)
        + op.disp
        + cython.cast(u64, index * op.osize)
    ) & op.amask


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _linear_word(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> u64:
    va: u64 = _word(cpu, op) + cpu.segbase[op.seg]
    return cython.cast(u64, cython.cast(u32, va)) if op.flags & OPF_LEGACY else va


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _refused(cpu: cython.pointer(Cpu), op: cython.pointer(Op), write: u32) -> cython.int:
    if op.flags & OPF_LEGACY:
        return check_segment(cpu, op.seg, _word(cpu, op), op.osize, write)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _value(op: cython.pointer(Op), host: cython.pointer(u8)) -> u64:
    if op.osize == 8:
        return cython.cast(cython.pointer(u64), host)[0]
    if op.osize == 4:
        return cython.cast(cython.pointer(u32), host)[0]
    return cython.cast(cython.pointer(u16), host)[0]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _carry(cpu: cython.pointer(Cpu), op: cython.pointer(Op), value: u64) -> cython.void:
    """CF from the bit; the other flags are undefined and stay."""
    bit: u64 = cython.cast(u64, _offset(cpu, op)) & (8 * op.osize - 1)
    cpu.fl = (cpu.fl & ~cython.cast(u32, FL_CF)) | (FL_CF if (value >> bit) & 1 else 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bt(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """BT m, r."""
    host: cython.pointer(u8)
    status: cython.int = _refused(cpu, op, 0)
    if status:
        return leave(cpu, op, status)
    host = read_fast(cpu, _linear_word(cpu, op), op.osize)
    if host == cython.NULL:
        host = cython.address(cpu.bounce[0])
        status = load_slow(cpu, _linear_word(cpu, op), op.osize, host, cpu.mmu_idx)
        if status:
            return leave(cpu, op, status)
    _carry(cpu, op, _value(op, host))
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _change(op: cython.pointer(Op), host: cython.pointer(u8), bit: u64) -> u64:
    """Set, reset or complement in one atomic step; the word as it was. AB BTS, B3 BTR, BB BTC."""
    mask: u64 = cython.cast(u64, 1) << bit
    if op.osize == 8:
        if op.opcode == 0xAB:
            return __sync_fetch_and_or_8(cython.cast(cython.pointer(u64), host), mask)
        if op.opcode == 0xB3:
            return __sync_fetch_and_and_8(cython.cast(cython.pointer(u64), host), ~mask)
        return __sync_fetch_and_xor_8(cython.cast(cython.pointer(u64), host), mask)
    if op.osize == 4:
        if op.opcode == 0xAB:
            return __sync_fetch_and_or_4(
                cython.cast(cython.pointer(u32), host), cython.cast(u32, mask)
            )
        if op.opcode == 0xB3:
            return __sync_fetch_and_and_4(
                cython.cast(cython.pointer(u32), host), cython.cast(u32, ~mask)
            )
        return __sync_fetch_and_xor_4(
            cython.cast(cython.pointer(u32), host), cython.cast(u32, mask)
        )
    if op.opcode == 0xAB:
        return __sync_fetch_and_or_2(cython.cast(cython.pointer(u16), host), cython.cast(u16, mask))
    if op.opcode == 0xB3:
        return __sync_fetch_and_and_2(
            cython.cast(cython.pointer(u16), host), cython.cast(u16, ~mask)
        )
    return __sync_fetch_and_xor_2(cython.cast(cython.pointer(u16), host), cython.cast(u16, mask))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bit_change(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """BTS, BTR, BTC m, r; always atomic, LOCK or not."""
    host: cython.pointer(u8)
    va: u64 = _linear_word(cpu, op)
    bit: u64 = cython.cast(u64, _offset(cpu, op)) & (8 * op.osize - 1)
    status: cython.int = _refused(cpu, op, 1)
    if status:
        return leave(cpu, op, status)
    host = write_fast(cpu, va, op.osize)
    if host == cython.NULL:
        if prime_write(cpu, va, op.osize, cpu.mmu_idx):
            return leave(cpu, op, ST_FAULT)
        host = write_fast(cpu, va, op.osize)
        if host == cython.NULL:
            return _bit_change_slow(cpu, op, va, bit)
    _carry(cpu, op, _change(op, host, bit))
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _bit_change_slow(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), va: u64, bit: u64
) -> cython.int:
    """Across pages, on a code page, or on a device: by way of the bounce buffer."""
    status: cython.int
    host: cython.pointer(u8) = hold(cpu, va, op.osize)
    if host != cython.NULL:
        _carry(cpu, op, _change(op, host, bit))
        vm_unlock(cpu.vm)
        return leave_after(cpu, op)
    if want_alone(cpu, op):
        return leave(cpu, op, ST_NEXT)
    host = cython.address(cpu.bounce[0])
    status = load_slow(cpu, va, op.osize, host, cpu.mmu_idx)
    if status:
        return leave(cpu, op, status)
    _carry(cpu, op, _change(op, host, bit))
    status = store_slow(cpu, va, op.osize, host, cpu.mmu_idx)
    if status == 0 or status == ST_BREAK:
        return leave_after(cpu, op)
    return leave(cpu, op, status)


def handlers() -> dict[str, int]:
    """Handler addresses by name, for the block builder."""
    return {
        "bt": entry_of(bt),
        "bts": entry_of(bit_change),
        "btr": entry_of(bit_change),
        "btc": entry_of(bit_change),
    }
