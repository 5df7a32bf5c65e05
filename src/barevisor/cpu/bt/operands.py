"""Memory operands in translated code, and the places where it calls the VMM.

Flags: look-ups destroy the host's. Before the first one behind which somebody may still read the
guest's, they are saved to Cpu.fl, and they are loaded back for the instruction that reads them.
Flags that are overwritten unread, in this translation, are not kept; of those an exception in
between shows stale values in the RFLAGS that it pushes.
"""

import cython
from cython.cimports.barevisor.cpu.bt.analyse import host_of, is_spilled
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.fields import *
from cython.cimports.barevisor.cpu.bt.spills import *
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.trace import *
from cython.cimports.libc.string import memset

# ---- flags -------------------------------------------------------------------------------


def flags_saved(w):
    """Cpu.fl has the flags. Changes S0."""
    if not w.flags & IN_MEMORY:
        spill_lose(w, S0)
        save_flags(w.a)
        w.flags |= IN_MEMORY


def flags_loaded(w):
    """The host's EFLAGS have the flags."""
    if not w.flags & IN_HOST:
        restore_flags(w.a)
        w.flags |= IN_HOST


def before_look_up(w, i):
    """The host's flags are about to be destroyed."""
    if w.live_in[i]:
        flags_saved(w)


# ---- sites and fragments -----------------------------------------------------------------


def new_site(w, i, kind):
    """A new site of instruction i (or of the trace's end: i = count)."""
    tr: cython.pointer(Translator) = w.tr
    site: cython.pointer(Site) = cython.address(tr.sites[tr.count])
    if tr.count + 1 >= tr.limit:
        w.a.overflow = 1
        return site
    tr.count += 1
    memset(site, 0, cython.sizeof(Site))
    site.trace = w.trace
    site.kind = cython.cast(u8, kind)
    site.register = R_NONE
    if i < w.count:
        site.offset = w.offset[i]
        site.length = w.insns[i].length
    else:
        site.offset = cython.cast(u16, w.start)
    return site


def site_number(w, site):
    return cython.cast(u32, site - w.tr.sites)


def write_call(w, site):
    """call call_site; dd number"""
    site.slow = w.a.size
    call_host(w.a, w.tr.call_site)
    a4(w.a, site_number(w, site))


def new_fragment(w, kind, at, site):
    tr: cython.pointer(Translator) = w.tr
    frag: cython.pointer(Fragment) = cython.address(tr.fragments[tr.nfragments])
    if tr.nfragments + 1 >= MAX_FRAGMENTS:
        w.a.overflow = 1
        return frag
    tr.nfragments += 1
    memset(frag, 0, cython.sizeof(Fragment))
    frag.kind = kind
    frag.at = at
    frag.site = site_number(w, site) if site != cython.NULL else 0
    return frag


# ---- memory operands ---------------------------------------------------------------------


def write_address(w, i, site):
    """The host register with the operand's linear address: a guest register's own (then *site
    gets the guest's number), or S0. May change S0 and S1, not flags."""
    a: cython.pointer(Asm) = w.a
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    disp: u32 = cython.cast(u32, insn.disp)
    base: u32 = insn.base
    index: u32 = insn.index
    far: cython.bint = insn.seg == SEG_FS or insn.seg == SEG_GS
    site[0] = R_NONE
    if (
        base < 16 and not is_spilled(base) and index == REG_NONE and disp == 0
        and insn.asize == 8 and not far
    ):  # fmt: skip
        site[0] = cython.cast(u8, base)
        return host_of(base)
    if far:
        spills_forget(w)
        gs_load(a, S0, at_segbase() + 8 * insn.seg)
        if base == REG_RIP:
            gs_load(a, S1, at_page_va())
            disp += w.offset[i] + insn.length
        elif base != REG_NONE and is_spilled(base):
            gs_load(a, S1, 8 * base)
        if base == REG_NONE:
            lea(a, S0, S0, R_NONE, 0, disp, 8)
        else:
            lea(a, S0, S0, S1 if base == REG_RIP or is_spilled(base) else host_of(base), 0, disp, 8)
        if index != REG_NONE:
            if is_spilled(index):
                gs_load(a, S1, 8 * index)
            lea(a, S0, S0, S1 if is_spilled(index) else index, insn.scale, 0, 8)
        return S0
    if base == REG_RIP:
        gs_load(a, S0, at_page_va())
        lea(a, S0, S0, R_NONE, 0, disp + w.offset[i] + insn.length, 8)
    elif base == REG_NONE and index == REG_NONE:
        mov_imm64(a, S0, insn.disp)
    else:
        if index != REG_NONE and is_spilled(index):
            spill_load(w, S1, index)
            index = S1
        if base != REG_NONE and is_spilled(base):
            spill_load(w, S0, base)
            base = S0
        lea(
            a, S0, R_NONE if base == REG_NONE else S0 if base == S0 else host_of(base),
            R_NONE if index == REG_NONE else index, insn.scale, disp, 8,
        )  # fmt: skip
    if insn.asize == 4:
        a1(a, 0x45)  # mov S0d, S0d
        a1(a, 0x89)
        a1(a, 0xC0 | (S0 & 7) << 3 | S0 & 7)
    return S0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def test_low(a: cython.pointer(Asm), reg: u32, mask: u32) -> cython.void:
    """test reg8, imm8"""
    if reg >= 4:
        a1(a, 0x40 | reg >> 3)
    a1(a, 0xF6)
    a1(a, 0xC0 | reg & 7)
    a1(a, mask)


def look_at(w, i, reg, guest, size, write, alignment):
    """Look up [reg, +size); S1 = host minus linear address. `alignment`: ALIGN_*."""
    a: cython.pointer(Asm) = w.a
    site: cython.pointer(Site) = new_site(w, i, SITE_MEMORY)
    unaligned: cython.pointer(Fragment) = cython.NULL
    mask: u32 = 1
    at: u32
    site.register = cython.cast(u8, guest)
    site.size = cython.cast(u16, size)
    if guest == H_STACK_TOP:
        site.register = 4
        site.disp = -8
    if w.saved_address:
        site.flags |= SITE_SAVED
    if write:
        site.flags |= SITE_WRITE
    while mask < size:
        mask <<= 1
    if size > 1 and alignment != ALIGN_KNOWN:
        test_low(a, reg, mask - 1)
        at = jcc(a, CC_NE)
        if alignment == ALIGN_ANY:
            unaligned = new_fragment(w, FRAG_UNALIGNED, at, site)
            unaligned.back = a.size
            unaligned.register = cython.cast(u8, reg)
            unaligned.size = size
        else:
            # The interpreter raises what is to be raised, and behind it nothing is known of RSP.
            new_fragment(w, FRAG_CALL, at, new_site(w, i, SITE_STEP))
            w.tr.sites[w.tr.count - 1].flags |= SITE_DISPATCH
    site.retry = a.size
    look_up(a, reg, (w.cpu.vm.write_shift << 3) if write else 0)
    new_fragment(w, FRAG_CALL, jcc(a, CC_E), site)
    if unaligned != cython.NULL:
        unaligned.found = a.size
    w.flags &= ~cython.cast(u32, IN_HOST)


def look_stack(w, i, reg, guest, write):
    """Eight bytes at [RSP] or RSP - 8. One test of RSP's alignment is enough while it is known
    how RSP moves."""
    look_at(w, i, reg, guest, 8, write, ALIGN_KNOWN if w.stack_aligned else ALIGN_MUST)
    w.stack_aligned = 1


def look_operand(w, i, size, write):
    """Look up the memory operand; the host register with its linear address."""
    guest: cython.uchar = 0
    insn: cython.pointer(Insn) = cython.address(w.insns[i])
    alignment: u32 = ALIGN_ANY
    reg: u32
    before_look_up(w, i)
    reg = write_address(w, i, cython.address(guest))
    if w.saved_address and guest == R_NONE:
        gs_store(w.a, S0, at_target())  # S0 will be needed before the access
    if facts(insn.row).attrs & RF_ALIGN:
        alignment = ALIGN_MUST
    elif insn.base == 4 and insn.index == REG_NONE and size <= 8 and not insn.disp & (size - 1):
        if insn.asize == 8 and insn.seg != SEG_FS and insn.seg != SEG_GS and not size & (size - 1):
            alignment = ALIGN_KNOWN if w.stack_aligned else ALIGN_ANY
            if size == 8 and not w.stack_aligned:
                alignment = ALIGN_MUST
                w.stack_aligned = 1
    look_at(w, i, reg, guest, size, write, alignment)
    return reg
