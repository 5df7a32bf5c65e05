"""Real-address mode: random instructions on the software engine and on Unicorn.

Each guest runs a few hundred instructions of all the forms of `FORMS`, each from registers and
flags of its own, and logs registers and flags behind each. Flags that the SDM leaves undefined
are masked; registers and memory must agree exactly.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
from collections.abc import Callable, Iterator

import pytest
from unicorn import UC_ARCH_X86, UC_MODE_16, Uc
from unicorn.x86_const import UC_X86_REG_ESP, UC_X86_REG_FS

from barevisor.cpu.bt.vm import BtEngine
from barevisor.cpu.engine import DescriptorTable, MachineSpec, PioWrite, Segment

pytestmark = pytest.mark.timeout(60)

RAM, STACK, CODE, CODE_SIZE, DATA, DATA_SIZE = 0x40000, 0x7000, 0x8000, 0x5E00, 0xE000, 0x300
LOG, ENTRY = 0x20000, 40
CF, PF, AF, ZF, SF, OF, DF = 1, 4, 16, 64, 128, 0x800, 0x400
ALL = CF | PF | AF | ZF | SF | OF
LOGIC = ALL & ~AF
Form = tuple[bytes, int]
"""An instruction, and the arithmetic flags that it defines."""


class Source:
    """Random operands."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.size = 2
        self.p = b""

    def width(self) -> None:
        """Operands of 16 or 32 bits from here on."""
        wide = self.r.randrange(2)
        self.size, self.p = (4, b"\x66") if wide else (2, b"")

    def imm(self, size: int) -> bytes:
        value = self.r.choice([0, 1, 0x7F, 0x80, 0xFF, self.r.randrange(1 << 8 * size)])
        return (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def modrm(self, reg: int | None = None, *, memory: bool | None = None) -> bytes:
        """A 16-bit form; every base and index, every displacement size."""
        reg = self.r.randrange(8) if reg is None else reg
        rm = self.r.randrange(8)
        if memory is False or (memory is None and self.r.randrange(2)):
            return bytes([0xC0 | reg << 3 | rm])
        mode = self.r.randrange(3)
        if mode == 0 and rm == 6:
            return bytes([reg << 3 | 6]) + struct.pack("<H", DATA + 0x100 + self.r.randrange(64))
        disp = self.r.randrange(64).to_bytes(mode, "little") if mode else b""
        return bytes([mode << 6 | reg << 3 | rm]) + disp

    def one(self, *opcodes: int) -> bytes:
        return bytes([self.r.choice(opcodes)])


def alu(s: Source) -> Form:
    row = s.r.randrange(8)
    defined = LOGIC if row in (1, 4, 6) else ALL
    kind = s.r.randrange(6)
    if kind < 4:
        return s.p + bytes([row << 3 | kind]) + s.modrm(), defined
    return s.p + bytes([row << 3 | kind]) + s.imm(s.size if kind == 5 else 1), defined


def alu_imm(s: Source) -> Form:
    row, opcode = s.r.randrange(8), s.r.choice([0x80, 0x81, 0x83])
    imm = s.imm(s.size if opcode == 0x81 else 1)
    return s.p + bytes([opcode]) + s.modrm(row) + imm, LOGIC if row in (1, 4, 6) else ALL


def shift(s: Source) -> Form:
    """By 1 everything but AF is defined; by a count OF is not, nor CF of a count too large."""
    row, opcode = s.r.randrange(8), s.r.choice([0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3])
    defined = CF | OF if row < 4 else LOGIC
    if opcode not in (0xD0, 0xD1):
        defined &= ~OF if row in (0, 1, 2, 3, 7) else ~(OF | CF)
    return s.p + bytes([opcode]) + s.modrm(row) + (s.imm(1) if opcode < 0xD0 else b""), defined


def unary(s: Source) -> Form:
    row, opcode = s.r.choice([0, 2, 3, 4, 5]), s.r.choice([0xF6, 0xF7])
    imm = s.imm(s.size if opcode == 0xF7 else 1) if row == 0 else b""
    defined = {0: LOGIC, 2: ALL, 3: ALL}.get(row, CF | OF)
    return s.p + bytes([opcode]) + s.modrm(row) + imm, defined


def decimal(s: Source) -> Form:
    opcode = s.r.choice([0x27, 0x2F, 0x37, 0x3F, 0xD4, 0xD5])
    base = s.one(7, 10, 16, 255) if opcode >= 0xD4 else b""
    defined = CF | AF if opcode in (0x37, 0x3F) else ALL & ~OF
    return bytes([opcode]) + base, SF | ZF | PF if base else defined


def string(s: Source) -> Form:
    prefixes = s.r.choice([b"", b"\xf3", b"\xf2"]) + s.r.choice([b"", b"\x26", b"\x2e"])
    opcodes = (0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF)
    return prefixes + s.p + s.one(*opcodes), ALL


def double_shift(s: Source) -> Form:
    """By CL only of 32 bits: beyond the operand the result is undefined."""
    opcode = s.r.choice([0xA4, 0xA5, 0xAC, 0xAD])
    if opcode & 1:
        return b"\x66\x0f" + bytes([opcode]) + s.modrm(), 0
    return s.p + b"\x0f" + bytes([opcode]) + s.modrm() + s.one(*range(16)), SF | ZF | PF


def simple(
    prefix: bytes, opcodes: tuple[int, ...], defined: int, memory: bool | None = None
) -> Callable[[Source], Form]:
    """`opcodes` with ModRM."""
    return lambda s: (s.p + prefix + s.one(*opcodes) + s.modrm(memory=memory), defined)


def no_operand(s: Source) -> Form:
    return s.p + s.one(0x98, 0x99, 0x9E, 0x9F, 0xF5, 0xF8, 0xF9, 0x90, *range(0x40, 0x50)), ALL


def immediate(s: Source) -> Form:
    wide = s.r.randrange(2)
    code = s.p + (b"\x69" if wide else b"\x6b") + s.modrm() + s.imm(s.size if wide else 1)
    return code, CF | OF


def address32(s: Source) -> Form:
    """EBX and ECX, scaled, with a displacement."""
    sib = bytes([0x0B | s.r.randrange(2) << 6, s.r.randrange(32)])
    modrm = bytes([s.r.randrange(8) << 3 | 0x44])
    return b"\x67" + s.p + s.one(0x01, 0x03, 0x2B, 0x8B, 0x89, 0x8D) + modrm + sib, ALL


def stack(s: Source) -> Form:
    forms = (
        s.p + b"\x50" + s.p + b"\x58", s.p + b"\x68" + s.imm(s.size) + s.p + b"\x5f",
        s.p + b"\x6a" + s.imm(1) + s.p + b"\x5b", s.p + b"\x60" + s.p + b"\x61",
        s.p + b"\xc8" + struct.pack("<HB", s.r.randrange(32), s.r.randrange(3)) + b"\xc9",
    )  # fmt: skip
    return s.r.choice(forms), ALL


FORMS: tuple[Callable[[Source], Form], ...] = (
    alu, alu, alu, alu_imm, shift, shift, unary, decimal, string, string, double_shift,
    no_operand, immediate, address32, stack,
    lambda s: (s.p + s.one(0xFE, 0xFF) + s.modrm(s.r.randrange(2)), ALL),
    simple(b"\x0f", (0xB6, 0xB7, 0xBE, 0xBF), ALL),
    simple(b"\x0f", (0xAF,), CF | OF),
    simple(b"\x0f", (0xA3, 0xAB, 0xB3, 0xBB), CF | ZF, memory=False),
    lambda s: (s.p + b"\x0f\xba" + s.modrm(4 + s.r.randrange(4)) + s.imm(1), CF | ZF),
    simple(b"\x0f", (0xBC, 0xBD), ZF),
    simple(b"\x0f", (0xB0, 0xB1, 0xC0, 0xC1), ALL),
    simple(b"\x0f", tuple(range(0x40, 0x50)), ALL),
    simple(b"\x0f", tuple(range(0x90, 0xA0)), ALL),
    simple(b"", (0x84, 0x85), LOGIC),
    simple(b"", (0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B), ALL),
    simple(b"", (0x8D,), ALL, memory=True),
    lambda s: (s.p + bytes([0xB8 + s.r.randrange(8)]) + s.imm(s.size), ALL),
)  # fmt: skip


def chunk(s: Source, code: bytes, number: int, repeats: bool) -> bytes:
    """Load registers and flags, run `code`, log both."""
    regs = [s.r.randrange(1 << 32) for _ in range(8)]
    high = s.r.randrange(1 << 16) << 16
    if repeats:
        regs[1], regs[6], regs[7] = high | s.r.randrange(6), DATA + s.r.randrange(32), DATA + 0x80
    elif b"\x67" in code[:1]:
        regs[1], regs[3] = s.r.randrange(16), DATA + s.r.randrange(64)
    else:
        regs[3], regs[5] = (high | DATA + s.r.randrange(64) for _ in range(2))
        regs[6], regs[7] = s.r.randrange(64), s.r.randrange(64)
    regs[4] = STACK
    flags = s.r.randrange(0x1000) & ALL | 2 | (DF if repeats and s.r.randrange(2) else 0)
    out = b"".join(b"\x66" + struct.pack("<BI", 0xB8 + n, v) for n, v in enumerate(regs))
    out += struct.pack("<BH", 0x68, flags) + b"\x9d" + code
    at = number * ENTRY
    out += b"".join(b"\x64\x66\x89" + struct.pack("<BH", n << 3 | 6, at + 4 * n) for n in range(8))
    reset = b"\x66\xbc" + struct.pack("<I", STACK)
    return out + reset + b"\x9c\x64\x8f\x06" + struct.pack("<H", at + 32) + b"\xfc"


def program(seed: int) -> tuple[bytes, int, list[Form]]:
    """RAM, where its code ends, and the forms in it."""
    s = Source(seed)
    code, forms = b"", []
    while True:
        s.width()
        make = s.r.choice(FORMS)
        form = make(s)
        more = chunk(s, form[0], len(forms), make is string)
        if len(code) + len(more) > CODE_SIZE:
            break
        code += more
        forms.append(form)
    ram = bytearray(RAM)
    ram[DATA : DATA + DATA_SIZE] = s.r.randbytes(DATA_SIZE)
    ram[CODE : CODE + len(code) + 2] = code + b"\xe6\xf4"
    return bytes(ram), CODE + len(code), forms


def on_bt(image: bytes) -> bytes:
    ram = mmap.mmap(-1, RAM)
    ram[:] = image
    anchor = ctypes.c_char.from_buffer(ram)
    vm = BtEngine().create_vm(MachineSpec(irqchip=False))
    try:
        # JUSTIFICATION: the guest's RAM; `ram` outlives the VM.
        vm.set_memory(0, 0, RAM, ctypes.addressof(anchor))
        vcpu = vm.create_vcpu(0)
        state = vcpu.get_state()
        state.regs.rip, state.regs.rflags = CODE, 2
        state.cs = Segment(0, 0, 0xFFFF, 11)
        state.ds, state.es, state.ss = (Segment(0, 0, 0xFFFF, 3) for _ in range(3))
        state.fs = Segment(LOG >> 4, LOG, 0xFFFF, 3)
        state.idt = DescriptorTable(0, 0x3FF)
        vcpu.set_state(state)
        done = vcpu.run()
        assert isinstance(done, PioWrite)
        assert done.port == 0xF4
        return bytes(ram)
    finally:
        vm.close()
        del anchor


def on_unicorn(image: bytes, end: int) -> bytes:
    uc = Uc(UC_ARCH_X86, UC_MODE_16)
    uc.mem_map(0, RAM)
    uc.mem_write(0, image)
    uc.reg_write(UC_X86_REG_FS, LOG >> 4)
    uc.reg_write(UC_X86_REG_ESP, STACK)
    uc.emu_start(CODE, end)
    return bytes(uc.mem_read(0, RAM))


def differences(forms: list[Form], got: bytes, want: bytes) -> Iterator[str]:
    """One line for each instruction that left something else behind."""
    for number, (code, defined) in enumerate(forms):
        at = LOG + number * ENTRY
        *mine, my_flags = struct.unpack_from("<8IH", got, at)
        *its, its_flags = struct.unpack_from("<8IH", want, at)
        if mine != its or (my_flags ^ its_flags) & (defined | DF):
            yield (
                f"{code.hex()}: {[hex(v) for v in mine]} {my_flags:#x} is not "
                f"{[hex(v) for v in its]} {its_flags:#x}, flags {defined:#x}"
            )


@pytest.mark.parametrize("seed", range(20))
def test_real_mode_agrees(seed: int) -> None:
    image, end, forms = program(seed)
    got, want = on_bt(image), on_unicorn(image, end)
    assert next(differences(forms, got, want), "") == ""
    low = STACK - 0x100  # the stack keeps flags that are undefined
    assert got[:low] == want[:low]
    assert got[DATA:LOG] == want[DATA:LOG]
