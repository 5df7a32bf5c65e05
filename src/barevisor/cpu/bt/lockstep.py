"""BAREVISOR_BT=lockstep: every translation is compared with the interpreter, each time it runs.

The interpreter executes the trace's instructions first, with its stores written down, as far as
the guest really goes. Then memory and registers are put back, the translation runs, and
both must have come to the same: registers, flags, vector and x87 state, RIP, and each byte
stored. Traces end before what is not the host's own instruction, and are not chained. Where the
interpreter meets a fault, a device or code that changes, its outcome stands and nothing is
compared: translations leave those to it anyway.
"""

import cython
from cython.cimports.barevisor.cpu.bt.blocks import find_or_build
from cython.cimports.barevisor.cpu.bt.mmio import internal_error
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.tier import TranslatorOwner, enter_trace, must_step
from cython.cimports.barevisor.cpu.bt.trace import MODE_ONE, TRACE_UNDEFINED, Translator
from cython.cimports.libc.stdlib import calloc
from cython.cimports.libc.string import memcmp, memcpy, memset

FL_MASK: u32 = cython.declare(u32, 0xD501)


def enable(owner: TranslatorOwner) -> None:
    """Give a translator that was made for it what it needs. Raises MemoryError."""
    owner.tr.log = calloc(1, cython.sizeof(StoreLog))
    if owner.tr.log == cython.NULL:
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
def _save(cpu: cython.pointer(Cpu), state: cython.pointer(Snapshot)) -> cython.void:
    memcpy(cython.address(state.regs[0]), cython.address(cpu.regs[0]), 128)
    state.rip = cpu.rip
    state.fl = cpu.fl
    memcpy(cython.address(state.vec[0]), cython.address(cpu.vec[0]), 512)
    memset(_image(state), 0, 512)
    fxsave64(_image(state))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _restore(cpu: cython.pointer(Cpu), state: cython.pointer(Snapshot)) -> cython.void:
    memcpy(cython.address(cpu.regs[0]), cython.address(state.regs[0]), 128)
    cpu.rip = state.rip
    cpu.fl = state.fl
    memcpy(cython.address(cpu.vec[0]), cython.address(state.vec[0]), 512)
    fxrstor64(_image(state))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _interpret(cpu: cython.pointer(Cpu), trace: cython.pointer(Block)) -> cython.int:
    """The trace's instructions, up to a branch that is taken. ST_NEXT when that is all."""
    block: cython.pointer(Block) = cython.NULL
    mode: u32 = cpu.mode | MODE_ONE
    behind: u64
    status: cython.int
    _n: u32
    for _n in range(trace.count):
        status = find_or_build(cpu, mode, cython.address(block))
        if status:
            return status
        behind = cpu.rip + block.size
        cpu.budget = 0
        cpu.regs[REG_RIP] = cpu.rip
        cpu.icount += 1
        status = block.ops[0].handler(cpu, block.ops)
        if status != ST_NEXT or cpu.exit_reason:
            return status
        if cpu.rip != behind:
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
    one: cython.pointer(Snapshot), other: cython.pointer(Snapshot), undefined: u32
) -> cython.pointer(cython.const[cython.char]):
    """What differs, or NULL."""
    if memcmp(cython.address(one.regs[0]), cython.address(other.regs[0]), 128):
        return b"lockstep: a general register differs"
    if one.rip != other.rip:
        return b"lockstep: RIP differs"
    if (one.fl ^ other.fl) & FL_MASK & ~((undefined & 0xD5) << 8 | (undefined >> 11 & 1)):
        return b"lockstep: a flag differs"
    if memcmp(cython.address(one.vec[0]), cython.address(other.vec[0]), 512):
        return b"lockstep: a vector register differs"
    # The pointers to the last x87 instruction and operand are the host's own (fpstate.py).
    if memcmp(_image(one), _image(other), 6) or memcmp(_image(one) + 24, _image(other) + 24, 136):
        return b"lockstep: x87 state or MXCSR differs"
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _verdict(
    cpu: cython.pointer(Cpu),
    trace: cython.pointer(Block),
    status: cython.int,
    expected: cython.pointer(Snapshot),
) -> cython.pointer(cython.const[cython.char]):
    """What is wrong with what the translation, which ended with `status`, left; or NULL."""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), cpu.vm.translator)
    found: Snapshot
    why: cython.pointer(cython.const[cython.char])
    tr.compared += 1
    if status != ST_NEXT or cpu.exit_reason:
        return b"lockstep: the translation alone left the guest"
    _save(cpu, cython.address(found))
    why = _difference(expected, cython.address(found), trace.flags >> TRACE_UNDEFINED)
    if why == cython.NULL and _memory_differs(cython.cast(cython.pointer(StoreLog), tr.log)):
        why = b"lockstep: stored bytes differ"
    return why


def lockstep_run(cpu, trace):
    """See lockstep.pxd."""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), cpu.vm.translator)
    log: cython.pointer(StoreLog) = cython.cast(cython.pointer(StoreLog), tr.log)
    start: Snapshot
    expected: Snapshot
    flushes: u32 = cpu.vm.flushes
    status: cython.int
    why: cython.pointer(cython.const[cython.char])
    cpu.rip = cpu.regs[REG_RIP]
    _save(cpu, cython.address(start))
    log.count = log.overflow = 0
    tr.logging = 1
    status = _interpret(cpu, trace)
    tr.logging = 0
    if status != ST_NEXT or cpu.exit_reason or log.overflow or must_step(cpu):
        return status
    if not trace.valid or cpu.vm.flushes != flushes:
        return status
    _save(cpu, cython.address(expected))
    _undo(log)
    _restore(cpu, cython.address(start))
    tr.early = 0
    status = enter_trace(cpu, trace)
    if tr.early and status == ST_NEXT and not cpu.exit_reason:
        _redo(log)
        _restore(cpu, cython.address(expected))
        return ST_NEXT
    why = _verdict(cpu, trace, status, cython.address(expected))
    if why == cython.NULL:
        return ST_NEXT
    internal_error(cpu, why, cpu.rip)
    cpu.rip = start.rip
    return ST_EXIT
