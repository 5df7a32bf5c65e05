"""Rows for `microguests`: what each mode executes, and what it refuses."""

from __future__ import annotations

from barevisor.testing.micro import (
    DATA,
    GDT,
    IST1,
    RSP0,
    STACK,
    USER_STACK,
    Fault,
    Gate,
    MicroGuest,
    call_gate,
    descriptor,
    entry,
    page_tables,
    u32,
)  # fmt: skip

M = MicroGuest
XD = 1 << 63
OSXSAVE = 1 << 18
CR0_TS = 8
CR0_AM = 1 << 18

REAL = (
    M("real: int and iret by the vector table", "real",
      "sti; int 0x40; a: pushf; pop bx; and bx, 0x200; movzx eax, bx; report eax; end;"
      "h: pushf; pop bx; and bx, 0x200; movzx eax, bx; report eax; mov bp, sp;"
      "movzx eax, word [bp+0]; report eax; iret",
      (0, "a", 0x200), gates={0x40: Gate("h")}),
    M("real: divide error returns to the instruction", "real",
      "xor bx, bx; b: div bx; end", (Fault(0, "b"),)),
    M("real: far call, segment arithmetic and retf", "real",
      "mov ax, 0xC00; mov es, ax; mov al, es:[d-0xC000]; movzx eax, al; report eax;"
      "call 0xC00:f-0xC000; report 2; end; f: mov bx, cs; movzx eax, bx; report eax; retf;"
      "d: db 0x5A", (0x5A, 0xC00, 2)),
    M("real: a word at 0xFFFF is beyond the limit", "real",
      "mov bx, 0xFFFF; b: mov ax, [bx]; end", (Fault(13, "b"),)),
    M("real: 16-bit stack wraps at 64 KiB", "real",
      "mov sp, 0; push 0x1234; movzx eax, sp; report eax; pop cx; movzx eax, cx; report eax; end",
      (0xFFFE, 0x1234)),
    M("real: 32-bit operands and addresses", "real",
      "mov ebx, DATA_; mov eax, 0x12345678; mov [ebx], eax; mov ecx, [ebx]; report ecx; end",
      (0x12345678,), memory={DATA: u32(0x12345678)}),
    M("real: hlt without interrupt controllers", "real", "report 1; hlt", (1,), end="halted"),
    M("real to protected and back", "real",
      "lgdt [p]; mov eax, cr0; or al, 1; mov cr0, eax; jmp CODE32:dword a; bits 32;"
      "a: mov eax, DATA; mov ss, eax; mov ds, eax; mov esp, STACK_; push 0x32; pop ebx;"
      "report ebx; jmp CODE16:c; bits 16; c: mov ax, DATA16; mov ds, ax; mov ss, ax;"
      "mov sp, RSTACK_; mov eax, cr0; and al, 0xFE; mov cr0, eax; jmp 0:d;"
      "d: xor ax, ax; mov ds, ax; mov ss, ax; push 0x16; pop bx; movzx eax, bx; report eax; end;"
      "p: dw 0x7F; dd GDT_", (0x32, 0x16)),
    M("real to long", "real",
      "lgdt [p]; mov eax, 0x620; mov cr4, eax; mov eax, PML4_; mov cr3, eax;"
      "writemsr 0xC0000080,0x901,0; rdmsr; report eax; mov eax, 0x80010031; mov cr0, eax;"
      "jmp CODE64:dword a; bits 64; a: mov eax, DATA; mov ss, eax; mov rsp, STACK_;"
      "mov rax, 0x123456789ABCDEF0; push rax; pop rbx; report64 rbx;"
      "mov ecx, 0xC0000080; rdmsr; report eax; end; p: dw 0x7F; dd GDT_",
      (0x901, 0x9ABCDEF0, 0x12345678, 0xD01), poke=dict(page_tables())),
    M("real: 4 GiB data segment survives the way back to real mode", "real",
      "lgdt [p]; mov eax, cr0; or al, 1; mov cr0, eax; mov bx, DATA; mov ds, bx; and al, 0xFE;"
      "mov cr0, eax; mov ebx, 0x100000; mov dword [ebx], 0xB16; report dword [ebx]; end;"
      "p: dw 0x7F; dd GDT_", (0xB16,)),
)  # fmt: skip

PROTECTED = (
    M("prot16: 16-bit code and 32-bit operands", "prot16",
      "mov eax, 0x10001; inc ax; report eax; add eax, 0x10000; report eax; push ax; pop bx;"
      "movzx eax, bx; report eax; end", (0x10002, 0x20002, 2)),
    M("prot32: far jumps between 32-bit and 16-bit code", "prot32",
      "jmp CODE16:a; bits 16; a: xor eax, eax; mov ax, 1; report eax; jmp CODE32:dword b;"
      "bits 32; b: report 2; end", (1, 2)),
    M("prot32: far call through a gate of the same privilege", "prot32",
      "call GATE:0; a: report esp; end; g: mov ebx, [esp]; report ebx; mov ebx, [esp+4];"
      "report ebx; retf",
      ("a", 0x18, STACK),
      poke={GDT + 0x58: lambda at: call_gate(at["g"], 0x18, 0, wide=False)}),
    M("prot32: call gate from ring 3 copies parameters to the ring 0 stack", "prot32",
      "user32 u; u: push 0x11; push 0x22; call GATE+3:0; a: int 0x80; g: report esp;"
      "report dword [esp]; report dword [esp+4]; report dword [esp+8]; report dword [esp+12];"
      "report dword [esp+16]; report dword [esp+20]; hex ca0800; k: report dword [esp+4];"
      "report dword [esp+12]; end",
      (RSP0 - 24, "a", 0x23, 0x22, 0x11, USER_STACK - 8, 0x2B, 0x23, USER_STACK),
      gates={0x80: Gate("k", dpl=3)},
      poke={GDT + 0x58: lambda at: call_gate(at["g"], 0x18, 3, wide=False, parameters=2)}),
    M("prot32: int from ring 3 takes the stack of the task state", "prot32",
      "user32 u; u: int 0x80; a: nop; k: report esp; report dword [esp]; report dword [esp+4];"
      "report dword [esp+12]; report dword [esp+16]; end",
      (RSP0 - 20, "a", 0x23, USER_STACK, 0x2B), gates={0x80: Gate("k", dpl=3)}),
    M("prot32: int from ring 3 needs a gate of DPL 3", "prot32",
      "user32 u; u: b: int 0x80; k: end", (Fault(13, "b", 0x80 * 8 + 2),),
      gates={0x80: Gate("k")}),
    M("prot32: sysenter and sysexit", "prot32",
      "writemsr 0x174,0x8,0; writemsr 0x175,RSP0_,0; writemsr 0x176,e,0; user32 u;"
      "u: sysenter; e: mov ebx, cs; report ebx; mov ebx, ss; report ebx; report esp; mov edx, x;"
      "mov ecx, USTACK_-16; sysexit; x: int 0x80; k: report dword [esp+4];"
      "report dword [esp+12]; report dword [esp+16]; end",
      (8, 0x10, RSP0, 0x1B, USER_STACK - 16, 0x23), gates={0x80: Gate("k", dpl=3)}),
    M("prot32: sysenter with a null SYSENTER_CS", "prot32",
      "writemsr 0x174,0,0; b: sysenter; end", (Fault(13, "b", 0),)),
    M("prot32: segment base and limit", "prot32",
      "mov eax, SPARE_SEL; mov fs, eax; mov dword [DATA_+12], 0x77; report dword fs:[12];"
      "b: mov eax, fs:[13]; end", (0x77, Fault(13, "b", 0)),
      poke={GDT + 0x68: descriptor(DATA, 15, 0x93, 4)}),
    M("prot32: expand-down segment", "prot32",
      "mov eax, SPARE_SEL; mov fs, eax; mov dword [DATA_], 0x78; report dword fs:[DATA_];"
      "b: mov eax, fs:[0xFFC]; end", (0x78, Fault(13, "b", 0)),
      poke={GDT + 0x68: descriptor(0, 0xFFF, 0x97, 4)}),
    M("prot32: stack limit is a stack fault", "prot32",
      "mov eax, SPARE_SEL; mov ss, eax; mov esp, RSTACK_; mov ebp, 0xFFFE; b: mov eax, [ebp]; end",
      (Fault(12, "b", 0),), poke={GDT + 0x68: descriptor(0, 0xFFFF, 0x93, 4)}),
    M("prot32: use of a null selector", "prot32",
      "xor eax, eax; mov es, eax; b: mov eax, es:[0]; end", (Fault(13, "b", 0),)),
    M("prot32: write to a read-only segment", "prot32",
      "mov eax, SPARE_SEL; mov fs, eax; mov eax, fs:[DATA_]; b: mov fs:[DATA_], eax; end",
      (Fault(13, "b", 0),), poke={GDT + 0x68: descriptor(0, 0xFFFFF, 0x91, 0xC)}),
    M("prot32: write through CS", "prot32", "b: mov cs:[DATA_], eax; end", (Fault(13, "b", 0),)),
    M("prot32: selector beyond the GDT", "prot32",
      "mov eax, 0x80; b: mov ds, eax; end", (Fault(13, "b", 0x80),)),
    M("prot32: data segment not present", "prot32",
      "mov eax, SPARE_SEL; b: mov ds, eax; end", (Fault(11, "b", 0x68),),
      poke={GDT + 0x68: descriptor(0, 0xFFFFF, 0x13, 0xC)}),
    M("prot32: stack segment not present", "prot32",
      "mov eax, SPARE_SEL; b: mov ss, eax; end", (Fault(12, "b", 0x68),),
      poke={GDT + 0x68: descriptor(0, 0xFFFFF, 0x13, 0xC)}),
    M("prot32: null stack segment", "prot32",
      "xor eax, eax; b: mov ss, eax; end", (Fault(13, "b", 0),)),
    M("prot32: loading a segment sets its accessed bit", "prot32",
      "mov eax, SPARE_SEL; mov fs, eax; end", (), memory={GDT + 0x6D: b"\x93"},
      poke={GDT + 0x68: descriptor(0, 0xFFFFF, 0x92, 0xC)}),
    M("prot32: push and pop of segment registers", "prot32",
      "mov eax, UDATA; mov gs, eax; push gs; pop fs; mov ebx, fs; report ebx; push ds; pop es;"
      "mov ebx, es; report ebx; report esp; end", (0x2B, 0x10, STACK)),
    M("prot32: pusha, popa, enter, leave", "prot32",
      "mov ecx, 5; pusha; mov ecx, 6; popa; report ecx; mov ebp, 0x1234; enter 16, 0;"
      "report esp; leave; report ebp; report esp; end",
      (5, STACK - 20, 0x1234, STACK)),
    M("prot32: bound out of range", "prot32",
      "mov eax, 9; b: bound eax, [l]; end; l: dd 1, 8", (Fault(5, "b"),)),
    M("prot32: into after an overflow", "prot32",
      "mov al, 0x7F; inc al; into; b: end", (Fault(4, "b"),)),
    M("prot32: daa", "prot32",
      "mov eax, 0x19; add al, 0x28; daa; report eax; end", (0x47,)),
    M("prot32: paging with 4 KiB and 4 MiB pages", "prot32",
      "mov eax, 0x10; mov cr4, eax; mov eax, 0x1000; mov cr3, eax; mov eax, cr0;"
      "or eax, 0x80010000; mov cr0, eax; mov dword [0x801004], 0x44; report dword [DATA_+4];"
      "b: mov [0x802000], eax; end",
      (0x44, Fault(14, "b", 3, 0x802000)),
      poke={0x1000: u32(0x87), 0x1008: u32(0x2007), 0x2004: u32(DATA | 7), 0x2008: u32(DATA | 5)}),
    M("prot32: PAE paging with NX", "prot32",
      "mov eax, 0x20; mov cr4, eax; mov eax, 0x1000; mov cr3, eax; writemsr 0xC0000080,0x800,0;"
      "mov eax, cr0; or eax, 0x80010000; mov cr0, eax; mov dword [0x201004], 0x45;"
      "report dword [DATA_+4]; mov eax, 0x201000; jmp eax",
      (0x45, Fault(14, 0x201000, 0x11, 0x201000)),
      poke={0x1000: entry(0x2000, 1), 0x2000: entry(0, 0x87), 0x2008: entry(0x3000, 7),
            0x3008: entry(DATA, 7 | XD)}),
    M("prot32: triple fault", "prot32",
      "report 1; lidt [z]; ud2; z: dw 0; dd 0", (1,), end="shutdown"),
    M("user: popf keeps IF when IOPL is below CPL", "prot32",
      "user32 u; u: push 0x202; popf; pushf; pop ebx; int 0x80; k: report ebx; end",
      (2,), gates={0x80: Gate("k", dpl=3)}),
    M("user: popf and sti change IF when IOPL allows", "prot32",
      "push UDATA; push USTACK_; push 0x3002; push UCODE32; push u; iretd;"
      "u: push 0x202; popf; pushf; pop ebx; cli; sti; cli; pushf; pop ecx; int 0x80;"
      "k: report ebx; report ecx; end",
      (0x3202, 0x3002), gates={0x80: Gate("k", dpl=3)}),
    M("prot32: iret to ring 3 clears segments that ring 3 may not use", "prot32",
      "mov eax, DATA; mov fs, eax; user32 u; u: mov ebx, fs; int 0x80; k: report ebx; end",
      (0,), gates={0x80: Gate("k", dpl=3)}),
    M("prot32: lar, lsl and verr", "prot32",
      "mov ecx, UDATA; lar eax, ecx; and eax, 0xF0FF00; report eax; lsl ebx, ecx;"
      "report ebx; mov ecx, 0x80; lar eax, ecx; setz al; movzx eax, al; report eax; end",
      (0xC0F300, 0xFFFFFFFF, 0)),
)  # fmt: skip

USER_FORBIDDEN = [
    ("hlt", "hlt"), ("cli", "cli"), ("sti", "sti"), ("mov cr0", "mov rax, cr0"),
    ("mov dr7", "mov rax, dr7"), ("lgdt", "lgdt [DATA_]"), ("lidt", "lidt [DATA_]"),
    ("ltr", "ltr ax"), ("rdmsr", "rdmsr"), ("wrmsr", "wrmsr"), ("invlpg", "invlpg [DATA_]"),
    ("wbinvd", "wbinvd"), ("clts", "clts"), ("swapgs", "swapgs"), ("out", "out 0x70, al"),
    ("sysretq", "sysretq"),
]  # fmt: skip
KERNEL_INVALID = [
    ("mov cr4 with a reserved bit", "mov eax, 0x80000620; b: mov cr4, rax", 0),
    ("mov cr4 without PAE", "mov eax, 0x600; b: mov cr4, rax", 0),
    ("mov cr0 with PG and without PE", "mov eax, 0x80010030; b: mov cr0, rax", 0),
    ("mov cr0 with NW and without CD", "mov eax, 0xA0010031; b: mov cr0, rax", 0),
    ("mov cr0 above 32 bits", "mov rax, 0x180010031; b: mov cr0, rax", 0),
    ("mov cr8 above 15", "mov eax, 16; b: mov cr8, rax", 0),
    ("mov dr7 above 32 bits", "mov rax, 0x100000400; b: mov dr7, rax", 0),
    ("rdmsr of no MSR", "mov ecx, 0x12345; b: rdmsr", 0),
    ("wrmsr of no MSR", "mov ecx, 0x12345; b: wrmsr", 0),
    ("wrmsr of a non-canonical LSTAR", "mov ecx, 0xC0000082; mov edx, 0x8000; b: wrmsr", 0),
    ("wrmsr of an invalid PAT", "mov ecx, 0x277; mov eax, 2; xor edx, edx; b: wrmsr", 0),
    ("clearing LME in long mode", "mov ecx, 0xC0000080; mov eax, 1; xor edx, edx; b: wrmsr", 0),
    ("ltr of a busy task state", "mov eax, TSS_SEL; b: ltr ax", 0x48),
    ("lldt of a data segment", "mov eax, DATA; b: lldt ax", 0x10),
    ("a data selector in cs", "push 0x10; push b; b: retfq", 0x10),
    ("load from a non-canonical address", "mov rbx, 0x800000000000; b: mov eax, [rbx]", 0),
    ("jump to a non-canonical address", "mov rbx, 0x800000000000; b: jmp rbx", 0),
    ("iretq to a non-canonical address",
     "push 0x10; push STACK_; push 2; push 8; mov rbx, 0x800000000000; push rbx; b: iretq", 0),
    ("int through no gate", "b: int 0xEE", 0xEE * 8 + 2),
]  # fmt: skip
UNDEFINED = [
    ("ud2", "b: ud2"), ("lock on a register form", "b: hex f001c0"), ("lock nop", "b: hex f090"),
    ("lock mov", "b: hex f08903"), ("mov cs", "b: hex 8ec8"), ("mov cr1", "b: hex 0f20c8"),
    ("push es in 64 bits", "b: hex 06"), ("lea of a register", "b: hex 8dc0"),
    ("syscall without SCE",
     "mov ecx, 0xC0000080; mov eax, 0xD00; xor edx, edx; wrmsr; b: syscall"),
    ("ud1", "b: hex 0fb9c0"),
]  # fmt: skip

EXCEPTIONS = (
    *(M(f"user: {name} is privileged", "long", f"user64 b; b: {text}; end", (Fault(13, "b", 0),))
      for name, text in USER_FORBIDDEN),
    *(M(f"long: #GP, {name}", "long", text + "; end", (Fault(13, "b", error),))
      for name, text, error in KERNEL_INVALID),
    *(M(f"long: #UD, {name}", "long", text + "; end", (Fault(6, "b"),))
      for name, text in UNDEFINED),
    M("long: #DE, division by zero", "long", "xor ebx, ebx; b: div ebx; end", (Fault(0, "b"),)),
    M("long: #DE, quotient too large", "long",
      "mov edx, 5; mov ebx, 5; b: div ebx; end", (Fault(0, "b"),)),
    M("long: #BP is a trap", "long", "int3; b: end", (Fault(3, "b"),)),
    M("long: #NM with CR0.TS", "long", "b: fld1; end", (Fault(7, "b"),), cr0=CR0_TS),
    M("long: clts ends #NM", "long", "clts; fld1; report 1; end", (1,), cr0=CR0_TS),
    M("long: #MF at the next waiting instruction", "long",
      "fninit; fldcw [c]; fld1; hex d9ee; hex def9; b: hex 9b; end; c: dw 0x37B",
      (Fault(16, "b"),)),
    M("long: #XM, unmasked SSE division by zero", "long",
      "ldmxcsr [c]; hex 0f57c0; mov eax, 0x3F800000; hex 660f6ec8; b: hex f30f5ec8; end;"
      "c: dd 0x1D80", (Fault(19, "b"),)),
    M("user: #AC, unaligned load with AC and AM", "long",
      "push UDATA; push USTACK_; push 0x40002; push UCODE64; push u; iretq;"
      "u: mov eax, [DATA_]; b: mov eax, [DATA_+1]; end", (Fault(17, "b", 0),), cr0=CR0_AM),
    M("long: movaps needs alignment", "long",
      "mov ebx, DATA_+8; b: hex 0f2803; end", (Fault(13, "b", 0),)),
    M("long: #SS, non-canonical stack, on IST", "long",
      "mov rsp, 0x800000000010; b: push rax; h: report dword [rsp]; report dword [rsp+8]; end",
      (0, "b"), gates={12: Gate("h", ist=1)}),
    M("long: a gate not present makes #NP", "long",
      "b: int 0x55; h: end", (Fault(11, "b", 0x55 * 8 + 2),),
      gates={0x55: Gate("h", present=False)}),
    M("long: #GP whose gate is not present is a double fault", "long",
      "mov rbx, 0x800000000000; b: mov eax, [rbx]; h: end", (Fault(8, "b", 0),),
      gates={13: Gate("h", present=False)}),
    M("long: triple fault", "long", "report 1; lidt [z]; ud2; z: dw 0; dq 0", (1,),
      end="shutdown"),
)  # fmt: skip

LONG = (
    M("long: 32-bit results clear the upper half", "long",
      "mov rax, -1; mov eax, eax; mov rbx, rax; report64 rbx; mov rcx, -1; mov cl, 0;"
      "report64 rcx; xor r8, r8; sub r8d, 1; report64 r8; end",
      (0xFFFFFFFF, 0, 0xFFFFFF00, 0xFFFFFFFF, 0xFFFFFFFF, 0)),
    M("long: gates clear IF or keep it", "long",
      "sti; int 0x40; int 0x41; pushf; pop rbx; and ebx, 0x200; report ebx; end;"
      "h: pushf; pop rbx; and ebx, 0x200; report ebx; iretq",
      (0, 0x200, 0x200), gates={0x40: Gate("h"), 0x41: Gate("h", type=0xF)}),
    M("long: interrupt frame is aligned to 16", "long",
      "mov rsp, STACK_-3; int 0x40; report esp; end; h: report esp; report dword [rsp+24]; iretq",
      (STACK - 16 - 40, STACK - 3, STACK - 3), gates={0x40: Gate("h")}),
    M("long: interrupt stack table", "long",
      "int 0x40; report esp; end; h: report esp; iretq",
      (IST1 - 40, STACK), gates={0x40: Gate("h", ist=1)}),
    M("user: int 0x80 frame", "long",
      "user64 u; u: stc; int 0x80; a: nop; k: report esp; report dword [rsp];"
      "report dword [rsp+8]; report dword [rsp+16]; report dword [rsp+24]; report dword [rsp+32];"
      "mov ebx, ss; report ebx; mov ebx, cs; report ebx; end",
      (RSP0 - 40, "a", 0x33, 3, USER_STACK, 0x2B, 0, 8), gates={0x80: Gate("k", dpl=3)}),
    M("user: syscall and sysret", "long",
      "writemsr 0xC0000081,0,0x230008; writemsr 0xC0000082,e,0; writemsr 0xC0000084,1,0;"
      "user64 u; u: stc; syscall; a: int 0x80; e: report ecx; report r11d; pushf; pop rbx;"
      "and ebx, 1; report ebx; mov ebx, cs; report ebx; mov ebx, ss; report ebx; report esp;"
      "mov ecx, a; sysretq; k: report dword [rsp+8]; report dword [rsp+16];"
      "report dword [rsp+24]; report dword [rsp+32]; end",
      ("a", 3, 0, 8, 0x10, USER_STACK, 0x33, 3, USER_STACK, 0x2B),
      gates={0x80: Gate("k", dpl=3)}),
    M("user: sysret to compatibility mode", "long",
      "writemsr 0xC0000081,0,0x230008; mov ecx, u; mov r11d, 2; sysretd; bits 32;"
      "u: xor ebx, ebx; hex 43; int 0x80; bits 64; k: report ebx; report dword [rsp+8]; end",
      (1, 0x23), gates={0x80: Gate("k", dpl=3)}),
    M("user: iretq to compatibility mode and int back", "long",
      "push UDATA; push USTACK_; push 2; push UCODE32; push u; iretq; bits 32;"
      "u: mov ebx, 0x1000; hex 43; push ebx; int 0x80; bits 64;"
      "k: report ebx; report dword [rsp+8]; report dword [rsp+24]; end",
      (0x1001, 0x23, USER_STACK - 4), gates={0x80: Gate("k", dpl=3)}),
    M("user: 64-bit call gate and far return", "long",
      "user64 u; u: callf far [p]; a: int 0x80; p: dd 0; dw GATE+3;"
      "g: report esp; report dword [rsp]; report dword [rsp+8]; report dword [rsp+16];"
      "report dword [rsp+24]; retfq; k: report dword [rsp+8]; report dword [rsp+24]; end",
      (RSP0 - 32, "a", 0x33, USER_STACK, 0x2B, 0x33, USER_STACK),
      gates={0x80: Gate("k", dpl=3)},
      poke={GDT + 0x58: lambda at: call_gate(at["g"], 8, 3, wide=True)}),
    M("long: swapgs and gs base", "long",
      "writemsr 0xC0000101,DATA_,0; writemsr 0xC0000102,SPARE_,0; mov dword [DATA_], 1;"
      "mov dword [SPARE_], 2; report dword gs:[0]; swapgs; report dword gs:[0];"
      "mov ecx, 0xC0000102; rdmsr; report eax; end", (1, 2, DATA)),
    M("long: fs and gs have bases, ds has none", "long",
      "mov eax, SPARE_SEL; mov ds, eax; mov fs, eax; mov dword [DATA_], 3; mov dword [0x600], 9;"
      "report dword [DATA_]; report dword fs:[0]; end", (3, 3),
      poke={GDT + 0x68: descriptor(DATA, 0xFFFFF, 0x93, 0xC)}),
    M("long: sgdt, sidt, str and sldt", "long",
      "sgdt [DATA_]; sidt [DATA_+16]; movzx eax, word [DATA_]; report eax;"
      "report dword [DATA_+2]; report dword [DATA_+18]; str eax; report eax; sldt ebx;"
      "report ebx; end", (0x7F, GDT, 0x8000, 0x48, 0)),
    M("long: push and pop of fs are 8 bytes", "long",
      "mov eax, UDATA; mov fs, eax; push fs; report esp; pop gs; mov ebx, gs; report ebx; end",
      (STACK - 8, 0x2B)),
    M("long: popf and IF in ring 0", "long",
      "push 0x202; popf; pushf; pop rbx; report ebx; push 2; popf; pushf; pop rbx; report ebx;"
      "end", (0x202, 2)),
    M("long: loop and jrcxz", "long",
      "mov ecx, 3; xor ebx, ebx; l: inc ebx; loop l; report ebx; jrcxz z; report 9; z: end",
      (3,)),
    M("long: cpuid names KVM", "long",
      "mov eax, 0x40000000; cpuid; mov esi, eax; report ebx; report ecx; report edx; end",
      (0x4B4D564B, 0x564B4D56, 0x4D)),
    M("long: rdtsc moves forward", "long",
      "rdtsc; shl rdx, 32; or rax, rdx; mov rbx, rax; rdtsc; shl rdx, 32; or rax, rdx;"
      "cmp rax, rbx; seta cl; movzx ecx, cl; report ecx; end", (1,)),
    M("long: xsetbv and xgetbv", "long",
      "xor ecx, ecx; xor edx, edx; mov eax, 3; xsetbv; xor eax, eax; xgetbv; report eax;"
      "mov eax, 2; b: xsetbv; end", (3, Fault(13, "b", 0)), cr4=OSXSAVE),
    M("long: x87 and SSE", "long",
      "fninit; fld1; fld1; faddp; fistp [DATA_]; report dword [DATA_]; mov eax, 0x40400000;"
      "hex 660f6ec0; hex f30f58c0; hex f30f2cc0; report eax; end", (2, 6)),
    M("long: fxsave and fxrstor", "long",
      "fninit; fld1; fxsave [SPARE_]; fninit; fxrstor [SPARE_]; fistp [DATA_];"
      "report dword [DATA_]; end", (1,)),
    M("long: xsave and xrstor", "long",
      "xor ecx, ecx; xor edx, edx; mov eax, 3; xsetbv; mov eax, 0x1234; hex 660f6ec0;"
      "mov eax, 3; xsave [SPARE_]; hex 0f57c0; xrstor [SPARE_]; hex 660f7ec0; report eax; end",
      (0x1234,), cr4=OSXSAVE),
    M("compat: opcodes 40 to 4F are inc and dec", "compat",
      "xor eax, eax; hex 40; report eax; hex 48; report eax; end", (1, 0)),
    M("compat: addresses wrap at 4 GiB", "compat",
      "mov dword [DATA_], 0x31; mov ebx, 0xFFFFFFFF; report dword [ebx+DATA_+1]; end", (0x31,)),
    M("compat: far jumps to 64-bit code and back", "compat",
      "jmp CODE64:a; bits 64; a: mov rax, -1; report64 rax; jmpf far [p]; p: dd c; dw CODE32;"
      "bits 32; c: report 3; end", (0xFFFFFFFF, 0xFFFFFFFF, 3)),
    M("compat: exceptions enter 64-bit handlers", "compat", "b: ud2; end", (Fault(6, "b"),)),
)  # fmt: skip

MODE_ROWS = (*REAL, *PROTECTED, *EXCEPTIONS, *LONG)
