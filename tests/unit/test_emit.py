"""The emitter, read back by a decoder that we did not write (iced)."""

from __future__ import annotations

import pytest
from iced_x86 import Decoder, Formatter, FormatterSyntax

from barevisor.cpu.bt import emit


def listing(code: bytes) -> list[str]:
    show = Formatter(FormatterSyntax.NASM)
    return [show.format(i) for i in Decoder(64, code)]


REG64 = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"] + [f"r{n}" for n in range(8, 16)]
REG32 = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"] + [f"r{n}d" for n in range(8, 16)]
REG8 = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"] + [f"r{n}b" for n in range(8, 16)]


@pytest.mark.parametrize("disp", [8, 127, 128, 0x560], ids=hex)
@pytest.mark.parametrize("reg", range(16))
def test_moves(reg: int, disp: int) -> None:
    at = f"[rdi+{disp:X}h]" if disp > 9 else f"[rdi+{disp}]"
    got = {name: listing(code) for name, code in emit.pieces(reg, disp).items()}
    assert got == {
        "load64": [f"mov {REG64[reg]},{at}"],
        "store64": [f"mov {at},{REG64[reg]}"],
        "load8": [f"movzx {REG32[reg]},byte {at}"],
        "store8": [f"mov {at},{REG8[reg]}"],
        "load_vec0": [f"movups xmm{reg},{at}"],
        "store_vec0": [f"movups {at},xmm{reg}"],
        "load_vec1": [f"vmovups xmm{reg},{at}"],
        "store_vec1": [f"vmovups {at},xmm{reg}"],
        "load_vec2": [f"vmovups ymm{reg},{at}"],
        "store_vec2": [f"vmovups {at},ymm{reg}"],
        "restore_flags": [f"mov eax,{at}", "add al,7Fh", "sahf"],
        "save_flags": ["lahf", "seto al", "movzx eax,ax", f"mov {at},eax"],
    }


FORMS: list[tuple[dict[str, int], str]] = [
    ({"opcode": 0x01, "has_modrm": 1, "reg": 8, "rm": 9},
     "add r9d,r8d"),
    ({"opcode": 0x01, "has_modrm": 1, "reg": 8, "rm": 9, "w": 1},
     "add r9,r8"),
    ({"opcode": 0x01, "has_modrm": 1, "reg": 8, "rm": 9, "opsize": 1},
     "add r9w,r8w"),
    ({"opcode": 0x01, "has_modrm": 1, "reg": 8, "rm": 2, "mem": 1, "lock": 1},
     "lock add [rdx],r8d"),
    ({"opcode": 0x01, "has_modrm": 1, "reg": 0, "rm": 10, "mem": 1},
     "add [r10],eax"),
    ({"opcode": 0x81, "has_modrm": 1, "reg": 4, "rm": 8, "imm": 0x1234, "imm_size": 2, "opsize": 1},
     "and r8w,1234h"),
    ({"opcode": 0xC8, "map": 1, "plus_r": 1, "rm": 8, "w": 1},
     "bswap r8"),
    ({"opcode": 0xC8, "map": 1, "plus_r": 1, "rm": 3},
     "bswap ebx"),
    ({"opcode": 0xB8, "map": 1, "has_modrm": 1, "reg": 8, "rm": 9, "rep": 0xF3, "opsize": 1},
     "popcnt r8w,r9w"),
    ({"opcode": 0xF1, "map": 2, "has_modrm": 1, "reg": 8, "rm": 9, "rep": 0xF2, "w": 1},
     "crc32 r8,r9"),
    ({"opcode": 0x0F, "map": 3, "has_modrm": 1, "reg": 1, "rm": 15,
      "opsize": 1, "imm": 3, "imm_size": 1},
     "palignr xmm1,xmm15,3"),
    ({"opcode": 0x58, "map": 1, "has_modrm": 1, "reg": 1, "rm": 2, "vex": 2, "vvvv": 3, "vex_l": 1},
     "vaddps ymm1,ymm3,ymm2"),
    ({"opcode": 0x58, "map": 1, "has_modrm": 1, "reg": 9, "rm": 12, "vex": 2, "vvvv": 15, "pp": 1},
     "vaddpd xmm9,xmm15,xmm12"),
    ({"opcode": 0xF7, "map": 2, "has_modrm": 1, "reg": 8, "rm": 9, "vex": 3,
      "vvvv": 11, "pp": 1, "w": 1},
     "shlx r8,r9,r11"),
    ({"opcode": 0x98, "map": 2, "has_modrm": 1, "reg": 9, "rm": 2, "mem": 1,
      "vex": 3, "vvvv": 1, "pp": 1, "vex_l": 1},
     "vfmadd132ps ymm9,ymm1,[rdx]"),
    ({"opcode": 0xC1, "has_modrm": 1, "reg": 4, "rm": 0, "rex": 1, "imm": 7, "imm_size": 1},
     "shl eax,7"),
    ({"opcode": 0xB8, "plus_r": 1, "rm": 8, "w": 1, "imm": 0x1122334455667788, "imm_size": 8},
     "mov r8,1122334455667788h"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "text"), FORMS, ids=[text for _, text in FORMS])
def test_form(fields: dict[str, int], text: str) -> None:
    assert listing(emit.encode(**fields)) == [text]


def test_unknown_field() -> None:
    with pytest.raises(TypeError, match="colour"):
        emit.encode(opcode=0x90, colour=1)
