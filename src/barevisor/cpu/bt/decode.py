"""The decoder (SDM volume 2, Instruction Format): bytes to `Insn`, by the instruction table.

Decoding is: prefixes, opcode, the opcode's cell (rowfacts.py), the first row that matches there,
operands.

Where processors differ this one follows Intel: near branches ignore 66 in 64-bit mode. Instructions
that no CPU model of ours has (XOP, 3DNow!, MPX, EVEX, VMX, SVM) are not in the table: #UD, or the
NOP they were. Features are not checked here: `RowFacts.feature` is for who builds blocks.
"""

from time import process_time_ns

import cython
from cython.cimports.barevisor.cpu.bt.rowfacts import fill_tables
from cython.cimports.libc.string import memset

from barevisor.cpu.bt.rowfacts import exec_names as exec_names
from barevisor.cpu.bt.rowfacts import hint_names as hint_names
from barevisor.cpu.bt.rowfacts import mnemonic_names as mnemonic_names
from barevisor.cpu.bt.rowfacts import rows

LOW16 = cython.declare(u64, 0xFFFF)
LOW32 = cython.declare(u64, 0xFFFFFFFF)

FACTS = cython.declare(RowFacts[MAX_ROWS])
MATCHES = cython.declare(Match[MAX_MATCHES])
CELLS = cython.declare(Cell[MAX_CELLS])  # [vex][map][opcode][pp]
fill_tables(FACTS, MATCHES, CELLS)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def prefixes(r: cython.pointer(Reader), mode: u32, insn: cython.pointer(Insn)) -> u32:
    """Legacy prefixes and REX; returns the first opcode byte (or anything after an error)."""
    code64: cython.bint = (mode & MODE_CODE_MASK) == MODE_CODE64
    while True:
        byte: u32 = fetch(r)
        if code64 and (byte & 0xF0) == 0x40:
            insn.rex = cython.cast(u8, byte)
            continue
        if byte == 0x66:
            insn.prefixes |= PFX_OPSIZE
        elif byte == 0x67:
            insn.prefixes |= PFX_ADDRSIZE
        elif byte == 0xF0:
            insn.prefixes |= PFX_LOCK
        elif byte == 0xF3 or byte == 0xF2:
            insn.prefixes &= 0xFF & ~(PFX_REP | PFX_REPNE)
            insn.prefixes |= PFX_REP if byte == 0xF3 else PFX_REPNE
        elif byte == 0x64 or byte == 0x65:
            insn.seg = cython.cast(u8, byte - 0x60)
            insn.prefixes |= PFX_SEG
        elif (byte & 0xE7) == 0x26:  # ES CS SS DS: no effect in 64-bit mode, FS and GS stay
            if not code64:
                insn.seg = cython.cast(u8, (byte >> 3) & 3)
                insn.prefixes |= PFX_SEG
        else:
            return byte
        insn.rex = 0  # REX counts only directly before the opcode


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def vex_prefix(r: cython.pointer(Reader), first: u32, mode: u32, insn: cython.pointer(Insn)) -> u32:
    """The rest of a VEX prefix; returns the opcode. An illegal one sets r.error."""
    second: u32 = fetch(r)
    third: u32 = second
    insn.map = 1
    insn.vex = 2
    rex: u32 = (~second >> 5) & 4
    if first == 0xC4:
        third = fetch(r)
        insn.vex = 3
        insn.map = cython.cast(u8, second & 0x1F)
        rex = (~second >> 5) & 7
        insn.vex_w = cython.cast(u8, third >> 7)
    insn.vvvv = cython.cast(u8, (~third >> 3) & 15)
    insn.vex_l = cython.cast(u8, (third >> 2) & 1)
    insn.pp = cython.cast(u8, third & 3)
    if (mode & MODE_CODE_MASK) != MODE_CODE64:
        rex = 0
    illegal: u32 = insn.prefixes & (PFX_LOCK | PFX_REP | PFX_REPNE | PFX_OPSIZE)
    if r.error == 0 and (
        illegal or insn.rex or insn.map == 0 or insn.map > 3 or (mode & (MODE_REAL | MODE_VM86))
    ):
        r.error = DEC_UD
    insn.rex = cython.cast(u8, (0x40 | rex | (insn.vex_w << 3)) if rex or insn.vex_w else 0)
    return fetch(r)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def opcode_map(r: cython.pointer(Reader), byte: u32, mode: u32, insn: cython.pointer(Insn)) -> u32:
    """Escape bytes, VEX, and the mandatory prefix: sets map, pp, vex; returns the cell index."""
    if (byte & 0xFE) == 0xC4 and (
        (mode & MODE_CODE_MASK) == MODE_CODE64
        or (r.pos < r.limit and (r.code[r.pos] & 0xC0) == 0xC0)
    ):
        byte = vex_prefix(r, byte, mode, insn)
        insn.opcode = cython.cast(u8, byte)
        return 4096 | ((insn.map & 3) << 10) | (byte << 2) | insn.pp
    if byte == 0x0F:
        insn.map = 1
        byte = fetch(r)
        if byte == 0x38 or byte == 0x3A:
            insn.map = 2 if byte == 0x38 else 3
            byte = fetch(r)
    insn.opcode = cython.cast(u8, byte)
    insn.vex_w = (insn.rex >> 3) & 1
    pp: u32 = 0
    if insn.prefixes & PFX_REP:
        pp = 2
    elif insn.prefixes & PFX_REPNE:
        pp = 3
    elif insn.prefixes & PFX_OPSIZE:
        pp = 1
    insn.pp = cython.cast(u8, pp)
    return (cython.cast(u32, insn.map) << 10) | (byte << 2) | pp


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def match_row(cell: u32, mode: u32, insn: cython.pointer(Insn)) -> u32:
    """The row that these bytes mean, or MAX_ROWS."""
    key: u32 = insn.modrm
    if insn.mod == 3:
        key |= KEY_REG
    if (mode & MODE_CODE_MASK) == MODE_CODE64:
        key |= KEY_64
    if insn.vex_l:
        key |= KEY_L
    if insn.vex_w:
        key |= KEY_W
    if insn.rex & 1:
        key |= KEY_B
    m: cython.pointer(Match) = cython.address(MATCHES[CELLS[cell].start])
    n: u32 = CELLS[cell].count
    while n:
        if (key & m.mask) == m.value:
            return m.row
        m += 1
        n -= 1
    return MAX_ROWS


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def set_sizes(f: cython.pointer(RowFacts), mode: u32, insn: cython.pointer(Insn)) -> cython.void:
    """Effective operand and address size (SDM volume 1, Operand-Size and Address-Size)."""
    code: u32 = mode & MODE_CODE_MASK
    flip: cython.bint = (insn.prefixes & PFX_OPSIZE) != 0
    aflip: cython.bint = (insn.prefixes & PFX_ADDRSIZE) != 0
    rule: u32 = f.osize_rule
    size: u32
    if code == MODE_CODE64:
        insn.asize = 4 if aflip else 8
        size = 8 if insn.vex_w else (2 if flip else 4)
        if rule == OS_F64 or rule == OS_N64:
            size = 8
        elif rule == OS_D64:
            size = 2 if flip and not insn.vex_w else 8
    else:
        insn.asize = 2 if aflip == (code == MODE_CODE32) else 4
        size = 2 if flip == (code == MODE_CODE32) else 4
        if rule == OS_N64:
            size = 4
    if rule == OS_B:
        size = 1
    elif rule == OS_Z and size == 8:
        size = 4
    elif rule == OS_Y:
        size = 8 if size == 8 else 4
    insn.osize = cython.cast(u8, size)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def displacement(r: cython.pointer(Reader), size: u32) -> u64:
    """A little-endian field of 1, 2, 4 or 8 bytes, sign-extended."""
    value: u64 = 0
    n: u32 = 0
    while n < size:
        value |= cython.cast(u64, fetch(r)) << (8 * n)
        n += 1
    shift: u32 = 64 - 8 * size
    return cython.cast(u64, cython.cast(i64, value << shift) >> shift)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def memory16(r: cython.pointer(Reader), insn: cython.pointer(Insn)) -> cython.void:
    """16-bit addressing (SDM volume 2, 16-Bit Addressing Forms)."""
    low: u32 = insn.modrm & 7
    size: u32 = insn.mod
    insn.base = REG_NONE
    if low < 2 or low == 7:
        insn.base = 3
    elif low < 4:
        insn.base = 5
    elif low == 6 and insn.mod:
        insn.base = 5
    elif low == 6:
        size = 2
    else:
        insn.base = cython.cast(u8, 6 if low == 4 else 7)
    if low < 4:
        insn.index = cython.cast(u8, 6 + (low & 1))
    if size:
        insn.disp = displacement(r, size)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def memory32(
    r: cython.pointer(Reader), mode: u32, vsib: u32, insn: cython.pointer(Insn)
) -> cython.void:
    """32- and 64-bit addressing, SIB and RIP-relative."""
    low: u32 = insn.modrm & 7
    size: u32 = 4 if insn.mod == 2 else insn.mod
    if low == 4:
        sib: u32 = fetch(r)
        low = sib & 7
        insn.scale = cython.cast(u8, sib >> 6)
        index: u32 = ((sib >> 3) & 7) | ((insn.rex << 2) & 8)
        if vsib or index != 4:
            insn.index = cython.cast(u8, index)
        if low == 5 and insn.mod == 0:
            size = 4
            insn.base = REG_NONE
        else:
            insn.base = cython.cast(u8, low | ((insn.rex << 3) & 8))
    elif low == 5 and insn.mod == 0:
        size = 4
        insn.base = REG_RIP if (mode & MODE_CODE_MASK) == MODE_CODE64 else REG_NONE
    else:
        insn.base = cython.cast(u8, low | ((insn.rex << 3) & 8))
    if vsib and (insn.modrm & 7) != 4:
        r.error = DEC_UD
    if size:
        insn.disp = displacement(r, size)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def memory_operand(
    r: cython.pointer(Reader), f: cython.pointer(RowFacts), mode: u32, insn: cython.pointer(Insn)
) -> cython.void:
    insn.mem = 1
    if insn.asize == 2:
        if f.attrs & RF_VSIB:
            r.error = DEC_UD
        memory16(r, insn)
    else:
        memory32(r, mode, f.attrs & RF_VSIB, insn)
    if not insn.prefixes & PFX_SEG:
        insn.seg = SEG_SS if insn.base == 4 or insn.base == 5 else SEG_DS


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def immediate(
    r: cython.pointer(Reader), f: cython.pointer(RowFacts), mode: u32, insn: cython.pointer(Insn)
) -> cython.void:
    rule: u32 = f.imm_rule
    small: u32 = 2 if insn.osize == 2 else 4
    insn.imm_off = cython.cast(u8, r.pos)
    if rule == IMM_B:
        insn.imm = displacement(r, 1)
    elif rule == IMM_UB:
        insn.imm = fetch(r)
        if f.attrs & RF_IS4 and (mode & MODE_CODE_MASK) != MODE_CODE64:
            insn.imm &= 0x7F  # eight registers: bit 7 is ignored
    elif rule == IMM_UW:
        insn.imm = displacement(r, 2) & 0xFFFF
    elif rule == IMM_Z or rule == IMM_J:
        insn.imm = displacement(r, small)
    elif rule == IMM_V:
        insn.imm = displacement(r, insn.osize)
    elif rule == IMM_FAR:
        insn.imm = displacement(r, small)
        insn.imm &= LOW16 if small == 2 else LOW32
        insn.imm2 = displacement(r, 2) & 0xFFFF
    elif rule == IMM_ENTER:
        insn.imm = displacement(r, 2) & 0xFFFF
        insn.imm2 = fetch(r)
    elif rule == IMM_MOFFS:
        insn.mem = 1
        insn.disp = displacement(r, insn.asize)
        if insn.asize < 8:
            insn.disp &= LOW16 if insn.asize == 2 else LOW32
        insn.imm_off = cython.cast(u8, r.pos)
    insn.imm_size = cython.cast(u8, r.pos - insn.imm_off)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def illegal(f: cython.pointer(RowFacts), mode: u32, insn: cython.pointer(Insn)) -> cython.bint:
    """The rules that no pattern expresses (every one is #UD); then vvvv loses its high bit."""
    if insn.prefixes & PFX_LOCK and not (f.attrs & RF_LOCK and insn.mem):
        return True
    if f.attrs & RF_PROT and mode & (MODE_REAL | MODE_VM86):
        return True
    if insn.vvvv and f.vvvv_class == CLS_NONE:
        return True
    if (mode & MODE_CODE_MASK) != MODE_CODE64:
        insn.vvvv &= 7
    if f.reg_class == CLS_SREG:
        return insn.reg > 5 or (f.attrs & RF_CS_UD and insn.reg == 1)
    if f.reg_class == CLS_CR:
        return insn.reg > 8 or insn.reg == 1 or 5 <= insn.reg <= 7
    if f.reg_class == CLS_DR:
        return insn.reg > 7
    if f.attrs & RF_VSIB:  # destination, mask and index must be three registers
        return insn.reg == insn.vvvv or insn.reg == insn.index or insn.vvvv == insn.index
    return False


@cython.cfunc
@cython.exceptval(check=False)
@cython.nogil
def decode(
    code: cython.pointer(cython.const[u8]), avail: u32, mode: u32, insn: cython.pointer(Insn)
) -> cython.int:
    """Decode one instruction from `code` (`avail` readable bytes) for `mode` (MODE_*).

    Returns DEC_OK with all of `insn` filled, or DEC_MORE, DEC_UD, DEC_TOOLONG.
    """
    r: Reader
    r.code = code
    r.pos = 0
    r.limit = avail if avail < 15 else 15
    r.error = 0
    memset(insn, 0, cython.sizeof(Insn))
    insn.base = REG_NONE
    insn.index = REG_NONE
    insn.seg = SEG_DS
    byte: u32 = prefixes(cython.address(r), mode, insn)
    cell: u32 = opcode_map(cython.address(r), byte, mode, insn)
    if r.error:
        return r.error
    if CELLS[cell].count == 0:
        return DEC_UD
    if CELLS[cell].modrm:
        insn.has_modrm = 1
        insn.modrm = cython.cast(u8, fetch(cython.address(r)))
        if r.error:
            return r.error
        insn.mod = insn.modrm >> 6
    insn.row = cython.cast(u16, match_row(cell, mode, insn))
    if insn.row >= MAX_ROWS:
        return DEC_UD
    if not FACTS[insn.row].attrs & RF_PREFIXED:
        insn.pp = 0
    operands(cython.address(r), cython.address(FACTS[insn.row]), mode, insn)
    insn.length = cython.cast(u8, r.pos)
    if r.error == 0 and illegal(cython.address(FACTS[insn.row]), mode, insn):
        return DEC_UD
    return r.error


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.nogil
def operands(
    r: cython.pointer(Reader), f: cython.pointer(RowFacts), mode: u32, insn: cython.pointer(Insn)
) -> cython.void:
    set_sizes(f, mode, insn)
    if f.attrs & RF_MODRM:
        insn.reg = (insn.modrm >> 3) & 7
        if f.reg_class != CLS_SREG and f.reg_class != CLS_MMX:
            insn.reg |= (insn.rex << 1) & 8
        if insn.mod == 3 or f.attrs & RF_NOMOD:
            insn.rm = insn.modrm & 7
            if f.rm_class != CLS_MMX:
                insn.rm |= (insn.rex << 3) & 8
        else:
            memory_operand(r, f, mode, insn)
    elif f.reg_class == CLS_GPR:
        insn.reg = (insn.opcode & 7) | ((insn.rex << 3) & 8)
    immediate(r, f, mode, insn)


@cython.cfunc
@cython.exceptval(check=False)
@cython.nogil
def facts(row: u32) -> cython.pointer(RowFacts):
    return cython.address(FACTS[row])


@cython.cfunc
@cython.exceptval(check=False)
@cython.nogil
def size_of(rule: u32, insn: cython.pointer(Insn)) -> u32:
    """Bytes that an SZ_* rule means for `insn`."""
    wide: u32 = 16 << insn.vex_l
    if rule < SZ_V:
        return rule
    if rule == SZ_V:
        return insn.osize
    if rule == SZ_Z:
        return 2 if insn.osize == 2 else 4
    if rule == SZ_Y:
        return 8 if insn.osize == 8 else 4
    if rule >= SZ_X and rule <= SZ_E:
        return wide >> (rule - SZ_X)
    if rule == SZ_P:
        return insn.osize + 2
    if rule == SZ_S:
        return 10 if insn.osize == 8 else 6
    if rule == SZ_ENV:
        return 14 if insn.osize == 2 else 28
    if rule == SZ_FSAVE:
        return 94 if insn.osize == 2 else 108
    if rule == SZ_FX:
        return 512
    if rule == SZ_2V:
        return insn.osize * 2
    return 0


@cython.cfunc
@cython.exceptval(check=False)
@cython.nogil
def mem_size(insn: cython.pointer(Insn)) -> u32:
    """Bytes of the memory operand; 0: none, address only, or only the handler knows (XSAVE)."""
    return size_of(FACTS[insn.row].mem_rule, insn) if insn.mem else 0


class Decoded:
    """What decode_bytes() found: the row and the fields of `Insn`, for tests and tools."""

    def __init__(self, row, fields: dict, memory: int):
        self.row = row
        self.mnemonic = row.mnemonic
        self.length = fields["length"]
        self.memory_size = memory
        self.fields = fields

    def __repr__(self) -> str:
        return f"Decoded({self.row.text!r}, {self.fields!r})"


def _mode_of(bits: int) -> int:
    return {16: MODE_CODE16 | MODE_LEGACY, 32: MODE_CODE32 | MODE_LEGACY, 64: MODE_CODE64}[bits]


def decode_status(code: bytes, bits: int, *, real: bool = False, vm86: bool = False) -> int:
    """decode()'s status and length in one number: length, or -status (DEC_MORE, DEC_UD, ...)."""
    insn: Insn
    mode: u32 = _mode_of(bits) | (MODE_REAL if real else 0) | (MODE_VM86 if vm86 else 0)
    status: cython.int = decode(code, len(code), mode, cython.address(insn))
    return -status if status else insn.length


def decode_bytes(code: bytes, bits: int):
    """Decode one instruction at the start of `code`; None when it is not valid or not whole."""
    insn: Insn
    if decode(code, len(code), _mode_of(bits), cython.address(insn)) != DEC_OK:
        return None
    fields: dict = insn
    return Decoded(rows()[insn.row], fields, mem_size(cython.address(insn)))


def row_facts(row: int) -> dict:
    """RowFacts of a row by field name."""
    return FACTS[row]


def benchmark(codes: list, bits: int, rounds: int) -> float:
    """Nanoseconds that decode() takes for one of `codes`, all decoded `rounds` times."""
    insn: Insn
    buffer = b"".join([code.ljust(16, b"\0") for code in codes])
    start: cython.pointer(cython.const[u8]) = buffer
    count: cython.int = len(codes)
    i: cython.int
    mode: u32 = _mode_of(bits)
    began = process_time_ns()
    for _ in range(rounds):
        for i in range(count):
            decode(start + 16 * i, 16, mode, cython.address(insn))
    return (process_time_ns() - began) / (rounds * count)
