"""The one instruction table: decoder, interpreter, translator and test generator read its rows.

The rows are text in isa/*.py, to be laid beside the SDM (volume 2, instruction reference):

    encoding | MNEMONIC operands | exec | attributes

encoding    As in the SDM: mandatory prefix (NP: none allowed; nothing: any is ignored or changes
            the operand size), opcode, then `/r`, `/digit`, `+r`, or fixed ModRM byte (`E8+i`: the
            low three bits are free). `VEX.128.66.0F38.W0 F7 /r`: an absent L or W is ignored.
            `REX.W` demands it, `NOREX.B` excludes REX.B. Immediates follow from the operands.
operands    SDM appendix A: E register or memory by ModRM.rm, M memory only, R register only,
            G ModRM.reg, Z opcode's low bits, B VEX.vvvv; V/W/U/H/L the same for XMM and YMM
            (L: immediate bits 7:4), P/Q/N for MMX, S C D segment, control and debug registers,
            I immediate (Iub, Iuw: zero-extended), J branch, A far pointer, O moffs, X Y strings.
            Sizes: b w d q t(10) dq(16) qq(32); v 2/4/8 and z 2/4 by operand size; y 4/8; x 16 or
            32 by VEX.L, h half, f a fourth, e an eighth of it; Evw a 16-bit memory operand but a
            whole register (yb, yw, yd likewise); p far pointer, s GDTR, e and fs the x87
            environment and FNSAVE image, fx FXSAVE, xs what only the handler knows (XSAVE,
            gathers), n address only. A trailing `=` is written, `+` read and written, nothing:
            read. Writing part of a register does not count as reading it.
exec        `copy`: an unprivileged instruction that runs on the host as it is, operands rewritten;
            else the name of its handler.
attributes  64 | legacy   the modes that have it      d64  operand size defaults to 64 in 64-bit
            f64  it is always 64 there                n64  always native: 64 there, else 32
            lock LOCK allowed with a memory operand   end  ends a block
            prot #UD in real and virtual-8086 mode    nomod ModRM.mod is ignored (MOV CR, DR)
            al   memory must be aligned to its size (default for 16-byte legacy SSE; ua: not)
            vsib vector index                         sp   RSP is read and written
            hintop  an unknown hint is a NOP          hint=NAME  which shape, for the interpreter
            f=FEATURE, unit=UNIT   instead of the group's
            r= w= u=  flags read, written (to a defined value), undefined: o s z a p c d i
            in= out=  implicit registers
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module

from barevisor.records import NamedTuple

# CPUID features by the names /proc/cpuinfo gives them. A feature's number is its place here; "" is
# what every CPU has. Numbers 0..63 fit Cpu.features (bits 0-31) and Cpu.features2 (bits 32-63).
FEATURES = (
    "", "fpu", "tsc", "msr", "cx8", "sep", "cmov", "clflush", "mmx", "fxsr", "sse", "sse2",
    "pni", "pclmulqdq", "monitor", "ssse3", "fma", "cx16", "sse4_1", "sse4_2", "movbe", "popcnt",
    "aes", "xsave", "avx", "f16c", "rdrand", "fsgsbase", "bmi1", "avx2", "bmi2", "invpcid", "adx",
    "smap", "rdseed", "clflushopt", "clwb", "sha_ni", "rdpid", "xsaveopt", "xsavec", "xsaves",
    "abm", "syscall", "rdtscp", "vaes", "vpclmulqdq", "gfni", "pku",
)  # fmt: skip
UNITS = ("", "x87", "mmx", "sse", "avx")  # whose state it needs: CR0.TS, CR0.EM, CR4, XCR0 rules
TABLES = ("base", "system", "x87", "sse", "avx")
GPRS = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
FLAG_BITS = {"c": 1, "p": 4, "a": 0x10, "z": 0x40, "s": 0x80, "i": 0x200, "d": 0x400, "o": 0x800}
PREFIXES = {"NP": 0, "66": 1, "F3": 2, "F2": 3}
MAPS = {"0F": 1, "0F38": 2, "0F3A": 3}
FIXED = {  # operands that no field encodes: (register class, implicit general register)
    "AL": "rax", "AX": "rax", "eAX": "rax", "rAX": "rax", "CL": "rcx", "DX": "rdx", "rDX": "rdx",
    "1": "", "ST0": "", "STi": "", "XMM0": "", "ES": "", "CS": "", "SS": "", "DS": "", "FS": "",
    "GS": "",
}  # fmt: skip
ACCESS = {"+": 3, "=": 2}  # 1 read, 2 written


class Operand(NamedTuple):
    """One operand: `kind` is its SDM letter, or the name of a fixed register (then no size)."""

    kind: str
    size: str
    access: int


class Encoding(NamedTuple):
    """The encoding column, taken apart. `None` means: not constrained."""

    vex: bool
    map: int
    opcode: int
    plus_r: bool
    pp: int | None
    vex_l: int | None
    w: int | None
    rex_b: int | None
    modrm: bool
    modrm_mask: int
    modrm_value: int


class Shape(NamedTuple):
    """All of a row but its encoding and name. Rows with equal columns share one Shape."""

    operands: tuple[Operand, ...]
    exec: str
    feature: str
    unit: str
    attrs: frozenset[str]
    hint: str
    flags_read: str
    flags_written: str
    flags_undefined: str
    regs_read: tuple[str, ...]
    regs_written: tuple[str, ...]

    @property
    def mode(self) -> str:
        """`64`, `legacy` or `both`."""
        return next((m for m in ("64", "legacy") if m in self.attrs), "both")


class Row(NamedTuple):
    """One instruction form."""

    number: int
    text: str
    encoding: Encoding
    mnemonic: str
    shape: Shape


def parse_operand(text: str) -> Operand:
    access = ACCESS.get(text[-1], 1)
    name = text if access == 1 else text[:-1]
    return Operand(name, "", access) if name in FIXED else Operand(name[0], name[1:], access)


@cache
def _parse_vex(token: str) -> tuple[int | None, int | None, int, int]:
    """VEX.128.66.0F38.W0: L, W, pp, map."""
    vex_l: int | None = None
    w: int | None = None
    pp = 0
    vmap = 1
    for part in token.split(".")[1:]:
        if part in MAPS:
            vmap = MAPS[part]
        elif part in PREFIXES:
            pp = PREFIXES[part]
        elif part in ("128", "LZ", "L0"):
            vex_l = 0
        elif part in ("256", "L1"):
            vex_l = 1
        elif part in ("W0", "W1"):
            w = int(part[1])
        elif part not in ("LIG", "WIG"):
            raise ValueError(f"instruction table: unknown VEX field {part!r}")
    return vex_l, w, pp, vmap


def parse_encoding(text: str) -> Encoding:
    tokens = text.split()
    vex_l = w = pp = rex_b = None
    vex = tokens[0].startswith("VEX.")
    vmap = mask = value = at = 0
    if vex:
        vex_l, w, pp, vmap = _parse_vex(tokens[0])
        at = 1
    elif tokens[0] in PREFIXES and len(tokens) > 1:
        pp = PREFIXES[tokens[0]]
        at = 1
    if not vex and tokens[at] == "0F" and len(tokens) > at + 1:
        vmap = MAPS.get("0F" + tokens[at + 1], 1) if len(tokens) > at + 2 else 1
        at += 1 if vmap == 1 else 2
    opcode = int(tokens[at][:2], 16)
    plus_r = tokens[at].endswith("+r")
    modrm = False
    for token in tokens[at + 1 :]:
        if token == "REX.W":
            w = 1
        elif token == "NOREX.B":
            rex_b = 0
        else:
            modrm = True
            mask, value = _modrm_pattern(token)
    return Encoding(vex, vmap, opcode, plus_r, pp, vex_l, w, rex_b, modrm, mask, value)


@cache
def _modrm_pattern(token: str) -> tuple[int, int]:
    """/r, /digit, E8 or E8+i as (mask, value) of the ModRM byte."""
    if token == "/r":
        return 0, 0
    if token[0] == "/":
        return 0x38, int(token[1]) << 3
    if token.endswith("+i"):
        return 0xF8, int(token[:2], 16)
    return 0xFF, int(token, 16)


@cache
def parse_shape(operand_text: str, handler: str, notes: str, unit: str, feature: str) -> Shape:
    operands = tuple([parse_operand(o) for o in operand_text.split(",") if o])
    columns = {"r": "", "w": "", "u": "", "hint": "", "in": "", "out": ""}
    named = {"f": feature, "unit": unit}
    attrs = []
    for note in notes.split():
        key, eq, value = note.partition("=")
        if not eq:
            attrs.append(note)
        elif key in named:
            named[key] = value
        else:
            columns[key] += value
    read = columns["in"].split(",") if columns["in"] else []
    written = columns["out"].split(",") if columns["out"] else []
    if "sp" in attrs:
        read.append("rsp")
        written.append("rsp")
    for op in operands:
        gpr = FIXED.get(op.kind, "")
        if gpr and op.access & 1:
            read.append(gpr)
        if gpr and op.access & 2:
            written.append(gpr)
    return Shape(
        operands, handler, named["f"], named["unit"], frozenset(attrs), columns["hint"],
        columns["r"], columns["w"], columns["u"], tuple(read), tuple(written),
    )  # fmt: skip


def parse_row(number: int, line: str, unit: str, feature: str) -> Row:
    encoding, what, handler, notes = line.split("|")
    mnemonic, _, operand_text = what.strip().partition(" ")
    shape = parse_shape(operand_text.strip(), handler.strip(), notes.strip(), unit, feature)
    return Row(number, line, parse_encoding(encoding), mnemonic, shape)


def lines() -> Iterator[tuple[str, str, str]]:
    """(unit, feature, row text) of every row, in table order."""
    for table in TABLES:
        for unit, feature, text in import_module(f"barevisor.cpu.x86.isa.{table}").GROUPS:
            for line in text.splitlines():
                if line:
                    yield unit, feature, line


def rows() -> list[Row]:
    """The whole table, parsed afresh (some milliseconds). A row's number is its place."""
    return [parse_row(n, line, unit, feat) for n, (unit, feat, line) in enumerate(lines())]
