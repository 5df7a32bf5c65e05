"""The instruction table compiled for the decoder: each row's facts, and the opcode maps' cells.

A cell belongs to one (VEX or not, map, opcode, mandatory prefix) and lists its rows from the most
to the least constrained, each a mask and a value over the key that decode.match_row makes.

The build keeps the finished arrays in tables.bin beside this module, because making them is a tenth
of the time to a guest's first instruction. They are used only while all that they were made
from is the same; else they are made anew.
"""

import marshal
import os
import struct
import zlib
from functools import cache

import cython
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy

from barevisor.cpu.x86 import instructions
from barevisor.cpu.x86.instructions import FEATURES, FLAG_BITS, GPRS, UNITS

KEPT = os.path.join(os.path.dirname(__file__), "tables.bin")
_HEAD = struct.Struct("<II")  # key(), CRC-32 of the rest
_EXEC: dict = {"copy": 0}
_HINTS: dict = {"": 0}
_MNEMONICS: dict = {}
_SIZES = {
    "": 0, "b": 1, "w": 2, "d": 4, "q": 8, "t": 10, "dq": 16, "qq": 32, "v": SZ_V, "z": SZ_Z,
    "y": SZ_Y, "x": SZ_X, "h": SZ_H, "f": SZ_F, "e": SZ_E, "p": SZ_P, "s": SZ_S,
    "fs": SZ_FSAVE, "fx": SZ_FX, "2v": SZ_2V, "n": 0, "xs": 0, "a": SZ_A, "ub": 1, "uw": 2,
}  # fmt: skip
_SPLIT = {"vw": ("v", "w"), "yb": ("y", "b"), "yw": ("y", "w"), "yd": ("y", "d")}
_CLASSES = {
    "E": CLS_GPR, "G": CLS_GPR, "R": CLS_GPR, "Z": CLS_GPR, "B": CLS_GPR, "V": CLS_VEC,
    "W": CLS_VEC, "U": CLS_VEC, "H": CLS_VEC, "P": CLS_MMX, "Q": CLS_MMX, "N": CLS_MMX,
    "S": CLS_SREG, "C": CLS_CR, "D": CLS_DR,
}  # fmt: skip
_IMMEDIATES = {
    "Ib": IMM_B, "Iub": IMM_UB, "Iuw": IMM_UW, "Iz": IMM_Z, "Iv": IMM_V, "Jb": IMM_B, "Jz": IMM_J,
    "Ap": IMM_FAR, "Ob": IMM_MOFFS, "Ov": IMM_MOFFS,
}  # fmt: skip
_ATTRS = {
    "end": RF_ENDS, "lock": RF_LOCK, "vsib": RF_VSIB, "nomod": RF_NOMOD, "prot": RF_PROT,
    "al": RF_ALIGN,
}  # fmt: skip
_OSIZE = {"d64": OS_D64, "f64": OS_F64, "n64": OS_N64}
_FALLBACKS = {"TZCNT": "BSF", "LZCNT": "BSR"}


@cache
def rows() -> list:
    """The instruction table, parsed once."""
    return instructions.rows()


def exec_names() -> list:
    """Handler names by RowFacts.exec."""
    return list(_EXEC)


def hint_names() -> list:
    return list(_HINTS)


def mnemonic_names() -> list:
    return list(_MNEMONICS)


def _flag_mask(letters) -> int:
    mask = 0
    for letter in letters:
        mask |= FLAG_BITS[letter]
    return mask


def _register_mask(names) -> int:
    mask = 0
    for name in names:
        mask |= 1 << GPRS.index(name)
    return mask


def _osize_rule(shape) -> int:
    for attr, rule in _OSIZE.items():
        if attr in shape.attrs:
            return rule
    sizes = ""
    byte = False
    for op in shape.operands:
        if op.kind in ("rAX", "rDX"):
            return OS_V
        if op.kind == "eAX":
            return OS_Z
        if op.kind in "EGMRZBIXYO" and op.size:
            if op.kind != "I":
                sizes += op.size[0]
            byte = byte or op.size == "b"
        byte = byte or op.kind == "AL"
    if "v" in sizes:
        return OS_V
    if "y" in sizes:
        return OS_Y
    if "z" in sizes:
        return OS_Z
    return OS_B if byte and shape.unit == "" else OS_V


@cython.cfunc
def _set_operand(f: cython.pointer(RowFacts), op, shape) -> None:
    kind = op.kind
    reg_size, mem_size = _SPLIT.get(op.size, (op.size, op.size))
    environment = op.size == "e" and shape.unit == "x87"
    rule: cython.int = SZ_ENV if environment else _SIZES[reg_size]
    mem_rule: cython.int = _SIZES[mem_size] if reg_size != mem_size else rule
    cls: cython.int = _CLASSES.get(kind, CLS_NONE)
    if kind in ("G", "V", "P", "S", "C", "D", "Z"):
        f.reg_class = cls
        f.reg_access = op.access
        f.reg_rule = rule
        if kind in ("G", "Z") and op.size == "b":
            f.gpr8 |= 1
    elif kind in ("H", "B"):
        f.vvvv_class = cls
        f.vvvv_access = op.access
        f.vvvv_rule = rule
    elif kind in ("E", "R", "W", "U", "Q", "N"):
        f.rm_class = cls
        f.rm_access = op.access
        f.rm_rule = rule
        if kind == "E" and op.size == "b":
            f.gpr8 |= 2
    if kind in ("E", "W", "Q", "M", "O"):
        f.mem = 0 if op.size in ("n", "") and op.access == 1 else op.access
        f.mem_rule = mem_rule
    if kind in ("I", "J", "A", "O"):
        if f.imm_rule:
            f.imm_rule = IMM_ENTER
        else:
            f.imm_rule = _IMMEDIATES[kind + op.size]
    if kind == "L":
        f.imm_rule = IMM_UB
        f.attrs |= RF_IS4
    if kind == "XMM0":
        f.attrs |= RF_XMM0
    if kind == "M":
        f.attrs |= RF_MEM_ONLY
    elif kind in ("R", "U", "N") and "nomod" not in shape.attrs:
        f.attrs |= RF_REG_ONLY
    elif kind in ("X", "Y"):
        f.attrs |= RF_STRING


@cython.cfunc
def _set_shape(f: cython.pointer(RowFacts), shape) -> None:
    """What rows of one shape have in common."""
    f.exec = _EXEC.setdefault(shape.exec, len(_EXEC))
    f.hint = _HINTS.setdefault(shape.hint, len(_HINTS))
    f.feature = FEATURES.index(shape.feature)
    f.unit = UNITS.index(shape.unit)
    f.flags_read = _flag_mask(shape.flags_read)
    f.flags_written = _flag_mask(shape.flags_written)
    f.flags_undefined = _flag_mask(shape.flags_undefined)
    f.regs_read = _register_mask(shape.regs_read)
    f.regs_written = _register_mask(shape.regs_written)
    f.osize_rule = _osize_rule(shape)
    for attr, bit in _ATTRS.items():
        if attr in shape.attrs:
            f.attrs |= bit
    for op in shape.operands:
        _set_operand(f, op, shape)
        if op.kind in ("rAX", "eAX", "rDX") or op.size[:1] in ("v", "z"):
            f.sized = 1
    if f.reg_class == CLS_SREG and f.reg_access & ACC_WRITE:
        f.attrs |= RF_CS_UD
    if f.unit == UNIT_SSE and f.mem_rule in (SZ_X, 16) and "ua" not in shape.attrs:
        f.attrs |= RF_ALIGN


@cython.cfunc
def _pattern(row, attrs: u32) -> tuple:
    """(mask, value) over the key that match_row makes."""
    e = row.encoding
    mask: cython.uint = e.modrm_mask
    value: cython.uint = e.modrm_value
    if mask == 0xFF or mask == 0xF8 or attrs & RF_REG_ONLY:
        mask |= KEY_REG
        value |= KEY_REG
    elif attrs & RF_MEM_ONLY:
        mask |= KEY_REG
    if "64" in row.shape.attrs or "legacy" in row.shape.attrs:
        mask |= KEY_64
        value |= KEY_64 if "64" in row.shape.attrs else 0
    for field, bit in ((e.vex_l, KEY_L), (e.w, KEY_W), (e.rex_b, KEY_B)):
        if field is not None:
            mask |= bit
            value |= bit if field else 0
    return mask, value


@cython.cfunc
def _fill_facts(table: cython.pointer(RowFacts)) -> None:
    first: dict = {}  # shape -> the first row that has it
    row_of: dict = {}
    for row in rows():
        n: cython.int = row.number
        f: cython.pointer(RowFacts) = cython.address(table[n])
        known: cython.int = first.setdefault(id(row.shape), n)
        if known == n:
            _set_shape(f, row.shape)
        else:
            table[n] = table[known]
            f.attrs &= 0xFFFF & ~(RF_MODRM | RF_PREFIXED)
        if row.encoding.modrm:
            f.attrs |= RF_MODRM
        if row.encoding.pp is not None:
            f.attrs |= RF_PREFIXED
        f.pp = row.encoding.pp or 0
        f.mnemonic = _MNEMONICS.setdefault(row.mnemonic, len(_MNEMONICS))
        row_of.setdefault(row.mnemonic, n)
    for name, other in _FALLBACKS.items():
        n = row_of[name]
        table[n].fallback = row_of[other]


@cython.cfunc
@cython.exceptval(-1)
def _fill_cells(
    table: cython.pointer(RowFacts), matches: cython.pointer(Match), cells: cython.pointer(Cell)
) -> cython.int:
    lists: dict = {}
    n: cython.int
    for row in rows():
        e = row.encoding
        n = row.number
        mask, value = _pattern(row, table[n].attrs)
        entry = (-mask.bit_count() - (16 if e.pp is not None else 0), row.number, mask, value)
        base = (4096 if e.vex else 0) | (e.map << 10)
        for opcode in range(e.opcode, e.opcode + (8 if e.plus_r else 1)):
            for pp in range(4) if e.pp is None else (e.pp,):
                lists.setdefault(base | (opcode << 2) | pp, []).append(entry)
    used: cython.int = 0
    for number, entries in lists.items():
        if used + len(entries) > MAX_MATCHES:
            raise ImportError(f"instruction table: over {MAX_MATCHES} patterns")
        entries.sort()
        cell: cython.pointer(Cell) = cython.address(cells[cython.cast(cython.int, number)])
        cell.start = used
        cell.count = len(entries)
        for _, n, mask, value in entries:
            matches[used].mask = mask
            matches[used].value = value
            matches[used].row = n
            cell.modrm |= 1 if table[n].attrs & RF_MODRM else 0
            used += 1
    return used


def made() -> bytes:
    """The arrays and names, made from the rows now. Not for two threads at once."""
    if len(rows()) > MAX_ROWS:
        raise ImportError(f"instruction table: {len(rows())} rows, room for {MAX_ROWS}")
    _take_names(["copy"], [""], [])
    table = cython.cast(cython.pointer(RowFacts), calloc(MAX_ROWS, cython.sizeof(RowFacts)))
    matches = cython.cast(cython.pointer(Match), calloc(MAX_MATCHES, cython.sizeof(Match)))
    cells = cython.cast(cython.pointer(Cell), calloc(MAX_CELLS, cython.sizeof(Cell)))
    try:
        if table == cython.NULL or matches == cython.NULL or cells == cython.NULL:
            raise MemoryError
        _fill_facts(table)
        _fill_cells(table, matches, cells)
        arrays = (
            cython.cast(cython.p_char, table)[: MAX_ROWS * cython.sizeof(RowFacts)],
            cython.cast(cython.p_char, matches)[: MAX_MATCHES * cython.sizeof(Match)],
            cython.cast(cython.p_char, cells)[: MAX_CELLS * cython.sizeof(Cell)],
        )
    finally:
        free(table)
        free(matches)
        free(cells)
    return marshal.dumps((exec_names(), hint_names(), mnemonic_names(), *arrays), 2)


def _take_names(execs: list, hints: list, mnemonics: list) -> None:
    for names, known in ((execs, _EXEC), (hints, _HINTS), (mnemonics, _MNEMONICS)):
        known.clear()
        known.update({name: i for i, name in enumerate(names)})


def key() -> int:
    """CRC-32 of all that the arrays come from: the rows, what parses them, this module."""
    parser = instructions.__file__
    isa = os.path.join(os.path.dirname(parser), "isa")
    tables = [os.path.join(isa, name) for name in sorted(os.listdir(isa)) if name.endswith(".py")]
    crc = 0
    for path in (__file__, parser, *tables):
        with open(path, "rb") as file:
            crc = zlib.crc32(file.read(), crc)
    return crc


def kept() -> bytes | None:
    """What `made` returned when this was built; None when that is absent, or of other rows."""
    try:
        with open(KEPT, "rb") as file:
            data = file.read()
        if len(data) < _HEAD.size or _HEAD.unpack_from(data) != (key(), zlib.crc32(data[8:])):
            return None
    except OSError:
        return None
    return data[8:]


def keep() -> None:
    """For the build. Raises OSError."""
    body = made()
    with open(KEPT, "wb") as file:
        file.write(_HEAD.pack(key(), zlib.crc32(body)) + body)


@cython.cfunc
@cython.exceptval(-1, check=True)
def fill_tables(
    table: cython.pointer(RowFacts), matches: cython.pointer(Match), cells: cython.pointer(Cell)
) -> cython.int:
    """Fill the decoder's arrays (MAX_ROWS, MAX_MATCHES and MAX_CELLS entries)."""
    execs, hints, mnemonics, facts, patterns, places = marshal.loads(kept() or made())
    _take_names(execs, hints, mnemonics)
    memcpy(table, cython.cast(cython.p_char, facts), MAX_ROWS * cython.sizeof(RowFacts))
    memcpy(matches, cython.cast(cython.p_char, patterns), MAX_MATCHES * cython.sizeof(Match))
    memcpy(cells, cython.cast(cython.p_char, places), MAX_CELLS * cython.sizeof(Cell))
    return 0
