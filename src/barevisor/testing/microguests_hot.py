"""Rows for `microguests` that do the same many times, each time under other rules: what an engine
remembers of code and pages must not outlive a change of rights, address space or base.
"""

from __future__ import annotations

from barevisor.testing.micro import (
    GDT,
    LAPIC,
    PDPT,
    PML4,
    SPARE,
    Gate,
    MicroGuest,
    descriptor,
    entry,
    pte,
)
from barevisor.testing.microguests_conform import APIC_ON

ROUNDS = 200
WP, PKE, PCIDE = 1 << 16, 1 << 22, 1 << 17
VALUES = (1).to_bytes(4, "little") + (0x100).to_bytes(4, "little")
BOTH = ROUNDS // 2 * 0x101
"""The sum over the rounds of what alternates between the two VALUES."""
HALF = ROUNDS // 2
PF = "g: inc r15d; add rsp, 8; add qword [rsp], 2; iretq"
"""Counts page faults in R15 and steps over an instruction of two bytes."""
OTHER, PDPT1, PD1, PDPT2, PD2 = (SPARE + 0x8000 + 0x1000 * n for n in range(5))
WHERE = 1 << 39 | SPARE
"""Linear address of VALUES[0] by PML4, and of VALUES[1] at 2 MiB + SPARE by OTHER."""
SPACES = {
    PML4 + 8: entry(PDPT1, 7), PDPT1: entry(PD1, 7), PD1: entry(0, 0x87), SPARE: VALUES,
    OTHER: entry(PDPT, 7) + entry(PDPT2, 7), PDPT2: entry(PD2, 7), PD2: entry(0x200000, 0x87),
    0x200000 + SPARE: VALUES[4:],
}  # fmt: skip
INVPCID = "hex 66 0f 38 82 18"  # invpcid rbx, [rax]


ONE, HUNDRED = bytes.fromhex("4183c701c3"), bytes.fromhex("4181c700010000c3")
"""add r15d, 1 or 0x100; ret"""
TWIN = SPARE ^ 0x2000
TWINS = {SPARE: ONE, TWIN: HUNDRED}
"""A page of code, and the one that an exclusive or of its page table entry with 0x2000 brings."""
TURN = f"xor byte [{pte(SPARE) + 1:#x}], 0x20; invlpg [rbx]"
ALIAS = SPARE + 0x2000
"""An address with the low 16 bits of none of the others, for an entry that maps SPARE again."""
FAR_OFF = 1 << 16
"""From a branch target to the next one with its low 16 bits."""


def hot(name: str, before: str, body: str, total: int, rest: str = PF, **fields: object) -> (
    MicroGuest
):  # fmt: skip
    """`body` in a loop over EBP from ROUNDS down to 1; R15 must be `total` in the end."""
    text = f"{before}; mov ebp, {ROUNDS}; l: {body}; dec ebp; jne l; report r15d; end; {rest}"
    fields.setdefault("gates", {14: Gate("g")})
    return MicroGuest(
        f"hot: {name}", "long", text, (total,),
        not_emulated="lacks much of this", not_nested="lacks much of this", **fields,  # type: ignore[arg-type]
    )  # fmt: skip


PTE_AT = f"{pte(SPARE):#x}"
SECOND, OTHER_SECOND = SPARE + 0x1000, SPARE + 0x1000 ^ 0x2000
SECOND_PTE = f"{pte(SECOND):#x}"
ACROSS = {
    SPARE + 0xFFC: bytes.fromhex("4181c701"), SECOND: bytes.fromhex("000000c3"),
    OTHER_SECOND: bytes.fromhex("010000c3"),
}  # fmt: skip
"""add r15d, 1; ret: with one byte of the constant in the first page. Or 0x101, with the other."""
AT = "mov ebx, SPARE_"
PICK = "mov eax, ebp; and eax, 1; shl eax, {}"
"""EAX is 0 or 1 << n by turns."""

HOT_ROWS: tuple[MicroGuest, ...] = (
    hot("a shift by zero keeps flags that a product left undefined", "xor ecx, ecx; mov r8d, 1",
        "test ebp, ebp; imul rsi, rbp, 3; shl r8, cl; jmp n; n: add r15d, r8d", ROUNDS),
    hot("a page is read-only every other time", AT,
        f"xor byte [{PTE_AT}], 2; invlpg [rbx]; mov [rbx], esi", HALF, cr0=WP),
    hot("a page is absent every other time", AT,
        f"xor byte [{PTE_AT}], 1; invlpg [rbx]; mov esi, [rbx]", HALF),
    hot("the second page of an access is absent every other time", "mov ebx, SPARE_+0xFFE",
        f"xor byte [{pte(SPARE + 0x1000):#x}], 1; invlpg [rbx+4]; mov esi, [rbx]", HALF),
    hot("CR0.WP every other time", AT,
        "mov rax, cr0; btc eax, 16; mov cr0, rax; mov [rbx], esi", HALF,
        poke={pte(SPARE): entry(SPARE, 5)}),
    hot("PKRU forbids a key every other time", AT,
        PICK.format(2) + "; xor ecx, ecx; xor edx, edx; hex 0f01ef; mov esi, [rbx]", HALF,
        cr4=PKE, poke={pte(SPARE): entry(SPARE, 7 | 1 << 59)}, model="max"),
    hot("a page of the kernel from ring 3 and ring 0", AT,
        "mov esp, STACK_; push UDATA; push USTACK_; push 2; push UCODE64; push u; iretq;"
        "u: mov esi, [rbx]; int 0x80; k: mov esi, [rbx]", ROUNDS,
        PF + "; h: add rsp, 40; jmp k", poke={pte(SPARE): entry(SPARE, 3)},
        gates={14: Gate("g"), 0x80: Gate("h", dpl=3)}),
    hot("accessed and dirty bits that are cleared are set again", AT,
        f"mov byte [{PTE_AT}], 7; invlpg [rbx]; mov esi, [rbx]; mov al, [{PTE_AT}];"
        f"mov [rbx], esi; mov ah, [{PTE_AT}]; cmp ax, 0x6727; jne n; inc r15d; n: nop", ROUNDS),
    hot("an instruction across two pages", f"mov eax, {SPARE + 0xFFC}", "call rax", ROUNDS,
        poke=ACROSS),
    hot("an instruction across two pages, its end changed every time", f"mov eax, {SPARE + 0xFFC}",
        f"xor byte [{SECOND}], 1; call rax", HALF * 0x102, poke=ACROSS),
    hot("an instruction across two pages, its end another page every other time",
        f"mov eax, {SPARE + 0xFFC}; mov ebx, {SECOND}",
        f"xor byte [{SECOND_PTE}+1], 0x20; invlpg [rbx]; call rax", HALF * 0x102, poke=ACROSS),
    hot("an instruction across two pages, its end absent every other time",
        f"mov eax, {SPARE + 0xFFC}; mov ebx, {SECOND}",
        f"xor byte [{SECOND_PTE}], 1; invlpg [rbx]; call rax", ROUNDS * 0x101,
        f"g: add r15d, 0x100; add rsp, 8; or byte [{SECOND_PTE}], 1; iretq", poke=ACROSS),
    hot("a direct call to a page that is another one every other time", AT,
        f"{TURN}; call SPARE_", HALF * 0x101, poke=TWINS),
    hot("an indirect call to a page that is another one every other time", AT,
        f"{TURN}; call rbx", HALF * 0x101, poke=TWINS),
    hot("a direct jump to a page that is another one every other time", AT,
        f"{TURN}; push b; jmp SPARE_; b: nop", HALF * 0x101, poke=TWINS),
    hot("a direct call to a page that is absent every time", AT,
        f"xor byte [{PTE_AT}], 1; invlpg [rbx]; call SPARE_", ROUNDS * 0x101,
        f"g: add r15d, 0x100; add rsp, 8; or byte [{PTE_AT}], 1; iretq", poke=TWINS),
    hot("a call to code that is written anew every other time", AT,
        "xor byte [rbx+3], 2; call SPARE_", HALF * 4, poke=TWINS),
    hot("one page of code at two addresses", f"mov eax, {ALIAS}",
        "call SPARE_; add r15, rcx; call rax; sub r15, rcx", ROUNDS * (SPARE - ALIAS) & 0xFFFFFFFF,
        poke={SPARE: bytes.fromhex("488d0df9ffffffc3"), pte(ALIAS): entry(SPARE, 7)}),
    hot("two branch targets with the same low 16 bits", f"{AT}; mov eax, {SPARE + FAR_OFF}",
        "call rax; call rbx", ROUNDS * 0x101, poke={SPARE: ONE, SPARE + FAR_OFF: HUNDRED}),
    hot("a target that is not canonical, with the low bits of one that is",
        f"{AT}; mov rcx, [p]; jmp s; p: dq {1 << 62 | SPARE}; s: nop",
        "call rbx; jmp rcx", ROUNDS * 2, "g: inc r15d; add rsp, 8; add qword [rsp], 2; iretq",
        poke=TWINS, gates={13: Gate("g")}),
    hot("a return address that is not canonical, with the low bits of one that is",
        f"{AT}; mov rcx, [p]; jmp s; p: dq {1 << 62 | SPARE}; s: nop",
        "call rbx; push rcx; ret; add rsp, 8", ROUNDS * 2,
        "g: inc r15d; add rsp, 8; inc qword [rsp]; iretq", poke=TWINS, gates={13: Gate("g")}),
    hot("a load across two pages", "mov ebx, SPARE_+0xFFE",
        "mov [rbx], ebp; add r15d, [rbx]", ROUNDS * (ROUNDS + 1) // 2),
    hot("loads of all sizes across two pages", "mov ebx, SPARE_+0xFFF; mov ecx, SPARE_",
        "mov byte [rbx], 1; mov byte [rbx+1], 0x80; movzx eax, word [rbx]; mov r9, [rbx-6];"
        "rol r9, 16; add eax, r9d; hex f30f6f43f2f30f7f01; add eax, [rcx+14]; add r15d, eax",
        ROUNDS * 3 * 0x8001, cr4=3 << 9),
    hot("a load across two pages that are entered for addresses 2 TiB away",
        f"mov ebx, SPARE_; mov rcx, [p]; jmp s; p: dq {1 << 41 | SPARE + 0xFFE}; s: nop",
        "mov esi, [rbx]; mov esi, [rbx+0x1000]; add r15d, [rcx]", ROUNDS, poke={
            PML4 + 32: entry(PDPT1, 7), PDPT1: entry(PD1, 7), PD1: entry(0x200000, 0x87),
            0x200000 + SPARE + 0xFFE: (1).to_bytes(4, "little"),
        }),
    hot("AH to DH with memory", AT,
        "mov eax, 0x1234; mov [rbx], ah; add [rbx], ah; mov edx, 0x24FF; cmp [rbx], dh; jne n;"
        "cmp dh, [rbx]; jne n; mov ch, [rbx]; test [rbx], dh; je n; movzx esi, ch; add r15d, esi;"
        f"mov eax, ebx; mov [rax], ah; cmp byte [rbx], {SPARE >> 8 & 0xFF}; je n;"
        "add r15d, 0x1000; n: nop", ROUNDS * 0x24),
    hot("R9 to R11 in halves, bytes and whole, with flags between", AT,
        "mov r9d, 0x11223344; mov r10, r9; mov r9w, 0x5566; mov r10b, r9b; lea r11, [r9+r10];"
        "cmp r11d, r9d; mov [rbx], r11d; jb n; lea r9d, [r11+r10*2+1]; add r10w, r9w;"
        "adc r11d, 0; mov r9, [rbx]; sub r11d, r9d; add r15d, r11d; add r15d, 1; n: nop",
        ROUNDS * 2),
    hot("two address spaces by turns", f"mov rbx, [p]; jmp s; p: dq {WHERE}; s: nop",
        f"mov rax, cr3; xor rax, {PML4 ^ OTHER}; mov cr3, rax; add r15d, [rbx]", BOTH, poke=SPACES),
    hot("two PCIDs by turns, kept", "mov rbx, [p]; mov r8, [p+8]; mov r9, [p+16]; jmp s;"
        f"p: dq {WHERE}; dq {1 << 63 | PML4 | 1}; dq {1 << 63 | OTHER | 2}; s: nop",
        "test ebp, 1; je e; mov cr3, r8; jmp f; e: mov cr3, r9; f: add r15d, [rbx]", BOTH,
        cr4=PCIDE, poke=SPACES),
    hot("an entry of another PCID that INVPCID forgot",
        "mov rdi, [p]; mov r8, [p+8]; mov r9, [p+16]; jmp s;"
        f"p: dq {WHERE}; dq {1 << 63 | PML4 | 1}; dq {1 << 63 | OTHER | 2}; d: dq 2; dq {WHERE};"
        "s: nop",
        f"mov cr3, r8; xor byte [{PD2 + 2:#x}], 0x20; mov eax, d; xor ebx, ebx; {INVPCID};"
        "mov cr3, r9; add r15d, [rdi]", BOTH, cr4=PCIDE, poke=SPACES),
    hot("a watchpoint every other time", AT,
        "mov rax, dr7; xor eax, 1; mov dr7, rax; mov [rbx], esi", HALF, "t: inc r15d; iretq",
        gates={1: Gate("t")}, dr={0: SPARE, 7: 0xD0400}),
    hot("the base of FS by its MSR", "mov ecx, 0xC0000100; xor edx, edx",
        PICK.format(2) + "; add eax, SPARE_; wrmsr; add r15d, fs:[0]", BOTH, poke={SPARE: VALUES}),
    hot("the base of FS by WRFSBASE", "nop",
        PICK.format(2) + "; add eax, SPARE_; hex f3480faed0; add r15d, fs:[0]", BOTH,
        cr4=1 << 16, poke={SPARE: VALUES}),
    hot("the base of FS by a descriptor", "nop",
        PICK.format(4) + "; add eax, 0x68; mov fs, ax; add r15d, fs:[0]", BOTH,
        poke={SPARE: VALUES, GDT + 0x68: descriptor(SPARE, 0xFFFFF, 0x93, 0xC),
              GDT + 0x78: descriptor(SPARE + 4, 0xFFFFF, 0x93, 0xC)}),
    hot("the base of GS by SWAPGS",
        "writemsr 0xC0000101,SPARE_,0; writemsr 0xC0000102,SPARE_+4,0",
        "swapgs; add r15d, gs:[0]", BOTH, poke={SPARE: VALUES}),
    hot("RAM and a device by turns", f"{AT}; mov esi, {LAPIC + 0x80}; mov byte [rsi], 0",
        "xchg rbx, rsi; mov [rbx], ebp; add r15d, [rbx]", ROUNDS * (ROUNDS + 1) // 2, irqchip=True),
    hot("a division error each time", "nop", "xor ecx, ecx; div ecx", ROUNDS,
        "d: inc r15d; add qword [rsp], 2; iretq", gates={0: Gate("d")}),
    hot("an interrupt to itself each time", APIC_ON + "sti",
        "mov dword [rbx+0x300], 0x40041; nop", ROUNDS,
        "h: inc r15d; mov dword [rbx+0xB0], 0; iretq", gates={0x41: Gate("h")}, irqchip=True),
    hot("the task priority holds an interrupt back each time", APIC_ON + "sti",
        "mov eax, 15; mov cr8, rax; mov dword [rbx+0x300], 0x40041; nop; mov r14d, r15d;"
        "xor eax, eax; mov cr8, rax; nop; sub r14d, r15d; cmp r14d, -1; jne bad", ROUNDS,
        "bad: report 0xBAD; end; h: inc r15d; mov dword [rbx+0xB0], 0; iretq",
        gates={0x41: Gate("h")}, irqchip=True),
)  # fmt: skip
