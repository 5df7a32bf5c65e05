"""What thunks consist of, read back by iced; in 16- and 32-bit code too."""

from __future__ import annotations

import pytest
from iced_x86 import Decoder, Formatter, FormatterSyntax

from barevisor.cpu.bt.thunk import build_bytes

CODE16, CODE32, CODE64 = 0, 1, 2
FLAGS = 0x8D5
RESTORE = ["mov eax,[rdi+90h]", "add al,7Fh", "sahf"]
SAVE = ["lahf", "seto al", "movzx eax,ax", "mov [rdi+90h],eax"]

TABLE = [
    # guest code        mode    live   thunk without its end
    ("01c8", CODE64, 0, ["mov r8,[rdi+8]", "mov r9,[rdi]", "add r9d,r8d", "mov [rdi],r9"]),
    ("01c8", CODE64, FLAGS,
     ["mov r8,[rdi+8]", "mov r9,[rdi]", "add r9d,r8d", "mov [rdi],r9", *SAVE]),
    ("01c0", CODE64, 0, ["mov r8,[rdi]", "add r8d,r8d", "mov [rdi],r8"]),
    ("01c8", CODE16, 0, ["mov r8,[rdi+8]", "mov r9,[rdi]", "add r9w,r8w", "mov [rdi],r9"]),
    ("6601c8", CODE16, 0, ["mov r8,[rdi+8]", "mov r9,[rdi]", "add r9d,r8d", "mov [rdi],r9"]),
    ("6601c8", CODE32, 0, ["mov r8,[rdi+8]", "mov r9,[rdi]", "add r9w,r8w", "mov [rdi],r9"]),
    ("41", CODE32, 0, ["mov r8,[rdi+8]", "inc r8d", "mov [rdi+8],r8"]),
    ("4f", CODE16, 0, ["mov r8,[rdi+38h]", "dec r8w", "mov [rdi+38h],r8"]),
    ("82c005", CODE32, 0, ["movzx r8d,byte [rdi]", "add r8b,5", "mov [rdi],r8b"]),
    ("00e0", CODE64, 0, ["movzx r8d,byte [rdi+1]", "movzx r9d,byte [rdi]", "add r9b,r8b",
                         "mov [rdi],r9b"]),
    ("4000e0", CODE64, 0, ["movzx r8d,byte [rdi+20h]", "movzx r9d,byte [rdi]", "add r9b,r8b",
                           "mov [rdi],r9b"]),
    ("40fec4", CODE64, 0, ["movzx r8d,byte [rdi+20h]", "inc r8b", "mov [rdi+20h],r8b"]),
    ("f7e2", CODE64, 0, ["mov rax,[rdi]", "mov rdx,[rdi+10h]", "mul edx", "mov [rdi],rax",
                         "mov [rdi+10h],rdx"]),
    ("f723", CODE64, 0, ["mov r10,rdx", "mov rax,[rdi]", "mov rdx,[rdi+10h]", "mul dword [r10]",
                         "mov [rdi],rax", "mov [rdi+10h],rdx"]),
    ("d3e1", CODE64, 0, ["mov rcx,[rdi+8]", "shl ecx,cl", "mov [rdi+8],rcx"]),
    ("d3e0", CODE64, FLAGS, [*RESTORE, "mov rcx,[rdi+8]", "mov r8,[rdi]", "shl r8d,cl",
                             "mov [rdi],r8", *SAVE]),
    ("11c8", CODE64, 0, [*RESTORE, "mov r8,[rdi+8]", "mov r9,[rdi]", "adc r9d,r8d",
                         "mov [rdi],r9"]),
    ("0f94c4", CODE64, 0, [*RESTORE, "movzx r8d,byte [rdi+1]", "sete r8b", "mov [rdi+1],r8b"]),
    ("a112345678", CODE32, 0, ["mov rax,[rdi]", "mov eax,[rdx]", "mov [rdi],rax"]),
    ("a212345678", CODE32, 0, ["mov rax,[rdi]", "mov [rdx],al"]),
    ("f3f20f58c1", CODE64, 0, ["movups xmm0,[rdi+580h]", "movups xmm1,[rdi+5A0h]",
                               "addsd xmm0,xmm1", "movups [rdi+580h],xmm0"]),
    ("0f28c1", CODE16, 0, ["movups xmm0,[rdi+580h]", "movups xmm1,[rdi+5A0h]",
                           "movaps xmm0,xmm1", "movups [rdi+580h],xmm0"]),
    ("c5f058c2", CODE64, 0, ["vmovups xmm1,[rdi+5A0h]", "vmovups xmm2,[rdi+5C0h]",
                             "vaddps xmm0,xmm1,xmm2", "vmovups [rdi+580h],ymm0"]),
    ("c4e3694bcb80", CODE32, 0, ["vmovups xmm0,[rdi+580h]", "vmovups xmm2,[rdi+5C0h]",
                                 "vmovups xmm3,[rdi+5E0h]", "vblendvpd xmm1,xmm2,xmm3,xmm0",
                                 "vmovups [rdi+5A0h],ymm1"]),
    ("d8c1", CODE64, FLAGS, ["fadd st1"]),
    ("f30fb8c1", CODE64, 0, ["mov r8,[rdi]", "mov r9,[rdi+8]", "popcnt r8d,r9d", "mov [rdi],r8"]),
    ("f3660fb8c1", CODE64, 0, ["mov r8,[rdi]", "mov r9,[rdi+8]", "popcnt r8w,r9w",
                               "mov [rdi],r8"]),
]  # fmt: skip


def listing(code: bytes) -> list[str]:
    show = Formatter(FormatterSyntax.NASM)
    return [show.format(i) for i in Decoder(64, code)]


@pytest.mark.parametrize(
    ("guest", "mode", "live", "host"), TABLE, ids=[f"{g}-{m}-{v:x}" for g, m, v, _ in TABLE]
)
def test_thunk(guest: str, mode: int, live: int, host: list[str]) -> None:
    code = build_bytes(bytes.fromhex(guest), mode, live)
    assert code is not None
    lines = listing(code)
    assert lines[-2:] == ["add rsi,50h", "jmp qword [rsi]"]
    assert lines[:-2] == host


@pytest.mark.parametrize("guest", ["8d00", "f7f1", "0fa2", "cc", "dd30"])
def test_not_a_copy(guest: str) -> None:
    assert build_bytes(bytes.fromhex(guest), CODE64, FLAGS) is None
