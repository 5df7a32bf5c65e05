"""BAREVISOR_BT=lockstep: every translation is compared with the interpreter, each time it runs.

The interpreter executes the trace's instructions first, with its stores written down, as far as
the guest really goes. Then memory and registers are put back, the translation runs, and
both must have come to the same: registers, flags, vector and x87 state, RIP, and each byte
stored. Traces end before what is not the host's own instruction, and are not chained. Where the
interpreter meets a fault, a device, an interrupt, accessed or dirty bits to set or code that
changes, its outcome stands and nothing is compared: translations leave those to it anyway.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import next_op
from cython.cimports.barevisor.cpu.bt.blocks import find_or_build
from cython.cimports.barevisor.cpu.bt.mmio import internal_error
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.tier import (
    TranslatorOwner,
    enter_trace,
    interrupted,
    must_step,
)
from cython.cimports.barevisor.cpu.bt.trace import MODE_ONE, TRACE_FP, TRACE_UNDEFINED, Translator
from cython.cimports.libc.stdlib import calloc
from cython.cimports.libc.string import memcmp, memcpy

FL_MASK: u32 = cython.declare(u32, 0xD501)


def enable(owner: TranslatorOwner) -> None:
    """Give a translator that was made for it what it needs. Raises MemoryError."""
    owner.tr.comparison = calloc(1, cython.sizeof(Comparison))
    if owner.tr.comparison == cython.NULL:
        raise MemoryError
    owner.tr.compare = cython.cast(cython.p_void, lockstep_run)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _image(state: cython.pointer(Snapshot)) -> cython.pointer(u8):
    """The aligned part of Snapshot.room."""
    at: u64 = (cython.cast(u64, cython.address(state.room[0])) + 15) & ~cython.cast(u64, 15)
    return cython.cast(cython.pointer(u8), at)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _save(
    cpu: cython.pointer(Cpu), state: cython.pointer(Snapshot), fp: cython.bint
) -> cython.void:
    i: cython.uint
    for i in range(16):
        state.regs[i] = cpu.regs[i]
    state.rip = cpu.rip
    state.fl = cpu.fl
    if fp:
        memcpy(cython.address(state.vec[0]), cython.address(cpu.vec[0]), 512)
        fxsave64(_image(state))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _restore(
    cpu: cython.pointer(Cpu), state: cython.pointer(Snapshot), fp: cython.bint
) -> cython.void:
    i: cython.uint
    for i in range(16):
        cpu.regs[i] = state.regs[i]
    cpu.rip = state.rip
    cpu.fl = state.fl
    if fp:
        memcpy(cython.address(cpu.vec[0]), cython.address(state.vec[0]), 512)
        fxrstor64(_image(state))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _interpret(cpu: cython.pointer(Cpu), head: cython.pointer(Block)) -> cython.int:
    """The trace's instructions, up to a branch that is taken. ST_NEXT when that is all.

    The block itself runs behind the Op that led here where all of it is in the trace; what is left
    runs one instruction at a time."""
    block: cython.pointer(Block) = cython.NULL
    mode: u32 = cpu.mode | MODE_ONE
    count: u32 = head.trace.count
    done: u32 = 0
    behind: u64
    before: u64
    status: cython.int
    while done < count:
        if done == 0 and head.count <= count:
            block = head
        else:
            status = find_or_build(cpu, mode, cython.address(block))
            if status:
                return status
        behind = cpu.rip + block.size
        before = cpu.icount
        cpu.budget = 0
        cpu.regs[REG_RIP] = cpu.rip
        cpu.icount += block.count
        if block == head:
            status = next_op(cpu, block.ops)
        else:
            status = block.ops[0].handler(cpu, block.ops)
        if status != ST_NEXT or cpu.exit_reason:
            return status
        done += cython.cast(u32, cpu.icount - before)
        # A store may have ended the block in its middle.
        if cpu.rip != behind and cpu.icount - before == block.count:
            return ST_NEXT
        if done < count and interrupted(cpu):
            note_done(cpu.vm)
            return ST_NEXT
    return ST_NEXT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _undo(log: cython.pointer(StoreLog)) -> cython.void:
    """Note what was stored and put back what was there, the last store first."""
    n: u32 = log.count
    store: cython.pointer(Store)
    while n:
        n -= 1
        store = cython.address(log.stores[n])
        memcpy(cython.address(store.after[0]), store.host, store.size)
        memcpy(store.host, cython.address(store.before[0]), store.size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _redo(log: cython.pointer(StoreLog)) -> cython.void:
    """The translation left in the middle, to be interrupted: the interpreter's outcome stands."""
    n: u32
    store: cython.pointer(Store)
    for n in range(log.count):
        store = cython.address(log.stores[n])
        memcpy(store.host, cython.address(store.after[0]), store.size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _memory_differs(log: cython.pointer(StoreLog)) -> cython.bint:
    """Is a byte that the interpreter stored last not what it stored?"""
    n: u32
    byte: u32
    store: cython.pointer(Store)
    for n in range(log.count):
        store = cython.address(log.stores[n])
        for byte in range(store.size):
            if store.host[byte] != store.after[byte] and not _stored_later(log, n, byte):
                return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _stored_later(log: cython.pointer(StoreLog), n: u32, byte: u32) -> cython.bint:
    """Does a store behind the nth write over this byte of it?"""
    k: u32
    at: u64 = cython.cast(u64, log.stores[n].host) + byte
    for k in range(n + 1, log.count):
        if at - cython.cast(u64, log.stores[k].host) < log.stores[k].size:
            return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _difference(
    one: cython.pointer(Snapshot), other: cython.pointer(Snapshot), undefined: u32, fp: cython.bint
) -> cython.pointer(cython.const[cython.char]):
    """What differs, or NULL."""
    if memcmp(cython.address(one.regs[0]), cython.address(other.regs[0]), 128):
        return b"lockstep: a general register differs"
    if one.rip != other.rip:
        return b"lockstep: RIP differs"
    if (one.fl ^ other.fl) & FL_MASK & ~((undefined & 0xD5) << 8 | (undefined >> 11 & 1)):
        return b"lockstep: a flag differs"
    if not fp:
        return cython.NULL
    if memcmp(cython.address(one.vec[0]), cython.address(other.vec[0]), 512):
        return b"lockstep: a vector register differs"
    # The pointers to the last x87 instruction and operand are the host's own (fpstate.py).
    if memcmp(_image(one), _image(other), 6) or memcmp(_image(one) + 24, _image(other) + 24, 136):
        return b"lockstep: x87 state or MXCSR differs"
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _looks_at_fp(tr: cython.pointer(Translator), trace: cython.pointer(Block)) -> cython.bint:
    """Vector and x87 state are compared where an instruction of the trace may change them, and
    every 64th time elsewhere: they are most of what there is to copy."""
    return trace.flags & TRACE_FP or tr.compared % 64 == 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _verdict(
    cpu: cython.pointer(Cpu),
    trace: cython.pointer(Block),
    status: cython.int,
    compared: cython.pointer(Comparison),
    fp: cython.bint,
) -> cython.pointer(cython.const[cython.char]):
    """What is wrong with what the translation, which ended with `status`, left; or NULL."""
    found: cython.pointer(Snapshot) = cython.address(compared.found)
    why: cython.pointer(cython.const[cython.char])
    if status != ST_NEXT or cpu.exit_reason:
        return b"lockstep: the translation alone left the guest"
    _save(cpu, found, fp)
    why = _difference(cython.address(compared.expected), found, trace.flags >> TRACE_UNDEFINED, fp)
    if why == cython.NULL and _memory_differs(cython.address(compared.log)):
        why = b"lockstep: stored bytes differ"
    return why


def lockstep_run(cpu, head):
    """See lockstep.pxd."""
    trace: cython.pointer(Block) = head.trace
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), cpu.vm.translator)
    compared: cython.pointer(Comparison) = cython.cast(cython.pointer(Comparison), tr.comparison)
    log: cython.pointer(StoreLog) = cython.address(compared.log)
    fp: cython.bint = _looks_at_fp(tr, trace)
    flushes: u32 = cpu.vm.flushes
    status: cython.int
    why: cython.pointer(cython.const[cython.char])
    cpu.rip = cpu.regs[REG_RIP]
    _save(cpu, cython.address(compared.start), fp)
    log.count = log.uncompared = 0
    tr.logging = 1
    status = _interpret(cpu, head)
    tr.logging = 0
    if status != ST_NEXT or cpu.exit_reason or log.uncompared or must_step(cpu):
        return status
    if not trace.valid or cpu.vm.flushes != flushes:
        return status
    _save(cpu, cython.address(compared.expected), fp)
    _undo(log)
    _restore(cpu, cython.address(compared.start), fp)
    tr.early = 0
    status = enter_trace(cpu, trace)
    if tr.early and status == ST_NEXT and not cpu.exit_reason:
        _redo(log)
        _restore(cpu, cython.address(compared.expected), fp)
        return ST_NEXT
    tr.compared += 1
    why = _verdict(cpu, trace, status, compared, fp)
    if why == cython.NULL:
        return ST_NEXT
    internal_error(cpu, why, cpu.rip)
    cpu.rip = compared.start.rip
    return ST_EXIT
