"""The end of translations: one whose guest code was overwritten, or all when memory is full."""

import cython
from cython.cimports.barevisor.cpu.bt.space import space_forget_jumps
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.trace import *

JMP_REL32: u64 = cython.declare(u64, 0xE9)


def evict_all(vm):
    """See evict.pxd."""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), vm.translator)
    i: cython.uint
    if tr == cython.NULL:
        return
    tr.mem.used = tr.stub_bytes
    tr.count = 1  # site 0 stays
    tr.pages = 0
    tr.cold = tr.cold_start
    tr.indexed = 0
    tr.drops += 1
    for i in range(vm.ncpus):
        if vm.cpus[i] != cython.NULL:
            vm.cpus[i].hot = cython.NULL
            vm.cpus[i].branch = 0
            space_forget_jumps(vm.cpus[i])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _redirect(tr: cython.pointer(Translator), entry: u64, target: u64) -> cython.void:
    """Replace the five bytes at `entry` by a jump to `target`, at one stroke. They are one
    instruction: no other CPU stands in the middle of them."""
    at: cython.pointer(u64) = cython.cast(
        cython.pointer(u64), tr.mem.write + (entry - cython.cast(u64, tr.mem.run))
    )
    jump: u64 = JMP_REL32 | cython.cast(u64, cython.cast(u32, target - (entry + 5))) << 8
    at[0] = at[0] >> 40 << 40 | jump


def evict_trace(vm, trace):
    """See evict.pxd."""
    tr: cython.pointer(Translator) = cython.cast(cython.pointer(Translator), vm.translator)
    dead: u64 = cython.cast(u64, tr.mem.run) + trace.dead
    _redirect(tr, trace.entry, dead)
    _redirect(tr, trace.entry + TRACE_INNER, dead + SITE_CALL_BYTES)
    if trace.flags & TRACE_VEC:
        _redirect(tr, trace.entry + TRACE_VECTOR, dead + SITE_CALL_BYTES)


def evict_forward(tr, dead, trace):
    """See evict.pxd."""
    vector: u64 = TRACE_VECTOR if trace.flags & TRACE_VEC else TRACE_INNER
    _redirect(tr, dead.entry, trace.entry)
    _redirect(tr, dead.entry + TRACE_INNER, trace.entry + TRACE_INNER)
    if dead.flags & TRACE_VEC:
        _redirect(tr, dead.entry + TRACE_VECTOR, trace.entry + vector)
