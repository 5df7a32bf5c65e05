"""Rows for `microguests` with several CPUs: how they start, interrupt each other, share memory, and
change what the others execute.

CPU 0 starts the others by INIT and SIPI into START, real-mode code that goes on in 64-bit mode at
the row's label `ap`, with the APIC ID in R12, the local APIC in RBX, a stack of its own and
interrupts off. Each counts itself at READY when it is. Expected results come from the SDM; what a
CPU may see of another's stores from its "Memory Ordering" and "Handling Self- and Cross-Modifying
Code".
"""

from __future__ import annotations

import re

from barevisor.testing.asm import assemble
from barevisor.testing.micro import MACROS, PML4, SPARE, SYMBOLS, Gate, MicroGuest, pte
from barevisor.testing.microguests_conform import APIC_ON

START = 0x6000
STACKS = 0x28000
READY, GO, SUM, BAD, PUBLISHED, ROUNDS, COUNTS = (SPARE + 4 * n for n in range(7))
CELLS = SPARE + 0x100
CODE_PAGE = SPARE + 0x2000
FUNCTION = CODE_PAGE + 3
WINDOW, FRAMES = 0x1F000, 0x1C000

NAMES = {
    "READY": READY, "GO": GO, "SUM": SUM, "BAD": BAD, "PUBLISHED": PUBLISHED, "ROUNDS": ROUNDS,
    "COUNTS": COUNTS, "CELLS": CELLS, "FUNCTION": FUNCTION, "WINDOW": WINDOW, "FRAMES": FRAMES,
    "WINDOW_PTE": pte(WINDOW), "STACKS": STACKS, "CODE_PAGE": CODE_PAGE,
}  # fmt: skip

REAL_TO_LONG = """cli; xor eax, eax; mov ds, ax; mov ss, ax; lgdt [g]; mov eax, 0x620; mov cr4, eax
    mov eax, PML4_; mov cr3, eax; mov ecx, 0xC0000080; mov eax, 0x901; xor edx, edx; wrmsr
    mov eax, 0x80010033; mov cr0, eax; jmp CODE64:dword l; g: dw 0x7F; dd GDT_; i: dw 0xFFF; dq IDT_
    bits 64
    l: mov eax, DATA; mov ds, eax; mov es, eax; mov ss, eax; lidt [i]; mov ebx, LAPIC_
    mov dword [rbx+0xF0], 0x1FF; mov dword [rbx+0x350], 0x10000; mov r12d, [rbx+0x20]; shr r12d, 24
    mov esp, r12d; shl esp, 11; add esp, STACKS; jmp ap"""

ALL_BUT_SELF = 0xC4000
BOOT = (
    APIC_ON + "xor r12d, r12d; mov dword [rbx+0x300], 0xC4500; mov dword [rbx+0x300], 0xC4606\n"
    "s0: pause; cmp dword [READY], 3; jne s0\n"
)
READY_NOW = "lock inc dword [READY]\n"
SLEEP = "z: hlt; jmp z\n"
COUNT = "lock inc byte [COUNTS+r12]; mov dword [rbx+0xB0], 0; lock inc dword [SUM]; iretq\n"


def smp(name: str, text: str, *expect: int, gates: dict[int, Gate] | None = None) -> MicroGuest:
    """A row of four CPUs whose `text` runs on CPU 0 once the others are ready."""
    text = re.sub(r"\b[A-Z_]+\b", lambda m: str(NAMES.get(m[0], m[0])), text)
    boot = BOOT.replace("READY", str(READY))
    return MicroGuest(
        f"smp: {name}", "long", boot + text, expect, irqchip=True, cpus=4, gates=gates or {},
        poke={START: _start},
    )  # fmt: skip


def _start(labels: dict[str, int]) -> bytes:
    names = {**SYMBOLS, "ap": labels["ap"], "STACKS": STACKS, "PML4_": PML4}
    return assemble(REAL_TO_LONG, START, 16, names, MACROS).code


_labels = iter(range(1000))


def send(low: int, total: int, dest: int = 0) -> str:
    """An IPI by the xAPIC, and wait until SUM is `total`."""
    label = f"p{next(_labels)}"
    return (
        f"mov dword [rbx+0x310], {dest << 24}; mov dword [rbx+0x300], {low:#x};"
        f"{label}: pause; cmp dword [SUM], {total}; jne {label};"
    )


def send2(low: int, total: int, dest: int = 0) -> str:
    """The same by x2APIC."""
    label = f"p{next(_labels)}"
    return f"writemsr 0x830,{low:#x},{dest}; {label}: pause; cmp dword [SUM], {total}; jne {label};"


def each_round(rounds: int, prepare: str) -> str:
    """`prepare` (EBP is the round, from 1), then an IPI that all others answer in SUM, then the
    round is PUBLISHED; in the end what the others found BAD is reported."""
    return (
        f"mov ebp, 1; r: {prepare}; mov dword [rbx+0x300], {ALL_BUT_SELF | 0x40:#x};"
        "lea ecx, [rbp+rbp*2]; r1: pause; cmp [SUM], ecx; jne r1; mov [PUBLISHED], ebp; inc ebp;"
        f"cmp ebp, {rounds}; jbe r; mov dword [GO], 1; r2: pause; cmp dword [READY], 6; jne r2;"
        "report dword [BAD]; xor eax, eax; cmp dword [ROUNDS], 0; setne al; report eax; end;"
    )


def checker(read: str) -> str:
    """The others: EAX as `read` finds it is never older than what was PUBLISHED before."""
    return (
        f"ap: {READY_NOW} sti; c: mov esi, [PUBLISHED]; {read}; cmp eax, esi; jae c1;"
        "lock inc dword [BAD]; c1: lock inc dword [ROUNDS]; cmp dword [GO], 0; je c; cli;"
        f"lock inc dword [READY]; {SLEEP}"
    )


COUNTERS = """work: mov r13d, 3000; mov esi, CELLS
    k: lock inc qword [rsi]; mov eax, 1; lock xadd [rsi+0x40], eax
    mov eax, [rsi+0x80]; k1: lea ecx, [rax+1]; lock cmpxchg [rsi+0x80], ecx; jne k1
    mov rax, [rsi+0xC0]; mov rdx, [rsi+0xC8]
    k2: lea rbp, [rax+1]; lea rcx, [rdx+1]; push rbx; mov rbx, rbp; lea rdi, [rsi+0xC0]
    hex f0480fc70f; pop rbx; jne k2
    k3: mov eax, 1; xchg [rsi+0x100], eax; test eax, eax; jne k4; inc dword [rsi+0x140]
    mov dword [rsi+0x100], 0; jmp k5; k4: pause; jmp k3
    k5: lock add dword [rsi+0x1BE], 1; lock inc dword [cell]
    k6: lock bts dword [rsi+0x200], 0; jb k6; inc dword [rsi+0x240]; lock btr dword [rsi+0x200], 0
    dec r13d; jne k; mov r13d, 100; mov esi, SPARE_+0x1FFE
    k7: lock add dword [rsi], 1; dec r13d; jne k7; ret; cell: dd 0
"""

BROADCASTS = (
    send(0x40, 1, 2) + "report dword [COUNTS];"
    + send(0x840, 3, 0b1010) + "report dword [COUNTS];"
    + send(ALL_BUT_SELF | 0x40, 6) + "report dword [COUNTS];"
    + send(0x84040, 10) + "report dword [COUNTS];"
    + send(0x40, 14, 0xFF) + "report dword [COUNTS];"
    + send(0x940, 15, 0xF) + "report dword [SUM]; end;"
)  # fmt: skip

SMP_ROWS = (
    smp("INIT and SIPI start the others in real mode at the vector's page",
        "report dword [READY]; report dword [SUM]; end;"
        f"ap: mov ecx, r12d; mov eax, 1; shl eax, cl; lock or [SUM], eax; {READY_NOW} {SLEEP}",
        3, 0xE),
    smp("INIT stops a CPU that spins, SIPI starts it again, one that runs ignores SIPI",
        "mov dword [rbx+0x310], 0x1000000; mov dword [rbx+0x300], 0x4606;"
        "mov dword [rbx+0x300], 0x4500; mov dword [rbx+0x300], 0x8500;"
        "mov dword [rbx+0x300], 0x4606; t: pause; cmp dword [READY], 4; jne t;"
        "report dword [COUNTS]; end;"
        f"ap: lock inc byte [COUNTS+r12]; {READY_NOW} y: pause; jmp y", 0x01010200),
    smp("IPIs: physical, flat logical, shorthands, broadcast, lowest priority",
        "mov dword [rbx+0xD0], 0x1000000; sti;" + BROADCASTS +
        f"ap: mov ecx, r12d; mov eax, 0x1000000; shl eax, cl; mov [rbx+0xD0], eax; {READY_NOW} sti;"
        + SLEEP + "h: " + COUNT,
        0x10000, 0x1010100, 0x2020200, 0x3030301, 0x4040402, 15, gates={0x40: Gate("h")}),
    smp("IPIs: clusters",
        "sti;" + send(0x840, 2, 0x13) + "report dword [COUNTS];" + send(0x840, 3, 0x02) +
        "report dword [COUNTS];" + send(0x840, 7, 0xFF) + "report dword [COUNTS]; end;"
        "ap: mov eax, r12d; shr eax, 1; shl eax, 4; mov ecx, r12d; and ecx, 1; mov edx, 1;"
        "shl edx, cl; or eax, edx; shl eax, 24; mov dword [rbx+0xE0], 0x0FFFFFFF;"
        f"mov [rbx+0xD0], eax; cmp r12d, 0; je go; {READY_NOW} sti; {SLEEP} h: " + COUNT +
        "go: ret", 0x1010000, 0x1010100, 0x2020201, gates={0x40: Gate("h")}),
    smp("IPIs: x2APIC",
        "writemsr 0x1B,0xFEE00D00,0; sti;" + send2(0x40, 1, 3) + "report dword [COUNTS];" +
        send2(0x840, 3, 0b0110) + "report dword [COUNTS];" + send2(ALL_BUT_SELF | 0x40, 6) +
        "report dword [COUNTS];" + send2(0x40, 10, 0xFFFFFFFF) + "report dword [COUNTS];"
        "writemsr 0x83F,0x40,0; q: cmp dword [SUM], 11; jne q; report dword [COUNTS]; end;"
        f"ap: writemsr 0x1B,0xFEE00C00,0; {READY_NOW} sti; {SLEEP}"
        "h: push rax; push rcx; push rdx; lock inc byte [COUNTS+r12]; writemsr 0x80B,0,0;"
        "lock inc dword [SUM]; pop rdx; pop rcx; pop rax; iretq",
        0x1000000, 0x1010100, 0x2020200, 0x3030301, 0x3030302, gates={0x40: Gate("h")}),
    smp("NMIs wake halted CPUs, interrupts off",
        "mov ebp, 3; n: mov dword [rbx+0x300], 0xC4400; n1: pause; cmp [SUM], ebp; jne n1;"
        "add ebp, 3; cmp ebp, 60; jbe n; report dword [COUNTS]; end;"
        f"ap: {READY_NOW} {SLEEP}"
        "h: lock inc byte [COUNTS+r12]; lock inc dword [SUM]; iretq",
        0x14141400, gates={2: Gate("h")}),
    smp("locked instructions are atomic, across lines and pages and among code",
        "mov dword [GO], 1; call work; lock inc dword [READY];"
        "x: pause; cmp dword [READY], 7; jne x; mov esi, CELLS; report dword [rsi];"
        "report dword [rsi+0x40]; report dword [rsi+0x80]; report dword [rsi+0xC0];"
        "report dword [rsi+0xC8]; report dword [rsi+0x140]; report dword [rsi+0x1BE];"
        "report dword [rsi+0x240]; report dword [cell]; report dword [SPARE_+0x1FFE]; end;"
        f"ap: {READY_NOW} a: pause; cmp dword [GO], 1; jne a; call work; lock inc dword [READY];"
        + SLEEP + COUNTERS, *(12000,) * 9, 400),
    smp("TSCs agree, whoever is started anew meanwhile",
        "mov dword [rbx+0x310], 0x1000000; mov ebp, 20; i: mov dword [rbx+0x300], 0x4500;"
        "mov dword [rbx+0x300], 0x4606; mov r14d, 300; j: call look; dec r14d; jne j; dec ebp;"
        "jne i;"
        "report dword [BAD]; cmp dword [ROUNDS], 6000; setae al; movzx eax, al; report eax; end;"
        f"ap: {READY_NOW} cmp r12d, 1; je idle; look1: call look; jmp look1; idle: pause; jmp idle;"
        "look: cli; mov eax, 1; xchg [SUM], eax; test eax, eax; jne busy; hex 0faee8; rdtsc;"
        "shl rdx, 32; or rax, rdx; cmp rax, [CELLS]; jae after; inc dword [BAD];"
        "after: mov [CELLS], rax; inc dword [ROUNDS]; mov dword [SUM], 0; ret;"
        "busy: pause; jmp look", 0, 1),
    smp("TLBs: nobody sees the old page once all have answered",
        each_round(40, "mov eax, ebp; and eax, 1; shl eax, 12; add eax, FRAMES; mov [rax], ebp;"
                   "or eax, 7; mov [WINDOW_PTE], eax; invlpg [WINDOW]")
        + checker("mov eax, [WINDOW]")
        + "h: invlpg [WINDOW]; mov dword [rbx+0xB0], 0; lock inc dword [SUM]; iretq",
        0, 1, gates={0x40: Gate("h")}),
    smp("code that another CPU changed, behind an interrupt",
        "mov dword [FUNCTION], 0xB8; mov byte [FUNCTION+5], 0xC3;"
        + each_round(40, "mov [FUNCTION+1], ebp")
        + checker("mov eax, FUNCTION; cmp esi, 0; je c1; call rax")
        + "h: push rax; push rbx; push rcx; push rdx; cpuid; pop rdx; pop rcx; pop rbx; pop rax;"
        "mov dword [rbx+0xB0], 0; lock inc dword [SUM]; iretq",
        0, 1, gates={0x40: Gate("h")}),
    smp("code that another CPU changes while it runs",
        "mov byte [FUNCTION], 0xB8; mov byte [FUNCTION+5], 0xC3; mov dword [FUNCTION+1], 0;"
        "mov ebp, 1; r: mov [FUNCTION+1], ebp; mov [PUBLISHED], ebp; inc ebp; cmp ebp, 3000; jbe r;"
        "mov dword [GO], 1; r2: pause; cmp dword [READY], 6; jne r2; report dword [BAD]; end;"
        + checker("mov eax, FUNCTION; cmp esi, 0; je c1; call rax"), 0),
    smp("code and data in one page: each stores beside what all run",
        "mov byte [FUNCTION], 0xB8; mov dword [FUNCTION+1], 7; mov byte [FUNCTION+5], 0xC3;"
        "mov dword [GO], 1; call work; y: pause; cmp dword [READY], 6; jne y; report dword [BAD];"
        "report dword [CODE_PAGE+0x80]; report dword [CODE_PAGE+0x84]; end;"
        "work: mov r13d, 3000; mov esi, FUNCTION; v: call rsi; cmp eax, 7; je v1;"
        "lock inc dword [BAD]; v1: inc dword [CODE_PAGE+0x80+r12*4]; dec r13d; jne v; ret;"
        f"ap: {READY_NOW} a: pause; cmp dword [GO], 1; jne a; call work; lock inc dword [READY];"
        + SLEEP, 0, 3000, 3000),
    smp("NMIs of two CPUs at once are both taken",
        "mov ebp, 1; sti; r: mov dword [SUM], 0; mov [GO], ebp; mov dword [rbx+0x310], 0;"
        "mov dword [rbx+0x300], 0x4400; r1: pause; cmp [PUBLISHED], ebp; jne r1;"
        "cmp dword [SUM], 2; je r2; inc dword [BAD]; r2: inc ebp; cmp ebp, 500; jbe r;"
        "report dword [BAD]; end; n: inc dword [SUM]; iretq;"
        "h: push rax; mov eax, [GO]; mov [PUBLISHED], eax; mov dword [rbx+0xB0], 0; pop rax; iretq;"
        f"ap: {READY_NOW} cmp r12d, 1; jne z; mov edi, 1; c: pause; cmp [GO], edi; jne c;"
        "mov dword [rbx+0x310], 0; mov dword [rbx+0x300], 0x4400;"
        f"mov dword [rbx+0x300], 0x4041; inc edi; jmp c; {SLEEP}",
        0, gates={2: Gate("n"), 0x41: Gate("h")}),
    smp("CPUs that never answer keep nobody from ending",
        "mov ecx, 20000; e: pause; dec ecx; jne e; report 1; end;"
        f"ap: cli; {READY_NOW} mov esi, SPARE_+0x1FFE; cmp r12d, 2; jb o; je o2;"
        "o3: jmp o3; o2: lock inc dword [rsi]; jmp o2; o: mov edi, SPARE_+0x3000;"
        "mov ecx, 0x1000; rep stosb; jmp o", 1),
)  # fmt: skip
