"""String instructions: MOVS, STOS, LODS, SCAS, CMPS with REP, in every mode and size.

A repeated instruction commits its registers after each piece, so a fault, an interrupt or a
memory-mapped element finds it restartable. A piece is one element, or, where both sides lie in
pages that the TLB knows, as much as fits the page. After PIECES pieces it restarts through the
dispatcher, which bounds how long interrupts wait. Stepped, it restarts after each element (SDM,
"Single-Step Exception Condition").
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.mmu import check_segment
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.libc.string import memmove, memset

PIECES: cython.int = cython.declare(cython.int, 256)
RCX: cython.int = cython.declare(cython.int, 1)
RSI: cython.int = cython.declare(cython.int, 6)
RDI: cython.int = cython.declare(cython.int, 7)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _mask(op: cython.pointer(Op)) -> u64:
    return cython.cast(u64, 0xFFFFFFFFFFFFFFFF) >> (64 - 8 * op.asize)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _move(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), reg: cython.int, delta: u64
) -> cython.void:
    """Advance RSI, RDI or RCX by the address size; 16-bit ones keep their upper bits."""
    if op.asize == 8:
        cpu.regs[reg] += delta
    elif op.asize == 4:
        cpu.regs[reg] = cython.cast(u32, cpu.regs[reg] + delta)
    else:
        cpu.regs[reg] = (cpu.regs[reg] & ~cython.cast(u64, 0xFFFF)) | cython.cast(
            u16, cpu.regs[reg] + delta
        )


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _linear(cpu: cython.pointer(Cpu), op: cython.pointer(Op), reg: cython.int, seg: u32) -> u64:
    va: u64 = (cpu.regs[reg] & _mask(op)) + cpu.segbase[seg]
    if op.flags & OPF_LEGACY:
        va = cython.cast(u32, va)
    return va


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), reg: cython.int, seg: u32, at: u32
) -> cython.int:
    """One element at RSI or RDI into cpu.bounce[at]."""
    if op.flags & OPF_LEGACY:
        if check_segment(cpu, seg, cpu.regs[reg] & _mask(op), op.osize, 0):
            return ST_FAULT
    return load(cpu, _linear(cpu, op, reg, seg), op.osize, cython.address(cpu.bounce[at]))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write(cpu: cython.pointer(Cpu), op: cython.pointer(Op), source: cython.p_void) -> cython.int:
    """One element to ES:RDI."""
    if op.flags & OPF_LEGACY:
        if check_segment(cpu, SEG_ES, cpu.regs[RDI] & _mask(op), op.osize, 1):
            return ST_FAULT
    return store(cpu, _linear(cpu, op, RDI, SEG_ES), op.osize, source)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _piece(cpu: cython.pointer(Cpu), op: cython.pointer(Op), va: u64, count: u64) -> u64:
    """How many whole elements lie in the page from `va` on, at most `count`; 0: go one by one."""
    room: u64
    if cpu.sysflags & FLAG_DF or op.flags & OPF_LEGACY or op.block.mode & MODE_STEP:
        return 0
    room = (4096 - (va & 0xFFF)) // op.osize
    return room if room < count else count


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _enough(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), pieces: cython.int, limit: cython.int
) -> cython.bint:
    """Is it time to restart? A piece can be slow (a store among many blocks): who asks for this
    CPU does not wait for the others."""
    if pieces == 0:
        return False
    if cpu.stop_why:  # a watchpoint: the debugger wants to see this element
        return True
    return pieces == limit or op.block.mode & MODE_STEP or cpu.urgent < 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _again(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """Elements remain: restart this instruction through the dispatcher."""
    return leave(cpu, op, ST_NEXT)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _broke(cpu: cython.pointer(Cpu), op: cython.pointer(Op), remaining: u64) -> cython.int:
    """An element's store must end the block (it hit code, or left to a device)."""
    if remaining == 0:
        return leave_after(cpu, op)
    return leave(cpu, op, ST_EXIT if cpu.exit_reason else ST_NEXT)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _step(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> u64:
    size: u64 = op.osize
    return 0 - size if cpu.sysflags & FLAG_DF else size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _move_piece(cpu: cython.pointer(Cpu), op: cython.pointer(Op), count: u64) -> u64:
    """MOVS as far as both pages and the TLB allow; how many elements were moved."""
    source: u64 = _linear(cpu, op, RSI, op.seg)
    target: u64 = _linear(cpu, op, RDI, SEG_ES)
    size: u64
    i: u64
    src: cython.pointer(u8)
    dst: cython.pointer(u8)
    count = _piece(cpu, op, source, count)
    count = _piece(cpu, op, target, count)
    if count == 0:
        return 0
    size = count * op.osize
    src = read_fast(cpu, source, cython.cast(u32, size))
    dst = write_fast(cpu, target, cython.cast(u32, size))
    if src == cython.NULL or dst == cython.NULL:
        return 0
    if cython.cast(u64, dst) - cython.cast(u64, src) < size and dst != src:
        # A forward copy onto itself repeats the pattern (memset idiom): element by element.
        if op.osize == 1:
            for i in range(size):
                dst[i] = src[i]
        else:
            for i in range(count):
                memmove(dst + i * op.osize, src + i * op.osize, op.osize)
    else:
        memmove(dst, src, size)
    _move(cpu, op, RSI, size)
    _move(cpu, op, RDI, size)
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def movs(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVS, REP MOVS."""
    rep: u32 = op.prefixes & (PFX_REP | PFX_REPNE)
    count: u64 = cpu.regs[RCX] & _mask(op) if rep else 1
    moved: u64
    status: cython.int
    pieces: cython.int = 0
    while count:
        if _enough(cpu, op, pieces, PIECES):
            return _again(cpu, op)
        pieces += 1
        moved = _move_piece(cpu, op, count)
        status = 0
        if moved == 0:
            status = _read(cpu, op, RSI, op.seg, 0)
            if status == 0:
                status = _write(cpu, op, cython.address(cpu.bounce[0]))
            if status and status != ST_BREAK:
                return leave(cpu, op, status)
            _move(cpu, op, RSI, _step(cpu, op))
            _move(cpu, op, RDI, _step(cpu, op))
            cpu.mmio_n = 0
            moved = 1
        count -= moved
        if rep:
            _move(cpu, op, RCX, 0 - moved)
        if status:
            return _broke(cpu, op, count)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store_piece(cpu: cython.pointer(Cpu), op: cython.pointer(Op), count: u64) -> u64:
    """STOS as far as the page and the TLB allow; how many elements were stored."""
    target: u64 = _linear(cpu, op, RDI, SEG_ES)
    value: u64 = cpu.regs[0]
    size: u64
    i: u64
    dst: cython.pointer(u8)
    count = _piece(cpu, op, target, count)
    if count == 0:
        return 0
    size = count * op.osize
    dst = write_fast(cpu, target, cython.cast(u32, size))
    if dst == cython.NULL:
        return 0
    if op.osize == 1:
        memset(dst, cython.cast(cython.int, value & 0xFF), size)
    elif op.osize == 2:
        for i in range(count):
            cython.cast(cython.pointer(u16), dst)[i] = cython.cast(u16, value)
    elif op.osize == 4:
        for i in range(count):
            cython.cast(cython.pointer(u32), dst)[i] = cython.cast(u32, value)
    else:
        for i in range(count):
            cython.cast(cython.pointer(u64), dst)[i] = value
    _move(cpu, op, RDI, size)
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stos(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """STOS, REP STOS."""
    rep: u32 = op.prefixes & (PFX_REP | PFX_REPNE)
    count: u64 = cpu.regs[RCX] & _mask(op) if rep else 1
    moved: u64
    status: cython.int
    pieces: cython.int = 0
    while count:
        if _enough(cpu, op, pieces, PIECES):
            return _again(cpu, op)
        pieces += 1
        moved = _store_piece(cpu, op, count)
        status = 0
        if moved == 0:
            status = _write(cpu, op, cython.address(cpu.regs[0]))
            if status and status != ST_BREAK:
                return leave(cpu, op, status)
            _move(cpu, op, RDI, _step(cpu, op))
            moved = 1
        count -= moved
        if rep:
            _move(cpu, op, RCX, 0 - moved)
        if status:
            return _broke(cpu, op, count)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lods(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """LODS, REP LODS."""
    rep: u32 = op.prefixes & (PFX_REP | PFX_REPNE)
    count: u64 = cpu.regs[RCX] & _mask(op) if rep else 1
    status: cython.int
    pieces: cython.int = 0
    while count:
        if _enough(cpu, op, pieces, PIECES):
            return _again(cpu, op)
        pieces += 1
        status = _read(cpu, op, RSI, op.seg, 0)
        if status:
            return leave(cpu, op, status)
        _set_acc(cpu, op)
        _move(cpu, op, RSI, _step(cpu, op))
        cpu.mmio_n = 0
        count -= 1
        if rep:
            _move(cpu, op, RCX, 0 - cython.cast(u64, 1))
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_acc(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.void:
    """cpu.bounce into AL, AX, EAX or RAX."""
    value: u64 = cython.cast(cython.pointer(u64), cython.address(cpu.bounce[0]))[0]
    if op.osize == 8:
        cpu.regs[0] = value
    elif op.osize == 4:
        cpu.regs[0] = cython.cast(u32, value)
    elif op.osize == 2:
        cpu.regs[0] = (cpu.regs[0] & ~cython.cast(u64, 0xFFFF)) | cython.cast(u16, value)
    else:
        cpu.regs[0] = (cpu.regs[0] & ~cython.cast(u64, 0xFF)) | cython.cast(u8, value)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _compare(cpu: cython.pointer(Cpu), a: u64, b: u64, size: u32) -> cython.void:
    """The flags of CMP a, b for operands of `size` bytes."""
    top: u32 = 8 * size - 1
    mask: u64 = cython.cast(u64, 0xFFFFFFFFFFFFFFFF) >> (63 - top)
    result: u64
    fl: u32 = 0x200
    a &= mask
    b &= mask
    result = (a - b) & mask
    if a < b:
        fl |= FL_CF
    if result == 0:
        fl |= FL_ZF
    if (result >> top) & 1:
        fl |= FL_SF
    if (((a ^ b) & (a ^ result)) >> top) & 1:
        fl |= FL_OF
    if (a ^ b ^ result) & 0x10:
        fl |= FL_AF
    if not (__builtin_parity(cython.cast(cython.uint, result & 0xFF))):
        fl |= FL_PF
    cpu.fl = fl


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _bounce(cpu: cython.pointer(Cpu), at: u32) -> u64:
    return cython.cast(cython.pointer(u64), cython.address(cpu.bounce[at]))[0]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _ended(cpu: cython.pointer(Cpu), rep: u32) -> cython.int:
    """REPE ends on ZF = 0, REPNE on ZF = 1."""
    zero: cython.int = 1 if cpu.fl & FL_ZF else 0
    return zero == 0 if rep & PFX_REP else zero


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def scas(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """SCAS, REPE and REPNE SCAS: the accumulator against ES:RDI."""
    rep: u32 = op.prefixes & (PFX_REP | PFX_REPNE)
    count: u64 = cpu.regs[RCX] & _mask(op) if rep else 1
    status: cython.int
    pieces: cython.int = 0
    while count:
        if _enough(cpu, op, pieces, PIECES * 8):
            return _again(cpu, op)
        pieces += 1
        status = _read(cpu, op, RDI, SEG_ES, 0)
        if status:
            return leave(cpu, op, status)
        _compare(cpu, cpu.regs[0], _bounce(cpu, 0), op.osize)
        _move(cpu, op, RDI, _step(cpu, op))
        cpu.mmio_n = 0
        count -= 1
        if rep:
            _move(cpu, op, RCX, 0 - cython.cast(u64, 1))
            if _ended(cpu, rep):
                break
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cmps(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """CMPS, REPE and REPNE CMPS: DS:RSI against ES:RDI."""
    rep: u32 = op.prefixes & (PFX_REP | PFX_REPNE)
    count: u64 = cpu.regs[RCX] & _mask(op) if rep else 1
    status: cython.int
    pieces: cython.int = 0
    while count:
        if _enough(cpu, op, pieces, PIECES * 8):
            return _again(cpu, op)
        pieces += 1
        status = _read(cpu, op, RSI, op.seg, 0)
        if status == 0:
            status = _read(cpu, op, RDI, SEG_ES, 8)
        if status:
            return leave(cpu, op, status)
        _compare(cpu, _bounce(cpu, 0), _bounce(cpu, 8), op.osize)
        _move(cpu, op, RSI, _step(cpu, op))
        _move(cpu, op, RDI, _step(cpu, op))
        cpu.mmio_n = 0
        count -= 1
        if rep:
            _move(cpu, op, RCX, 0 - cython.cast(u64, 1))
            if _ended(cpu, rep):
                break
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def xlat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """XLAT: AL from [RBX + AL]."""
    offset: u64 = (cpu.regs[3] + (cpu.regs[0] & 0xFF)) & _mask(op)
    va: u64 = offset + cpu.segbase[op.seg]
    status: cython.int = 0
    if op.flags & OPF_LEGACY:
        va = cython.cast(u32, va)
        status = check_segment(cpu, op.seg, offset, 1, 0)
    if status == 0:
        status = load(cpu, va, 1, cython.address(cpu.bounce[0]))
    if status:
        return leave(cpu, op, status)
    cpu.regs[0] = (cpu.regs[0] & ~cython.cast(u64, 0xFF)) | cpu.bounce[0]
    return next_op(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by name, for the block builder."""
    return {
        "movs": entry_of(movs),
        "stos": entry_of(stos),
        "lods": entry_of(lods),
        "scas": entry_of(scas),
        "cmps": entry_of(cmps),
        "xlat": entry_of(xlat),
    }
