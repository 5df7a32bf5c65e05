"""Stops for a debugger: breakpoints, watchpoints, single steps, and the trace of blocks.

The guest cannot see any of it: nothing is written into its memory and its debug registers stay
its own (debug.py has those). While no debugger is there, nothing here costs anything. Once one
asks for something, Vm.debugging is set, all code is dropped, and blocks are built again so that
- no block runs over an offset in a page that has, or had, a breakpoint: it ends before it, and the
  block that starts there begins with the Op debug_check, which looks the linear address up.
  A breakpoint that is set again at an offset that is known drops no code;
- with a watchpoint, each block is one instruction, and the page of the watchpoint is not in the
  TLB, so that mmu.py's slow path sees each access. A hit ends the run after its instruction;
- with a trace, each block begins with debug_check, which notes that it ran.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import leave, next_op, this_ip
from cython.cimports.barevisor.cpu.bt.state import *

PAGE: u64 = cython.declare(u64, 4096)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def linear_ip(cpu: cython.pointer(Cpu), ip: u64) -> u64:
    """The linear address of offset `ip` in CS."""
    va: u64 = ip + cpu.segbase[SEG_CS]
    return cython.cast(u64, cython.cast(u32, va)) if cpu.mode & MODE_LEGACY else va


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stop_here(cpu: cython.pointer(Cpu), ip: u64) -> cython.int:
    """See stops.pxd. An instruction that is restarted with a device's answer has passed."""
    vm: cython.pointer(Vm) = cpu.vm
    va: u64 = linear_ip(cpu, ip)
    i: u32
    if cpu.mmio_n or cpu.io_ready or not break_offset(vm, va):
        return 0
    for i in range(vm.nbreaks):
        if vm.breaks[i] == va:
            cpu.stop_why = STOP_BREAK
            cpu.stop_at = va
            cpu.exit_reason = EXIT_DEBUG
            return 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def watch_access(cpu: cython.pointer(Cpu), va: u64, size: u32, kind: u32) -> cython.void:
    """See stops.pxd. The first hit of an instruction is the one that is told."""
    vm: cython.pointer(Vm) = cpu.vm
    watch: cython.pointer(Watch)
    i: u32
    if cpu.stop_why == STOP_BREAK or cpu.stop_why == STOP_WATCH:
        return
    for i in range(vm.nwatches):
        watch = cython.address(vm.watches[i])
        if watch.kinds & kind and (va - watch.address < watch.size or watch.address - va < size):
            cpu.stop_why = STOP_WATCH
            cpu.stop_at = watch.address
            cpu.budget = -1
            return


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def watch_page(vm: cython.pointer(Vm), page: u64) -> cython.int:
    """See stops.pxd."""
    watch: cython.pointer(Watch)
    i: u32
    for i in range(vm.nwatches):
        watch = cython.address(vm.watches[i])
        if page - watch.address < watch.size or watch.address - page < PAGE:
            return 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def block_checks(vm: cython.pointer(Vm), block: cython.pointer(Block)) -> cython.int:
    """See stops.pxd. The dispatcher itself looks for breakpoints before it steps."""
    if vm.tracing:
        return 1
    return not (block.mode & MODE_STEP) and break_offset(vm, block.gpa)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def debug_check(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """The Op before a block's first instruction."""
    if cpu.vm.nbreaks and not (op.block.mode & MODE_STEP) and stop_here(cpu, this_ip(cpu, op)):
        return leave(cpu, op, ST_EXIT)
    if cpu.vm.tracing:
        _trace(cpu, op)
    return next_op(cpu, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _trace(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.void:
    """Note the block. Between TRACE_HIGH and the end a block or two still run before the poll."""
    record: cython.pointer(Traced)
    if cpu.mmio_n or cpu.io_ready or cpu.ntraced == TRACE_SIZE or cpu.traced == cython.NULL:
        return
    record = cython.address(cpu.traced[cpu.ntraced])
    record.address = linear_ip(cpu, this_ip(cpu, op))
    record.size = op.block.size
    record.mode = cython.cast(u16, op.block.mode)
    record.cpl = cython.cast(u16, cpu.cpl)
    cpu.ntraced += 1
    if cpu.ntraced >= TRACE_HIGH:
        cpu.budget = -1
        if cpu.stop_why == STOP_NONE:
            cpu.stop_why = STOP_TRACE


def handlers() -> dict[str, int]:
    """Handler addresses by name."""
    return {"debug_check": entry_of(debug_check)}
