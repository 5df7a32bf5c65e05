"""Instruction table rows back to bytes: one plain encoding of each form, for generated tests."""

from collections.abc import Iterator

from barevisor.cpu.x86.instructions import Row

ESCAPES = {0: b"", 1: b"\x0f", 2: b"\x0f\x38", 3: b"\x0f\x3a"}
PREFIX = {None: b"", 0: b"", 1: b"\x66", 2: b"\xf3", 3: b"\xf2"}
IMMEDIATE_SIZE = {"b": 1, "ub": 1, "uw": 2}
MOFFS_SIZE = {16: 2, 32: 4, 64: 8}


def has_memory_form(row: Row) -> bool:
    """Does ModRM name memory in some encoding of this row?"""
    e = row.encoding
    if not e.modrm or e.modrm_mask in (0xFF, 0xF8):
        return False
    return any(op.kind in "EMWQ" for op in row.shape.operands)


def has_register_form(row: Row) -> bool:
    """Is there an encoding whose ModRM names only registers?"""
    return row.encoding.modrm and not any(op.kind == "M" for op in row.shape.operands)


def modes(row: Row) -> tuple[int, ...]:
    """The code sizes (16, 32, 64) that have this row."""
    return {"64": (64,), "legacy": (16, 32), "both": (16, 32, 64)}[row.shape.mode]


def immediates(row: Row, bits: int, wide: bool) -> bytes:
    """Immediates (the first is 2) for the mode's own operand and address size."""
    operand = 2 if bits == 16 else 4
    size = 0
    for op in row.shape.operands:
        if op.kind == "I" and op.size == "v" and wide:
            size += 8
        elif op.kind in ("I", "J"):
            size += IMMEDIATE_SIZE.get(op.size, operand)
        elif op.kind == "A":
            size += operand + 2
        elif op.kind == "L":
            size += 1
        elif op.kind == "O":
            size += MOFFS_SIZE[bits]
    return b"\x02"[:size] + bytes(max(0, size - 1))


def modrm_bytes(row: Row, memory: bool, bits: int, reg: int, rm: int) -> bytes:
    e = row.encoding
    if not e.modrm:
        return b""
    if e.modrm_mask == 0xFF or e.modrm_mask == 0xF8:
        return bytes([e.modrm_value])
    digit = e.modrm_value if e.modrm_mask else reg << 3
    if "vsib" in row.shape.attrs:
        return bytes([digit | 4, 0x10 | rm])  # index 2
    if memory:  # 16-bit: [BX]; else [rm]
        return bytes([digit | (7 if bits == 16 else rm)])
    return bytes([0xC0 | digit | rm])


def encode(
    row: Row, bits: int, *, memory: bool, reg: int = 4, rm: int = 3, vvvv: int = 1, wide: int = 0
) -> bytes:
    """One encoding of `row`: ModRM.reg `reg`, a register `rm` or memory at [rm].

    `wide` asks for REX.W or VEX.W and, if the row has both, VEX.L = 1 (`wide` & 2). The operand
    size is the mode's own.
    """
    e = row.encoding
    w = e.w if e.w is not None else wide & 1
    tail = bytes([e.opcode | (reg if e.plus_r else 0)])
    tail += modrm_bytes(row, memory, bits, reg, rm) + immediates(row, bits, bool(w))
    if not e.vex:
        rex = bytes([0x48]) if w and bits == 64 else b""
        return PREFIX[e.pp] + rex + ESCAPES[e.map] + tail
    vex_l = e.vex_l if e.vex_l is not None else wide >> 1
    named = any(op.kind in "HB" for op in row.shape.operands)
    field = ~(vvvv if named else 0) & 15
    return bytes([0xC4, 0xE0 | e.map, w << 7 | field << 3 | vex_l << 2 | (e.pp or 0)]) + tail


def encodings(row: Row) -> Iterator[tuple[bytes, int, bool]]:
    """(bytes, mode, has a memory operand): every mode, register and memory form, W and L."""
    forms = [True] if has_memory_form(row) else []
    if has_register_form(row) or not row.encoding.modrm:
        forms.append(False)
    for bits in modes(row):
        if bits == 16 and "vsib" in row.shape.attrs:
            continue
        widths = range(4) if row.encoding.vex else range(2 if bits == 64 else 1)
        for memory in forms:
            for wide in widths:
                yield encode(row, bits, memory=memory, wide=wide), bits, memory
