"""Integer thunks of 32- and 16-bit code against Unicorn: what the host cannot run natively.

Unicorn has bugs of its own in rare corners, so the mnemonics are those that compilers use.
"""

from __future__ import annotations

import ctypes
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import UC_ARCH_X86, UC_MODE_16, UC_MODE_32, Uc
from unicorn import x86_const as x86

from barevisor.cpu.x86.instructions import FLAG_BITS, Row, rows
from barevisor.testing.rows import encode as encode_row
from barevisor.testing.rows import has_memory_form, has_register_form
from barevisor.testing.thunks import ThunkCpu

FLAGS = 0x8D5
CODE, MEMORY, OPERAND = 0x1000, 0x8000, 0x8100
NAMES = {"ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR", "CMP", "INC", "DEC", "NEG", "NOT", "MUL",
         "IMUL", "TEST", "XCHG", "XADD", "CMPXCHG", "MOVZX", "MOVSX", "CBW", "CWD", "ROL", "ROR",
         "RCL", "RCR", "SHL", "SHR", "SAR", "BSWAP"}  # fmt: skip
REGS = [getattr(x86, f"UC_X86_REG_E{n}") for n in ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI")]
ROWS = [
    r
    for r in rows()
    if r.shape.exec == "copy"
    and r.shape.mode != "64"
    and not (r.mnemonic == "TEST" and r.encoding.modrm_value == 8)  # /1, which Unicorn lacks
    and (r.mnemonic in NAMES or r.mnemonic.startswith(("CMOV", "SET")))
]
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def unicorn(
    code: bytes, bits: int, regs: list[int], flags: int, memory: bytes
) -> tuple[list[int], int, bytes]:
    cpu = Uc(UC_ARCH_X86, UC_MODE_16 if bits == 16 else UC_MODE_32)
    cpu.mem_map(0, 0x10000)
    cpu.mem_write(CODE, code)
    cpu.mem_write(OPERAND, memory)
    for reg, value in zip(REGS, regs, strict=True):
        cpu.reg_write(reg, value)
    cpu.reg_write(x86.UC_X86_REG_EFLAGS, flags)
    cpu.emu_start(CODE, CODE + len(code), count=1)
    out = [cpu.reg_read(reg) for reg in REGS]
    return out, cpu.reg_read(x86.UC_X86_REG_EFLAGS), bytes(cpu.mem_read(OPERAND, 16))


@pytest.fixture(scope="module")
def cpu() -> ThunkCpu:
    return ThunkCpu()


def check(cpu: ThunkCpu, row: Row, bits: int, seed: int) -> None:
    rnd = random.Random(seed)
    forms = [m for m, has in ((True, has_memory_form(row)), (False, has_register_form(row))) if has]
    memory = rnd.choice(forms or [False])
    code = encode_row(
        row, bits, memory=memory, reg=rnd.randrange(1, 8), rm=3 if memory else rnd.randrange(8)
    )
    if row.encoding.plus_r and row.mnemonic == "BSWAP" and bits == 16:
        return  # undefined
    regs = [rnd.choice(EDGES) if rnd.randrange(2) else rnd.getrandbits(32) for _ in range(8)]
    flags = rnd.getrandbits(12) & FLAGS | 2
    content = rnd.randbytes(16)
    if memory:
        regs[3] = OPERAND
    room = (ctypes.c_ubyte * 32)()
    ctypes.memmove(room, content, 16)
    cpu.regs = regs + [0] * 8
    cpu.rflags = flags
    assert cpu.run(code, {16: 0, 32: 1}[bits], host=ctypes.addressof(room)) == 0
    want, want_flags, want_memory = unicorn(code, bits, regs, flags, content)
    assert [hex(r & 0xFFFFFFFF) for r in cpu.regs[:8]] == [hex(r) for r in want], code.hex()
    defined = FLAGS & ~sum(FLAG_BITS[f] for f in row.shape.flags_undefined)
    if row.mnemonic in ("ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "SAR"):
        defined &= ~FLAG_BITS["o"]  # undefined for counts other than 1
    assert cpu.rflags & defined == want_flags & defined, code.hex()
    assert bytes(room)[:16] == want_memory


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.number}-{r.mnemonic}")
def test_thunk_is_the_instruction(row: Row, bits: int, cpu: ThunkCpu) -> None:
    @settings(max_examples=6, deadline=None, derandomize=True, database=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def run(seed: int) -> None:
        check(cpu, row, bits, seed)

    run()
