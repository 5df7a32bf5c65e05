"""Rows for `microguests` of small rules of the system instructions: which operand, prefix or
privilege each refuses, and with what. One instruction a row; expected results come from its page of
the SDM.
"""

from __future__ import annotations

from dataclasses import replace

from barevisor.testing.micro import DATA, GDT, SPARE, Fault, MicroGuest, descriptor, entry, pte
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

RULE_ROWS: tuple[MicroGuest, ...] = tuple(
    replace(row, not_emulated="lacks much of this", not_nested="lacks much of this")
    for row in (*TABLES, *BASES, *PRIVILEGE, *OPERANDS)
)
