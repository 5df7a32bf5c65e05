"""More rows for `microguests`: tasks, virtual-8086 mode, gates and what else is rare.

Expected results come from the SDM, volume 3, chapters named in the rows' groups.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

from barevisor.testing.micro import (
    GDT,
    RSP0,
    SELECTORS,
    SPARE,
    STACK,
    TSS,
    USER_STACK,
    Fault,
    Gate,
    MicroGuest,
    call_gate,
    descriptor,
)  # fmt: skip

M = MicroGuest
Labels = dict[str, int]
TASK = GDT + SELECTORS["GATE"]
"""Where the second task's descriptor lies; its TSS is at SPARE."""
EFLAGS_VM = 0x20002


def task32(label: str, trap: bool = False, **fields: int) -> Callable[[Labels], bytes]:
    """A 32-bit TSS that starts at `label` on a stack of its own; fields override selectors."""
    values = {"es": 0x10, "cs": 0x18, "ss": 0x10, "ds": 0x10, "fs": 0, "gs": 0, "ldt": 0} | fields

    def build(at: Labels) -> bytes:
        raw = bytearray(0x68)
        struct.pack_into("<II", raw, 4, RSP0, 0x10)
        struct.pack_into("<II", raw, 0x20, at[label], 2)
        struct.pack_into("<8I", raw, 0x28, 0xA0, 0xC1, 0xD2, 0xB3, SPARE + 0x800, 0xB5, 0x56, 0xD7)
        for n, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs", "ldt")):
            struct.pack_into("<I", raw, 0x48 + 4 * n, values[name])
        struct.pack_into("<HH", raw, 0x64, trap, 0x68)
        return bytes(raw)

    return build


def task16(label: str) -> Callable[[Labels], bytes]:
    """A 16-bit TSS in 16-bit code."""

    def build(at: Labels) -> bytes:
        raw = bytearray(0x2C)
        words = (at[label], 2, 0xA0, 0xC1, 0xD2, 0xB3, 0x7000, 0xB5, 0x56, 0xD7, 0x38, 0x40, 0x38)
        struct.pack_into("<13H", raw, 0x0E, *words)
        struct.pack_into("<H", raw, 0x28, 0x38)
        return bytes(raw)

    return build


TSS32 = descriptor(SPARE, 0x67, 0x89, 0)
TASKS = (
    M("task: far jump", "prot32",
      "mov ebx, 7; jmp GATE:0; a: end; t: report ebx; report esp; str ecx; report ecx;"
      "mov eax, cr0; and eax, 8; report eax; report dword [TSS_+0x20]; report dword [TSS_+0x34];"
      "pushf; pop ecx; and ecx, 0x4000; report ecx; end",
      (0xB3, SPARE + 0x800, 0x58, 8, "a", 7, 0),
      poke={TASK: TSS32, SPARE: task32("t")},
      memory={TASK + 5: b"\x8b", GDT + 0x4D: b"\x89"}),
    M("task: far call, and iret back by the link", "prot32",
      "mov ebx, 7; call GATE:0; a: report ebx; str ecx; report ecx; pushf; pop ecx;"
      "and ecx, 0x4000; report ecx; end;"
      "t: report dword [SPARE_]; pushf; pop ecx; and ecx, 0x4000; report ecx; iretd; u: end",
      (0x48, 0x4000, 7, 0x48, 0),
      poke={TASK: TSS32, SPARE: task32("t")},
      memory={TASK + 5: b"\x89", GDT + 0x4D: b"\x8b"}),
    M("task: exception through a task gate, with its error code", "prot32",
      "mov eax, 0x80; b: mov ds, eax; end; t: report dword [esp]; report dword [TSS_+0x20];"
      "report dword [SPARE_]; end",
      (0x80, "b", 0x48), gates={13: Gate("GATE", type=5)},
      poke={TASK: TSS32, SPARE: task32("t")}),
    M("task: interrupt through a task gate returns behind it", "prot32",
      "int 0x40; a: report 3; end; t: report dword [TSS_+0x20]; iretd",
      ("a", 3), gates={0x40: Gate("GATE", type=5)},
      poke={TASK: TSS32, SPARE: task32("t")}),
    M("task: a busy task cannot be called", "prot32", "b: call GATE:0; end; t: end",
      (Fault(13, "b", 0x58),),
      poke={TASK: descriptor(SPARE, 0x67, 0x8B, 0), SPARE: task32("t")}),
    M("task: a task that is not present", "prot32", "b: call GATE:0; end; t: end",
      (Fault(11, "b", 0x58),),
      poke={TASK: descriptor(SPARE, 0x67, 0x09, 0), SPARE: task32("t")}),
    M("task: a task segment that is too small", "prot32", "b: call GATE:0; end; t: end",
      (Fault(10, "b", 0x58),),
      poke={TASK: descriptor(SPARE, 0x66, 0x89, 0), SPARE: task32("t")}),
    M("task: a wrong data selector faults in the new task", "prot32",
      "jmp GATE:0; a: end; t: end", (Fault(10, "t", 0x48),),
      poke={TASK: TSS32, SPARE: task32("t", ds=0x48)}),
    M("task: debug trap bit", "prot32",
      "jmp GATE:0; a: end; t: nop; end; h: report dword [esp]; mov eax, dr6; and eax, 0xE00F;"
      "report eax; end", ("t", 0x8000), gates={1: Gate("h")},
      poke={TASK: TSS32, SPARE: task32("t", trap=True)}),
    M("task: 16-bit task", "prot32",
      "mov ebx, 7; call GATE:0; a: report ebx; end;"
      "bits 16; t: movzx ecx, bx; report ecx; movzx ecx, sp; report ecx; iret",
      (0xB3, 0x7000, 7),
      poke={TASK: descriptor(SPARE, 0x2B, 0x81, 0), SPARE: task16("t")}),
    M("task: paging changes with CR3", "prot32",
      "mov eax, 0x10; mov cr4, eax; mov eax, 0x1000; mov cr3, eax; mov eax, cr0;"
      "or eax, 0x80000000; mov cr0, eax; jmp GATE:0; a: end;"
      "t: mov eax, cr3; report eax; report dword [0x400000+DATA_]; end",
      (0x2000, 0x99),
      poke={TASK: TSS32, 0x1000: struct.pack("<I", 0x87), 0x2000: struct.pack("<II", 0x87, 0x87),
            0xE000: struct.pack("<I", 0x99),
            SPARE: lambda at: task32("t")(at)[:0x1C] + struct.pack("<I", 0x2000)
            + task32("t")(at)[0x20:]}),
)  # fmt: skip


def vm86(flags: int, label: str = "v") -> str:
    """Enter virtual-8086 mode at 0:label with its stack at 0:0x7000 and marked selectors."""
    segments = "push 4; push 3; push 2; push 1; push 0; push 0x7000;"
    return f"{segments} push {flags | EFLAGS_VM:#x}; push 0; push {label}; iretd; bits 16;"


ALL_TO_8086: dict[int, bytes | Callable[[Labels], bytes]] = {
    TSS + 0x66: b"\x88\0",
    TSS + 0x68: bytes(16) + b"\1" + bytes(15),
}
"""Software interrupts but 0x80 go to the 8086 program's own table (CR4.VME)."""
VME = (
    M("vm86: int enters ring 0 and stacks the segments", "prot32",
      vm86(0x3000) + "v: mov bx, 5; int 0x80; a: nop; bits 32; k: report ebx; report esp;"
      "report dword [esp]; report dword [esp+4]; mov ecx, [esp+8]; and ecx, 0x23000; report ecx;"
      "report dword [esp+12]; report dword [esp+16]; report dword [esp+20];"
      "report dword [esp+24]; report dword [esp+28]; report dword [esp+32]; mov ebx, ds;"
      "report ebx; end",
      (5, RSP0 - 36, "a", 0, 0x23000, 0x7000, 0, 1, 2, 3, 4, 0),
      gates={0x80: Gate("k", dpl=3)}),
    M("vm86: back by iret", "prot32",
      vm86(0x3000) + "v: int 0x80; a: mov bx, es; mov cx, ds; int 0x81; bits 32; k: iretd;"
      "l: report ebx; report ecx; end",
      (1, 2), gates={0x80: Gate("k", dpl=3), 0x81: Gate("l", dpl=3)}),
    M("vm86: segments are paragraphs", "prot32",
      vm86(0x3000) + "v: mov ax, 0xE00; mov ds, ax; mov dword [4], 0x8086; int 0x80;"
      "bits 32; k: report dword ss:[DATA_+4]; end",
      (0x8086,), gates={0x80: Gate("k", dpl=3)}),
    M("vm86: offsets end at 64 KiB", "prot32",
      vm86(0x3000) + "v: mov ebx, 0x10000; b: mov al, [ebx]; bits 32; end",
      (Fault(13, "b", 0),)),
    *(M(f"vm86: {name} below IOPL 3", "prot32", vm86(0) + f"v: b: {text}; bits 32; end",
        (Fault(13, "b", 0),))
      for name, text in (("int", "int 0x80"), ("cli", "cli"), ("sti", "sti"),
                         ("pushf", "pushf"), ("popf", "popf"), ("iret", "iret"), ("hlt", "hlt"))),
    M("vm86: int3 is not sensitive to IOPL", "prot32",
      vm86(0) + "v: int3; a: nop; bits 32; k: report dword [esp]; end",
      ("a",), gates={3: Gate("k", dpl=3)}),
    M("vm86: in needs the I/O bitmap whatever IOPL", "prot32",
      vm86(0x3000) + "v: b: in al, 0x70; bits 32; end", (Fault(13, "b", 0),)),
    M("vm86: lar and str are undefined", "prot32",
      vm86(0x3000) + "v: b: hex 0f00c8; bits 32; end", (Fault(6, "b"),)),
    M("vm86: interrupt gate to a conforming or outer segment", "prot32",
      vm86(0x3000) + "v: b: int 0x40; bits 32; k: end", (Fault(13, "b", 0x20),),
      gates={0x40: Gate("k", dpl=3)},
      poke={0x8000 + 8 * 0x40: lambda at: struct.pack("<HHBBH", at["k"], 0x23, 0, 0xEE, 0)}),
    M("vme: int by the 8086 program's table", "prot32",
      vm86(0x3000) + "v: int 0x40; a: int 0x80; h: mov bx, 0x77; mov cx, sp; iret;"
      "bits 32; k: movzx ebx, bx; report ebx; movzx ecx, cx; report ecx; end",
      (0x77, 0x7000 - 6), cr4=1, gates={0x80: Gate("k", dpl=3)},
      poke={**ALL_TO_8086, 0x100: lambda at: struct.pack("<HH", at["h"], 0)}),
    M("vme: sti and cli move VIF, pushf shows it as IF", "prot32",
      vm86(0) + "v: sti; pushf; pop bx; cli; pushf; pop cx; b: hlt; bits 32;"
      "h: movzx ebx, bx; report ebx; movzx ecx, cx; report ecx; mov ecx, [esp+12];"
      "and ecx, 0x80200; report ecx; end",
      (0x3202, 0x3002, 0), cr4=1, gates={13: Gate("h")}, poke=ALL_TO_8086),
    M("vme: sti with VIP pending", "prot32",
      vm86(0x100000) + "v: b: sti; bits 32; end", (Fault(13, "b", 0),), cr4=1, poke=ALL_TO_8086),
    M("pvi: sti and cli of ring 3 move VIF", "prot32",
      "user32 u; u: sti; int 0x80; k: mov ecx, [esp+8]; and ecx, 0x80200; report ecx; end",
      (0x80000,), cr4=2, gates={0x80: Gate("k", dpl=3)}),
)  # fmt: skip

GATES = (
    M("gate: 16-bit interrupt gate pushes words", "prot32",
      "int 0x40; a: nop; h: report esp; movzx ebx, word [esp]; report ebx; movzx ebx, word [esp+2];"
      "report ebx; end", (STACK - 6, "a", 0x18), gates={0x40: Gate("h", type=6)}),
    M("gate: conforming code runs at the caller's privilege", "prot32",
      "user32 u; u: call SPARE_SEL:f; a: int 0x80; f: mov ebx, cs; retf; k: report ebx; end",
      (0x6B,), gates={0x80: Gate("k", dpl=3)},
      poke={GDT + 0x68: descriptor(0, 0xFFFFF, 0x9F, 0xC)}),
    M("gate: far jump to an inner segment", "prot32",
      "user32 u; u: b: jmp CODE32:f; f: end", (Fault(13, "b", 0x18),)),
    M("gate: call gate below the caller's DPL", "prot32",
      "user32 u; u: b: call GATE:0; g: end", (Fault(13, "b", 0x58),),
      poke={TASK: lambda at: call_gate(at["g"], 0x18, 0, wide=False)}),
    M("gate: exception whose gate is not present carries EXT", "long", "b: ud2; h: end",
      (Fault(11, "b", 6 * 8 + 3),), gates={6: Gate("h", present=False)}),
    M("gate: far return to an inner privilege", "prot32",
      "user32 u; u: push CODE32; push f; b: retf; f: end", (Fault(13, "b", 0x18),)),
    M("gate: iret to ring 3 with code of ring 0", "prot32",
      "push DATA16; push 0x5678; push 2; push CODE16+3; push c; b: iretd; c: end",
      (Fault(13, "b", 0x40),)),
    M("gate: retf releases parameters on both stacks", "prot32",
      "push UDATA; push USTACK_-8; push 0x11; push 0x22; push UCODE32; push u; hex ca0800;"
      "u: int 0x80; k: report dword [esp+12]; end", (USER_STACK,),
      gates={0x80: Gate("k", dpl=3)}),
    M("long: iretq with NT", "long",
      "push 0x4002; popf; push 0x10; push STACK_; push 2; push 8; push a; b: iretq; a: end",
      (Fault(13, "b", 0),)),
    M("long: iretq with a null stack segment in ring 0", "long",
      "push 0; push STACK_-32; push 2; push 8; push a; iretq; a: mov ecx, ss; report ecx;"
      "push rcx; report esp; end", (0, STACK - 40)),
    M("long: iretq to compatibility code with a null stack segment", "long",
      "push 0; push STACK_; push 2; push 0x18; push a; b: iretq; a: end", (Fault(13, "b", 0),)),
    M("long: iretq to ring 3 needs a stack of ring 3", "long",
      "push 0x10; push STACK_; push 2; push UCODE64; push a; b: iretq; a: end",
      (Fault(13, "b", 0x10),)),
    M("long: null stack segment can be loaded in ring 0", "long",
      "xor ecx, ecx; mov ss, ecx; push 5; pop rbx; report ebx; end", (5,)),
    M("user: null stack segment in 64-bit mode", "long",
      "user64 u; u: xor ecx, ecx; b: mov ss, ecx; end", (Fault(13, "b", 0),)),
)  # fmt: skip

STEPPING = (
    M("compat: syscall is undefined until CSTAR is set", "long",
      "writemsr 0xC0000081,0,0x180008; writemsr 0xC0000084,0x200,0;"
      "push UDATA; push USTACK_; push 2; push UCODE32; push u; iretq; bits 32;"
      "u: syscall; nop; syscall; c: hlt; bits 64; h: mov rax, rcx; report eax; report cs;"
      "end; g: add qword [rsp], 2; mov ecx, 0xC0000083; mov eax, h; xor edx, edx; wrmsr; report 6;"
      "iretq", (6, "c", 0x08), gates={6: Gate("g")},
      not_emulated="runs user code directly and wants KVM's own user selectors",
      not_nested="lets SYSCALL run"),
    M("debug: syscall that masks TF is not stepped, sysret brings the trap", "long",
      "writemsr 0xC0000081,0,0x230008; writemsr 0xC0000082,e,0; writemsr 0xC0000084,0x100,0;"
      "push UDATA; push USTACK_; push 0x102; push UCODE64; push u; iretq;"
      "u: nop; c: syscall; a: nop; e: report 0xE; sysretq; h: mov rbx, dr6; and ebx, 0x4000;"
      "report dword [rsp]; cmp dword [rsp], a; je x; iretq; x: end",
      ("c", 0xE, "a"), gates={1: Gate("h")}),
    M("debug: TF steps over repeated string instructions one element at a time", "long",
      "mov edi, DATA_; mov ecx, 2; pushf; or dword [rsp], 0x100; popf; b: rep stosb; c: nop; end;"
      "h: report ecx; report dword [rsp]; cmp ecx, 0; jne x; and dword [rsp+16], -257; x: iretq",
      (1, "b", 0, "c"), gates={1: Gate("h")}),
    M("debug: a fault pushes RF, a trap does not", "long",
      "b: ud2; end; h: mov ebx, [rsp+16]; and ebx, 0x10000; report ebx; int3; end;"
      "k: mov ebx, [rsp+16]; and ebx, 0x10000; report ebx; end",
      (0x10000, 0), gates={6: Gate("h"), 3: Gate("k")}),
)  # fmt: skip

RARE = (
    M("cr: lmsw sets TS and cannot clear PE", "long",
      "mov eax, 8; lmsw ax; smsw ebx; and ebx, 0xF; report ebx; end", (9,)),
    M("cr: leaving long mode needs compatibility code", "long",
      "mov rax, cr0; btr rax, 31; b: mov cr0, rax; end", (Fault(13, "b", 0),)),
    M("cr: leaving long mode from compatibility code", "compat",
      "mov eax, cr0; btr eax, 31; mov cr0, eax; mov ecx, 0xC0000080; rdmsr; and eax, 0x500;"
      "report eax; end", (0x100,)),
    M("segment: lss", "long",
      "mov dword [DATA_], STACK_-64; mov word [DATA_+4], 0x10; hex 0fb22425 00e00000;"
      "report esp; end", (STACK - 64,)),
    M("segment: arpl raises RPL", "prot32",
      "mov eax, 0x10; mov ecx, 3; hex 63c8; setz cl; movzx ecx, cl; mov ebx, eax; report ebx;"
      "report ecx; end", (0x13, 1)),
    M("paging: invlpg of any address of a 2 MiB page forgets all of it", "long",
      "mov ebx, 0x200000; mov dword [rbx+0x15000], 2; mov dword [SPARE_+0x5000], 3;"
      "report dword [rbx+0x15000]; mov dword [PD_+8], 0x87; invlpg [rbx];"
      "report dword [rbx+0x15000]; end", (2, 3)),
)  # fmt: skip

SYSTEM_ROWS: tuple[MicroGuest, ...] = tuple(
    replace(row, not_emulated="lacks much of this", not_nested="lacks much of this")
    for row in (*TASKS, *VME, *GATES, *STEPPING, *RARE)
)
