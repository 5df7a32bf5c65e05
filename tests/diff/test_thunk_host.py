"""Every copied instruction of the table, by its thunk and by the host CPU itself.

Registers, flags (undefined ones masked by the table), vectors, x87 state, MXCSR and memory must
come out alike, whatever the registers, their overlaps and the operand sizes.
"""

from __future__ import annotations

import ctypes
import random
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barevisor.cpu.bt.thunk import build_bytes
from barevisor.cpu.x86.instructions import FLAG_BITS, Row, rows
from barevisor.testing.hostcpu import FLAGS, HostCpu, Machine
from barevisor.testing.thunks import ThunkCpu

HOST_FEATURES = {
    word
    for line in Path("/proc/cpuinfo").read_text().splitlines()
    if line.startswith("flags")
    for word in line.split()
}
CODE64 = 2
RANDOM = {"RDRAND", "RDSEED"}  # no oracle for these
DIVIDE = {"DIV", "IDIV"}
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
         1 << 63, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
FLOATS = (0, 1 << 63, 0x3FF0000000000000, 0x7FF0000000000000, 0x7FF8000000000001,
          0x7FF0000000000001, 1, 0x3F8000003F800000, 0x7F80000100000001,
          0xFFFFFFFF7F7FFFFF)  # fmt: skip
BASES = (3, 6, 7, 8, 9, 11, 14)

ROWS = [
    r
    for r in rows()
    if r.shape.exec == "copy" and r.shape.mode != "legacy" and r.shape.hint != "lea"
]


def allowed(row: Row) -> bool:
    return row.shape.feature in HOST_FEATURES | {""}


@dataclass
class Sample:
    """One encoded instruction; `base` holds the address of its memory operand, if any."""

    code: bytes
    base: int | None
    absolute: bool = False


class Choice:
    """Everything random in one example, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self) -> int:
        kind = self.random.randrange(4)
        if kind == 0:
            return self.random.choice(EDGES)
        if kind == 1:
            return self.random.randrange(256)
        return self.random.getrandbits(64)

    def vectors(self, size: int) -> bytes:
        words = [
            self.random.choice(FLOATS) if self.random.randrange(2) else self.random.getrandbits(64)
            for _ in range(size // 8)
        ]
        return struct.pack(f"<{len(words)}Q", *words)

    def x87(self) -> bytes:
        """Mostly a full stack of ordinary numbers, with random rounding and precision."""
        rnd = self.random
        fcw = 0x7F | rnd.choice((0, 2, 3)) << 8 | rnd.randrange(4) << 10
        top = rnd.randrange(8)
        head = struct.pack("<HHBxH16xII", fcw, top << 11 | rnd.getrandbits(1) << 14,
                           rnd.choice((0, 0xFF, 0xFF, rnd.getrandbits(8))), 0, 0, 0)  # fmt: skip
        body = b""
        for _ in range(8):
            exponent = rnd.choice((0, 0x3FFF, 0x7FFF, 0x4000, 0x3FFF + rnd.randrange(-40, 40)))
            mantissa = rnd.choice((0, 1 << 63, 1 << 63 | rnd.getrandbits(63)))
            body += struct.pack("<QH6x", mantissa, exponent | rnd.getrandbits(1) << 15)
        return head + body

    def machine(self) -> Machine:
        return Machine(
            regs=[self.value() for _ in range(16)],
            rflags=self.random.getrandbits(12) & FLAGS | 2,
            vectors=self.vectors(512),
            mxcsr=0x1F80 | self.random.randrange(4) << 13 | (self.random.randrange(4) == 0) << 6,
            x87=self.x87(),
        )


def immediate(row: Row, osize: int, choice: Choice) -> bytes:
    size = 0
    for op in row.shape.operands:
        if op.kind == "L":
            size += 1
        elif op.kind == "I" and op.size == "v":
            size += osize
        elif op.kind == "I":
            size += {"b": 1, "ub": 1, "uw": 2}.get(op.size, min(osize, 4))
    return choice.random.randbytes(size)


def is_sized(row: Row) -> bool:
    return any(
        op.kind in ("rAX", "eAX", "rDX") or op.size[:1] in ("v", "z") for op in row.shape.operands
    )


def has_byte_register(row: Row) -> bool:
    return any(op.kind in ("E", "G", "Z") and op.size == "b" for op in row.shape.operands)


def modrm(row: Row, choice: Choice) -> tuple[bytes, int, int, int | None]:
    """(ModRM, R bit, B bit, base register number of a memory operand)."""
    e = row.encoding
    rnd = choice.random
    if not e.modrm:
        return b"", 0, 0, None
    kinds = {op.kind for op in row.shape.operands}
    if e.modrm_mask == 0xFF:
        return bytes([e.modrm_value]), 0, 0, None
    if e.modrm_mask == 0xF8:
        return bytes([e.modrm_value | rnd.randrange(8)]), 0, 0, None
    mmx = bool(kinds & set("PQN"))
    reg = rnd.randrange(8) if mmx else rnd.randrange(16)
    if e.modrm_mask == 0x38:
        reg = e.modrm_value >> 3
    memory = "M" in kinds or (bool(kinds & set("EWQ")) and rnd.randrange(2) == 1)
    if memory:
        base = rnd.choice(BASES)
        return bytes([(reg & 7) << 3 | base & 7]), reg >> 3, base >> 3, base
    rm = rnd.randrange(8) if mmx else rnd.randrange(16)
    return bytes([0xC0 | (reg & 7) << 3 | rm & 7]), reg >> 3, rm >> 3, None


def sample(row: Row, choice: Choice, address: int) -> Sample:
    """A random encoding of `row` in 64-bit mode."""
    e = row.encoding
    rnd = choice.random
    tail, r, b, base = modrm(row, choice)
    w = e.w if e.w is not None else rnd.randrange(2)
    opcode = e.opcode
    if e.plus_r:
        number = rnd.randrange(1, 16)  # 90 is NOP
        opcode, b = opcode | number & 7, number >> 3
    if e.vex:
        vex_l = e.vex_l if e.vex_l is not None else rnd.randrange(2)
        named = any(op.kind in "HB" for op in row.shape.operands)
        vvvv = rnd.randrange(16) if named else 0
        code = bytes([0xC4, (1 - r) << 7 | 0x40 | (1 - b) << 5 | e.map,
                      w << 7 | (15 - vvvv) << 3 | vex_l << 2 | (e.pp or 0), opcode])  # fmt: skip
        return Sample(code + tail + immediate(row, 4, choice), base)
    small = is_sized(row) and e.pp != 0 and rnd.randrange(3) == 0
    if has_byte_register(row) and not r and not b and e.w is None and rnd.randrange(2):
        w, rex = 0, b""  # AH..BH
    else:
        rex = bytes([0x40 | w << 3 | r << 2 | b])
    osize = 8 if w else 2 if small else 4
    lock = "lock" in row.shape.attrs and base is not None and rnd.randrange(2) == 1
    code = (b"\xf0" if lock else b"") + (b"\x66" if small or e.pp == 1 else b"")
    code += {2: b"\xf3", 3: b"\xf2"}.get(e.pp or 0, b"") + rex
    code += {0: b"", 1: b"\x0f", 2: b"\x0f\x38", 3: b"\x0f\x3a"}[e.map] + bytes([opcode]) + tail
    if any(op.kind == "O" for op in row.shape.operands):
        return Sample(code + struct.pack("<Q", address), None, absolute=True)
    return Sample(code + immediate(row, osize, choice), base)


def xsave_of(state: Machine) -> bytes:
    image = bytearray(state.x87.ljust(832, b"\0"))
    struct.pack_into("<I", image, 24, state.mxcsr)
    struct.pack_into("<Q", image, 512, 7)
    for n in range(16):
        image[160 + 16 * n : 176 + 16 * n] = state.vectors[32 * n : 32 * n + 16]
        image[576 + 16 * n : 592 + 16 * n] = state.vectors[32 * n + 16 : 32 * n + 32]
    return bytes(image)


class Bench:
    """The two CPUs and the memory that their operands lie in."""

    def __init__(self) -> None:
        self.host = HostCpu()
        self.thunk = ThunkCpu()
        self._room = (ctypes.c_ubyte * 256)()
        self.address = (ctypes.addressof(self._room) + 63 & ~63) + 64

    def memory(self) -> bytes:
        return ctypes.string_at(self.address - 32, 128)

    def by_thunk(self, item: Sample, before: Machine, live: int) -> tuple[int, Machine]:
        cpu = self.thunk
        cpu.xsave = xsave_of(before)
        cpu.regs = before.regs
        cpu.rflags = before.rflags
        status = cpu.run(item.code, CODE64, host=self.address, flags_live=live)
        image = cpu.xsave
        after = Machine(
            regs=cpu.regs, rflags=cpu.rflags, vectors=cpu.vectors,
            mxcsr=struct.unpack_from("<I", image, 24)[0], x87=image[:24] + bytes(8) + image[32:160],
        )  # fmt: skip
        return status, after

    def check(self, row: Row, seed: int) -> None:
        choice = Choice(seed)
        item = sample(row, choice, self.address)
        before = choice.machine()
        if item.base is not None:
            before.regs[item.base] = self.address
        content = choice.vectors(128)
        live = choice.random.choice((FLAGS, FLAGS, FLAGS, 0))
        ctypes.memmove(self.address - 32, content, len(content))
        status, got = self.by_thunk(item, before, live)
        written = self.memory()
        ctypes.memmove(self.address - 32, content, len(content))
        if row.mnemonic in DIVIDE and status:
            assert must_fault(row, item, before, content)
            return
        assert status == 0
        want = self.host.run(item.code, before)
        if row.mnemonic in RANDOM:
            return
        self.compare(row, live, got, want)
        assert written.hex() == self.memory().hex()

    @staticmethod
    def compare(row: Row, live: int, got: Machine, want: Machine) -> None:
        assert [hex(r) for r in got.regs] == [hex(r) for r in want.regs]
        defined = live & ~sum(FLAG_BITS[f] for f in row.shape.flags_undefined)
        assert got.rflags & defined == want.rflags & defined
        assert got.vectors.hex(" ", 32) == want.vectors.hex(" ", 32)
        assert got.x87.hex(" ", 16) == want.x87.hex(" ", 16)
        assert hex(got.mxcsr) == hex(want.mxcsr)


def must_fault(row: Row, item: Sample, before: Machine, content: bytes) -> bool:
    """Does the manual's #DE condition hold? Quotient out of range, or a zero divisor."""
    byte = row.encoding.opcode == 0xF6
    prefixes = item.code[: item.code.index(row.encoding.opcode)]
    rex = next((p for p in prefixes if 0x40 <= p < 0x50), 0)
    size = 1 if byte else 8 if rex & 8 else 2 if 0x66 in prefixes else 4
    rm = item.code[len(prefixes) + 1] & 7 | (rex & 1) << 3
    if item.base is not None:
        divisor = int.from_bytes(content[32 : 32 + size], "little")
    elif byte and not rex and rm >= 4:
        divisor = before.regs[rm - 4] >> 8 & 0xFF
    else:
        divisor = before.regs[rm] & (1 << 8 * size) - 1
    bits = 8 * size
    mask = (1 << bits) - 1
    dividend = before.regs[0] & 0xFFFF
    if not byte:
        dividend = (before.regs[2] & mask) << bits | before.regs[0] & mask
    low, high = 0, mask
    if row.mnemonic == "IDIV":
        dividend -= (dividend >> 2 * bits - 1) << 2 * bits
        divisor -= (divisor >> bits - 1) << bits
        low, high = -(1 << bits - 1), mask >> 1
    if divisor == 0:
        return True
    quotient = abs(dividend) // abs(divisor)
    quotient = -quotient if (dividend < 0) != (divisor < 0) else quotient
    return not low <= quotient <= high


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.number}-{r.mnemonic}")
def test_thunk_is_the_instruction(row: Row, bench: Bench) -> None:
    if not allowed(row):
        pytest.skip(f"this CPU has no {row.shape.feature}")

    @settings(max_examples=8, deadline=None, derandomize=True, database=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def run(seed: int) -> None:
        bench.check(row, seed)

    run()


def test_enough_forms() -> None:
    assert sum(allowed(row) for row in ROWS) >= 300


def test_every_copied_row_has_a_thunk() -> None:
    choice = Choice(1)
    without = [
        r.text
        for r in ROWS
        if r.mnemonic not in DIVIDE
        and build_bytes(sample(r, choice, 0x1000).code, CODE64, FLAGS) is None
    ]
    assert without == []
