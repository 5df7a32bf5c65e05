"""Rows for `microguests`: atomics, strings, paging, breakpoints, and code that changes."""

from __future__ import annotations

from barevisor.testing.micro import (
    CODE,
    DATA,
    PD,
    PDPT,
    PML4,
    PT,
    SPARE,
    Fault,
    Gate,
    MicroGuest,
    entry,
    pte,
    u32,
)  # fmt: skip

M = MicroGuest
XD = 1 << 63
SMEP, SMAP = 1 << 20, 1 << 21
DE, CR0_WP = 8, 1 << 16
KERNEL_PAGES = {PT: b"".join(entry(n << 12, 7 if n == SPARE >> 12 else 3) for n in range(512))}
"""All pages but SPARE belong to the kernel (for SMEP and SMAP)."""

ATOMIC = (
    M("long: cmpxchg16b, equal", "long",
      "mov edi, DATA_; xor eax, eax; xor edx, edx; mov ebx, 1; mov ecx, 2;"
      "lock cmpxchg16b [rdi]; setz al; movzx eax, al; report eax; end",
      (1,), memory={DATA: u32(1) + u32(0) + u32(2) + u32(0)}),
    M("long: cmpxchg16b, different", "long",
      "mov edi, DATA_; mov qword [rdi], 5; mov qword [rdi+8], 6; xor eax, eax; xor edx, edx;"
      "cmpxchg16b [rdi]; setz cl; movzx ecx, cl; mov ebx, eax; report ecx; report ebx;"
      "report edx; end", (0, 5, 6)),
    M("long: cmpxchg16b needs alignment", "long",
      "mov edi, DATA_+8; b: cmpxchg16b [rdi]; end", (Fault(13, "b", 0),)),
    M("long: cmpxchg8b", "long",
      "mov edi, DATA_; xor eax, eax; xor edx, edx; mov ebx, 7; mov ecx, 8; lock cmpxchg8b [rdi];"
      "report dword [rdi+4]; end", (8,), memory={DATA: u32(7) + u32(8)}),
    M("long: locked read-modify-write", "long",
      "mov edi, DATA_; lock add dword [rdi], 5; lock inc dword [rdi]; mov ecx, 10;"
      "lock xadd [rdi], ecx; report ecx; lock bts dword [rdi], 31; lock not dword [rdi];"
      "report dword [rdi]; lock neg qword [rdi]; end",
      (6, 0x7FFFFFEF), memory={DATA: u32(0x80000011) + u32(0xFFFFFFFF)}),
    M("long: cmpxchg, both ways", "long",
      "mov edi, DATA_; mov dword [rdi], 5; mov eax, 4; mov ecx, 9; lock cmpxchg [rdi], ecx;"
      "mov ebx, eax; report ebx; mov eax, 5; lock cmpxchg [rdi], ecx; report dword [rdi]; end",
      (5, 9)),
    M("long: xchg across a page", "long",
      "mov edi, SPARE_+0xFFE; mov dword [rdi], 0x11223344; mov ecx, 0x55667788; xchg [rdi], ecx;"
      "report ecx; report dword [rdi]; end", (0x11223344, 0x55667788)),
    M("long: bts with a register reaches beyond the operand", "long",
      "mov edi, DATA_; mov ecx, 100; bts [rdi], ecx; end", (), memory={DATA + 12: u32(16)}),
)  # fmt: skip

STRINGS = (
    M("long: rep movsb across pages", "long",
      "mov edi, SPARE_+0xFFD; mov esi, t; mov ecx, 6; rep movsb; report ecx; report edi; end;"
      "t: db 'b', 'r', 'i', 'd', 'g', 'e'",
      (0, SPARE + 0x1003), memory={SPARE + 0xFFD: b"bridge"}),
    M("long: overlapping rep movsb copies byte by byte", "long",
      "mov dword [DATA_], 0x41; mov esi, DATA_; mov edi, DATA_+1; mov ecx, 5; rep movsb; end",
      (), memory={DATA: b"AAAAAA"}),
    M("long: rep movsq backwards", "long",
      "mov qword [DATA_], 1; mov qword [DATA_+8], 2; std; mov esi, DATA_+8; mov edi, DATA_+16;"
      "mov ecx, 2; rep movsq; cld; report esi; end", (DATA - 8,),
      memory={DATA + 8: u32(1) + u32(0) + u32(2)}),
    M("long: rep movsq stops at a fault and says how far it came", "long",
      "mov esi, DATA_; mov edi, SPARE_+0xFF8; mov ecx, 4; b: rep movsq; end;"
      "h: report ecx; report esi; report edi; report dword [rsp]; report dword [rsp+8]; end",
      (3, DATA + 8, SPARE + 0x1000, 2, "b"), gates={14: Gate("h")},
      poke={pte(SPARE + 0x1000): bytes(8)}),
    M("long: rep movsq goes on after the fault is repaired", "long",
      "mov dword [DATA_+24], 0x77; mov esi, DATA_; mov edi, SPARE_+0xFF8; mov ecx, 4;"
      "rep movsq; report ecx; report dword [SPARE_+0x1010]; end;"
      "h: mov dword [PT_+0x88], 0x11007; add rsp, 8; iretq",
      (0, 0x77), gates={14: Gate("h")}, poke={pte(SPARE + 0x1000): bytes(8)}),
    M("long: repne scasb and repe cmpsb", "long",
      "mov edi, t; mov ecx, 9; mov al, 'c'; repne scasb; report ecx; mov esi, t; mov edi, s;"
      "mov ecx, 9; repe cmpsb; report ecx; end; t: db 'a', 'b', 'c', 'd'; s: db 'a', 'b', 'x'",
      (6, 6)),
    M("long: rep with a count of zero touches nothing", "long",
      "mov esi, 0; mov edi, SPARE_; xor ecx, ecx; rep movsb; report edi; end",
      (SPARE,), poke={pte(SPARE): bytes(8)}),
)  # fmt: skip

PAGING = (
    M("paging: read of a page not present", "long", "b: mov eax, [SPARE_+4]; end",
      (Fault(14, "b", 0, SPARE + 4),), poke={pte(SPARE): bytes(8)}),
    M("paging: write of a page not present", "long", "b: mov [SPARE_+4], eax; end",
      (Fault(14, "b", 2, SPARE + 4),), poke={pte(SPARE): bytes(8)}),
    M("paging: kernel write to a read-only page with WP", "long", "b: mov [SPARE_], eax; end",
      (Fault(14, "b", 3, SPARE),), poke={pte(SPARE): entry(SPARE, 5)}),
    M("paging: kernel write to a read-only page without WP", "long",
      "mov dword [SPARE_], 6; report dword [SPARE_]; end", (6,), cr0_off=CR0_WP,
      poke={pte(SPARE): entry(SPARE, 5)}),
    M("paging: user read of a kernel page", "long", "user64 b; b: mov eax, [SPARE_]; end",
      (Fault(14, "b", 5, SPARE),), poke={pte(SPARE): entry(SPARE, 3)}),
    M("paging: user write to a read-only page, WP or not", "long",
      "user64 b; b: mov [SPARE_], eax; end", (Fault(14, "b", 7, SPARE),), cr0_off=CR0_WP,
      poke={pte(SPARE): entry(SPARE, 5)}),
    M("paging: user write to a page not present", "long",
      "user64 b; b: mov [SPARE_], eax; end", (Fault(14, "b", 6, SPARE),),
      poke={pte(SPARE): bytes(8)}),
    M("paging: user right comes from every level", "long",
      "mov eax, [SPARE_]; report 1; user64 u; u: nop; end",
      (1, Fault(14, "u", 0x15, "u")), poke={PD: entry(PT, 3)}),
    M("paging: fetch from an NX page", "long", "mov eax, SPARE_; jmp rax",
      (Fault(14, SPARE, 0x11, SPARE),), poke={pte(SPARE): entry(SPARE, 7 | XD)}),
    M("paging: NX in a directory covers its pages", "long", "mov eax, 0x200000; jmp rax",
      (Fault(14, 0x200000, 0x11, 0x200000),), poke={PD + 8: entry(0x200000, 0x87 | XD)}),
    M("paging: reserved bit", "long", "mov rbx, 0x8000000000; b: mov eax, [rbx+16]; end",
      (Fault(14, "b", 9, 16),), poke={PML4 + 8: entry(PDPT, 0x87)}),
    M("paging: access across two pages faults on the second", "long",
      "b: mov [SPARE_+0xFFE], eax; end", (Fault(14, "b", 2, SPARE + 0x1000),),
      poke={pte(SPARE + 0x1000): bytes(8), SPARE + 0xFFE: b"AA"}, memory={SPARE + 0xFFE: b"AA"}),
    M("paging: instruction across two pages faults on the second", "long",
      "mov eax, SPARE_+0xFFF; jmp rax", (Fault(14, SPARE + 0xFFF, 0x10, SPARE + 0x1000),),
      poke={pte(SPARE + 0x1000): bytes(8), SPARE + 0xFFF: b"\xb8"}),
    M("paging: accessed and dirty bits", "long",
      "mov eax, [SPARE_]; mov [SPARE_+0x1000], eax; mov dword [0x200000], 1; end", (),
      memory={pte(SPARE): entry(SPARE, 0x27), pte(SPARE + 0x1000): entry(SPARE + 0x1000, 0x67),
              PD + 8: entry(0x200000, 0xE7), pte(SPARE + 0x2000): entry(SPARE + 0x2000, 7)}),
    M("paging: 1 GiB page", "long",
      "mov ebx, 0x40000000+DATA_; mov dword [rbx], 0x61; report dword [DATA_]; end", (0x61,),
      poke={PDPT + 8: entry(0, 0x87)}),
    M("paging: 2 MiB page elsewhere", "long",
      "mov ebx, 0x400000+DATA_; mov dword [rbx], 0x62; report dword [DATA_]; end", (0x62,),
      poke={PD + 16: entry(0, 0x87)}),
    M("paging: invlpg shows the new page", "long",
      "mov dword [SPARE_+0x1000], 2; mov dword [SPARE_], 1; report dword [SPARE_];"
      "mov dword [PT_+0x80], 0x11007; invlpg [SPARE_]; report dword [SPARE_]; end", (1, 2)),
    M("paging: loading CR3 shows the new page", "long",
      "mov dword [SPARE_+0x1000], 2; mov dword [SPARE_], 1; report dword [SPARE_];"
      "mov dword [PT_+0x80], 0x11007; mov rax, cr3; mov cr3, rax; report dword [SPARE_]; end",
      (1, 2)),
    M("paging: invlpg takes a right away", "long",
      "mov dword [SPARE_], 1; mov dword [PT_+0x80], 0x10005; invlpg [SPARE_];"
      "report dword [SPARE_]; b: mov dword [SPARE_], 2; end",
      (1, Fault(14, "b", 3, SPARE))),
    M("paging: a page made present needs no invlpg", "long",
      "mov eax, [SPARE_]; report eax; end; h: mov dword [PT_+0x80], 0x10007; add rsp, 8; iretq",
      (0x63,), gates={14: Gate("h")}, poke={pte(SPARE): bytes(8), SPARE: u32(0x63)}),
    M("paging: SMEP forbids the kernel user code", "long", "mov eax, SPARE_; jmp rax",
      (Fault(14, SPARE, 0x11, SPARE),), cr4=SMEP, poke=dict(KERNEL_PAGES)),
    M("paging: SMAP forbids the kernel user data", "long", "b: mov eax, [SPARE_]; end",
      (Fault(14, "b", 1, SPARE),), cr4=SMAP, poke=dict(KERNEL_PAGES)),
    M("paging: stac lifts SMAP, clac restores it", "long",
      "stac; mov eax, [SPARE_]; report eax; clac; b: mov [SPARE_], eax; end",
      (0x64, Fault(14, "b", 3, SPARE)), cr4=SMAP, poke={**KERNEL_PAGES, SPARE: u32(0x64)}),
)  # fmt: skip

DEBUG_H = "h: report dword [rsp]; mov rbx, dr6; and ebx, 0xE00F; report ebx;"
DEBUG = (
    M("debug: single step traps after each instruction", "long",
      "pushf; or dword [rsp], 0x100; popf; a: nop; b: nop; c: end;" + DEBUG_H +
      "cmp dword [rsp], c; jne x; and dword [rsp+16], -257; x: iretq",
      ("b", 0x4000, "c", 0x4000), gates={1: Gate("h")}),
    M("debug: single step waits behind mov ss", "long",
      "mov ecx, ss; pushf; or dword [rsp], 0x100; popf; a: mov ss, ecx; b: nop; c: end;"
      + DEBUG_H + "and dword [rsp+16], -257; iretq",
      ("c", 0x4000), gates={1: Gate("h")}),
    M("debug: iretq with TF steps one instruction", "long",
      "mov rbx, rsp; push 0x10; push rbx; push 0x102; push 8; push a; iretq; a: nop; b: nop; end;"
      + DEBUG_H + "and dword [rsp+16], -257; iretq",
      ("b", 0x4000), gates={1: Gate("h")}),
    M("debug: int clears TF for the handler", "long",
      "pushf; or dword [rsp], 0x100; popf; a: int 0x40; b: nop; c: end;"
      "k: report 0x40; and dword [rsp+16], -257; iretq;" + DEBUG_H + "end",
      (0x40,), gates={1: Gate("h"), 0x40: Gate("k")}),
    M("debug: instruction breakpoint is a fault, RF passes it", "long",
      "a: nop; b: nop; c: end;" + DEBUG_H + "or dword [rsp+16], 0x10000; iretq",
      ("b", 1), gates={1: Gate("h")}, dr={0: "b", 7: 0x402}),
    M("debug: write watchpoint is a trap", "long",
      "mov eax, [DATA_]; a: mov dword [DATA_], 5; b: nop; end;" + DEBUG_H + "iretq",
      ("b", 1), gates={1: Gate("h")}, dr={0: DATA, 7: 0xD0402}, memory={DATA: u32(5)}),
    M("debug: read-write watchpoint of another register", "long",
      "mov eax, [DATA_+4]; a: mov al, [DATA_+7]; b: nop; end;" + DEBUG_H + "iretq",
      ("a", 4, "b", 4), gates={1: Gate("h")}, dr={2: DATA + 4, 7: 0x400 | 0x20 | 0xF << 24}),
    M("debug: icebp", "long", "a: icebp; b: end; h: report dword [rsp]; iretq", ("b",),
      gates={1: Gate("h")}),
    M("debug: general detect", "long",
      "mov eax, 0x2400; mov dr7, rax; b: mov rax, dr0; c: end;" + DEBUG_H +
      "mov rax, dr7; report eax; end",
      ("b", 0x2000, 0x400), gates={1: Gate("h")}),
    M("debug: dr4 with CR4.DE", "long", "b: mov rax, dr4; end", (Fault(6, "b"),), cr4=DE),
    M("debug: dr4 is dr6 without CR4.DE", "long", "hex 0f21e0; report eax; end", (0xFFFF0FF0,)),
)  # fmt: skip

CODE_ROWS = (
    M("code: store into code ahead", "long",
      "mov byte [p+1], 0x55; jmp p; p: mov al, 0x11; movzx ebx, al; report ebx; end", (0x55,)),
    M("code: store into the next instruction", "long",
      "mov byte [p+1], 7; p: mov bl, 1; movzx ebx, bl; report ebx; end", (7,)),
    M("code: a loop rewrites its own body", "long",
      "mov ecx, 3; l: p: mov bl, 1; movzx ebx, bl; report ebx; inc byte [p+1]; dec ecx; jne l;"
      "end", (1, 2, 3)),
    M("code: store through another mapping", "long",
      "call p; inc byte [SPARE_+p-0xC000+1]; call p; end;"
      "p: mov bl, 1; movzx ebx, bl; report ebx; ret", (1, 2),
      poke={pte(SPARE): entry(CODE, 7)}),
    M("code: rep movsb over code", "long",
      "call p; mov esi, n; mov edi, p; mov ecx, 2; rep movsb; call p; end;"
      "n: mov bl, 9; p: mov bl, 1; movzx ebx, bl; report ebx; ret", (1, 9)),
    M("code: another page behind the same address", "long",
      "mov dword [SPARE_], 0xC301B3; mov dword [SPARE_+0x1000], 0xC302B3; xor ebx, ebx;"
      "mov esi, SPARE_; call rsi; report ebx; mov dword [PT_+0x80], 0x11007; invlpg [SPARE_];"
      "call rsi; report ebx; end", (1, 2)),
    M("code: instruction longer than 15 bytes", "long",
      "b: hex 66666666666666666666666666666690; end", (Fault(13, "b", 0),)),
    M("code: cpuid and wbinvd are allowed in ring 0", "long",
      "xor eax, eax; cpuid; wbinvd; report 1; end", (1,)),
)  # fmt: skip

MEMORY_ROWS = (*ATOMIC, *STRINGS, *PAGING, *DEBUG, *CODE_ROWS)
