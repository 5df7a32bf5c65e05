"""Memory operands: copied instructions run over their thunks; moves have handlers of their own.

Every hot handler has one shape: address, TLB hit, work, tail call. On a miss it becomes the slow
twin, which works on cpu.bounce or enters the page into the TLB. `*_flat` handlers serve 64-bit
mode without FS, GS or an address-size prefix, where an address is base + index * scale + disp.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.mmu import check_segment, hold, load_slow, store_slow
from cython.cimports.barevisor.cpu.bt.safepoint import sched_yield, vm_unlock
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.thunk import run_thunk
from cython.cimports.barevisor.cpu.bt.tlb import prime_write

PAUSES: u32 = cython.declare(u32, 64)

# ---- copied instructions -----------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_read_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """An instruction that reads its memory operand."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), op.msize)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    return op.thunk(cpu, op, host)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_write_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """One that writes it, or reads and writes it."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), op.msize)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    return op.thunk(cpu, op, host)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_read(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """An instruction that reads its memory operand."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), op.msize)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    return op.thunk(cpu, op, host)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_write(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """One that writes it, or reads and writes it."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), op.msize)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    return op.thunk(cpu, op, host)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_read_slow(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """A miss, a page crossing, MMIO, or an operand that must be aligned."""
    status: cython.int
    va: u64 = linear(cpu, op)
    if op.flags & OPF_ALIGN and va & (op.msize - 1):
        return fault(cpu, op, EXC_GP, 0)
    status = load_slow(cpu, va, op.msize, cython.address(cpu.bounce[0]), cpu.mmu_idx)
    if status:
        return leave(cpu, op, status)
    status = run_thunk(cpu, op, op.thunk, cython.address(cpu.bounce[0]))
    return next_op(cpu, op) if status == 0 else status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_write_slow(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """The same for a store: in place if the page can be entered, in place and alone on a page with
    code, else through the bounce buffer."""
    status: cython.int
    host: cython.pointer(u8)
    va: u64 = linear(cpu, op)
    if op.flags & OPF_ALIGN and va & (op.msize - 1):
        return fault(cpu, op, EXC_GP, 0)
    status = prime_write(cpu, va, op.msize, cpu.mmu_idx)
    if status:
        return leave(cpu, op, status)
    host = write_fast(cpu, va, op.msize)
    if host != cython.NULL:
        return op.thunk(cpu, op, host)
    host = hold(cpu, va, op.msize)
    if host != cython.NULL:
        status = run_thunk(cpu, op, op.thunk, host)
        vm_unlock(cpu.vm)
        if status:
            return status
        if cpu.dropped or cpu.attention & ATT_KICK:
            return leave_after(cpu, op)
        return next_op(cpu, op)
    if op.flags & OPF_MEM_READ:
        if want_alone(cpu, op):
            return leave(cpu, op, ST_NEXT)
        status = load_slow(cpu, va, op.msize, cython.address(cpu.bounce[0]), cpu.mmu_idx)
        if status:
            return leave(cpu, op, status)
    status = run_thunk(cpu, op, op.thunk, cython.address(cpu.bounce[0]))
    if status:
        return status
    status = store_slow(cpu, va, op.msize, cython.address(cpu.bounce[0]), cpu.mmu_idx)
    if status == ST_BREAK:
        return leave_after(cpu, op)
    return next_op(cpu, op) if status == 0 else leave(cpu, op, status)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mem_aligned(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """An SSE operand that must lie on a multiple of its size (SDM, exception class 1)."""
    host: cython.pointer(u8)
    va: u64 = linear(cpu, op)
    if va & (op.msize - 1):
        return fault(cpu, op, EXC_GP, 0)
    if op.flags & OPF_MEM_WRITE:
        host = write_fast(cpu, va, op.msize)
        return mem_write_slow(cpu, op) if host == cython.NULL else op.thunk(cpu, op, host)
    host = read_fast(cpu, va, op.msize)
    return mem_read_slow(cpu, op) if host == cython.NULL else op.thunk(cpu, op, host)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def segment_check(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """An extra Op before a memory Op outside 64-bit mode: limit and rights (no instruction)."""
    write: u32 = 1 if op.flags & OPF_MEM_WRITE else 0
    if check_segment(cpu, op.seg, offset_of(cpu, op), op.msize, write):
        return leave(cpu, op, ST_FAULT)
    return next_op(cpu, op)


# ---- moves -------------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load64_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r64, m64."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 8)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u64), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load32_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r32, m32: clears the upper half."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 4)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u32), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load16_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r16, m16."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 2)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cython.cast(cython.pointer(u16), cython.address(cpu.regs[op.reg]))[0] = cython.cast(
        cython.pointer(u16), host
    )[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load8_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r8, m8."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 1)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    (cython.cast(cython.pointer(u8), cpu) + op.reg_off)[0] = cython.cast(cython.pointer(u8), host)[
        0
    ]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadzx8_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVZX r32 or r64, m8."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 1)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u8), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadzx16_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVZX r32 or r64, m16."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 2)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u16), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadsx8_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVSX r32 or r64, m8; imm2 cuts the result."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 1)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = (
        cython.cast(u64, cython.cast(i64, cython.cast(cython.pointer(i8), host)[0])) & op.imm2
    )
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadsx16_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVSX r32 or r64, m16; imm2 cuts the result."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 2)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = (
        cython.cast(u64, cython.cast(i64, cython.cast(cython.pointer(i16), host)[0])) & op.imm2
    )
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadsx32_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVSXD r64, m32."""
    host: cython.pointer(u8) = read_fast(cpu, linear_flat(cpu, op), 4)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(u64, cython.cast(i64, cython.cast(cython.pointer(i32), host)[0]))
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store64_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m64, r64."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 8)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u64), host)[0] = cpu.regs[op.reg]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store32_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m32, r32."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 4)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u32), host)[0] = cython.cast(u32, cpu.regs[op.reg])
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store16_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m16, r16."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 2)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u16), host)[0] = cython.cast(u16, cpu.regs[op.reg])
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store8_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m8, r8."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 1)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u8), host)[0] = (cython.cast(cython.pointer(u8), cpu) + op.reg_off)[
        0
    ]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei64_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m64, imm32."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 8)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u64), host)[0] = op.imm
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei32_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m32, imm32."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 4)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u32), host)[0] = cython.cast(u32, op.imm)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei16_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m16, imm16."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 2)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u16), host)[0] = cython.cast(u16, op.imm)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei8_flat(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m8, imm8."""
    host: cython.pointer(u8) = write_fast(cpu, linear_flat(cpu, op), 1)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u8), host)[0] = cython.cast(u8, op.imm)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r64, m64."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 8)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u64), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load32(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r32, m32: clears the upper half."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 4)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u32), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load16(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r16, m16."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 2)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cython.cast(cython.pointer(u16), cython.address(cpu.regs[op.reg]))[0] = cython.cast(
        cython.pointer(u16), host
    )[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load8(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV r8, m8."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 1)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    (cython.cast(cython.pointer(u8), cpu) + op.reg_off)[0] = cython.cast(cython.pointer(u8), host)[
        0
    ]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadzx8(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVZX r32 or r64, m8."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 1)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u8), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadzx16(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVZX r32 or r64, m16."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 2)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(cython.pointer(u16), host)[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadsx8(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVSX r32 or r64, m8; imm2 cuts the result."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 1)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = (
        cython.cast(u64, cython.cast(i64, cython.cast(cython.pointer(i8), host)[0])) & op.imm2
    )
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadsx16(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVSX r32 or r64, m16; imm2 cuts the result."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 2)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = (
        cython.cast(u64, cython.cast(i64, cython.cast(cython.pointer(i16), host)[0])) & op.imm2
    )
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loadsx32(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOVSXD r64, m32."""
    host: cython.pointer(u8) = read_fast(cpu, linear(cpu, op), 4)
    if host == cython.NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = cython.cast(u64, cython.cast(i64, cython.cast(cython.pointer(i32), host)[0]))
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m64, r64."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 8)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u64), host)[0] = cpu.regs[op.reg]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store32(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m32, r32."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 4)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u32), host)[0] = cython.cast(u32, cpu.regs[op.reg])
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store16(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m16, r16."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 2)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u16), host)[0] = cython.cast(u16, cpu.regs[op.reg])
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store8(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m8, r8."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 1)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u8), host)[0] = (cython.cast(cython.pointer(u8), cpu) + op.reg_off)[
        0
    ]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m64, imm32."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 8)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u64), host)[0] = op.imm
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei32(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m32, imm32."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 4)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u32), host)[0] = cython.cast(u32, op.imm)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei16(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m16, imm16."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 2)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u16), host)[0] = cython.cast(u16, op.imm)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def storei8(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """MOV m8, imm8."""
    host: cython.pointer(u8) = write_fast(cpu, linear(cpu, op), 1)
    if host == cython.NULL:
        return mem_write_slow(cpu, op)
    cython.cast(cython.pointer(u8), host)[0] = cython.cast(u8, op.imm)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lea64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """LEA r64."""
    cpu.regs[op.reg] = offset_of(cpu, op)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lea32(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """LEA r32."""
    cpu.regs[op.reg] = cython.cast(u32, offset_of(cpu, op))
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lea16(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """LEA r16."""
    cython.cast(cython.pointer(u16), cython.address(cpu.regs[op.reg]))[0] = cython.cast(
        u16, offset_of(cpu, op)
    )
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def nop(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """NOP, prefetches, ENDBR: nothing to do."""
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pause(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """PAUSE: the guest spins. The CPU that it waits for may want this thread's host CPU."""
    cpu.pauses += 1
    if cpu.pauses >= PAUSES:
        cpu.pauses = 0
        if cpu.vm.ncpus > 1:
            sched_yield()
    return next_op(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by name, for the block builder."""
    return {
        "load64_flat": cython.cast(cython.size_t, cython.cast(handler_t, load64_flat)),
        "load32_flat": cython.cast(cython.size_t, cython.cast(handler_t, load32_flat)),
        "load16_flat": cython.cast(cython.size_t, cython.cast(handler_t, load16_flat)),
        "load8_flat": cython.cast(cython.size_t, cython.cast(handler_t, load8_flat)),
        "loadzx8_flat": cython.cast(cython.size_t, cython.cast(handler_t, loadzx8_flat)),
        "loadzx16_flat": cython.cast(cython.size_t, cython.cast(handler_t, loadzx16_flat)),
        "loadsx8_flat": cython.cast(cython.size_t, cython.cast(handler_t, loadsx8_flat)),
        "loadsx16_flat": cython.cast(cython.size_t, cython.cast(handler_t, loadsx16_flat)),
        "loadsx32_flat": cython.cast(cython.size_t, cython.cast(handler_t, loadsx32_flat)),
        "store64_flat": cython.cast(cython.size_t, cython.cast(handler_t, store64_flat)),
        "store32_flat": cython.cast(cython.size_t, cython.cast(handler_t, store32_flat)),
        "store16_flat": cython.cast(cython.size_t, cython.cast(handler_t, store16_flat)),
        "store8_flat": cython.cast(cython.size_t, cython.cast(handler_t, store8_flat)),
        "storei64_flat": cython.cast(cython.size_t, cython.cast(handler_t, storei64_flat)),
        "storei32_flat": cython.cast(cython.size_t, cython.cast(handler_t, storei32_flat)),
        "storei16_flat": cython.cast(cython.size_t, cython.cast(handler_t, storei16_flat)),
        "storei8_flat": cython.cast(cython.size_t, cython.cast(handler_t, storei8_flat)),
        "load64": cython.cast(cython.size_t, cython.cast(handler_t, load64)),
        "load32": cython.cast(cython.size_t, cython.cast(handler_t, load32)),
        "load16": cython.cast(cython.size_t, cython.cast(handler_t, load16)),
        "load8": cython.cast(cython.size_t, cython.cast(handler_t, load8)),
        "loadzx8": cython.cast(cython.size_t, cython.cast(handler_t, loadzx8)),
        "loadzx16": cython.cast(cython.size_t, cython.cast(handler_t, loadzx16)),
        "loadsx8": cython.cast(cython.size_t, cython.cast(handler_t, loadsx8)),
        "loadsx16": cython.cast(cython.size_t, cython.cast(handler_t, loadsx16)),
        "loadsx32": cython.cast(cython.size_t, cython.cast(handler_t, loadsx32)),
        "store64": cython.cast(cython.size_t, cython.cast(handler_t, store64)),
        "store32": cython.cast(cython.size_t, cython.cast(handler_t, store32)),
        "store16": cython.cast(cython.size_t, cython.cast(handler_t, store16)),
        "store8": cython.cast(cython.size_t, cython.cast(handler_t, store8)),
        "storei64": cython.cast(cython.size_t, cython.cast(handler_t, storei64)),
        "storei32": cython.cast(cython.size_t, cython.cast(handler_t, storei32)),
        "storei16": cython.cast(cython.size_t, cython.cast(handler_t, storei16)),
        "storei8": cython.cast(cython.size_t, cython.cast(handler_t, storei8)),
        "lea64": cython.cast(cython.size_t, cython.cast(handler_t, lea64)),
        "lea32": cython.cast(cython.size_t, cython.cast(handler_t, lea32)),
        "lea16": cython.cast(cython.size_t, cython.cast(handler_t, lea16)),
        "nop": cython.cast(cython.size_t, cython.cast(handler_t, nop)),
        "pause": cython.cast(cython.size_t, cython.cast(handler_t, pause)),
        "prefetch": cython.cast(cython.size_t, cython.cast(handler_t, nop)),
        "mem_read": cython.cast(cython.size_t, cython.cast(handler_t, mem_read)),
        "mem_write": cython.cast(cython.size_t, cython.cast(handler_t, mem_write)),
        "mem_read_flat": cython.cast(cython.size_t, cython.cast(handler_t, mem_read_flat)),
        "mem_write_flat": cython.cast(cython.size_t, cython.cast(handler_t, mem_write_flat)),
        "mem_aligned": cython.cast(cython.size_t, cython.cast(handler_t, mem_aligned)),
        "segment_check": cython.cast(cython.size_t, cython.cast(handler_t, segment_check)),
    }
