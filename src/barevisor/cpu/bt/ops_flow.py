"""Control flow and the stack.

`*64` handlers serve 64-bit mode with the default operand size; the others every remaining mode
and size. Branch targets count from the block's first byte (op.disp), so one block serves all
linear addresses at which its page is mapped.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.arch import check_operand, read_rm, write_reg
from cython.cimports.barevisor.cpu.bt.blocks import *
from cython.cimports.barevisor.cpu.bt.registers import canonical
from cython.cimports.barevisor.cpu.bt.stack import (
    Stack,
    push_items,
    stack_commit,
    stack_current,
    stack_pop,
    stack_push,
)
from cython.cimports.barevisor.cpu.bt.state import *

# ---- jumps -------------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def block_end(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """The pseudo Op behind a block that was cut: it has length 0 and goes on behind itself."""
    return fall_through(cpu, op)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _take(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    target: u64 = (cpu.regs[REG_RIP] + op.disp) & op.amask
    if op.flags & OPF_LOCAL:
        return follow(cpu, op, cython.address(op.block.taken), target)
    return go(cpu, target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def jmp_rel(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """JMP rel8, rel16, rel32."""
    return _take(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def jcc(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """Jcc. imm: bits of Cpu.fl that decide; imm2: SF's bit where OF is folded into it (L, LE);
    rm: 1 for the inverted conditions."""
    fl: u32 = cpu.fl
    fl ^= (fl << 15) & cython.cast(u32, op.imm2)
    if ((fl & cython.cast(u32, op.imm)) != 0) != op.rm:
        return _take(cpu, op)
    return fall_through(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def loop_any(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """LOOP, LOOPE, LOOPNE, by the address size; imm2: 0 none, 1 while ZF, 2 while not ZF."""
    mask: u64 = _address_mask(op)
    count: u64 = (cpu.regs[1] - 1) & mask
    _write_count(cpu, op, count)
    if count == 0 or (op.imm2 == 1 and not (cpu.fl & FL_ZF)) or (op.imm2 == 2 and (cpu.fl & FL_ZF)):
        return fall_through(cpu, op)
    return _take(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def jcxz(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """JCXZ, JECXZ, JRCXZ by the address size."""
    if cpu.regs[1] & _address_mask(op):
        return fall_through(cpu, op)
    return _take(cpu, op)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _address_mask(op: cython.pointer(Op)) -> u64:
    return cython.cast(u64, 0xFFFFFFFFFFFFFFFF) >> (64 - 8 * op.asize)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _write_count(cpu: cython.pointer(Cpu), op: cython.pointer(Op), count: u64) -> cython.void:
    if op.asize == 2:
        cpu.regs[1] = (cpu.regs[1] & ~cython.cast(u64, 0xFFFF)) | count
    else:
        cpu.regs[1] = count


# ---- 64-bit mode: stack in place, by the TLB ---------------------------------------------


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _push_target(cpu: cython.pointer(Cpu)) -> cython.pointer(u64):
    return cython.cast(cython.pointer(u64), write_fast(cpu, cpu.regs[4] - 8, 8))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def push64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """PUSH r64."""
    host: cython.pointer(u64) = _push_target(cpu)
    if host == cython.NULL:
        return push(cpu, op)
    host[0] = cpu.regs[op.rm]
    cpu.regs[4] -= 8
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def push_imm64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """PUSH imm8 or imm32, sign-extended to 64 bits."""
    host: cython.pointer(u64) = _push_target(cpu)
    if host == cython.NULL:
        return push_imm(cpu, op)
    host[0] = op.imm
    cpu.regs[4] -= 8
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pop64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """POP r64; POP RSP takes the value and drops the increment."""
    host: cython.pointer(u64) = cython.cast(cython.pointer(u64), read_fast(cpu, cpu.regs[4], 8))
    if host == cython.NULL:
        return pop(cpu, op)
    cpu.regs[4] += 8
    cpu.regs[op.rm] = host[0]
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def call_rel64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """CALL rel32."""
    host: cython.pointer(u64) = _push_target(cpu)
    if host == cython.NULL:
        return call_rel(cpu, op)
    host[0] = cpu.regs[REG_RIP] + op.ip + op.len
    cpu.regs[4] -= 8
    return _take(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ret64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """RET and RET imm16 (imm)."""
    host: cython.pointer(u64) = cython.cast(cython.pointer(u64), read_fast(cpu, cpu.regs[4], 8))
    if host == cython.NULL or not canonical(host[0]):
        return ret(cpu, op)
    cpu.regs[4] += 8 + op.imm
    return go(cpu, host[0])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def call_reg64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """CALL r64."""
    target: u64 = cpu.regs[op.rm]
    host: cython.pointer(u64) = _push_target(cpu)
    if host == cython.NULL or not canonical(target):
        return call_ind(cpu, op)
    host[0] = cpu.regs[REG_RIP] + op.ip + op.len
    cpu.regs[4] -= 8
    return go(cpu, target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def call_mem64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """CALL m64."""
    source: cython.pointer(u64) = cython.cast(
        cython.pointer(u64), read_fast(cpu, linear(cpu, op), 8)
    )
    host: cython.pointer(u64) = _push_target(cpu)
    target: u64
    if host == cython.NULL or source == cython.NULL or not canonical(source[0]):
        return call_ind(cpu, op)
    target = source[0]
    host[0] = cpu.regs[REG_RIP] + op.ip + op.len
    cpu.regs[4] -= 8
    return go(cpu, target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def jmp_reg64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """JMP r64."""
    if not canonical(cpu.regs[op.rm]):
        return jmp_ind(cpu, op)
    return go(cpu, cpu.regs[op.rm])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def jmp_mem64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """JMP m64."""
    source: cython.pointer(u64) = cython.cast(
        cython.pointer(u64), read_fast(cpu, linear(cpu, op), 8)
    )
    if source == cython.NULL or not canonical(source[0]):
        return jmp_ind(cpu, op)
    return go(cpu, source[0])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave64(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """LEAVE."""
    host: cython.pointer(u64) = cython.cast(cython.pointer(u64), read_fast(cpu, cpu.regs[5], 8))
    if host == cython.NULL:
        return leave_op(cpu, op)
    cpu.regs[4] = cpu.regs[5] + 8
    cpu.regs[5] = host[0]
    return next_op(cpu, op)


# ---- every mode and size -----------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _push_value(cpu: cython.pointer(Cpu), value: u64, width: u32) -> cython.int:
    """Push one item of `width` bytes. 0 or ST_FAULT."""
    return push_items(cpu, cython.address(value), 1, width)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pop_value(
    cpu: cython.pointer(Cpu), out: cython.pointer(u64), width: u32, extra: u64
) -> cython.int:
    """Pop one item and `extra` bytes more; nothing moves on a fault."""
    stack: Stack
    status: cython.int
    stack_current(cpu, cython.address(stack))
    status = stack_pop(cpu, cython.address(stack), out, 1, width)
    if status:
        return status
    stack.sp = (stack.sp + extra) & stack.mask
    stack_commit(cpu, cython.address(stack))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _jump(cpu: cython.pointer(Cpu), op: cython.pointer(Op), target: u64) -> cython.int:
    """Go to a near target through the dispatcher; #GP(0) beyond the CS limit."""
    if _beyond(cpu, target):
        return fault(cpu, op, EXC_GP, 0)
    cpu.rip = target
    return ST_NEXT


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _beyond(cpu: cython.pointer(Cpu), target: u64) -> cython.bint:
    """Is the near target beyond the CS limit, or in 64-bit mode not canonical?"""
    if cpu.mode & MODE_LEGACY:
        return target > cpu.segs[SEG_CS].limit
    return not canonical(target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def push(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """PUSH r/m of 16, 32 or 64 bits."""
    value: u64 = 0
    status: cython.int = read_rm(cpu, op, op.osize, cython.address(value))
    if status == 0:
        status = _push_value(cpu, value, op.osize)
    return leave_after(cpu, op) if status == 0 else leave(cpu, op, status)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def push_imm(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """PUSH imm."""
    status: cython.int = _push_value(cpu, op.imm, op.osize)
    return leave_after(cpu, op) if status == 0 else leave(cpu, op, status)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pop(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """POP r/m. A memory operand based on RSP counts from after the increment (SDM, POP)."""
    value: u64 = 0
    old: u64 = cpu.regs[4]
    status: cython.int = _pop_value(cpu, cython.address(value), op.osize, 0)
    if status:
        return leave(cpu, op, status)
    if not op.mod_mem:
        write_reg(cpu, op.rm, op.osize, value)
        return finish(cpu, op)
    if check_operand(cpu, op, op.osize, 1):
        cpu.regs[4] = old
        return leave(cpu, op, ST_FAULT)
    status = store(cpu, linear(cpu, op), op.osize, cython.address(value))
    if status == 0 or status == ST_BREAK:
        return leave_after(cpu, op)
    cpu.regs[4] = old
    return leave(cpu, op, status)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call(cpu: cython.pointer(Cpu), op: cython.pointer(Op), target: u64) -> cython.int:
    """A near call: nothing is pushed when the target is out of bounds."""
    if _beyond(cpu, target):
        return fault(cpu, op, EXC_GP, 0)
    if _push_value(cpu, next_ip(cpu, op), op.osize):
        return leave(cpu, op, ST_FAULT)
    cpu.rip = target
    return ST_NEXT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def call_rel(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """CALL rel16, rel32."""
    target: u64 = (cpu.regs[REG_RIP] + op.disp) & op.amask
    return _call(cpu, op, target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def call_ind(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """CALL r/m."""
    target: u64 = 0
    status: cython.int = read_rm(cpu, op, op.osize, cython.address(target))
    if status:
        return leave(cpu, op, status)
    return _call(cpu, op, target)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def jmp_ind(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """JMP r/m."""
    target: u64 = 0
    status: cython.int = read_rm(cpu, op, op.osize, cython.address(target))
    return _jump(cpu, op, target) if status == 0 else leave(cpu, op, status)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ret(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """RET, RET imm16."""
    target: u64 = 0
    old: u64 = cpu.regs[4]
    status: cython.int = _pop_value(cpu, cython.address(target), op.osize, op.imm)
    if status:
        return leave(cpu, op, status)
    status = _jump(cpu, op, target)
    if status:
        cpu.regs[4] = old
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave_op(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """LEAVE: SP from BP, then pop BP."""
    value: u64 = 0
    stack: Stack
    status: cython.int
    stack_current(cpu, cython.address(stack))
    stack.sp = cpu.regs[5] & stack.mask
    status = stack_pop(cpu, cython.address(stack), cython.address(value), 1, op.osize)
    if status:
        return leave(cpu, op, status)
    stack_commit(cpu, cython.address(stack))
    write_reg(cpu, 5, op.osize, value)
    return finish(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def enter(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """ENTER imm16 (imm), imm8 (imm2): SDM, ENTER; the nesting level counts modulo 32."""
    stack: Stack
    display: Stack
    frame: u64
    item: u64
    level: u64 = op.imm2 & 31
    status: cython.int
    i: u64
    stack_current(cpu, cython.address(stack))
    display = stack
    item = cpu.regs[5]
    status = stack_push(cpu, cython.address(stack), cython.address(item), 1, op.osize)
    frame = stack.sp
    i = 1
    display.sp = cpu.regs[5] & stack.mask
    while status == 0 and i < level:
        display.sp = (display.sp - op.osize) & display.mask
        status = _peek(cpu, display, cython.address(item), op.osize)
        if status == 0:
            status = stack_push(cpu, cython.address(stack), cython.address(item), 1, op.osize)
        i += 1
    if status == 0 and level:
        status = stack_push(cpu, cython.address(stack), cython.address(frame), 1, op.osize)
    if status:
        return leave(cpu, op, status)
    stack.sp = (stack.sp - (op.imm & 0xFFFF)) & stack.mask
    stack_commit(cpu, cython.address(stack))
    if stack.mask == 0xFFFF or op.osize == 2:
        cpu.regs[5] = (cpu.regs[5] & ~cython.cast(u64, 0xFFFF)) | (frame & 0xFFFF)
    else:
        cpu.regs[5] = frame
    return leave_after(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _peek(
    cpu: cython.pointer(Cpu), stack: Stack, out: cython.pointer(u64), width: u32
) -> cython.int:
    """Pop from a copy of a stack."""
    return stack_pop(cpu, cython.address(stack), out, 1, width)


def handlers() -> dict[str, int]:
    """Handler addresses by name, for the block builder."""
    return {
        "block_end": entry_of(block_end),
        "jmp_rel": entry_of(jmp_rel),
        "jcc": entry_of(jcc),
        "loop": entry_of(loop_any),
        "loope": entry_of(loop_any),
        "loopne": entry_of(loop_any),
        "jcxz": entry_of(jcxz),
        "push64": entry_of(push64),
        "push_imm64": entry_of(push_imm64),
        "pop64": entry_of(pop64),
        "call_rel64": entry_of(call_rel64),
        "ret64": entry_of(ret64),
        "call_reg64": entry_of(call_reg64),
        "call_mem64": entry_of(call_mem64),
        "jmp_reg64": entry_of(jmp_reg64),
        "jmp_mem64": entry_of(jmp_mem64),
        "leave64": entry_of(leave64),
        "push": entry_of(push),
        "push_imm": entry_of(push_imm),
        "pop": entry_of(pop),
        "call_rel": entry_of(call_rel),
        "call_ind": entry_of(call_ind),
        "jmp_ind": entry_of(jmp_ind),
        "ret": entry_of(ret),
        "leave": entry_of(leave_op),
        "enter": entry_of(enter),
    }
