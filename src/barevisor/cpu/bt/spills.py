"""Guest registers that have no host register of their own: R9, R10 and R11 are in struct Cpu.

An instruction on one of them works on a scratch register. That goes on holding it, and what was
written is stored late, until a look-up needs the scratch register or the guest's state must be
complete: before every site, so the VMM always finds all registers where they belong.
"""

import cython
from cython.cimports.barevisor.cpu.bt.analyse import is_spilled
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.trace import *

SCRATCH: u32[2] = cython.declare(u32[2])
SCRATCH[0], SCRATCH[1] = S0, S1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _needs(number: u32, access: u32, size: u32) -> u32:
    """The bit of one register operand: it is read, or written in part. 32 bits clear the rest."""
    if not is_spilled(number) or (access == ACC_WRITE and size >= 4):
        return 0
    return cython.cast(u32, 1) << number


def spills_needed(insn, f):
    """See spills.pxd."""
    bits: u32 = 0
    if f.reg_class == CLS_GPR:
        bits |= _needs(insn.reg, f.reg_access, 1 if f.gpr8 & 1 else insn.osize)
    if f.vvvv_class == CLS_GPR:
        bits |= _needs(insn.vvvv, f.vvvv_access, insn.osize)
    if f.rm_class == CLS_GPR and not insn.mem and insn.has_modrm:
        bits |= _needs(insn.rm, f.rm_access, 1 if f.gpr8 & 2 else insn.osize)
    return bits


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store(w: cython.pointer(Work), n: u32) -> cython.void:
    if w.unstored >> n & 1:
        gs_store(w.a, SCRATCH[n], 8 * w.held[n])
        w.unstored &= ~(cython.cast(u32, 1) << n)


def spill_use(w, number, load, write):
    """See spills.pxd."""
    n: u32 = 0 if w.held[0] == number else 1 if w.held[1] == number else 2
    if n == 2:
        # The one that this instruction was not given; else an unused one; else the older one.
        n = 1 - w.newest
        if w.pinned:
            n = 1 if w.pinned == 1 else 0
        elif w.held[0] == R_NONE:
            n = 0
        elif w.held[1] == R_NONE:
            n = 1
        _store(w, n)
        if load:
            gs_load(w.a, SCRATCH[n], 8 * number)
        w.held[n] = cython.cast(u8, number)
    w.pinned |= cython.cast(u32, 1) << n
    w.newest = n
    if write:
        w.unstored |= cython.cast(u32, 1) << n
    return SCRATCH[n]


def spill_load(w, reg, number):
    """See spills.pxd."""
    n: u32 = 0 if reg == S0 else 1
    if w.held[n] != number:
        if w.held[1 - n] == number:
            mov_rr(w.a, reg, SCRATCH[1 - n])
        else:
            gs_load(w.a, reg, 8 * number)
    w.held[n] = cython.cast(u8, number)


def spills_store(w):
    """See spills.pxd."""
    _store(w, 0)
    _store(w, 1)


def spill_lose(w, reg):
    """See spills.pxd."""
    n: u32 = 0 if reg == S0 else 1
    _store(w, n)
    w.held[n] = R_NONE


def spills_forget(w):
    """See spills.pxd."""
    spill_lose(w, S0)
    spill_lose(w, S1)
