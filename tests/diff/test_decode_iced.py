"""The decoder and every column of the instruction table against iced-x86."""

import iced_x86 as iced
import pytest

from barevisor.cpu.bt.decode import decode_bytes, row_facts
from barevisor.cpu.x86.instructions import GPRS, Row, rows
from barevisor.testing.iced import (
    ACCEPTED,
    CODE_NAMES,
    FEATURE_NAMES,
    FEATURES,
    mismatch,
    mutated_codes,
    random_codes,
)
from barevisor.testing.rows import encode, encodings

ROWS = rows()
INFO = iced.InstructionInfoFactory()
FLAGS = {
    "c": iced.RflagsBits.CF,
    "p": iced.RflagsBits.PF,
    "a": iced.RflagsBits.AF,
    "z": iced.RflagsBits.ZF,
    "s": iced.RflagsBits.SF,
    "o": iced.RflagsBits.OF,
    "d": iced.RflagsBits.DF,
    "i": iced.RflagsBits.IF,
}
ACCESS = {  # iced's operand access -> ACC_*
    iced.OpAccess.READ: 1,
    iced.OpAccess.COND_READ: 1,
    iced.OpAccess.WRITE: 2,
    iced.OpAccess.COND_WRITE: 2,
    iced.OpAccess.READ_WRITE: 3,
    iced.OpAccess.READ_COND_WRITE: 3,
    iced.OpAccess.NO_MEM_ACCESS: 0,
}
REGISTERS = {n: k.lower() for k, n in vars(iced.Register).items() if isinstance(n, int)}
OTHER_FEATURE = {
    "PADDQ_MM_MMM64": "the MMX form came with SSE2 (SDM, PADDQ, introduction)",
    "WAIT": "not of the x87 unit: its #NM rule is TS with MP (SDM, WAIT)",
}
HYPERCALLS = {"VMCALL", "VMMCALL"}  # iced describes VMX; ours leaves flags alone
READS = {iced.OpAccess.READ, iced.OpAccess.COND_READ, iced.OpAccess.READ_WRITE,
         iced.OpAccess.READ_COND_WRITE}  # fmt: skip
WRITES = {iced.OpAccess.WRITE, iced.OpAccess.COND_WRITE, iced.OpAccess.READ_WRITE,
          iced.OpAccess.READ_COND_WRITE}  # fmt: skip


def flags(bits: int) -> set[str]:
    return {letter for letter, bit in FLAGS.items() if bits & bit}


def general(registers: set[int]) -> set[str]:
    names = {REGISTERS[iced.RegisterExt.full_register(r)] for r in registers}
    return names & set(GPRS)


def explicit(found: iced.Instruction) -> set[str]:
    """General registers that operands name."""
    named = {found.memory_base}
    for n in range(found.op_count):
        if found.op_kind(n) == iced.OpKind.REGISTER:
            named.add(found.op_register(n))
    return general(named)


def check_flags(row: Row, found: iced.Instruction) -> None:
    shape = row.shape
    written = found.rflags_written | found.rflags_cleared | found.rflags_set
    assert set(shape.flags_read) == flags(found.rflags_read)
    assert set(shape.flags_undefined) == flags(found.rflags_undefined)
    if row.mnemonic not in HYPERCALLS:
        assert set(shape.flags_written) == flags(written)


def check_registers(row: Row, found: iced.Instruction, bits: int) -> None:
    shape = row.shape
    used = INFO.info(found).used_registers()
    hidden = set(explicit(found))
    if any(op.kind in "XY" for op in shape.operands):
        hidden.add("rcx")  # only with REP
    if row.mnemonic in ("SYSCALL", "SYSRET") and bits < 64:
        hidden.add("r11")
    read = general({u.register for u in used if u.access in READS})
    written = general({u.register for u in used if u.access in WRITES})
    assert set(shape.regs_read) - hidden == read - hidden
    assert set(shape.regs_written) - hidden == written - hidden


def check_memory(row: Row, found: iced.Instruction, size: int) -> None:
    """The operand at [BX] or [RBX]: bytes and access."""
    bases = {iced.Register.BX, iced.Register.EBX, iced.Register.RBX}
    access = 0
    for used in INFO.info(found).used_memory():
        if used.base in bases:
            access |= ACCESS[used.access]
    assert row_facts(row.number)["mem"] == access
    unknown = any(op.kind == "M" and op.size == "xs" for op in row.shape.operands)
    if access and not unknown:
        assert size == iced.MemorySizeExt.size(found.memory_size)


def check_features(row: Row, found: iced.Instruction) -> None:
    name = CODE_NAMES[found.code]
    if name in OTHER_FEATURE or any(name.startswith(prefix) for prefix in ACCEPTED):
        return
    names = {FEATURES[FEATURE_NAMES[f]] for f in found.cpuid_features()}
    implied = {"", {"avx": "avx", "x87": "fpu"}.get(row.shape.unit, "")}
    assert names - implied == {row.shape.feature} - implied


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}-{row.mnemonic}")
def test_row(row: Row) -> None:
    checked = 0
    for code, bits, memory in encodings(row):
        mine = decode_bytes(code, bits)
        found = iced.Decoder(bits, code).decode()
        assert mine is not None, (code.hex(), bits)
        assert not found.is_invalid, (code.hex(), bits)
        assert mine.length == found.len == len(code), (code.hex(), bits)
        if mine.row.number != row.number:  # a more constrained row took this encoding
            assert mine.row.encoding.opcode == row.encoding.opcode
            assert mine.row.encoding.w == 1
            continue
        checked += 1
        check_flags(row, found)
        check_registers(row, found, bits)
        check_features(row, found)
        if memory:
            check_memory(row, found, mine.memory_size)
            assert found.op_code().can_use_lock_prefix == ("lock" in row.shape.attrs)
    assert checked


def test_random_bytes() -> None:
    wrong = [m for code, bits in random_codes(1, 50_000) if (m := mismatch(code, bits))]
    assert not wrong


def test_mutated_instructions() -> None:
    valid = [(code, bits) for row in ROWS for code, bits, _ in encodings(row)]
    wrong = [m for code, bits in mutated_codes(2, 50_000, valid) if (m := mismatch(code, bits))]
    assert not wrong


def test_encode_makes_the_row_itself() -> None:
    row = next(r for r in ROWS if r.mnemonic == "PSHUFB" and r.shape.unit == "sse")
    assert encode(row, 64, memory=False, reg=1, rm=2) == bytes.fromhex("660f3800ca")
