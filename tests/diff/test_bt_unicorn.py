"""Straight-line user code on the software engine and on Unicorn: registers, flags and memory.

A program is a dozen random instructions of the table whose operands lie in a buffer, often across
its pages. Flags that an instruction leaves undefined are not compared, and a program ends before
one that would read such a flag, that faults, or that Unicorn does not know.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import unicorn
from unicorn import x86_const as ux

from barevisor.cpu import engine
from barevisor.cpu.bt.vm import BtEngine
from barevisor.cpu.x86.instructions import FLAG_BITS, Row, rows
from barevisor.testing import hostile, micro
from barevisor.testing.hostile import GUARD, Box
from barevisor.testing.rows import encode, has_memory_form, has_register_form, immediates

ARITH = 0x8D5
IOPL3 = 0x3002
BUFFER, SIZE = 0x100000, 0x3000
LENGTH = 12
PROGRAMS = 400
HANDLERS = frozenset((
    "movs", "stos", "lods", "scas", "cmps", "xlat", "push", "pop", "push_imm", "pusha",
    "popa", "enter", "leave", "pushf", "lahf", "sahf", "bt", "bts", "btr", "btc", "clc",
    "stc", "cmc", "cld", "std", "daa", "das", "aaa", "aas", "aam", "aad", "salc", "nop",
))  # fmt: skip
FEATURES = frozenset(("", "cmov", "sse", "sse2", "cx8", "cx16", "popcnt"))
MAY_KEEP_FLAGS = frozenset((
    "ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "SAL", "SAR", "SHLD", "SHRD",
))  # fmt: skip
"""With a count of 0, so a flag that was undefined before still is."""
SKIP = frozenset((
    "RDTSC", "BSF", "BSR", "CMPXCHG", "CMPXCHG8B", "CMPXCHG16B", "MOVQ2DQ", "MOVDQ2Q", "SHLD",
    "SHRD", "MAXPS", "MAXPD", "MAXSS", "MAXSD", "MINPS", "MINPD", "MINSS", "MINSD",
))  # fmt: skip
"""Results that the manual leaves undefined (BSF of 0, a 16-bit double shift by more), operands
whose NaN Unicorn chooses otherwise, MMX registers, whose state is not part of a program, and
CMPXCHG: Unicorn clears the upper half of a 32-bit destination that this host keeps, and forgets
all flags but ZF of the 8-byte one."""
FP_NAN = frozenset((
    "ADD", "SUB", "MUL", "DIV", "SQRT", "RCP", "RSQRT", "CMP", "COMI", "UCOMI", "CVT", "CVTT",
))  # fmt: skip
GPRS = [getattr(ux, f"UC_X86_REG_{name.upper()}") for name in engine.GPR_NAMES]
GPRS32 = [getattr(ux, f"UC_X86_REG_E{name[1:].upper()}") for name in engine.GPR_NAMES[:8]]
XMMS = [getattr(ux, f"UC_X86_REG_XMM{n}") for n in range(16)]


def is_fp(row: Row) -> bool:
    """Floating-point arithmetic is the thunk tests' affair: they have the host as the oracle."""
    name = row.mnemonic
    return row.shape.unit == "sse" and any(name.startswith(word) for word in FP_NAN)


def wanted(row: Row, bits: int) -> bool:
    s = row.shape
    return (
        (s.exec == "copy" or s.exec in HANDLERS)
        and s.mode in ("both", "64" if bits == 64 else "legacy")
        and s.unit in ("", "sse")
        and s.feature in FEATURES
        and row.mnemonic not in SKIP
        and not row.encoding.vex
        and not is_fp(row)
    )


TABLE = {bits: [r for r in rows() if wanted(r, bits)] for bits in (32, 64)}


def mask(letters: str) -> int:
    return sum(FLAG_BITS[c] for c in letters if c in FLAG_BITS)


class Program:
    """Up to LENGTH instructions, and the state before them."""

    def __init__(self, seed: int, bits: int) -> None:
        rng = self.rng = random.Random(seed)
        self.bits = bits
        self.steps: list[tuple[Row, bytes]] = []
        self.undefined = 0
        for _ in range(LENGTH):
            if not self._add(*self._one()):
                break
        count = 16 if bits == 64 else 8
        self.regs = [self._value() & (1 << bits) - 1 for _ in range(count)]
        for n in (3, 5, 6, 7):
            near = rng.choice((0x1000, 0x2000)) + rng.randint(-40, 8)
            self.regs[n] = BUFFER + rng.choice((near, rng.randrange(0x400, SIZE - 0x400)))
        self.regs[4] = BUFFER + 0x1800 + rng.choice((0, 0, 4, 0x7F8, 0x804))
        self.flags = IOPL3 | rng.getrandbits(12) & (ARITH | 0x400)
        self.xmm = [rng.getrandbits(128) for _ in range(count)]
        self.memory = rng.randbytes(SIZE)

    def _value(self) -> int:
        return self.rng.choice((self.rng.choice(hostile.EDGES), self.rng.getrandbits(64)))

    def _one(self) -> tuple[Row, bytes]:
        rng, bits = self.rng, self.bits
        row = rng.choice(TABLE[bits])
        memory = has_memory_form(row) and (rng.random() < 0.6 or not has_register_form(row))
        rm = rng.choice((3, 6, 7)) if memory else rng.choice((0, 1, 2, 3, 6, 7))
        # Unicorn writes SPL where LAHF with a REX prefix means AH.
        wide = 0 if row.shape.exec in ("lahf", "sahf") else rng.randrange(2)
        raw = encode(row, bits, memory=memory, reg=rng.choice((0, 1, 2)), rm=rm, wide=wide)
        if row.shape.exec in ("movs", "stos", "lods", "scas", "cmps") and rng.random() < 0.5:
            count = b"\xb9" + bytes([rng.randrange(0x20), 0, 0, 0])  # mov ecx, imm32
            raw = count + rng.choice((b"\xf3", b"\xf2")) + raw
        elif self._may_be_short(row) and rng.random() < 0.15:
            raw = b"\x66" + raw
        return row, raw

    def _may_be_short(self, row: Row) -> bool:
        """Can a 66 prefix stand before it and change nothing but the operand size?"""
        plain = row.encoding.pp in (None, 0) and row.shape.unit == ""
        return plain and len(immediates(row, self.bits, True)) <= 1

    def _add(self, row: Row, raw: bytes) -> bool:
        """False when it reads a flag that is undefined by now."""
        s = row.shape
        if mask(s.flags_read) & self.undefined or (s.exec == "pushf" and self.undefined):
            return False
        if row.mnemonic not in MAY_KEEP_FLAGS:
            self.undefined &= ~mask(s.flags_written)
        self.undefined |= mask(s.flags_undefined)
        self.steps.append((row, raw))
        return True

    def cut(self, at: int) -> None:
        """End before the instruction that holds offset `at`, at least before the last one."""
        at = min(at, len(self.code) - len(self.steps[-1][1]))
        steps, self.steps, self.undefined = self.steps, [], 0
        offset = 0
        for row, raw in steps:
            offset += len(raw)
            if offset > at:
                return
            self._add(row, raw)

    @property
    def code(self) -> bytes:
        return b"".join(raw for _, raw in self.steps)

    def __str__(self) -> str:
        return "; ".join(f"{row.mnemonic} {raw.hex()}" for row, raw in self.steps)


Result = tuple[list[int], int, list[int], bytes]
"""Registers, flags, XMM, buffer."""


@pytest.fixture(scope="module")
def box() -> Iterator[tuple[Box, engine.EngineVm, engine.Vcpu]]:
    with hostile.walled() as (room, ram, rom):
        box = Box(BtEngine(), room, ram, rom)
        vm, vcpu = box.restart(irqchip=False)
        for mode in ("long", "prot32"):
            box.load(hostile.plain(mode).parts, clear=False)
        yield box, vm, vcpu
        box.close()


def on_bt(
    where: tuple[Box, engine.EngineVm, engine.Vcpu], program: Program
) -> tuple[Result, int | None]:
    """The result, or the offset of an instruction that faults."""
    box, vm, vcpu = where
    mode = "long" if program.bits == 64 else "prot32"
    image = hostile.plain(mode)
    box.load({**image.parts, micro.CODE: program.code + b"\xe6\xf4"}, clear=False)
    box.load({BUFFER: program.memory}, clear=False)
    vm.memory_written(micro.CODE, 0x1000)
    s = replace(image.state, regs=replace(image.state.regs))
    for name, value in zip(engine.GPR_NAMES, program.regs, strict=False):
        setattr(s.regs, name, value)
    s.regs.rflags = program.flags
    s.cr4 |= 0x600
    user = "UCODE64" if program.bits == 64 else "UCODE32"
    s.cs = replace(s.cs, selector=micro.SELECTORS[user], dpl=3)
    s.ss = replace(s.ss, selector=micro.SELECTORS["UDATA"], dpl=3)
    xsave = bytearray(576)
    xsave[0:2], xsave[24:28], xsave[512] = b"\x7f\x03", b"\x80\x1f\0\0", 3
    for n, value in enumerate(program.xmm):
        xsave[160 + 16 * n : 176 + 16 * n] = value.to_bytes(16, "little")
    s.xsave = bytes(xsave)
    vcpu.set_state(s)
    done = vcpu.run()
    if done != engine.PioWrite(0xF4, 1, bytes([vcpu.get_regs().rax & 0xFF])):
        if isinstance(done, engine.MmioRead | engine.MmioWrite):
            return ([], 0, [], b""), vcpu.get_regs().rip - micro.CODE - isinstance(
                done, engine.MmioWrite
            )
        assert isinstance(done, engine.PioWrite), f"{done} from {program}"
        rip = vcpu.run()
        assert isinstance(rip, engine.PioWrite)
        return ([], 0, [], b""), int.from_bytes(rip.data, "little") - micro.CODE
    s = vcpu.get_state()
    regs = [getattr(s.regs, name) for name in engine.GPR_NAMES[: len(program.regs)]]
    xmm = [
        int.from_bytes(s.xsave[160 + 16 * n : 176 + 16 * n], "little")
        for n in range(len(program.xmm))
    ]
    memory = box.room[GUARD + BUFFER : GUARD + BUFFER + SIZE]
    return (regs, s.regs.rflags, xmm, memory), None


def on_unicorn(program: Program) -> tuple[Result, int | None]:
    """The result, or the offset of an instruction that Unicorn does not run. A new instance each
    time: an old one would know translations of the bytes before."""
    wide = program.bits == 64
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if wide else unicorn.UC_MODE_32)
    names = GPRS if wide else GPRS32
    uc.mem_map(micro.CODE & ~0xFFF, 0x1000)
    uc.mem_map(BUFFER, SIZE)
    uc.mem_write(micro.CODE, program.code + b"\x90")
    uc.mem_write(BUFFER, program.memory)
    for name, value in zip(names, program.regs, strict=True):
        uc.reg_write(name, value)
    for name, value in zip(XMMS, program.xmm, strict=False):
        uc.reg_write(name, value)
    uc.reg_write(ux.UC_X86_REG_EFLAGS, program.flags)
    try:
        uc.emu_start(micro.CODE, micro.CODE + len(program.code))
    except unicorn.UcError:
        ip = uc.reg_read(ux.UC_X86_REG_RIP if wide else ux.UC_X86_REG_EIP)
        return ([], 0, [], b""), ip - micro.CODE
    regs = [uc.reg_read(name) for name in names]
    xmm = [uc.reg_read(name) for name in XMMS[: len(program.xmm)]]
    return (regs, uc.reg_read(ux.UC_X86_REG_EFLAGS), xmm, bytes(uc.mem_read(BUFFER, SIZE))), None


@pytest.mark.parametrize("bits", [64, 32])
def test_programs(box: tuple[Box, engine.EngineVm, engine.Vcpu], bits: int) -> None:
    compared = 0
    for seed in range(PROGRAMS):
        program = Program(seed, bits)
        while program.steps:
            ours, stopped = on_bt(box, program)
            theirs = ours
            if stopped is None:
                theirs, stopped = on_unicorn(program)
            if stopped is None:
                compared += len(program.steps)
                seen = (ARITH | 0x400) & ~program.undefined
                hint = f"seed {seed}: {program}"
                assert [hex(r) for r in ours[0]] == [hex(r) for r in theirs[0]], hint
                assert hex(ours[1] & seen) == hex(theirs[1] & seen), hint
                assert [hex(x) for x in ours[2]] == [hex(x) for x in theirs[2]], hint
                assert ours[3] == theirs[3], hint
                break
            program.cut(stopped)
    assert compared > 2 * PROGRAMS
