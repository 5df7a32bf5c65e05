"""Sensitive instructions in pages of user code that would run directly (ADR 20).

CPUID where the host does not let it fault, XGETBV, SMSW, SGDT, SIDT, SLDT, STR, LAR, LSL, VERR,
VERW, RDPID, RDTSCP where it does not fault, SYSENTER, hypercalls, RDPRU, and with another XCR0 the
XSAVE family. All are of the 0F map. A page is searched for their opcodes; whether one found is an
instruction, or the end of another's displacement, is told by decoding from several places before
it, which meet after a few instructions. Code that is jumped into the middle of can hide from that,
and then learns what the host would tell any process.
"""

import cython
from cython.cimports.barevisor.cpu.bt.decode import DEC_OK, decode
from cython.cimports.libc.string import memchr, memcpy

PAGE: u32 = cython.declare(u32, 4096)
STARTS: u32 = cython.declare(u32, 8)
BEFORE: u32 = cython.declare(u32, 96)
"""From where on to decode: some twenty instructions, of which the first few may be wrong."""
TAIL: u32 = cython.declare(u32, 16)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _named(second: u32, modrm: u32, also: u32) -> cython.bint:
    """Is 0F `second` with `modrm` one of them (SDM, opcode maps)? Prefixes are not looked at."""
    reg: u32 = (modrm >> 3) & 7
    memory: cython.bint = modrm < 0xC0
    if second == 0x02 or second == 0x03 or second == 0x34:
        return True
    if second == 0x00:
        return reg < 2 or reg == 4 or reg == 5
    if second == 0x01:
        if memory or reg == 4:
            return reg < 2 or reg == 4
        return (
            modrm == 0xC1 or modrm == 0xD9 or modrm == 0xD0 or modrm == 0xFD
            or modrm == 0xEE or modrm == 0xEF or (modrm == 0xF9 and also & SENSITIVE_RDTSCP)
        )  # fmt: skip
    if second == 0xA2:
        return also & SENSITIVE_CPUID
    if second == 0xC7:
        return modrm >= 0xF8 or (memory and 3 <= reg <= 5 and also & SENSITIVE_XSAVE)
    if second == 0xAE:
        return memory and 4 <= reg <= 6 and also & SENSITIVE_XSAVE
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _start_of(code: cython.pointer(u8), at: u32, size: u32) -> cython.int:
    """Where the instruction starts whose 0F is at `at`, by most ways of reading what is before it;
    -1: by most of them there is none."""
    insn: Insn
    found: u32 = 0
    tried: u32 = 0
    start: cython.int = -1
    n: u32
    pos: u32
    low: u32 = at - BEFORE if at > BEFORE else 0
    for n in range(STARTS):
        pos = low + n
        tried += pos <= at
        while pos <= at:
            if decode(code + pos, size - pos, MODE_CODE64, cython.address(insn)) != DEC_OK:
                pos += 1
                continue
            if pos + insn.length > at:
                if insn.map == 1 and insn.vex == 0 and _opcode_at(code, pos, at):
                    found += 1
                    start = pos
                break
            pos += insn.length
    return start if found * 4 >= tried * 3 else -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _opcode_at(code: cython.pointer(u8), pos: u32, at: u32) -> cython.bint:
    """Are there only prefixes from `pos` to `at`?"""
    byte: u8
    while pos < at:
        byte = code[pos]
        if not (
            byte >> 4 == 4 or byte == 0x66 or byte == 0x67 or byte >= 0xF2
            or byte == 0x2E or byte == 0x36 or byte == 0x3E or byte == 0x26
            or byte == 0x64 or byte == 0x65
        ):  # fmt: skip
            return False
        pos += 1
    return True


def sensitive(code, before, behind, also, found):
    """See sensitive.pxd."""
    room: u8[4208]
    first: u32 = 0
    size: u32 = PAGE
    at: u32
    count: u32 = 0
    start: cython.int
    copy: cython.pointer(u8) = cython.address(room[0])
    hit: cython.pointer(u8)
    if before != cython.NULL:
        memcpy(copy, before + PAGE - BEFORE, BEFORE)
        first = BEFORE
    memcpy(copy + first, code, PAGE)
    size += first
    if behind != cython.NULL:
        memcpy(copy + size, behind, TAIL)
        size += TAIL
    hit = copy + (first - 2 if first else 0)
    while True:
        hit = cython.cast(cython.pointer(u8), memchr(hit, 0x0F, copy + first + PAGE - hit))
        if hit == cython.NULL:
            return count
        at = cython.cast(u32, hit - copy)
        hit += 1
        if at + 2 >= size or not _named(copy[at + 1], copy[at + 2], also):
            continue
        start = _start_of(copy, at, size)
        if start < 0:
            continue
        if count < SENSITIVE_MAX:
            found[count] = cython.cast(i16, start - cython.cast(cython.int, first))
        count += 1
