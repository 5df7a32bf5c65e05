"""The decoder against hand-assembled bytes: one case for every rule of the instruction format."""

import pytest

from barevisor.cpu.bt.decode import decode_bytes, decode_status, exec_names, row_facts
from barevisor.cpu.x86.instructions import rows

MORE, UD, TOOLONG = -1, -2, -3
M64 = 0xFFFFFFFFFFFFFFFF

CASES = [  # id, bytes, bits, mnemonic, fields
    ("mov r64,r64", "4889d8", 64, "MOV", {"length": 3, "reg": 3, "rm": 0, "osize": 8, "mem": 0}),
    ("mov rip-relative", "488b05fcffffff", 64, "MOV", {"base": 17, "disp": M64 - 3, "mem": 1}),
    ("mov sib", "428b4c9df0", 64, "MOV", {"base": 5, "index": 11, "scale": 2, "seg": 2}),
    ("mov [r13]", "418b4500", 64, "MOV", {"base": 13, "disp": 0, "seg": 3}),
    ("mov [disp32] in 64", "8b042500000080", 64, "MOV", {"base": 16, "disp": M64 - 0x7FFFFFFF}),
    ("mov [disp32] in 32", "8b0511223344", 32, "MOV", {"base": 16, "disp": 0x44332211}),
    ("mov imm64", "48b88877665544332211", 64, "MOV", {"imm": 0x1122334455667788, "imm_size": 8}),
    ("mov imm32 sign-extends", "48c7c0ffffffff", 64, "MOV", {"imm": M64, "osize": 8}),
    ("add imm8 sign-extends", "83c0ff", 64, "ADD", {"imm": M64, "osize": 4}),
    ("16-bit [bp+si+disp8]", "8a427f", 16, "MOV", {"base": 5, "index": 6, "seg": 2, "disp": 127}),
    ("16-bit [disp16]", "8b0e3412", 16, "MOV", {"base": 16, "disp": 0x1234, "osize": 2}),
    ("16-bit with 66 67", "67668b00", 16, "MOV", {"base": 0, "osize": 4, "asize": 4}),
    ("moffs64", "48a18877665544332211", 64, "MOV", {"disp": 0x1122334455667788, "mem": 1}),
    ("moffs32", "a000000080", 32, "MOV", {"disp": 0x80000000, "osize": 1}),
    ("call rel32 ignores 66 in 64-bit", "66e801020304", 64, "CALL", {"length": 6, "osize": 8}),
    ("call rel16 in 32-bit", "66e80102", 32, "CALL", {"length": 4, "osize": 2}),
    ("far call", "9a112233445566", 32, "CALLF", {"imm": 0x44332211, "imm2": 0x6655}),
    ("enter", "c8f0ff03", 64, "ENTER", {"imm": 0xFFF0, "imm2": 3, "osize": 8}),
    ("int zero-extends", "cd80", 32, "INT", {"imm": 0x80}),
    ("push defaults to 64", "50", 64, "PUSH", {"osize": 8, "reg": 0}),
    ("push 66", "6641ff30", 64, "PUSH", {"osize": 2, "base": 8}),
    ("nop", "90", 64, "NOP", {}),
    ("xchg r8", "4190", 64, "XCHG", {"reg": 8}),
    ("pause", "f390", 64, "PAUSE", {}),
    ("popcnt", "f30fb8c1", 64, "POPCNT", {"pp": 2}),
    ("bsf", "0fbcc1", 64, "BSF", {}),
    ("tzcnt", "f30fbcc1", 64, "TZCNT", {}),
    ("endbr64 is a nop", "f30f1efa", 64, "NOP", {"length": 4}),
    ("rex not last is ignored", "4866b8ffff", 64, "MOV", {"rex": 0, "osize": 2, "length": 5}),
    ("last segment override wins", "263e8b00", 32, "MOV", {"seg": 3}),
    ("fs survives ds in 64-bit", "643e8b00", 64, "MOV", {"seg": 4}),
    ("mov cr ignores mod", "0f2000", 64, "MOV", {"length": 3, "osize": 8, "mem": 0}),
    ("cmpxchg8b", "0fc70f", 64, "CMPXCHG8B", {}),
    ("cmpxchg16b", "48 0f c7 0f", 64, "CMPXCHG16B", {}),
    ("les", "c400", 32, "LES", {"mem": 1}),
    ("andn by VEX", "c4e2f8f2c3", 64, "ANDN", {"vvvv": 0, "osize": 8, "vex": 3}),
    ("movsb", "f3a4", 64, "MOVSB", {"prefixes": 2, "osize": 1}),
    ("in eax stays 32-bit", "48ed", 64, "IN", {"osize": 4}),
]

INVALID = [
    ("empty", "", 64, MORE),
    ("only prefixes", "6666", 64, MORE),
    ("modrm missing", "8b", 64, MORE),
    ("displacement missing", "8b0511", 64, MORE),
    ("sixteen bytes", "66" * 15 + "90", 64, TOOLONG),
    ("fifteen prefixes", "66" * 15, 64, TOOLONG),
    ("ud2 with lock", "f00f0b", 64, UD),
    ("lock mov", "f08900", 64, UD),
    ("lock add to a register", "f001c0", 64, UD),
    ("lea from a register", "8dc0", 64, UD),
    ("push es in 64-bit", "06", 64, UD),
    ("82 in 64-bit", "82c000", 64, UD),
    ("mov to cs", "8ec8", 32, UD),
    ("mov from segment 6", "8cf0", 32, UD),
    ("mov cr1", "0f20c8", 64, UD),
    ("rex then VEX", "48c4e2f8f2c3", 64, UD),
    ("66 then VEX", "66c4e2f8f2c3", 64, UD),
    ("VEX map 4", "c4e4f8f2c3", 64, UD),
    ("EVEX", "62f17c4858c0", 64, UD),
    ("3DNow!", "0f0fc19e", 64, UD),
    ("rdfsbase in 32-bit", "f30faec0", 32, UD),
]


@pytest.mark.parametrize(
    ("code", "bits", "mnemonic", "fields"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_fields(code: str, bits: int, mnemonic: str, fields: dict[str, int]) -> None:
    found = decode_bytes(bytes.fromhex(code), bits)
    assert found is not None
    assert found.mnemonic == mnemonic
    assert {name: found.fields[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("code", "bits", "status"), [c[1:] for c in INVALID], ids=[c[0] for c in INVALID]
)
def test_invalid(code: str, bits: int, status: int) -> None:
    assert decode_status(bytes.fromhex(code), bits) == status


def test_more_bytes_are_asked_for_one_by_one() -> None:
    whole = bytes.fromhex("f04829849d112233448899")[:9]
    assert decode_status(whole, 64) == 9
    assert {decode_status(whole[:n], 64) for n in range(9)} == {MORE}


@pytest.mark.parametrize(
    ("code", "mnemonic"),
    [("c5f877", "VZEROUPPER"), ("c4e2f8f2c3", "ANDN"), ("0f00c0", "SLDT"), ("63c0", "ARPL")],
    ids=lambda text: text,
)
def test_protected_mode_only(code: str, mnemonic: str) -> None:
    raw = bytes.fromhex(code)
    found = decode_bytes(raw, 16)
    assert found is not None
    assert found.mnemonic == mnemonic
    assert decode_status(raw, 16, real=True) == UD
    assert decode_status(raw, 16, vm86=True) == UD


FACTS = [  # id, bytes, facts
    ("aligned", "660f6f00", {"attrs": 32, "mem": 1, "unit": 3}),
    ("unaligned", "f30f6f00", {"attrs": 0}),
    ("VEX does not align", "c5f95800", {"attrs": 0, "unit": 4}),
    ("VEX aligned", "c5f96f00", {"attrs": 32}),
    ("implicit XMM0", "660f3810c1", {"attrs": 8192 | 32}),
    ("cmpxchg16b", "480fc70f", {"attrs": 32, "regs_read": 15, "regs_written": 5}),
    ("bt memory", "0fa300", {"mem": 1, "flags_written": 1}),
]


@pytest.mark.parametrize(("code", "want"), [c[1:] for c in FACTS], ids=[c[0] for c in FACTS])
def test_facts(code: str, want: dict[str, int]) -> None:
    found = decode_bytes(bytes.fromhex(code), 64)
    assert found is not None
    got = row_facts(found.row.number)
    got["attrs"] &= 32 | 8192  # RF_ALIGN, RF_XMM0
    assert {name: got[name] for name in want} == want


def test_register_offsets_of_bit_tests_are_never_copied() -> None:
    """A copied thunk touches its operand only; BT m, r reaches far beyond it."""
    found = decode_bytes(bytes.fromhex("0fab00"), 64)
    assert found is not None
    assert found.row.shape.exec == "bts"


MEMORY = [  # id, bytes, bits, size of the memory operand
    ("byte", "8a00", 64, 1),
    ("r64", "488b00", 64, 8),
    ("movzx r,m16", "0fb700", 64, 2),
    ("lea", "8d00", 64, 0),
    ("far pointer", "ff28", 32, 6),
    ("lgdt", "0f0110", 64, 10),
    ("fnstenv 16-bit", "66d930", 32, 14),
    ("fld m80", "db28", 64, 10),
    ("fxsave", "0fae00", 64, 512),
    ("ymm", "c5fc5800", 64, 32),
    ("half of ymm", "c5fc5a00", 64, 16),
    ("pextrb", "660f3a140000", 64, 1),
    ("mov m16,sreg", "8c18", 64, 2),
]


@pytest.mark.parametrize(
    ("code", "bits", "size"), [c[1:] for c in MEMORY], ids=[c[0] for c in MEMORY]
)
def test_memory_size(code: str, bits: int, size: int) -> None:
    found = decode_bytes(bytes.fromhex(code), bits)
    assert found is not None
    assert found.memory_size == size


def test_missing_feature_falls_back() -> None:
    table = rows()
    facts = {row.mnemonic: row_facts(row.number) for row in table}
    assert table[facts["TZCNT"]["fallback"]].mnemonic == "BSF"
    assert table[facts["LZCNT"]["fallback"]].mnemonic == "BSR"


def test_copy_is_exec_zero() -> None:
    assert exec_names()[0] == "copy"


def test_every_row_has_a_known_handler_name() -> None:
    assert {row.shape.exec for row in rows()} <= set(exec_names())
