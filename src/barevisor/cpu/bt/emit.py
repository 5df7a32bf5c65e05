"""Host machine code, byte by byte (SDM, "Instruction Format").

A `Form` is an instruction in 64-bit mode with host register numbers; `put_form` gives it its one
canonical encoding. Guest prefixes that mean nothing never get here: each byte that is written
follows from a field. A memory operand is always [register] without displacement.
"""

import cython
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.libc.string import memset


def put8(code, value):
    """One byte."""
    if code.size >= CODE_ROOM:
        code.overflow = 1
        return
    code.bytes[code.size] = cython.cast(u8, value & 0xFF)
    code.size += 1


def put32(code, value):
    """Four bytes, little-endian."""
    put8(code, value)
    put8(code, value >> 8)
    put8(code, value >> 16)
    put8(code, value >> 24)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _modrm_cpu(code: cython.pointer(Code), reg: u32, disp: u32) -> cython.void:
    """ModRM for `reg`, [rdi + disp]."""
    if disp < 128:
        put8(code, 0x40 | (reg & 7) << 3 | RDI)
        put8(code, disp)
    else:
        put8(code, 0x80 | (reg & 7) << 3 | RDI)
        put32(code, disp)


def load64(code, reg, disp):
    """mov r64, [rdi+disp]"""
    put8(code, 0x48 | (reg >> 3) << 2)
    put8(code, 0x8B)
    _modrm_cpu(code, reg, disp)


def store64(code, reg, disp):
    """mov [rdi+disp], r64"""
    put8(code, 0x48 | (reg >> 3) << 2)
    put8(code, 0x89)
    _modrm_cpu(code, reg, disp)


def load8(code, reg, disp):
    """movzx r32, byte [rdi+disp]"""
    put8(code, 0x40 | (reg >> 3) << 2)
    put8(code, 0x0F)
    put8(code, 0xB6)
    _modrm_cpu(code, reg, disp)


def store8(code, reg, disp):
    """mov [rdi+disp], r8 (a REX prefix always, so that 4..7 are SPL..DIL)"""
    put8(code, 0x40 | (reg >> 3) << 2)
    put8(code, 0x88)
    _modrm_cpu(code, reg, disp)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _vec(code: cython.pointer(Code), opcode: u32, reg: u32, disp: u32, vex: u32) -> cython.void:
    if vex:
        put8(code, 0xC5)
        put8(code, 0x78 | (0 if reg & 8 else 0x80) | (4 if vex == 2 else 0))
    else:
        if reg & 8:
            put8(code, 0x44)
        put8(code, 0x0F)
    put8(code, opcode)
    _modrm_cpu(code, reg, disp)


def load_vec(code, reg, disp, vex):
    """(v)movups reg, [rdi+disp]"""
    _vec(code, 0x10, reg, disp, vex)


def store_vec(code, reg, disp, vex):
    """(v)movups [rdi+disp], reg"""
    _vec(code, 0x11, reg, disp, vex)


def restore_flags(code, disp):
    """mov eax, [rdi+disp]; add al, 0x7f; sahf. Uses rax.

    AL is 0 or 1 (SETO's image): the addition overflows just when it was 1; SAHF sets the rest.
    """
    put8(code, 0x8B)
    _modrm_cpu(code, RAX, disp)
    put8(code, 0x04)
    put8(code, 0x7F)
    put8(code, 0x9E)


def save_flags(code, disp):
    """lahf; seto al; movzx eax, ax; mov [rdi+disp], eax. Uses rax.

    All 32 bits are stored: a later 32-bit load of a 16-bit store could not be forwarded.
    """
    put8(code, 0x9F)
    put8(code, 0x0F)
    put8(code, 0x90)
    put8(code, 0xC0)
    put8(code, 0x0F)
    put8(code, 0xB7)
    put8(code, 0xC0)
    put8(code, 0x89)
    _modrm_cpu(code, RAX, disp)


def form_prefixes(form, rex, out):
    """See emit.pxd."""
    n: u32 = 0
    rex |= form.w << 3
    if form.vex:
        return _vex_prefix(form, rex, out)
    if form.lock:
        out[n] = 0xF0
        n += 1
    if form.opsize:
        out[n] = 0x66
        n += 1
    if form.rep:
        out[n] = form.rep
        n += 1
    if rex or form.rex:
        out[n] = cython.cast(u8, 0x40 | rex)
        n += 1
    if form.map:
        out[n] = 0x0F
        n += 1
    if form.map == 2 or form.map == 3:
        out[n] = 0x38 if form.map == 2 else 0x3A
        n += 1
    return n


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _vex_prefix(form: cython.pointer(Form), rex: u32, out: cython.pointer(u8)) -> u32:
    """The two-byte prefix where it suffices (SDM, "VEX Prefix")."""
    tail: u32 = (~form.vvvv & 15) << 3 | form.vex_l << 2 | form.pp
    not_r: u32 = 0 if rex & 4 else 0x80
    if form.map == 1 and not rex & 0xB:
        out[0] = 0xC5
        out[1] = cython.cast(u8, not_r | tail)
        return 2
    out[0] = 0xC4
    out[1] = cython.cast(u8, not_r | (0 if rex & 2 else 0x40) | (0 if rex & 1 else 0x20) | form.map)
    out[2] = cython.cast(u8, form.w << 7 | tail)
    return 3


def put_form(code, form):
    """The instruction. `rm` of a memory form must not be 4, 5, 12 or 13 (they mean more)."""
    i: u32
    rex: u32 = 0
    prefix: u8[8]
    if form.has_modrm:
        rex = (form.reg >> 3) << 2 | form.rm >> 3
    elif form.plus_r:
        rex = form.rm >> 3
    for i in range(form_prefixes(form, rex, prefix)):
        put8(code, prefix[i])
    if form.plus_r:
        put8(code, (form.opcode & 0xF8) | (form.rm & 7))
    else:
        put8(code, form.opcode)
    if form.has_modrm:
        put8(code, (0 if form.mem else 0xC0) | (form.reg & 7) << 3 | (form.rm & 7))
    for i in range(form.imm_size):
        put8(code, cython.cast(u32, (form.imm >> (8 * i)) & 0xFF))


# ---- for tests ---------------------------------------------------------------------------


def encode(**fields) -> bytes:
    """The bytes of a Form given by its fields."""
    form: Form
    code: Code
    memset(cython.address(form), 0, cython.sizeof(Form))
    memset(cython.address(code), 0, cython.sizeof(Code))
    form.imm = fields.pop("imm", 0)
    form.imm_size = fields.pop("imm_size", 0)
    form.lock, form.opsize = fields.pop("lock", 0), fields.pop("opsize", 0)
    form.rep, form.vex = fields.pop("rep", 0), fields.pop("vex", 0)
    form.vex_l, form.w = fields.pop("vex_l", 0), fields.pop("w", 0)
    form.vvvv, form.pp = fields.pop("vvvv", 0), fields.pop("pp", 0)
    form.map, form.opcode = fields.pop("map", 0), fields.pop("opcode", 0)
    form.plus_r, form.has_modrm = fields.pop("plus_r", 0), fields.pop("has_modrm", 0)
    form.mem, form.reg = fields.pop("mem", 0), fields.pop("reg", 0)
    form.rm, form.rex = fields.pop("rm", 0), fields.pop("rex", 0)
    if fields:
        raise TypeError(f"no such field of Form: {sorted(fields)}")
    put_form(cython.address(code), cython.address(form))
    return cython.cast(cython.p_char, cython.address(code.bytes[0]))[: code.size]


def pieces(reg: int, disp: int) -> dict:
    """What every helper emits for `reg` and `disp`."""
    code: Code
    ends = []
    memset(cython.address(code), 0, cython.sizeof(Code))
    load64(cython.address(code), reg, disp)
    ends.append(("load64", code.size))
    store64(cython.address(code), reg, disp)
    ends.append(("store64", code.size))
    load8(cython.address(code), reg, disp)
    ends.append(("load8", code.size))
    store8(cython.address(code), reg, disp)
    ends.append(("store8", code.size))
    for vex in range(3):
        load_vec(cython.address(code), reg, disp, vex)
        ends.append((f"load_vec{vex}", code.size))
        store_vec(cython.address(code), reg, disp, vex)
        ends.append((f"store_vec{vex}", code.size))
    restore_flags(cython.address(code), disp)
    ends.append(("restore_flags", code.size))
    save_flags(cython.address(code), disp)
    ends.append(("save_flags", code.size))
    data = cython.cast(cython.p_char, cython.address(code.bytes[0]))[: code.size]
    starts = [0] + [end for _, end in ends]
    return {name: data[start:end] for start, (name, end) in zip(starts, ends, strict=False)}
