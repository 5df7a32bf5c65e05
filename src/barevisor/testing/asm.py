"""A small assembler for guests in tests: the SDM's Intel syntax, a table of common instructions.

    assemble("start: mov eax, 5; out 0x10, eax; jmp start", org=0xC000, bits=64)

Statements end at a newline or `;`, `#` begins a comment, `name:` is a label. `bits 16|32|64`
switches the mode, `db`, `dw`, `dd`, `dq` and `hex` give data, `align N` pads with NOP. Numbers,
labels and their sums are expressions. Jumps are near (`jmp short L` is not), and a label's value
never changes an instruction's length, so two passes are enough. An absolute address in 64-bit
code is the 32-bit form without base. What the table lacks is written with `hex`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# ---- tables (SDM, "Instruction Set Reference") ----

GPR = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"]
ALU = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"]
SHIFT = dict(zip(["rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar"], range(8), strict=True))
UNARY = {"not": 2, "neg": 3, "mul": 4, "imul": 5, "div": 6, "idiv": 7}
CONDITIONS = {
    "o": 0, "no": 1, "b": 2, "c": 2, "nae": 2, "ae": 3, "nb": 3, "nc": 3, "e": 4, "z": 4, "ne": 5,
    "nz": 5, "be": 6, "na": 6, "a": 7, "nbe": 7, "s": 8, "ns": 9, "p": 10, "np": 11, "l": 12,
    "ge": 13, "le": 14, "g": 15,
}  # fmt: skip
SREG = ["es", "cs", "ss", "ds", "fs", "gs"]
PUSH_SREG = ("06", "0e", "16", "1e", "0fa0", "0fa8")
POP_SREG = ("07", "", "17", "1f", "0fa1", "0fa9")
SEGMENT_PREFIX = dict(zip(SREG, (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65), strict=True))
PREFIXES = {"lock": 0xF0, "rep": 0xF3, "repe": 0xF3, "repne": 0xF2}

PLAIN = {
    "nop": "90", "hlt": "f4", "cli": "fa", "sti": "fb", "cld": "fc", "std": "fd", "clc": "f8",
    "stc": "f9", "cmc": "f5", "pushf": "9c", "popf": "9d", "lahf": "9f", "sahf": "9e",
    "cpuid": "0fa2", "rdmsr": "0f32", "wrmsr": "0f30", "rdtsc": "0f31", "wbinvd": "0f09",
    "invd": "0f08", "clts": "0f06", "ud2": "0f0b", "int3": "cc", "into": "ce", "icebp": "f1",
    "syscall": "0f05", "sysretq": "480f07", "sysretd": "0f07", "sysenter": "0f34",
    "sysexit": "0f35", "swapgs": "0f01f8", "stac": "0f01cb", "clac": "0f01ca",
    "xgetbv": "0f01d0", "xsetbv": "0f01d1", "ret": "c3", "retf": "cb", "retfq": "48cb",
    "iret": "cf", "iretq": "48cf", "leave": "c9", "pause": "f390", "cdq": "99", "cqo": "4899",
    "movsb": "a4", "stosb": "aa", "lodsb": "ac", "scasb": "ae", "cmpsb": "a6", "insb": "6c",
    "outsb": "6e", "pusha": "60", "popa": "61", "fninit": "dbe3", "fld1": "d9e8",
    "faddp": "dec1", "mfence": "0faef0", "daa": "27", "aam": "d40a", "emms": "0f77",
}  # fmt: skip
SIZED = {"movs": "a5", "stos": "ab", "lods": "ad", "scas": "af", "cmps": "a7", "ins": "6d",
         "outs": "6f"}  # fmt: skip
"""With a suffix w, d or q."""

RM_ONLY = {
    "lgdt": ("0f01", 2), "lidt": ("0f01", 3), "sgdt": ("0f01", 0), "sidt": ("0f01", 1),
    "invlpg": ("0f01", 7), "lldt": ("0f00", 2), "ltr": ("0f00", 3), "str": ("0f00", 1),
    "sldt": ("0f00", 0), "verr": ("0f00", 4), "verw": ("0f00", 5), "smsw": ("0f01", 4),
    "lmsw": ("0f01", 6), "fxsave": ("0fae", 0), "fxrstor": ("0fae", 1), "ldmxcsr": ("0fae", 2),
    "stmxcsr": ("0fae", 3), "xsave": ("0fae", 4), "xrstor": ("0fae", 5), "clflush": ("0fae", 7),
    "cmpxchg8b": ("0fc7", 1), "callf": ("ff", 3), "jmpf": ("ff", 5), "fistp": ("db", 3),
    "fild": ("db", 0), "fnstcw": ("d9", 7), "fldcw": ("d9", 5),
}  # fmt: skip
"""One operand, no size prefix: (opcode, ModRM.reg)."""

REG_RM = {
    "lea": "8d", "movsxd": "63", "lar": "0f02", "lsl": "0f03", "bsf": "0fbc", "bsr": "0fbd",
    "popcnt": "f30fb8", "imul": "0faf", "bound": "62",
}  # fmt: skip
BIT_TEST = {"bt": (0xA3, 4), "bts": (0xAB, 5), "btr": (0xB3, 6), "btc": (0xBB, 7)}
SIZES = {"byte": 8, "word": 16, "dword": 32, "qword": 64, "far": 0}


class AsmError(ValueError):
    """The text is wrong, or the table lacks the form; the message holds the statement."""


@dataclass(frozen=True, slots=True)
class Reg:
    kind: str  # "gpr", "sreg", "cr", "dr"
    number: int
    size: int
    high: bool = False  # ah ch dh bh


@dataclass(frozen=True, slots=True)
class Mem:
    size: int | None
    base: Reg | None
    index: Reg | None
    scale: int
    disp: str
    segment: str


@dataclass(frozen=True, slots=True)
class Imm:
    text: str


Operand = Reg | Mem | Imm


def _registers() -> dict[str, Reg]:
    table: dict[str, Reg] = {}
    for n, name in enumerate(GPR):
        table |= {name: Reg("gpr", n, 16), "e" + name: Reg("gpr", n, 32)}
        table["r" + name] = Reg("gpr", n, 64)
    for n, name in enumerate(("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil")):
        table[name] = Reg("gpr", n, 8)
    for n, name in enumerate(("ah", "ch", "dh", "bh")):
        table[name] = Reg("gpr", n + 4, 8, high=True)
    for n in range(8, 16):
        for suffix, size in (("", 64), ("d", 32), ("w", 16), ("b", 8)):
            table[f"r{n}{suffix}"] = Reg("gpr", n, size)
    for n, name in enumerate(SREG):
        table[name] = Reg("sreg", n, 16)
    for n in range(16):
        table |= {f"cr{n}": Reg("cr", n, 0), f"dr{n}": Reg("dr", n, 0)}
    return table


REGISTERS = _registers()
_MEM = re.compile(r"(?:(byte|word|dword|qword|far)\s+)?(?:([c-gs]s):)?\[(.*)\]$")


@dataclass
class Assembled:
    """The code, where it lies, and where its labels are."""

    org: int
    code: bytes
    labels: dict[str, int]


def assemble(
    text: str,
    org: int,
    bits: int,
    symbols: Mapping[str, int] | None = None,
    macros: Mapping[str, Callable[[str], str]] | None = None,
) -> Assembled:
    """Assemble `text`. A macro gets the rest of its statement and returns statements."""
    statements = list(_statements(text, macros or {}))
    known = dict(symbols or {})
    for final in (False, True):
        a = _Pass(org, bits, known, final)
        for statement in statements:
            a.statement(statement)
        known |= a.labels
    return Assembled(org, bytes(a.out), a.labels)


def _statements(text: str, macros: Mapping[str, Callable[[str], str]]) -> list[str]:
    done: list[str] = []
    for line in text.splitlines():
        for part in line.split("#")[0].split(";"):
            word, _, rest = part.strip().partition(" ")
            while word.endswith(":"):
                done.append(word)
                word, _, rest = rest.strip().partition(" ")
            if word in macros:
                done += _statements(macros[word](rest.strip()), macros)
            elif word:
                done.append(f"{word} {rest.strip()}".strip())
    return done


@dataclass
class _Pass:
    org: int
    bits: int
    known: dict[str, int]
    final: bool
    out: bytearray = field(default_factory=bytearray)
    labels: dict[str, int] = field(default_factory=dict)
    text: str = ""

    def statement(self, text: str) -> None:
        self.text = text
        if text.endswith(":"):
            self.labels[text[:-1]] = self.org + len(self.out)
            return
        word, _, rest = text.partition(" ")
        prefix = b""
        while word in PREFIXES:
            prefix += bytes([PREFIXES[word]])
            word, _, rest = rest.strip().partition(" ")
        if self._directive(word, rest):
            return
        operands = [self._operand(p.strip()) for p in _split(rest)] if rest else []
        self.out += prefix
        self._instruction(word, operands, rest)

    def _directive(self, word: str, rest: str) -> bool:
        widths = {"db": 1, "dw": 2, "dd": 4, "dq": 8}
        if word == "bits":
            self.bits = int(rest)
        elif word == "hex":
            self.out += bytes.fromhex(rest)
        elif word == "align":
            self.out += b"\x90" * (-(self.org + len(self.out)) % int(rest, 0))
        elif word in widths:
            for part in rest.split(","):
                self._value(part, widths[word])
        else:
            return False
        return True

    # ---- expressions and operands ----

    def _eval(self, text: str) -> int:
        total, sign = 0, 1
        for token in re.findall(r"[+-]|[^+\-\s]+", text):
            if token in "+-":
                sign = -sign if token == "-" else sign
                continue
            total += sign * self._term(token)
            sign = 1
        return total

    def _term(self, token: str) -> int:
        if token[0].isdigit():
            return int(token, 0)
        if token[0] == "'":
            return ord(token[1])
        if token == "$":
            return self.org + len(self.out)
        if token in self.known:
            return self.known[token]
        if self.final:
            raise AsmError(f"unknown name {token!r} in: {self.text}")
        return 0x1000

    def _literal(self, text: str) -> bool:
        return not re.search(r"[A-Za-z_$]", re.sub(r"0x[0-9a-fA-F]+|'.'", "", text))

    def _value(self, text: str, width: int) -> None:
        self.out += (self._eval(text) & (1 << 8 * width) - 1).to_bytes(width, "little")

    def _operand(self, text: str) -> Operand:
        if text in REGISTERS:
            return REGISTERS[text]
        memory = _MEM.match(text)
        if not memory:
            return Imm(text)
        base = index = None
        scale, disp = 1, ""
        for sign, term in re.findall(r"([+-]?)\s*([^+\-\s]+)", memory[3]):
            name, _, factor = term.partition("*")
            if name not in REGISTERS:
                disp += (sign or "+") + term
            elif factor or base is not None:
                index, scale = REGISTERS[name], int(factor or 1)
            else:
                base = REGISTERS[name]
        size = SIZES[memory[1]] if memory[1] else None
        return Mem(size, base, index, scale, disp, memory[2] or "")

    # ---- encoding ----

    def _emit(
        self, opcode: str, reg: int, rm: Reg | Mem, size: int, imm: str = "", width: int = 0,
        force_rex: bool = False,
    ) -> None:  # fmt: skip
        """Prefixes, opcode, ModRM and an immediate. `size` is the operand size (0: none)."""
        if isinstance(rm, Mem):
            self._memory_prefixes(rm)
        if (size == 16 and self.bits != 16) or (size == 32 and self.bits == 16):
            self.out.append(0x66)
        raw = bytes.fromhex(opcode)
        if raw[0] in (0xF3, 0xF2) and len(raw) > 1:
            self.out.append(raw[0])
            raw = raw[1:]
        rex = (size == 64) << 3 | (reg >> 3) << 2 | self._rex_rm(rm)
        if rex or force_rex or (isinstance(rm, Reg) and _needs_rex(rm)):
            self._need64()
            self.out.append(0x40 | rex)
        self.out += raw
        self._modrm(reg & 7, rm)
        if width:
            self._value(imm, width)

    def _need64(self) -> None:
        if self.bits != 64:
            raise AsmError(f"64-bit form in {self.bits}-bit code: {self.text}")

    @staticmethod
    def _rex_rm(rm: Reg | Mem) -> int:
        if isinstance(rm, Reg):
            return rm.number >> 3
        index = rm.index.number >> 3 if rm.index else 0
        return index << 1 | (rm.base.number >> 3 if rm.base else 0)

    def _memory_prefixes(self, m: Mem) -> None:
        if m.segment:
            self.out.append(SEGMENT_PREFIX[m.segment])
        register = m.base or m.index
        default = 64 if self.bits == 64 else self.bits
        if register and register.size != default:
            self.out.append(0x67)

    def _modrm(self, reg: int, rm: Reg | Mem) -> None:
        if isinstance(rm, Reg):
            self.out.append(0xC0 | reg << 3 | rm.number & 7)
            return
        register = rm.base or rm.index
        if (register.size if register else self.bits) == 16:
            self._modrm16(reg, rm)
            return
        disp = rm.disp or "0"
        if rm.base is None:
            sib = rm.index is not None or self.bits == 64
            self.out.append(reg << 3 | (4 if sib else 5))
            if sib:
                self.out.append(self._sib(rm, 5))
            self._value(disp, 4)
            return
        small = self._literal(disp) and -128 <= self._eval(disp) < 128
        none = small and self._eval(disp) == 0 and rm.base.number & 7 != 5
        sib = rm.index is not None or rm.base.number & 7 == 4
        mod = 0 if none else 1 if small else 2
        self.out.append(mod << 6 | reg << 3 | (4 if sib else rm.base.number & 7))
        if sib:
            self.out.append(self._sib(rm, rm.base.number & 7))
        if mod:
            self._value(disp, 1 if mod == 1 else 4)

    @staticmethod
    def _sib(m: Mem, base: int) -> int:
        index = m.index.number & 7 if m.index else 4
        return (m.scale.bit_length() - 1) << 6 | index << 3 | base

    def _modrm16(self, reg: int, m: Mem) -> None:
        """SDM, "16-Bit Addressing Forms with the ModR/M Byte"."""
        names = frozenset(GPR[r.number] for r in (m.base, m.index) if r)
        forms = ("bx si", "bx di", "bp si", "bp di", "si", "di", "bp", "bx")
        if not names:
            self.out.append(reg << 3 | 6)
        else:
            form = [frozenset(f.split()) for f in forms].index(names)
            self.out.append(0x80 | reg << 3 | form)
        self._value(m.disp or "0", 2)

    # ---- instructions ----

    def _instruction(self, word: str, ops: list[Operand], rest: str) -> None:
        handler = getattr(self, "_op_" + word, None)
        if word in PLAIN and not ops:
            self.out += bytes.fromhex(PLAIN[word])
        elif word[:-1] in SIZED and word[-1] in "wdq" and not ops:
            self._sized(SIZED[word[:-1]], word[-1])
        elif word in ("pushfd", "popfd", "iretd", "retfd"):
            self._sized(PLAIN[word[:-1]], "d")
        elif handler:
            handler(ops, rest)
        elif word in ALU and len(ops) == 2:
            self._alu(ALU.index(word), ops)
        elif word in SHIFT and len(ops) == 2:
            self._shift(SHIFT[word], ops)
        elif word in UNARY and len(ops) == 1 and isinstance(ops[0], Reg | Mem):
            self._group(0xF6, UNARY[word], ops[0])
        elif not word or not self._tables(word, ops):
            raise AsmError(f"no such form: {self.text}")

    def _tables(self, word: str, ops: list[Operand]) -> bool:
        first = ops[0] if ops else None
        second = ops[1] if len(ops) > 1 else None
        if word in RM_ONLY and isinstance(first, Reg | Mem):
            opcode, ext = RM_ONLY[word]
            size = first.size if word in ("callf", "jmpf", "str", "sldt", "smsw") else 0
            self._emit(opcode, ext, first, size or 0)
        elif word in REG_RM and isinstance(first, Reg) and isinstance(second, Reg | Mem):
            self._emit(REG_RM[word], first.number, second, first.size)
        elif word in BIT_TEST and isinstance(first, Reg | Mem):
            self._bit_test(word, first, second)
        elif word[0] == "j" and word[1:] in CONDITIONS and isinstance(first, Imm):
            self.out += bytes([0x0F, 0x80 | CONDITIONS[word[1:]]])
            self._relative(first, self._near())
        elif word[:3] == "set" and word[3:] in CONDITIONS and isinstance(first, Reg | Mem):
            self._emit(f"0f{0x90 | CONDITIONS[word[3:]]:02x}", 0, first, 0)
        elif word[:4] == "cmov" and isinstance(first, Reg) and isinstance(second, Reg | Mem):
            self._emit(f"0f{0x40 | CONDITIONS[word[4:]]:02x}", first.number, second, first.size)
        else:
            return False
        return True

    def _sized(self, opcode: str, suffix: str) -> None:
        size = {"w": 16, "d": 32, "q": 64}[suffix]
        if size == 64:
            self._need64()
            prefix = bytes([0x48])
        else:
            prefix = b"\x66" if (size == 16) != (self.bits == 16) else b""
        if prefix == b"\x66" and self.out and self.out[-1] in (0xF2, 0xF3):
            prefix, last = b"", self.out.pop()
            self.out += bytes([0x66, last])
        self.out += prefix + bytes.fromhex(opcode)

    def _near(self) -> int:
        return 2 if self.bits == 16 else 4

    def _relative(self, target: Imm, width: int) -> None:
        end = self.org + len(self.out) + width
        distance = self._eval(target.text) - end
        if width == 1 and self.final and not -128 <= distance < 128:
            raise AsmError(f"target out of reach: {self.text}")
        self.out += (distance & (1 << 8 * width) - 1).to_bytes(width, "little")

    def _size(self, *ops: Operand) -> int:
        for op in ops:
            if isinstance(op, Reg) and op.kind == "gpr":
                return op.size
        for op in ops:
            if isinstance(op, Mem) and op.size:
                return op.size
        raise AsmError(f"which size: {self.text}")

    def _group(self, opcode: int, ext: int, rm: Reg | Mem, imm: str = "", width: int = 0) -> None:
        size = self._size(rm)
        self._emit(f"{opcode | (size > 8):02x}", ext, rm, size if size > 8 else 0, imm, width)

    def _two(self, opcode: str, reg: Reg, rm: Reg | Mem) -> None:
        """`opcode` is the 8-bit form; the wider one follows it."""
        raw = bytearray.fromhex(opcode)
        raw[-1] |= reg.size > 8
        self._emit(
            raw.hex(), reg.number, rm, reg.size if reg.size > 8 else 0, force_rex=_needs_rex(reg)
        )

    def _alu(self, row: int, ops: list[Operand]) -> None:
        match ops:
            case [Reg() | Mem() as rm, Reg() as reg]:
                self._two(f"{row * 8:02x}", reg, rm)
            case [Reg() as reg, Mem() as rm]:
                self._two(f"{row * 8 + 2:02x}", reg, rm)
            case [Reg() | Mem() as rm, Imm(text)]:
                size = self._size(rm)
                if size == 8:
                    self._emit("80", row, rm, 0, text, 1)
                elif self._literal(text) and -128 <= self._eval(text) < 128:
                    self._emit("83", row, rm, size, text, 1)
                else:
                    self._emit("81", row, rm, size, text, min(size // 8, 4))

    def _shift(self, ext: int, ops: list[Operand]) -> None:
        match ops:
            case [Reg() | Mem() as rm, Reg()]:
                self._group(0xD2, ext, rm)
            case [Reg() | Mem() as rm, Imm(text)]:
                self._group(0xC0, ext, rm, text, 1)

    def _bit_test(self, word: str, rm: Reg | Mem, by: Operand | None) -> None:
        opcode, ext = BIT_TEST[word]
        if isinstance(by, Reg):
            self._emit(f"0f{opcode:02x}", by.number, rm, by.size)
        elif isinstance(by, Imm):
            self._emit("0fba", ext, rm, self._size(rm), by.text, 1)

    def _op_mov(self, ops: list[Operand], rest: str) -> None:
        match ops:
            case [Reg("cr" | "dr" as kind, n), Reg() as r]:
                self._emit("0f22" if kind == "cr" else "0f23", n, r, 0)
            case [Reg() as r, Reg("cr" | "dr" as kind, n)]:
                self._emit("0f20" if kind == "cr" else "0f21", n, r, 0)
            case [Reg("sreg", n), Reg() | Mem() as rm]:
                self._emit("8e", n, rm, 0)
            case [Reg() | Mem() as rm, Reg("sreg", n)]:
                self._emit("8c", n, rm, rm.size or 0 if isinstance(rm, Reg) else 0)
            case [Reg() | Mem() as rm, Reg() as reg]:
                self._two("88", reg, rm)
            case [Reg() as reg, Mem() as rm]:
                self._two("8a", reg, rm)
            case [Reg() as reg, Imm(text)]:
                self._mov_imm(reg, text)
            case [Mem() as rm, Imm(text)]:
                size = self._size(rm)
                self._group(0xC6, 0, rm, text, min(size // 8, 4))

    def _mov_imm(self, reg: Reg, text: str) -> None:
        if reg.size == 64 and not (
            self._literal(text) and not -(1 << 31) <= self._eval(text) < 1 << 31
        ):
            self._emit("c7", 0, reg, 64, text, 4)
            return
        if (reg.size == 16 and self.bits != 16) or (reg.size == 32 and self.bits == 16):
            self.out.append(0x66)
        rex = (reg.size == 64) << 3 | reg.number >> 3
        if rex or _needs_rex(reg):
            self._need64()
            self.out.append(0x40 | rex)
        self.out.append((0xB0 if reg.size == 8 else 0xB8) | reg.number & 7)
        self._value(text, reg.size // 8)

    def _op_inc(self, ops: list[Operand], rest: str) -> None:
        if isinstance(ops[0], Reg | Mem):
            self._group(0xFE, 0, ops[0])

    def _op_dec(self, ops: list[Operand], rest: str) -> None:
        if isinstance(ops[0], Reg | Mem):
            self._group(0xFE, 1, ops[0])

    def _op_test(self, ops: list[Operand], rest: str) -> None:
        match ops:
            case [Reg() | Mem() as rm, Reg() as reg]:
                self._two("84", reg, rm)
            case [Reg() | Mem() as rm, Imm(text)]:
                self._group(0xF6, 0, rm, text, min(self._size(rm) // 8, 4))

    def _swap(self, opcode: str, ops: list[Operand]) -> None:
        match ops:
            case [Reg() | Mem() as rm, Reg() as reg]:
                self._two(opcode, reg, rm)
            case _:
                raise AsmError(f"no such form: {self.text}")

    def _op_xchg(self, ops: list[Operand], rest: str) -> None:
        self._swap("86", ops)

    def _op_xadd(self, ops: list[Operand], rest: str) -> None:
        self._swap("0fc0", ops)

    def _op_cmpxchg(self, ops: list[Operand], rest: str) -> None:
        self._swap("0fb0", ops)

    def _op_cmpxchg16b(self, ops: list[Operand], rest: str) -> None:
        if isinstance(ops[0], Mem):
            self._emit("0fc7", 1, ops[0], 64)

    def _extend(self, opcode: int, ops: list[Operand]) -> None:
        match ops:
            case [Reg() as reg, Reg() | Mem() as rm]:
                wide = (rm.size or 8) > 8
                self._emit(f"0f{opcode | wide:02x}", reg.number, rm, reg.size)

    def _op_movzx(self, ops: list[Operand], rest: str) -> None:
        self._extend(0xB6, ops)

    def _op_movsx(self, ops: list[Operand], rest: str) -> None:
        self._extend(0xBE, ops)

    def _op_bswap(self, ops: list[Operand], rest: str) -> None:
        if isinstance(ops[0], Reg):
            if ops[0].size == 64 or ops[0].number > 7:
                self.out.append(0x40 | (ops[0].size == 64) << 3 | ops[0].number >> 3)
            self.out += bytes([0x0F, 0xC8 | ops[0].number & 7])

    def _op_push(self, ops: list[Operand], rest: str) -> None:
        match ops[0]:
            case Reg("sreg", n):
                self.out += bytes.fromhex(PUSH_SREG[n])
            case Reg() as reg:
                self._stack(0x50, reg)
            case Mem() as rm:
                self._emit("ff", 6, rm, 0 if rm.size in (None, 64) else rm.size or 0)
            case Imm(text):
                self.out.append(0x68)
                self._value(text, self._near())

    def _op_pop(self, ops: list[Operand], rest: str) -> None:
        match ops[0]:
            case Reg("sreg", n):
                self.out += bytes.fromhex(POP_SREG[n])
            case Reg() as reg:
                self._stack(0x58, reg)
            case Mem() as rm:
                self._emit("8f", 0, rm, 0 if rm.size in (None, 64) else rm.size or 0)

    def _stack(self, opcode: int, reg: Reg) -> None:
        if (reg.size == 16) != (self.bits == 16):
            self.out += b"\x66" if reg.size != 64 else b""
        if reg.number > 7:
            self.out.append(0x41)
        self.out.append(opcode | reg.number & 7)

    def _op_in(self, ops: list[Operand], rest: str) -> None:
        self._port(0xE4, ops[0], ops[1])

    def _op_out(self, ops: list[Operand], rest: str) -> None:
        self._port(0xE6, ops[1], ops[0])

    def _port(self, opcode: int, value: Operand, port: Operand) -> None:
        size = self._size(value)
        if (size == 16 and self.bits != 16) or (size == 32 and self.bits == 16):
            self.out.append(0x66)
        opcode |= size > 8
        if isinstance(port, Imm):
            self.out.append(opcode)
            self._value(port.text, 1)
        else:
            self.out.append(opcode | 8)

    def _op_int(self, ops: list[Operand], rest: str) -> None:
        self.out.append(0xCD)
        self._value(rest, 1)

    def _op_enter(self, ops: list[Operand], rest: str) -> None:
        self.out.append(0xC8)
        size, level = rest.split(",")
        self._value(size, 2)
        self._value(level, 1)

    def _op_jmp(self, ops: list[Operand], rest: str) -> None:
        if rest.startswith("short "):
            self.out.append(0xEB)
            self._relative(Imm(rest[6:]), 1)
        else:
            self._branch(0xE9, 0xEA, 4, ops[0], rest)

    def _op_call(self, ops: list[Operand], rest: str) -> None:
        self._branch(0xE8, 0x9A, 2, ops[0], rest)

    def _branch(self, near: int, far: int, ext: int, to: Operand, rest: str) -> None:
        if not isinstance(to, Imm):
            self._emit("ff", ext, to, 0 if self.bits == 64 else self._size(to))
        elif ":" in rest:  # selector:offset
            selector, _, offset = rest.partition(":")
            wide = offset.startswith("dword ")
            width = 4 if wide or self.bits == 32 else 2
            if wide and self.bits == 16:
                self.out.append(0x66)
            self.out.append(far)
            self._value(offset.removeprefix("dword "), width)
            self._value(selector, 2)
        else:
            self.out.append(near)
            self._relative(to, self._near())

    def _short(self, opcode: int, target: str) -> None:
        self.out.append(opcode)
        self._relative(Imm(target), 1)

    def _op_loop(self, ops: list[Operand], rest: str) -> None:
        self._short(0xE2, rest)

    def _op_jrcxz(self, ops: list[Operand], rest: str) -> None:
        self._short(0xE3, rest)


def _needs_rex(reg: Reg) -> bool:
    """spl, bpl, sil and dil exist only with a REX prefix."""
    return reg.size == 8 and 4 <= reg.number <= 7 and not reg.high


def _split(text: str) -> list[str]:
    """At commas outside brackets and quotes."""
    return re.split(r",(?![^\[]*\])", text)
