"""The dispatcher: find the next block, run it, deliver what it raised, poll for interrupts.

Blocks link to each other and run without coming back here until their budget of block changes
is used up; others set cpu.urgent to be seen sooner. Whatever must happen between two
instructions (an interrupt shadow, single step, a restarted access to a device) runs one
instruction at a time: a block built with MODE_STEP, and a budget of 0 so that it links nowhere.
So does a locked instruction that the host cannot do in one step, while all other CPUs stand still.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.apic import apic_ack, apic_pending, apic_timer_poll
from cython.cimports.barevisor.cpu.bt.apicbus import nmi_taken
from cython.cimports.barevisor.cpu.bt.blocks import find_or_build
from cython.cimports.barevisor.cpu.bt.debug import after_step, code_breakpoint
from cython.cimports.barevisor.cpu.bt.direct import direct_run, direct_sample, direct_unpin
from cython.cimports.barevisor.cpu.bt.faults import gettid
from cython.cimports.barevisor.cpu.bt.fpstate import enter
from cython.cimports.barevisor.cpu.bt.interrupts import (
    KIND_EXTERNAL,
    KIND_NMI,
    deliver,
    deliver_fault,
)
from cython.cimports.barevisor.cpu.bt.safepoint import (
    SEQ_CST,
    guest_enter,
    guest_leave,
    guest_poll,
    resume_others,
    stop_others,
    swap64,
)
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.stops import STOP_NONE, STOP_STEP, STOP_WATCH, stop_here
from cython.cimports.barevisor.cpu.bt.tier import must_step, tier_translate
from cython.cimports.barevisor.cpu.bt.tlb import tlb_flush
from cython.cimports.barevisor.cpu.bt.tsc import host_tsc

BUDGET: i64 = cython.declare(i64, 2000)
DR7_ENABLED: u64 = cython.declare(u64, 0xFF)
SHADOW_MOV_SS: u32 = cython.declare(u32, 2)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _poll(cpu: cython.pointer(Cpu)) -> cython.int:
    """Between blocks: the clock, and what others asked for. ST_NEXT or ST_EXIT."""
    attention: u32
    cpu.budget = BUDGET
    if cpu.urgent:
        # A full barrier: who sets it after this has set `attention` for the next poll.
        swap64(cython.address(cpu.urgent), 0, SEQ_CST)
    if cpu.timer_deadline != ~cython.cast(u64, 0):
        apic_timer_poll(cpu, host_tsc())
    attention = cpu.attention
    if attention & (ATT_QUIET | ATT_STOP):
        guest_poll(cpu)
    if attention & ATT_FLUSH:
        __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_FLUSH))
        tlb_flush(cpu, 0)
    if attention & ATT_KICK:
        __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_KICK))
        cpu.exit_reason = EXIT_INTERRUPTED
        return ST_EXIT
    if attention & (ATT_INIT | ATT_SIPI):
        cpu.exit_reason = EXIT_HALTED
        return ST_EXIT
    if cpu.mmio_n or cpu.io_ready:
        # An instruction is being restarted with what a device answered: the answer must go to
        # it and not to the handler of an interrupt.
        return ST_NEXT
    if cpu.stop_why:
        cpu.exit_reason = EXIT_DEBUG
        return ST_EXIT
    if cpu.debug_step:
        return ST_NEXT  # a debugger steps through the program, not into what interrupts it
    if attention & ATT_NMI and not cpu.nmi_masked and not cpu.shadow:
        if nmi_taken(cpu):
            cpu.nmi_masked = 1
            cpu.link = cython.NULL
            return deliver(cpu, EXC_NMI, NO_ERROR, KIND_NMI)
    if attention & ATT_INTERRUPT and cpu.sysflags & FLAG_IF and not cpu.shadow:
        return _interrupt(cpu)
    return ST_NEXT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _interrupt(cpu: cython.pointer(Cpu)) -> cython.int:
    """Deliver the highest pending interrupt, if its priority allows any."""
    pending: cython.int
    direct_sample(cpu)
    # Clear first: an interrupt that arrives from now on sets it again.
    __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_INTERRUPT))
    pending = apic_pending(cpu)
    if pending < 0:
        return ST_NEXT
    __sync_fetch_and_or(cython.address(cpu.attention), cython.cast(u32, ATT_INTERRUPT))
    cpu.link = cython.NULL  # the handler is not where the last block's branch goes
    return deliver(cpu, apic_ack(cpu, pending), NO_ERROR, KIND_EXTERNAL)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _run_block(cpu: cython.pointer(Cpu), mode: u32) -> cython.int:
    """Find the block at cpu.rip, link the one before to it, and run from there."""
    block: cython.pointer(Block) = cython.NULL
    link: cython.pointer(cython.pointer(Block)) = cpu.link
    flushes: u32 = cpu.vm.flushes
    status: cython.int
    cpu.link = cython.NULL
    status = find_or_build(cpu, mode, cython.address(block))
    if status:
        return status
    if (
        link != cython.NULL
        and cpu.vm.flushes == flushes
        and not block.crosses
        and not (mode & MODE_STEP)
    ):
        _link(cpu, link, block)
    cpu.regs[REG_RIP] = cpu.rip
    cpu.icount += block.count
    return block.ops[0].handler(cpu, block.ops)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _link(
    cpu: cython.pointer(Cpu),
    link: cython.pointer(cython.pointer(Block)),
    block: cython.pointer(Block),
) -> cython.void:
    """Note `block` as the successor of cpu.link_from, which lies in the same page."""
    source: cython.pointer(Block) = cpu.link_from
    if source.mode != block.mode or (source.host ^ block.host) & ~cython.cast(u64, 0xFFF):
        return
    link[0] = block


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _step(cpu: cython.pointer(Cpu)) -> cython.int:
    """One instruction. Clears what held for it alone."""
    status: cython.int
    trap: u32 = cpu.sysflags & FLAG_TF
    shadow: u32 = cpu.shadow
    if cpu.pending_db and shadow != SHADOW_MOV_SS:
        return after_step(cpu)
    if cpu.vm.nbreaks and not cpu.debug_step and stop_here(cpu, cpu.rip):
        return ST_EXIT
    # SDM, "Masking Exceptions and Interrupts When Switching Stacks": not right behind MOV SS.
    if cpu.dr[7] & DR7_ENABLED and shadow != SHADOW_MOV_SS:
        if code_breakpoint(cpu, cpu.rip + cpu.segbase[SEG_CS]):
            return ST_FAULT
    cpu.shadow = 0
    cpu.budget = 0
    status = _run_block(cpu, cpu.mode | MODE_STEP)
    cpu.budget = -1
    if status == ST_EXIT and (
        cpu.exit_reason == EXIT_MMIO_READ or cpu.exit_reason == EXIT_PIO_READ
    ):
        cpu.shadow = shadow  # it has not happened yet
        return status
    cpu.mmio_n = 0
    cpu.io_ready = 0
    if status == ST_FAULT:
        return status
    # SDM, "Single-Step Exception Condition": MOV SS and POP SS are not stepped, STI is.
    if trap and cpu.shadow != SHADOW_MOV_SS:
        cpu.pending_db |= 0x4000  # DR6.BS
        if status == ST_EXIT and cpu.exit_reason == EXIT_HALTED and cpu.halted:
            # SDM, HLT: a debug exception ends it, and this one is pending already.
            cpu.halted = 0
            cpu.exit_reason = EXIT_NONE
            status = ST_NEXT
    if cpu.pending_db and status == ST_NEXT and cpu.shadow != SHADOW_MOV_SS:
        return after_step(cpu)
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _stepped(cpu: cython.pointer(Cpu)) -> cython.void:
    """A debugger's step is done, unless the instruction will be restarted. It ends at the next
    poll, so that what the instruction exits with, or its exception, comes first."""
    if (
        cpu.exit_reason == EXIT_MMIO_READ
        or cpu.exit_reason == EXIT_PIO_READ
        or cpu.exit_reason == EXIT_CACHE_FULL
    ):
        return
    cpu.budget = -1
    if cpu.stop_why != STOP_WATCH:
        cpu.stop_why = STOP_STEP


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _alone(cpu: cython.pointer(Cpu)) -> cython.int:
    """One instruction (see access.pxd, want_alone) while no other CPU runs any."""
    status: cython.int
    cpu.exclusive = 2
    stop_others(cpu.vm, cpu)
    status = _step(cpu)
    resume_others(cpu.vm, cpu)
    cpu.exclusive = 0
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _loop(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """Runs with the guest's x87 state and MXCSR in the host's FPU."""
    status: cython.int
    cpu.link = cython.NULL
    while True:
        if (cpu.budget | cpu.urgent) < 0 or cpu.attention:
            status = _poll(cpu)
            if status == ST_EXIT:
                return status
        if cpu.hot != cython.NULL:
            tier_translate(cpu)
        if cpu.direct == DIRECT_NOW:
            status = direct_run(cpu)
        elif cpu.direct == DIRECT_NEXT:
            cpu.direct = DIRECT_NOW
            status = _step(cpu)
        elif must_step(cpu):
            status = _alone(cpu) if cpu.exclusive else _step(cpu)
            if cpu.debug_step and not cpu.exclusive:
                _stepped(cpu)
        else:
            status = _run_block(cpu, cpu.mode)
        if status == ST_FAULT:
            if cpu.stop_why == STOP_WATCH:  # the access will be made again
                cpu.stop_why = STOP_STEP if cpu.debug_step else STOP_NONE
            cpu.mmio_n = 0
            cpu.io_ready = 0
            status = deliver_fault(cpu)
        if status == ST_EXIT or cpu.exit_reason:
            # Also a store to a device that was not an instruction's last: a CALL's stack, a frame.
            return ST_EXIT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def execute(cpu: cython.pointer(Cpu)) -> cython.int:
    """Run the guest until cpu.exit_reason says why it stopped."""
    status: cython.int
    cpu.exit_reason = EXIT_NONE
    cpu.gs_loaded = 0
    cpu.thread = gettid()
    guest_enter(cpu)
    status = enter(cpu, _loop, cython.NULL)
    guest_leave(cpu)
    direct_unpin(cpu)
    return status
