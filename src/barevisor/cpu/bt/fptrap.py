"""FP instructions while the guest has unmasked some numeric exception.

The host keeps every exception masked (a SIGFPE would end this process), so an instruction that
the guest wants to trap on is run, looked at, and undone. Slow, and rare: programs that unmask
numeric exceptions are few. SSE exceptions fault at the instruction itself (#XM); x87 ones are
noted, and the next waiting x87 or MMX instruction faults (#MF), as SDM, "Handling x87 FPU
Exceptions in Software" has it.

Not reproduced: the biased result that an unmasked overflow or underflow leaves in a register,
and underflow without loss of precision, which a masked host does not report.
"""

import cython
from cython import address, cast
from cython.cimports.libc.string import memcpy


def trap_register(cpu, op):
    """See fptrap.pxd."""
    return trap_memory(cpu, op, cython.NULL)


def trap_memory(cpu, op, host):
    """See fptrap.pxd."""
    unit: u32 = facts(op.row).unit
    if unit == UNIT_X87 or unit == UNIT_MMX:
        return trap_x87(cpu, op, host)
    return trap_sse(cpu, op, host)


def done(cpu, op):
    """Go on behind `op`, which has run. Not by next_op: with locals whose addresses are taken that
    would be a call within a call, and a guest's loop would use up the stack of this thread. An op
    that runs in cpu.scratch returns to its memory handler."""
    return 0 if op == address(cpu.scratch[0]) else finish(cpu, op)


def undo_x87(cpu, op, image, before):
    """After an x87 instruction that ran from `image` (status `before`): if it raised something
    that must not have changed a register or memory, go back, keeping the flags. 1: undone."""
    after: u32 = fnstsw()
    raised: u32 = after & ~cpu.fcw & ~before & FSW_EXCEPTIONS
    if not (raised & PRE_COMPUTATION or (raised & NUMERIC_RANGE and op.flags & OPF_MEM_WRITE)):
        return False
    fsw: cython.pointer(u16) = cast(cython.pointer(u16), image + FX_FSW)
    fsw[0] |= cast(u16, after & FSW_KEPT)
    fxrstor64(image)
    return True


def trap_x87(cpu, op, host):
    """One x87 or MMX instruction: first what an earlier one left pending."""
    room: u8[528]
    result: u8[32]  # x87 stores need no alignment
    image: cython.pointer(u8) = cast(
        cython.pointer(u8), (cast(u64, address(room[0])) + 15) & ~cast(u64, 15)
    )
    at: cython.pointer(u8) = host
    fl: u32 = cpu.fl
    before: u32
    status: cython.int = pending(cpu, op)
    if status:
        return status
    fxsave64(image)
    before = fnstsw()
    if op.flags & OPF_MEM_WRITE and op.msize <= 32:
        at = result
        memcpy(at, host, op.msize)
    run_thunk(cpu, op, cast(thunk_t, op.imm2), at)
    if undo_x87(cpu, op, image, before):
        cpu.fl = fl
    elif at != host:
        memcpy(host, at, op.msize)
    return done(cpu, op)


def trap_sse(cpu, op, host):
    """One SSE or AVX instruction, from clear sticky flags; #XM undoes it (#UD without
    CR4.OSXMMEXCPT)."""
    was: Before
    room: u8[64]
    # MOVAPS and its kind fault on the host, too, unless their operand is aligned.
    result: cython.pointer(u8) = cast(
        cython.pointer(u8), (cast(u64, address(room[0])) + 31) & ~cast(u64, 31)
    )
    at: cython.pointer(u8) = host
    flags: u32 = get_mxcsr()
    raised: u32
    memcpy(was.regs, cpu.regs, cython.sizeof(was.regs))
    memcpy(was.vec, cpu.vec, cython.sizeof(was.vec))
    was.fl = cpu.fl
    set_mxcsr(flags & ~cast(u32, MXCSR_FLAGS))
    if op.flags & OPF_MEM_WRITE and op.msize <= 32:
        at = result
        memcpy(at, host, op.msize)
    run_thunk(cpu, op, cast(thunk_t, op.imm2), at)
    raised = get_mxcsr() & MXCSR_FLAGS
    if raised & ~(cpu.mxcsr >> 7) & PRE_COMPUTATION:
        raised &= PRE_COMPUTATION
    set_mxcsr(flags | raised)
    if raised & ~(cpu.mxcsr >> 7) & MXCSR_FLAGS:
        memcpy(cpu.regs, was.regs, cython.sizeof(was.regs))
        memcpy(cpu.vec, was.vec, cython.sizeof(was.vec))
        cpu.fl = was.fl
        return fault(cpu, op, EXC_XM if cpu.cr4 & CR4_OSXMMEXCPT else EXC_UD, NO_ERROR)
    if at != host:
        memcpy(host, at, op.msize)
    return done(cpu, op)


def addresses() -> dict[str, int]:
    """For the binder, which works with addresses."""
    return {
        "fp_trap_register": entry_of(trap_register),
        "fp_trap_memory": cast(cython.size_t, cast(cython.p_void, trap_memory)),
    }
