"""Memory operands: copied instructions run over their thunks; moves have handlers of their own.

Every hot handler has one shape: address, TLB hit, work, tail call. On a miss it becomes the slow
twin, which works on cpu.bounce or enters the page into the TLB. `*_flat` handlers serve 64-bit
mode without FS, GS or an address-size prefix, where an address is base + index * scale + disp;
what the twins do with it is in ops_memory.pxd.
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


def mem_read_flat(cpu, op):
    """An instruction that reads its memory operand."""
    return read_thunk(cpu, op, linear_flat(cpu, op))


def mem_read(cpu, op):
    """An instruction that reads its memory operand."""
    return read_thunk(cpu, op, linear(cpu, op))


def mem_write_flat(cpu, op):
    """One that writes it, or reads and writes it."""
    return write_thunk(cpu, op, linear_flat(cpu, op))


def mem_write(cpu, op):
    """One that writes it, or reads and writes it."""
    return write_thunk(cpu, op, linear(cpu, op))


def mem_read_slow(cpu, op):
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


def mem_write_slow(cpu, op):
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
    va: u64 = linear(cpu, op)
    if va & (op.msize - 1):
        return fault(cpu, op, EXC_GP, 0)
    return write_thunk(cpu, op, va) if op.flags & OPF_MEM_WRITE else read_thunk(cpu, op, va)


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


def load64_flat(cpu, op):
    """MOV r64, m64."""
    return load_whole(cpu, op, linear_flat(cpu, op), 8)


def load64(cpu, op):
    """MOV r64, m64."""
    return load_whole(cpu, op, linear(cpu, op), 8)


def load32_flat(cpu, op):
    """MOV r32, m32: clears the upper half."""
    return load_whole(cpu, op, linear_flat(cpu, op), 4)


def load32(cpu, op):
    """MOV r32, m32: clears the upper half."""
    return load_whole(cpu, op, linear(cpu, op), 4)


def load16_flat(cpu, op):
    """MOV r16, m16."""
    return load_part(cpu, op, linear_flat(cpu, op), 2)


def load16(cpu, op):
    """MOV r16, m16."""
    return load_part(cpu, op, linear(cpu, op), 2)


def load8_flat(cpu, op):
    """MOV r8, m8."""
    return load_part(cpu, op, linear_flat(cpu, op), 1)


def load8(cpu, op):
    """MOV r8, m8."""
    return load_part(cpu, op, linear(cpu, op), 1)


def loadzx16_flat(cpu, op):
    """MOVZX r32 or r64, m16."""
    return load_whole(cpu, op, linear_flat(cpu, op), 2)


def loadzx16(cpu, op):
    """MOVZX r32 or r64, m16."""
    return load_whole(cpu, op, linear(cpu, op), 2)


def loadzx8_flat(cpu, op):
    """MOVZX r32 or r64, m8."""
    return load_whole(cpu, op, linear_flat(cpu, op), 1)


def loadzx8(cpu, op):
    """MOVZX r32 or r64, m8."""
    return load_whole(cpu, op, linear(cpu, op), 1)


def loadsx32_flat(cpu, op):
    """MOVSXD r64, m32."""
    return load_signed(cpu, op, linear_flat(cpu, op), 4)


def loadsx32(cpu, op):
    """MOVSXD r64, m32."""
    return load_signed(cpu, op, linear(cpu, op), 4)


def loadsx16_flat(cpu, op):
    """MOVSX r32 or r64, m16; imm2 cuts the result."""
    return load_signed(cpu, op, linear_flat(cpu, op), 2)


def loadsx16(cpu, op):
    """MOVSX r32 or r64, m16; imm2 cuts the result."""
    return load_signed(cpu, op, linear(cpu, op), 2)


def loadsx8_flat(cpu, op):
    """MOVSX r32 or r64, m8; imm2 cuts the result."""
    return load_signed(cpu, op, linear_flat(cpu, op), 1)


def loadsx8(cpu, op):
    """MOVSX r32 or r64, m8; imm2 cuts the result."""
    return load_signed(cpu, op, linear(cpu, op), 1)


def store64_flat(cpu, op):
    """MOV m64, r64."""
    return store_value(cpu, op, linear_flat(cpu, op), 8, cpu.regs[op.reg])


def store64(cpu, op):
    """MOV m64, r64."""
    return store_value(cpu, op, linear(cpu, op), 8, cpu.regs[op.reg])


def store32_flat(cpu, op):
    """MOV m32, r32."""
    return store_value(cpu, op, linear_flat(cpu, op), 4, cpu.regs[op.reg])


def store32(cpu, op):
    """MOV m32, r32."""
    return store_value(cpu, op, linear(cpu, op), 4, cpu.regs[op.reg])


def store16_flat(cpu, op):
    """MOV m16, r16."""
    return store_value(cpu, op, linear_flat(cpu, op), 2, cpu.regs[op.reg])


def store16(cpu, op):
    """MOV m16, r16."""
    return store_value(cpu, op, linear(cpu, op), 2, cpu.regs[op.reg])


def store8_flat(cpu, op):
    """MOV m8, r8."""
    return store_value(cpu, op, linear_flat(cpu, op), 1, part(cpu, op)[0])


def store8(cpu, op):
    """MOV m8, r8."""
    return store_value(cpu, op, linear(cpu, op), 1, part(cpu, op)[0])


def storei64_flat(cpu, op):
    """MOV m64, imm32."""
    return store_value(cpu, op, linear_flat(cpu, op), 8, op.imm)


def storei64(cpu, op):
    """MOV m64, imm32."""
    return store_value(cpu, op, linear(cpu, op), 8, op.imm)


def storei32_flat(cpu, op):
    """MOV m32, imm32."""
    return store_value(cpu, op, linear_flat(cpu, op), 4, op.imm)


def storei32(cpu, op):
    """MOV m32, imm32."""
    return store_value(cpu, op, linear(cpu, op), 4, op.imm)


def storei16_flat(cpu, op):
    """MOV m16, imm16."""
    return store_value(cpu, op, linear_flat(cpu, op), 2, op.imm)


def storei16(cpu, op):
    """MOV m16, imm16."""
    return store_value(cpu, op, linear(cpu, op), 2, op.imm)


def storei8_flat(cpu, op):
    """MOV m8, imm8."""
    return store_value(cpu, op, linear_flat(cpu, op), 1, op.imm)


def storei8(cpu, op):
    """MOV m8, imm8."""
    return store_value(cpu, op, linear(cpu, op), 1, op.imm)


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
        "load64_flat": entry_of(load64_flat),
        "load32_flat": entry_of(load32_flat),
        "load16_flat": entry_of(load16_flat),
        "load8_flat": entry_of(load8_flat),
        "loadzx8_flat": entry_of(loadzx8_flat),
        "loadzx16_flat": entry_of(loadzx16_flat),
        "loadsx8_flat": entry_of(loadsx8_flat),
        "loadsx16_flat": entry_of(loadsx16_flat),
        "loadsx32_flat": entry_of(loadsx32_flat),
        "store64_flat": entry_of(store64_flat),
        "store32_flat": entry_of(store32_flat),
        "store16_flat": entry_of(store16_flat),
        "store8_flat": entry_of(store8_flat),
        "storei64_flat": entry_of(storei64_flat),
        "storei32_flat": entry_of(storei32_flat),
        "storei16_flat": entry_of(storei16_flat),
        "storei8_flat": entry_of(storei8_flat),
        "load64": entry_of(load64),
        "load32": entry_of(load32),
        "load16": entry_of(load16),
        "load8": entry_of(load8),
        "loadzx8": entry_of(loadzx8),
        "loadzx16": entry_of(loadzx16),
        "loadsx8": entry_of(loadsx8),
        "loadsx16": entry_of(loadsx16),
        "loadsx32": entry_of(loadsx32),
        "store64": entry_of(store64),
        "store32": entry_of(store32),
        "store16": entry_of(store16),
        "store8": entry_of(store8),
        "storei64": entry_of(storei64),
        "storei32": entry_of(storei32),
        "storei16": entry_of(storei16),
        "storei8": entry_of(storei8),
        "lea64": entry_of(lea64),
        "lea32": entry_of(lea32),
        "lea16": entry_of(lea16),
        "nop": entry_of(nop),
        "pause": entry_of(pause),
        "prefetch": entry_of(nop),
        "mem_read": entry_of(mem_read),
        "mem_write": entry_of(mem_write),
        "mem_read_flat": entry_of(mem_read_flat),
        "mem_write_flat": entry_of(mem_write_flat),
        "mem_aligned": entry_of(mem_aligned),
        "segment_check": entry_of(segment_check),
    }
