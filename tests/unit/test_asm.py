"""The test assembler, read back by an independent decoder (iced-x86)."""

from __future__ import annotations

import pytest
from iced_x86 import Decoder, Formatter, FormatterSyntax

from barevisor.testing.asm import AsmError, assemble

BACK = [
    (64, "mov rax, 0x1122334455667788", "mov rax,1122334455667788h"),
    (64, "mov r9d, 5", "mov r9d,5"),
    (64, "mov rdi, label", "mov rdi,0C000h"),
    (64, "mov byte [rsi], 7", "mov byte ptr [rsi],7"),
    (64, "mov qword [0x2000], 7", "mov qword ptr [2000h],7"),
    (64, "mov [rbp], rax", "mov [rbp],rax"),
    (64, "mov eax, [r12+r13*4-8]", "mov eax,[r12+r13*4-8]"),
    (64, "mov sil, [rsp+8]", "mov sil,[rsp+8]"),
    (64, "mov ah, bl", "mov ah,bl"),
    (64, "mov eax, gs:[0x100]", "mov eax,gs:[100h]"),
    (64, "mov cr4, rax", "mov cr4,rax"),
    (64, "mov rax, cr8", "mov rax,cr8"),
    (64, "mov dr7, rcx", "mov dr7,rcx"),
    (64, "mov ds, eax", "mov ds,eax"),
    (64, "mov eax, ss", "mov eax,ss"),
    (64, "add rax, -1", "add rax,0FFFFFFFFFFFFFFFFh"),
    (64, "sub word [rdi], 0x1234", "sub word ptr [rdi],1234h"),
    (64, "lock cmpxchg16b [rdi]", "lock cmpxchg16b [rdi]"),
    (64, "lock xadd [rdi], ecx", "lock xadd [rdi],ecx"),
    (64, "movzx eax, word [rdi]", "movzx eax,word ptr [rdi]"),
    (64, "push r15", "push r15"),
    (64, "push 0x33", "push 33h"),
    (64, "pop gs", "pop gs"),
    (64, "jne label", "jne near ptr 000000000000C000h"),
    (64, "jmp rax", "jmp rax"),
    (64, "call label", "call 000000000000C000h"),
    (64, "rep movsq", "rep movsq"),
    (64, "rep stosw", "rep stosw"),
    (64, "iretq", "iretq"),
    (64, "invlpg [rdi]", "invlpg [rdi]"),
    (64, "bts dword [rdi], 3", "bts dword ptr [rdi],3"),
    (64, "shl rcx, 4", "shl rcx,4"),
    (64, "neg qword [rdi]", "neg qword ptr [rdi]"),
    (64, "out dx, eax", "out dx,eax"),
    (64, "in ax, 0x60", "in ax,60h"),
    (64, "setc dl", "setb dl"),
    (64, "ltr ax", "ltr ax"),
    (64, "jmpf far [rdi]", "jmp fword ptr [rdi]"),
    (64, "lea rax, [rdi+rdi*2]", "lea rax,[rdi+rdi*2]"),
    (64, "cmovc eax, ecx", "cmovb eax,ecx"),
    (32, "jmp 0x18:label", "jmp far ptr 0018h:0000C000h"),
    (32, "mov ax, 5", "mov ax,5"),
    (32, "push fs", "push fs"),
    (32, "mov [0x1234], eax", "mov [1234h],eax"),
    (16, "mov eax, 5", "mov eax,5"),
    (16, "mov [bx+si+2], al", "mov [bx+si+2],al"),
    (16, "mov [0x1234], ax", "mov [1234h],ax"),
    (16, "mov ax, [ebx]", "mov ax,[ebx]"),
    (16, "jmp 8:dword label", "jmp far ptr 8:0000C000h"),
    (16, "rep insw", "rep insw"),
    (16, "lgdt [label]", "lgdt fword ptr [0C000h]"),
    (16, "iretd", "iretd"),
]


@pytest.mark.parametrize(("bits", "text", "expected"), BACK, ids=[f"{r[0]} {r[1]}" for r in BACK])
def test_reads_back_as_written(bits: int, text: str, expected: str) -> None:
    done = assemble(text, org=0x8000, bits=bits, symbols={"label": 0xC000})
    decoder = Decoder(bits, done.code, ip=0x8000)
    shown = [Formatter(FormatterSyntax.MASM).format(i) for i in decoder]
    assert [s.replace("ds:", "") for s in shown] == [expected]


def test_labels_data_and_macros() -> None:
    done = assemble(
        "a: twice nop; jmp short a; align 8; b: dw 1, b; hex 0f0b",
        org=0x100, bits=32, macros={"twice": lambda rest: f"{rest}; {rest}"},
    )  # fmt: skip
    assert done.code.hex() == "9090ebfc90909090010008010f0b"
    assert done.labels == {"a": 0x100, "b": 0x108}


@pytest.mark.parametrize("text", ["mov al, nowhere", "frobnicate eax", "mov [rdi], 5", "lock"])
def test_what_it_cannot_assemble_is_an_error(text: str) -> None:
    with pytest.raises(AsmError):
        assemble(text, org=0, bits=64)


def test_a_short_jump_out_of_reach_is_an_error() -> None:
    with pytest.raises(AsmError, match="out of reach"):
        assemble("jmp short end; align 4096; nop; end:", org=1, bits=64)
