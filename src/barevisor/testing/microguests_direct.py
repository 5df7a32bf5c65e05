"""Rows for `microguests` of user code that can run directly: a 64-bit program of ring 3 in the
state that Linux gives its own, and what must bring its kernel, or the engine, back in.
"""

from __future__ import annotations

from typing import Any

from barevisor.testing.micro import (
    CODE,
    PML4,
    SPARE,
    USER_STACK,
    Expected,
    Fault,
    Gate,
    MicroGuest,
    entry,
    pte,
)

FSGSBASE, OSXSAVE, WP, NXE = 1 << 16, 1 << 18, 1 << 16, 1 << 11
START = (
    "xor ecx, ecx; mov eax, 7; xor edx, edx; xsetbv; {}; push UDATA; push USTACK_; push 0x202;"
    "push UCODE64; push u; iretq; u: "
)
"""Ring 3 with interrupts on, all of x87, SSE and AVX, and null data segments."""
GP, UD = Fault(13, "b", 0), Fault(6, "b")
OTHER, ALIAS, FAR = SPARE + 0x1000, SPARE + 0x4000, SPARE + 0x8000
AT, PTE_AT = f"{SPARE:#x}", f"{pte(SPARE):#x}"
GLOBAL = 0x100
ADD1, ADD256 = bytes.fromhex("4183c701c3"), bytes.fromhex("4181c700010000c3")
"""add r15d, 1 or 0x100; ret"""
TURN = f"xor byte [{pte(SPARE) + 1:#x}], 0x10; invlpg [rbx]"
"""Another page at SPARE: TWIN."""
TWIN = SPARE ^ 0x1000
YMM1, FROM_YMM1 = "hex c5f96ec8; hex c4e37518c901", "hex c4e37d19cb01; hex c5f97ed8"
"""EAX in both halves of YMM1; and EAX from its upper half."""
HIGH, TABLES = 0x2345 << 32, SPARE + 0x10000


def direct(
    name: str, user: str, expect: tuple[Expected, ...] = (), kernel: str = "k: end",
    before: str = "nop", gates: dict[int, Gate] | None = None, **fields: Any,
) -> MicroGuest:  # fmt: skip
    """`user` in ring 3, after `before` in ring 0; INT 80h calls `kernel`."""
    return MicroGuest(
        f"direct: {name}", "long", f"{START.format(before)}{user}; int 0x80; {kernel}", expect,
        gates={0x80: Gate("k", dpl=3)} | (gates or {}), cr4=FSGSBASE | OSXSAVE,
        not_emulated="lacks much of this", not_nested="lacks much of this", **fields,
    )  # fmt: skip


def calls(name: str, user: str, total: int, each: str, **fields: Any) -> MicroGuest:
    """`user` two hundred times, with INT 80h in it that does `each`; R15 is `total` in the end."""
    loop = f"mov ebp, 200; mov ebx, {AT}; l: {user}; dec ebp; jne l; mov r14d, 1"
    kernel = f"k: test r14d, r14d; jne e; {each}; iretq; e: report r15d; end"
    return direct(name, loop, (total,), kernel, **fields)


REGISTERS = (
    direct("registers reach the kernel",
           "mov eax, 1; mov ecx, 2; mov edx, 3; mov ebx, 4; mov ebp, 5; mov esi, 6; mov edi, 7;"
           "mov r8d, 8; mov r9d, 9; mov r10d, 10; mov r11d, 11; mov r12d, 12; mov r13d, 13;"
           "mov r14d, 14; mov r15, -15",
           (*range(1, 15), 0xFFFFFFF1, 0xFFFFFFFF, USER_STACK),
           "k: out 0x10, eax; report ecx; report edx; report ebx; report ebp; report esi;"
           "report edi; report r8d; report r9d; report r10d; report r11d; report r12d;"
           "report r13d; report r14d; report64 r15; report dword [rsp+24]; end"),
    direct("flags reach the kernel, and come back",
           "stc; std; int 0x80; pushf; pop rsi; mov edi, 1", (0x603, 0x602 | 0x80),
           "k: cmp edi, 1; je e; report dword [rsp+16]; mov qword [rsp+16], 0x682;"
           "iretq; e: and esi, 0xFFFF; report esi; end"),
    direct("alignment checks with CR0.AM", f"pushf; or qword [rsp], 0x40000; popf; mov ebx, {AT};"
           "b: mov eax, [rbx+1]", (Fault(17, "b", 0),), cr0=1 << 18),
    direct("alignment is not checked without CR0.AM",
           f"pushf; or qword [rsp], 0x40000; popf; mov ebx, {AT}; mov eax, [rbx+1]"),
    direct("bases of FS and GS", "mov eax, 0x1234; hex f3480faed0; mov eax, 0x5678; hex f3480faed8",
           (0x1234, 0x5678), "k: hex f3480faec0; report eax; hex f3480faec8; report eax; end"),
    direct("what the kernel writes to the base of FS", "int 0x80; mov esi, fs:[8]; mov edi, 1",
           (77,), f"k: cmp edi, 1; je e; mov eax, {AT}; hex f3480faed0; mov dword [rax+8], 77;"
           "iretq; e: report esi; end"),
    direct("selectors that user code loads", "mov eax, UDATA; mov ds, ax; mov es, ax",
           (0x2B, 0x2B), "k: mov eax, ds; report eax; mov eax, es; report eax; end"),
    direct("a selector that the tables do not have", "mov eax, 0x6B; b: mov ds, ax",
           (Fault(13, "b", 0x68),)),
    direct("x87 and vector registers",
           f"hex d9e8; mov eax, 0x1111; {YMM1}; int 0x80; {FROM_YMM1}; mov esi, eax; mov edi, 1",
           (0x1111, 0x3F800000, 0x2222),
           f"k: cmp edi, 1; je e; {FROM_YMM1}; out 0x10, eax; mov ebx, {AT}; hex d91b;"
           f"report dword [rbx]; mov eax, 0x2222; {YMM1}; iretq; e: report esi; end"),
    direct("MXCSR and the x87 control word", f"mov ebx, {AT}; mov dword [rbx], 0x3F80;"
           "hex 0fae13; mov dword [rbx], 0x27F; hex d92b; mov dword [rbx], 0",
           (0x3F80, 0x27F), f"k: mov ebx, {AT}; hex 0fae1b; report dword [rbx];"
           "mov dword [rbx], 0; hex d93b; report dword [rbx]; end"),
)  # fmt: skip
STOPS = (
    direct("an undefined instruction", "b: hex 0f0b", (UD,)),
    direct("a division by zero", "xor ecx, ecx; b: div ecx", (Fault(0, "b"),)),
    *(direct(f"{text} is privileged", f"b: {text}", (GP,))
      for text in ("hlt", "cli", "in al, 0x60", "invlpg [rbx]", "mov rax, cr0")),
    direct("an address that is not canonical", "mov rbx, 0x8000000000000000; b: mov eax, [rbx]",
           (GP,)),
    direct("an interrupt without a gate for it", "b: int 0x40", (Fault(13, "b", 0x40 * 8 + 2),)),
    direct("int3", "int3; a: nop", ("a",), "k: report dword [rsp]; end",
           gates={3: Gate("k", dpl=3)}),
    direct("int 3 in two bytes", "hex cd03; a: nop", ("a",), "k: report dword [rsp]; end",
           gates={3: Gate("k", dpl=3)}),
    direct("int3 at the start of a page", f"mov esi, {AT}; jmp rsi", (SPARE + 1,),
           "k: report dword [rsp]; end", gates={3: Gate("k", dpl=3)}, poke={SPARE: b"\xcc"}),
    direct("int3 at the end of a page", f"mov esi, {FAR - 1}; jmp rsi", (FAR,),
           "k: report dword [rsp]; end", gates={3: Gate("k", dpl=3)},
           poke={FAR - 1: b"\xcc", pte(FAR): entry(FAR, 6)}),
    direct("int1", "hex f1; a: nop", ("a",), "k: report dword [rsp]; end", gates={1: Gate("k")}),
    direct("a single step that it asked for", "pushf; or qword [rsp], 0x100; popf; nop; a: nop",
           ("a", 0x4000), "k: report dword [rsp]; mov rax, dr6; and eax, 0xE00F; report eax; end",
           gates={1: Gate("k")}),
    direct("syscall and sysret", "stc; syscall; a: mov edi, 1", ("a", 0x203, 1),
           "s: cmp edi, 1; je k; report ecx; report r11d; mov ecx, a; mov r11d, 0x202; sysretq;"
           "k: report edi; end",
           "writemsr 0xC0000081,0,0x230008; writemsr 0xC0000082,s,0; writemsr 0xC0000084,0x300,0"),
    direct("an iret within ring 3", "push UDATA; push USTACK_-64; push 0x203; push UCODE64; push a;"
           "iretq; hlt; a: nop", (USER_STACK - 64, 1), "k: report dword [rsp+24];"
           "mov eax, [rsp+16]; and eax, 1; report eax; end"),
    direct("a far return to 32-bit code", "push UCODE32; push c; hex 48cb; bits 32;"
           "c: xor ebx, ebx; hex 43; int 0x80; bits 64; nop", (1, 0x23),
           "k: report ebx; report dword [rsp+8]; end"),
    direct("a timer's interrupts in a loop", "l: inc ebx; jmp l", (1,),
           "k: cmp ebx, 100000; ja e; mov eax, LAPIC_; mov dword [rax+0xB0], 0;"
           "mov dword [rax+0x380], 100000; iretq; e: report 1; end",
           "mov ebx, LAPIC_; mov dword [rbx+0xF0], 0x1FF; mov dword [rbx+0x3E0], 0xB;"
           "mov dword [rbx+0x320], 0x40; mov dword [rbx+0x380], 100000; xor ebx, ebx",
           gates={0x40: Gate("k")}, irqchip=True),
)  # fmt: skip
SENSITIVE = (
    direct("cpuid", "mov eax, 1; cpuid; mov edi, ebx", (0,),
           "k: sub edi, r12d; report edi; end", "mov eax, 1; cpuid; mov r12d, ebx"),
    direct("cpuid across two pages", f"mov eax, 1; mov esi, {FAR + 0xFFF}; call rsi; mov edi, ebx",
           (0,), "k: sub edi, r12d; report edi; end", "mov eax, 1; cpuid; mov r12d, ebx",
           poke={FAR + 0xF00: b"\x90" * 255 + b"\x0f", FAR + 0x1000: b"\xa2\xc3"}),
    direct("rdtsc", "rdtsc; mov esi, edx; hex 0f01f9", (0x100, 0x100, 0x55),
           "k: report esi; report edx; report ecx; end",
           "writemsr 0x10,0,0x100; writemsr 0xC0000103,0x55,0"),
    direct("rdtsc and rdtscp of a TSC that nobody moved", "rdtsc; mov esi, eax; mov edi, edx;"
           "hex 0f01f9; mov ebp, ecx", (1, 0x55),
           "k: shl rdi, 32; or rdi, rsi; shl rdx, 32; or rdx, rax; mov rsi, rdx; rdtsc;"
           "shl rdx, 32; or rax, rdx; cmp rdi, r12; setae cl; cmp rsi, rdi; setae ch; and cl, ch;"
           "cmp rax, rsi; setae ch; and cl, ch; movzx eax, cl; out 0x10, eax; report ebp; end",
           "writemsr 0xC0000103,0x55,0; rdtsc; shl rdx, 32; or rax, rdx; mov r12, rax"),
    calls("rdtsc of a TSC that is moved at each call", "rdtsc; cmp edx, r13d; sete al;"
          "movzx eax, al; add r15d, eax; int 0x80", 199,
          "inc r13d; writemsr 0x10,0,r13d", before="mov r13d, 0x7777"),
    direct("rdpid", "hex f30fc7fb", (0x55,), "k: report ebx; end", "writemsr 0xC0000103,0x55,0",
           model="max"),
    direct("lsl, lar, verr and verw", "mov eax, TSS_SEL+3; xor ebx, ebx; hex 0f03d8; setz cl;"
           "mov eax, UCODE64; xor esi, esi; hex 0f02f0; hex 0f00e0; setz ch; hex 0f00e8; setz dl",
           (0, 0xAFFB00, 0x100, 0),
           "k: report ebx; and esi, 0xF0FF00; or esi, 0xF0000; report esi; movzx eax, cx;"
           "out 0x10, eax; movzx eax, dl; out 0x10, eax; end"),
    direct("str, sldt, smsw, sgdt and sidt", f"mov ebx, {AT}; str ecx; hex 0f00c6; smsw edi;"
           "sgdt [rbx]; sidt [rbx+16]", (0x48, 0, 1, 0x7F, 0xFFF),
           "k: report ecx; report esi; and edi, 1; report edi; movzx eax, word [rbx];"
           "out 0x10, eax; movzx eax, word [rbx+16]; out 0x10, eax; end"),
    direct("xgetbv", "xor ecx, ecx; xgetbv", (7,), "k: out 0x10, eax; end"),
    direct("a hypercall", "mov eax, 5; hex 0f01c1", (0xFFFFFFFF,), "k: out 0x10, eax; end"),
    direct("sensitive bytes in a displacement", "mov ebx, 5; jmp c; b: inc ebx; c: cmp ebx, 6;"
           "hex 0f8400000000; test ebx, [rbx*0+0xA20F]", (5,), "k: report ebx; end"),
)  # fmt: skip
PAGES = (
    *(direct(f"{name}", f"mov ebx, {AT}; b: {text}", (Fault(14, "b", error, SPARE),),
             poke={pte(SPARE): entry(SPARE, flags)}, cr0=WP)
      for name, text, flags, error in (
          ("a load from a page that is not present", "mov eax, [rbx]", 6, 4),
          ("a store to a page that is not present", "mov [rbx], eax", 6, 6),
          ("a store to a read-only page", "mov [rbx], eax", 5, 7),
          ("a store to a read-only page that is dirty", "mov [rbx], eax", 0x65, 7),
          ("a load from a page of the kernel", "mov eax, [rbx]", 3, 5),
          ("a read-modify-write of a read-only page", "lock inc dword [rbx]", 5, 7),
      )),
    direct("a jump to a page that may not execute", f"mov ebx, {AT}; jmp rbx",
           (SPARE, 0x15), "g: report dword [rsp+8]; report dword [rsp]; end; k: nop", efer=NXE,
           gates={14: Gate("g")}, poke={pte(SPARE): entry(SPARE, 7 | 1 << 63)}),
    direct("a call of where the host has its vsyscalls", "mov rax, 0xFFFFFFFFFF600400; call rax",
           (Fault(14, 0xFF600400, 0x14, 0xFF600400),)),
    direct("a load across into a page that is not present",
           f"mov ebx, {OTHER - 2}; b: mov eax, [rbx]", (Fault(14, "b", 4, OTHER),),
           poke={pte(OTHER): entry(OTHER, 6)}),
    direct("the kernel brings a page, and the access is made again",
           f"mov ebx, {AT}; mov dword [rbx], 7; mov esi, [rbx]", (6, 7),
           f"g: report dword [rsp]; or byte [{PTE_AT}], 1; add rsp, 8; iretq;"
           "k: report esi; end", gates={14: Gate("g")}, poke={pte(SPARE): entry(SPARE, 6)}),
    direct("accessed and dirty", f"mov ebx, {AT}; mov eax, [rbx]; int 0x80; mov [rbx], eax;"
           "int 0x80; mov edi, 1", (0x27, 0x67),
           f"k: cmp edi, 1; je e; movzx eax, byte [{PTE_AT}]; out 0x10, eax; iretq; e: end"),
    direct("a page at the end of what user code can have",
           f"mov rbx, {(1 << 47) - 0x2000}; mov dword [rbx+0xFFC], 9; mov esi, [rbx+0xFFC]", (9,),
           "k: report esi; end",
           poke={PML4 + 255 * 8: entry(TABLES, 7), TABLES + 511 * 8: entry(TABLES + 0x1000, 7),
                 TABLES + 0x1000 + 511 * 8: entry(TABLES + 0x2000, 7),
                 TABLES + 0x2000 + 510 * 8: entry(SPARE, 7)}),
    direct("a page between heap and libraries", f"mov rbx, {HIGH}; mov dword [rbx], 9;"
           f"mov esi, [{AT}]", (9,), "k: report esi; end",
           poke={PML4 + (HIGH >> 39 & 511) * 8: entry(TABLES, 7),
                 TABLES + (HIGH >> 30 & 511) * 8: entry(TABLES + 0x1000, 7),
                 TABLES + 0x1000 + (HIGH >> 21 & 511) * 8: entry(TABLES + 0x2000, 7),
                 TABLES + 0x2000 + (HIGH >> 12 & 511) * 8: entry(SPARE, 7)}),
    direct("a large page", "mov ebx, 0x234000; mov dword [rbx], 9; mov esi, [rbx]", (9,),
           "k: report esi; end", memory={0x234000: b"\x09\0\0\0"}),
)  # fmt: skip
FLUSHES = (
    calls("another page after invlpg", "add r15d, [rbx]; int 0x80", 100 * 0x101, TURN,
          poke={SPARE: b"\1\0\0\0", TWIN: b"\0\1\0\0"}),
    calls("another page after a load of CR3", "add r15d, [rbx]; int 0x80", 100 * 0x101,
          f"xor byte [{pte(SPARE) + 1:#x}], 0x10; mov rax, cr3; mov cr3, rax",
          poke={SPARE: b"\1\0\0\0", TWIN: b"\0\1\0\0"}),
    calls("another global page after a change of CR4.PGE", "add r15d, [rbx]; int 0x80", 100 * 0x101,
          f"xor byte [{pte(SPARE) + 1:#x}], 0x10; mov rax, cr4; btc eax, 7; mov cr4, rax;"
          "btc eax, 7; mov cr4, rax",
          poke={SPARE: b"\1\0\0\0", TWIN: b"\0\1\0\0", pte(SPARE): entry(SPARE, 7 | GLOBAL)}),
    calls("read-only every other time", "inc dword [rbx]; int 0x80", 100,
          f"xor byte [{PTE_AT}], 2; invlpg [rbx]", cr0=WP, gates={14: Gate("g")},
          before="jmp s; g: inc r15d; add rsp, 8; add qword [rsp], 2; iretq; s: nop"),
    calls("absent every other time", "inc dword [rbx]; int 0x80", 100,
          f"xor byte [{PTE_AT}], 1; invlpg [rbx]", gates={14: Gate("g")},
          before="jmp s; g: inc r15d; add rsp, 8; add qword [rsp], 2; iretq; s: nop"),
    calls("dirty again after the kernel has cleared it", "mov [rbx], eax; int 0x80", 200,
          f"test byte [{PTE_AT}], 0x40; je n; inc r15d; n: and byte [{PTE_AT}], 0xBF;"
          "invlpg [rbx]"),
    calls("accessed again after the kernel has cleared it", "mov eax, [rbx]; int 0x80", 200,
          f"test byte [{PTE_AT}], 0x20; je n; inc r15d; n: and byte [{PTE_AT}], 0xDF;"
          "invlpg [rbx]"),
)  # fmt: skip
CODES = (
    calls("code of another page every other time", "call rbx; int 0x80", 100 * 0x101, TURN,
          poke={SPARE: ADD1, TWIN: ADD256}),
    calls("code that the kernel writes anew", "call rbx; int 0x80", 100 * 4,
          "xor byte [rbx+3], 2", poke={SPARE: ADD1}),
    calls("code that it writes anew itself", "call rbx; xor byte [rbx+3], 2", 100 * 4, "nop",
          poke={SPARE: ADD1}),
    calls("code that it writes anew by another address",
          f"call rbx; xor byte [{ALIAS}+3], 2", 100 * 4, "nop",
          poke={SPARE: ADD1, pte(ALIAS): entry(SPARE, 7)}),
    direct("code that becomes cpuid", f"mov esi, {AT}; call rsi; mov word [rsi], 0xA20F;"
           "mov eax, 1; call rsi; mov edi, ebx", (0,),
           "k: sub edi, r12d; report edi; end", "mov eax, 1; cpuid; mov r12d, ebx",
           poke={SPARE: b"\x90\x90\xc3"}),
    calls("an instruction across two pages", f"mov eax, {FAR + 0xFFC}; call rax; int 0x80", 200,
          "nop", poke={FAR + 0xFFC: bytes.fromhex("4181c701"), FAR + 0x1000: b"\0\0\0\xc3"}),
    calls("data beside code in one page", f"inc dword [{AT}+0x800]; call rbx",
          200, "nop", poke={SPARE: ADD1}),
    direct("it writes the instruction that comes next", "mov byte [b+1], 7; b: mov bl, 1", (7,),
           "k: movzx eax, bl; out 0x10, eax; end"),
    direct("the kernel's page is not its own", f"mov ebx, {CODE}; inc dword [rbx+0xF00]",
           memory={CODE + 0xF00: b"\1\0\0\0"}),
)  # fmt: skip
DIRECT_ROWS: tuple[MicroGuest, ...] = (
    *REGISTERS, *STOPS, *SENSITIVE, *PAGES, *FLUSHES, *CODES
)  # fmt: skip
