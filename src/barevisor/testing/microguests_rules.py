"""Rows for `microguests` of small rules of the system instructions: which operand, prefix or
privilege each refuses, and with what. One instruction a row; expected results come from its page of
the SDM.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from barevisor.testing.micro import (
    DATA,
    GDT,
    IDT,
    SPARE,
    Fault,
    MicroGuest,
    call_gate,
    descriptor,
    entry,
    pte,
)
from barevisor.testing.microguests_conform import raises

M = MicroGuest
GP, UD = Fault(13, "b", 0), Fault(6, "b")
PAST = "mov rax, 0x800000000000;"
"""RAX is the first address past the lower canonical half."""
FSGSBASE, OSXSAVE, TSD, PCE, DE = 1 << 16, 1 << 18, 1 << 2, 1 << 8, 1 << 3
HIGH_LDT = descriptor(0x1000, 0xFFF, 0x82, 0) + b"\0\0\1\0" + bytes(4)
HIGH_TSS = descriptor(0x1000, 0x67, 0x89, 0) + b"\0\0\1\0" + bytes(4)
"""System descriptors of 16 bytes whose bases are not canonical."""
IOPL3 = "push UDATA; push USTACK_; push 0x3002; push UCODE64; push u; iretq; u: "


def user(name: str, text: str, fault: Fault, **fields: object) -> MicroGuest:
    """In ring 3 with IOPL 0."""
    return raises(name, f"user64 u; u: {text}", fault, **fields)


TABLES = (
    *(raises(f"table: {name} of a base that is not canonical",
             f"{PAST} mov word [DATA_], 0x7F; mov [DATA_+2], rax; b: {name} [DATA_]", GP)
      for name in ("lgdt", "lidt")),
    raises("table: lldt of a base that is not canonical", "mov eax, 0x68; b: lldt ax",
           Fault(13, "b", 0x68), poke={GDT + 0x68: HIGH_LDT}),
    raises("table: ltr of a base that is not canonical", "mov eax, 0x68; b: ltr ax",
           Fault(13, "b", 0x68), poke={GDT + 0x68: HIGH_TSS}),
    *(raises(f"table: {text} refuses what is on the stack", f"push 0x6C; b: {text} [rsp]",
             Fault(13, "b", 0x6C)) for text in ("ltr", "lldt", "mov fs,")),
    raises("table: lldt of a stack that is not canonical", f"{PAST} mov rbp, rax; b: lldt [rbp]",
           Fault(12, "b", 0)),
    raises("table: ltr of a null selector", "xor eax, eax; b: ltr ax", GP),
    raises("table: ltr by the local table", "mov eax, 0x6C; b: ltr ax", Fault(13, "b", 0x6C)),
    raises("table: lldt by the local table", "mov eax, 0x6C; b: lldt ax", Fault(13, "b", 0x6C)),
    raises("table: ltr of a task that is not present", "mov eax, 0x68; b: ltr ax",
           Fault(11, "b", 0x68), poke={GDT + 0x68: descriptor(0, 0x67, 0x09, 0) + bytes(8)}),
    raises("table: ltr of a 16-bit task in long mode", "mov eax, 0x68; b: ltr ax",
           Fault(13, "b", 0x68), poke={GDT + 0x68: descriptor(0, 0x67, 0x81, 0) + bytes(8)}),
    M("table: a null LDTR is no fault until it is used", "long",
      "xor eax, eax; lldt ax; report 1; mov eax, 0xC; b: mov ds, ax; end",
      (1, Fault(13, "b", 0xC))),
    raises("table: a system descriptor cannot be a data segment", "mov eax, 0x48; b: mov fs, ax",
           Fault(13, "b", 0x48)),
    raises("table: cs is not loaded by mov", "b: hex 8ec8", UD),
    raises("table: there is no segment register 6", "b: hex 8ef0", UD),
    raises("table: sgdt of a register", "b: hex 0f01c6", UD),
    raises("table: lgdt of a register", "b: hex 0f01d6", UD),
)  # fmt: skip
BASES = (
    *(raises(f"base: {name} without CR4.FSGSBASE", f"b: hex {code}", UD)
      for name, code in (("rdfsbase", "f3480faec0"), ("rdgsbase", "f3480faec8"),
                         ("wrfsbase", "f3480faed0"), ("wrgsbase", "f3480faed8"))),
    *(raises(f"base: {name} of an address that is not canonical", f"{PAST} b: hex {code}", GP,
             cr4=FSGSBASE)
      for name, code in (("wrfsbase", "f3480faed0"), ("wrgsbase", "f3480faed8"))),
    M("base: a 32-bit wrfsbase clears the upper half", "long",
      "mov rax, 0x123456789; hex f3480faed0; mov rax, -1; hex f30faed0; hex f3480faec0;"
      "report64 rax; end", (0xFFFFFFFF, 0), cr4=FSGSBASE),
    M("base: ring 3 reads and writes them", "long",
      IOPL3 + "mov eax, 0x1234; hex f3480faed8; xor eax, eax; hex f3480faec8; report eax; end",
      (0x1234,), cr4=FSGSBASE),
    M("base: rdfsbase outside 64-bit code", "compat", "b: hex f30faec0; end", (UD,), cr4=FSGSBASE),
)  # fmt: skip
PRIVILEGE = (
    user("ring 3: rdtsc with CR4.TSD", "b: rdtsc", GP, cr4=TSD),
    user("ring 3: rdtscp with CR4.TSD", "b: hex 0f01f9", GP, cr4=TSD),
    user("ring 3: rdpmc without CR4.PCE", "xor ecx, ecx; b: hex 0f33", GP),
    user("ring 3: rdpmc of a counter that is not there", "mov ecx, 9; b: hex 0f33", GP, cr4=PCE),
    user("ring 3: mov to cr8", "b: mov cr8, rax", GP),
    user("ring 3: invlpg", "b: invlpg [DATA_]", GP),
    user("ring 3: cli below IOPL", "b: cli", GP),
    user("ring 3: sti below IOPL", "b: sti", GP),
    user("ring 3: sysret", "b: hex 480f07", GP),
    user("ring 3: sysexit", "b: hex 0f35", GP, msrs={0x174: 8}),
    user("ring 3: rdmsr", "b: rdmsr", GP),
    user("ring 3: mov from dr6", "b: mov rax, dr6", GP),
    user("ring 3: there is no dr8", "b: hex 440f21c0", UD),
    user("ring 3: int 0x1F by a gate of ring 0", "b: int 0x1F", Fault(13, "b", 0x1F * 8 + 2)),
    user("ring 3: int beyond the table's limit", "b: hex cdff", Fault(13, "b", 0xFF * 8 + 2)),
    M("ring 3: rdtsc without CR4.TSD", "long", IOPL3 + "rdtsc; report 1; end", (1,)),
    M("ring 3: smsw, sgdt and str without UMIP", "long",
      IOPL3 + "smsw eax; sgdt [DATA_]; str eax; report eax; end", (0x48,)),
)  # fmt: skip
OPERANDS = (
    raises("operand: mov to dr8", "b: hex 440f23c0", UD),
    raises("operand: mov to cr9", "b: hex 440f22c8", UD),
    raises("operand: lock mov to cr0", "b: hex f00f22c0", UD),
    raises("operand: dr4 with CR4.DE", "b: mov rax, dr4", UD, cr4=DE),
    raises("operand: clflush past the canonical half", f"{PAST} b: hex 0fae38", GP),
    raises("operand: clflush of a page that is not there", f"mov eax, {SPARE}; b: hex 0fae38",
           Fault(14, "b", 0, SPARE), poke={pte(SPARE): entry(SPARE, 0)}),
    M("operand: clflush of device memory is not seen there", "long",
      "mov eax, 0xD0000000; hex 0fae38; report 1; end", (1,)),
    M("operand: invlpg past the canonical half does nothing", "long",
      f"{PAST} invlpg [rax]; report 1; end", (1,)),
    M("operand: prefetch of anything does nothing", "long",
      f"{PAST} hex 0f1808; hex 0f0d08; report 1; end", (1,)),
    raises("operand: lock on an instruction that takes none", "b: hex f090", UD),
    raises("operand: lock add to a register", "b: hex f001c0", UD),
    raises("operand: lock cmp", f"mov eax, {DATA}; b: hex f03908", UD),
    raises("operand: xsave at 32", f"mov eax, {DATA + 32}; b: hex 0fae20", GP, cr4=OSXSAVE),
    raises("operand: xsave without OSXSAVE", f"mov eax, {DATA}; b: hex 0fae20", UD),
    raises("operand: fxsave at 8", f"mov eax, {DATA + 8}; b: hex 0fae00", GP),
    raises("operand: ldmxcsr of a reserved bit", "mov dword [DATA_], 0x10000; b: ldmxcsr [DATA_]",
           GP),
    raises("operand: monitor is not announced", "b: hex 0f01c8", UD),
    raises("operand: mwait is not announced", "b: hex 0f01c9", UD),
    raises("operand: rsm outside of system management", "b: hex 0faa", UD),
    raises("operand: vmxon is not announced", "mov eax, DATA_; b: hex f30fc730", UD),
    raises("operand: getsec is not announced", "b: hex 0f37", UD),
    *(raises(f"operand: {name} in 64-bit mode", f"b: hex {code}", UD)
      for name, code in (("aaa", "37"), ("daa", "27"), ("into", "ce"), ("pusha", "60"),
                         ("push es", "06"), ("far call", "9a"), ("far jmp", "ea"), ("salc", "d6"),
                         ("aam", "d40a"), ("group 82", "820000"))),
)  # fmt: skip

SEG, GATE_AT = GDT + 0x68, GDT + 0x58
ABSENT_CODE = {SEG: descriptor(0, 0xFFFFF, 0x1B, 0xC)}
SHORT_CODE = {SEG: descriptor(0, 0xFF, 0x9B, 0x4)}


def p32(name: str, text: str, vector: int, error: int = 0, **fields: object) -> MicroGuest:
    """In 32-bit protected mode; the fault is at label `b`, with a selector's or no error code."""
    return M(name, "prot32", text + "; end", (Fault(vector, "b", error),), **fields)  # type: ignore[arg-type]


def far_ends(name: str, before: str, after: str) -> tuple[MicroGuest, ...]:
    """What each far return refuses; `before` pushes what lies above CS."""

    def to(what: str, selector: str, offset: str, vector: int, error: int = 0,
           **fields: object) -> MicroGuest:  # fmt: skip
        text = f"{before} push {selector}; push {offset}; b: {after}"
        return p32(f"{name}: to {what}", text, vector, error, **fields)

    return (
        to("a null selector", "0", "0", 13),
        to("a data segment", "DATA", "0", 13, 0x10),
        to("beyond the table", "0x88", "0", 13, 0x88),
        to("a system segment", "TSS_SEL", "0", 13, 0x48),
        to("code that is not present", "SPARE_SEL", "0", 11, 0x68, poke=ABSENT_CODE),
        to("beyond the limit", "SPARE_SEL", "0x1000", 13, poke=SHORT_CODE),
        to("code of ring 3 by a selector of ring 0", "0x20", "0", 13, 0x20),
    )


def outward(name: str, flags: str, after: str) -> tuple[MicroGuest, ...]:
    """The stack segments that a return to ring 3 refuses."""

    def on(what: str, selector: str, vector: int, error: int = 0, **fields: object) -> MicroGuest:
        text = f"push {selector}; push USTACK_; {flags} push UCODE32; push u; b: {after}; u: nop"
        return p32(f"{name}: to ring 3 on {what}", text, vector, error, **fields)

    return (
        on("a null stack segment", "0", 13),
        on("a stack of ring 0", "0x13", 13, 0x10),
        on("a selector of ring 0", "0x28", 13, 0x28),
        on("a code segment", "UCODE32", 13, 0x20),
        on("a read-only segment", "0x6B", 13, 0x68, poke={SEG: descriptor(0, 0xFFFFF, 0xF1, 0xC)}),
        on("a segment that is not present", "0x6B", 12, 0x68,
           poke={SEG: descriptor(0, 0xFFFFF, 0x73, 0xC)}),
    )  # fmt: skip


def direct(kind: str) -> tuple[MicroGuest, ...]:
    """What a direct far jump or call refuses."""

    def to(what: str, selector: str, vector: int, error: int = 0, **fields: object) -> MicroGuest:
        return p32(f"far {kind}: to {what}", f"b: {kind} {selector}:0x1000", vector, error,
                   **fields)  # fmt: skip

    def gate(what: str, raw: bytes, vector: int, error: int, **fields: object) -> MicroGuest:
        return p32(f"far {kind}: by a gate {what}", f"b: {kind} GATE:0", vector, error,
                   poke={GATE_AT: raw, **ABSENT_CODE}, **fields)  # fmt: skip

    present = call_gate(0, 0x18, 0, wide=False)
    return (
        to("a null selector", "0", 13),
        to("a data segment", "DATA", 13, 0x10),
        to("code of ring 3", "0x20", 13, 0x20),
        to("code that is not present", "SPARE_SEL", 11, 0x68, poke=ABSENT_CODE),
        to("beyond the limit", "SPARE_SEL", 13, poke=SHORT_CODE),
        to("a local table", "SPARE_SEL", 13, 0x68, poke={SEG: descriptor(0, 0xFF, 0x82, 0)}),
        gate("that is not present", present[:5] + b"\x0c" + present[6:], 11, 0x58),
        gate("to a null selector", call_gate(0, 0, 0, wide=False), 13, 0),
        gate("to a data segment", call_gate(0, 0x10, 0, wide=False), 13, 0x10),
        gate("to code that is not present", call_gate(0, 0x68, 0, wide=False), 11, 0x68),
    )


def by_vector(what: str, raw: bytes, vector: int, error: int) -> MicroGuest:
    """INT 0x41 through the 8 bytes `raw`."""
    return p32(f"int: by a gate {what}", "b: int 0x41", vector, error,
               poke={IDT + 8 * 0x41: raw, **ABSENT_CODE})  # fmt: skip


TRANSFERS = (
    *far_ends("retf", "", "retf"), *outward("retf", "", "retf"),
    *far_ends("iret", "push 2;", "iretd"), *outward("iret", "push 2;", "iretd"),
    *direct("jmp"), *direct("call"),
    by_vector("to a null selector", struct.pack("<HHBBH", 0, 0, 0, 0x8E, 0), 13, 0),
    by_vector("to a data segment", struct.pack("<HHBBH", 0, 0x10, 0, 0x8E, 0), 13, 0x10),
    by_vector("to code that is not present", struct.pack("<HHBBH", 0, 0x68, 0, 0x8E, 0), 11, 0x68),
    by_vector("of another type", struct.pack("<HHBBH", 0, 0x18, 0, 0x8C, 0), 13, 0x20A),
    by_vector("that is not present", struct.pack("<HHBBH", 0, 0x18, 0, 0x0E, 0), 11, 0x20A),
    p32("ring 3: retf to ring 0", "user32 u; u: push CODE32; push 0; b: retf", 13, 0x18),
    p32("ring 3: iret to ring 0", "user32 u; u: push 2; push CODE32; push 0; b: iretd", 13, 0x18),
    p32("ring 3: far jmp to code of ring 0", "user32 u; u: b: jmp CODE32:0", 13, 0x18),
    p32("ring 3: far call by a gate of ring 0", "user32 u; u: b: call GATE:0", 13, 0x58,
        poke={GATE_AT: call_gate(0, 0x18, 0, wide=False)}),
    p32("ring 3: int3 by a gate of ring 0", "user32 u; u: b: int3", 13, 0x1A),
    p32("ring 3: into by a gate of ring 0", "user32 u; u: mov al, 127; add al, 1; b: into", 13,
        0x22),
    M("ring 3: icebp by a gate of ring 0", "prot32", "user32 u; u: hex f1; a: nop; end",
      (Fault(1, "a"),)),
    p32("ring 3: a data segment of ring 0", "user32 u; u: mov eax, DATA; b: mov es, eax", 13, 0x10),
    M("ring 3: a conforming code segment of ring 0 can be read", "prot32",
      "push UDATA; push USTACK_; push 0x3002; push UCODE32; push u; iretd;"
      "u: mov eax, SPARE_SEL; mov fs, eax; mov eax, fs:[DATA_]; report eax; end", (0x55,),
      poke={SEG: descriptor(0, 0xFFFFF, 0x9F, 0xC), DATA: b"\x55\0\0\0"}),
    p32("segment: execute-only code is not loaded for data", "mov eax, SPARE_SEL; b: mov fs, eax",
        13, 0x68, poke={SEG: descriptor(0, 0xFFFFF, 0x99, 0xC)}),
    p32("segment: a read-only stack", "mov eax, SPARE_SEL; b: mov ss, eax", 13, 0x68,
        poke={SEG: descriptor(0, 0xFFFFF, 0x91, 0xC)}),
    p32("segment: code as a stack", "mov eax, CODE32; b: mov ss, eax", 13, 0x18),
    p32("segment: a stack of ring 3 in ring 0", "mov eax, 0x28; b: mov ss, eax", 13, 0x28),
    p32("segment: a stack by a selector of ring 3", "mov eax, 0x13; b: mov ss, eax", 13, 0x10),
    p32("segment: a doubleword across the limit",
        "mov eax, SPARE_SEL; mov fs, eax; b: mov eax, fs:[0xFFD]", 13,
        poke={SEG: descriptor(0, 0xFFF, 0x93, 0x4)}),
    p32("segment: lodsd across the limit",
        "mov eax, SPARE_SEL; mov fs, eax; mov esi, 0xFFD; b: hex 64ad", 13,
        poke={SEG: descriptor(0, 0xFFF, 0x93, 0x4)}),
    p32("segment: a 16-bit expand-down segment ends at 64 KiB",
        "mov eax, SPARE_SEL; mov fs, eax; mov eax, fs:[0xFFF0]; b: mov eax, fs:[0x10000]", 13,
        poke={SEG: descriptor(0, 0xFFF, 0x97, 0)}),
    M("segment: lar and lsl refuse a call gate's limit", "prot32",
      "xor eax, eax; mov ecx, GATE; lar edx, ecx; setz al; lsl edx, ecx; setz ah; report eax; end",
      (1,), poke={GATE_AT: call_gate(0, 0x18, 0, wide=False)}),
)  # fmt: skip

RULE_ROWS: tuple[MicroGuest, ...] = tuple(
    replace(row, not_emulated="lacks much of this", not_nested="lacks much of this")
    for row in (*TABLES, *BASES, *PRIVILEGE, *OPERANDS, *TRANSFERS)
)
