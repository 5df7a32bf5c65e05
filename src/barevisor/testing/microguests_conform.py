"""Rows for `microguests` of what hypervisor test images look at: the rules of privileged registers,
the order of events, the local APIC's modes, operands in device memory.

Expected results come from the SDM; chapters are named where a rule is easy to miss.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from barevisor.cpu.engine import MmioRead, MmioWrite, PioRead
from barevisor.testing.micro import (
    DATA,
    GDT,
    MMIO,
    PDPT,
    PML4,
    SPARE,
    STACK,
    TSS,
    Fault,
    Gate,
    MicroGuest,
    descriptor,
    entry,
    pte,
)  # fmt: skip
from barevisor.testing.microguests_memory import KERNEL_PAGES
from barevisor.testing.microguests_system import TASK, TSS32, task32

M = MicroGuest
MASK64 = (1 << 64) - 1
APIC_ON = "mov ebx, LAPIC_; mov dword [rbx+0xF0], 0x1FF; mov dword [rbx+0x350], 0x10000\n"
X2APIC_ON = "writemsr 0x1B,0xFEE00D00,0; writemsr 0x80F,0x1FF,0; writemsr 0x835,0x10000,0\n"
EOI = "mov dword [rbx+0xB0], 0\n"
SELF = "mov dword [rbx+0x300], {}\n"
WAIT = "sti; w: hlt; jmp w\n"
COUNT_GP = "g: add rsp, 8; inc r15d; add qword [rsp], 2; iretq"
"""A #GP handler: counts in R15 and steps over an instruction of two bytes."""


def le(value: int, size: int = 4) -> bytes:
    """Little-endian."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def q(value: int) -> bytes:
    """Little-endian, 8 bytes."""
    return struct.pack("<Q", value)


def halves(value: int) -> tuple[int, int]:
    """As `report64` reports them."""
    return value & 0xFFFFFFFF, value >> 32


def keeps(index: int, value: int, left: int | None = None) -> MicroGuest:
    """WRMSR takes `value`; RDMSR gives `left`, by default the same."""
    low, high = halves(value)
    return M(f"msr: {index:#x} takes {value:#x}", "long",
             f"writemsr {index:#x},{low:#x},{high:#x}; xor eax, eax; xor edx, edx; rdmsr;"
             "mov r8d, edx; report eax; report r8d; end",
             halves(value if left is None else left))  # fmt: skip


def refuses(index: int, *values: int) -> MicroGuest:
    """Each WRMSR raises #GP(0) and changes nothing."""
    text = "".join(f"writemsr {index:#x},{v & 0xFFFFFFFF:#x},{v >> 32:#x};" for v in values)
    return M(f"msr: {index:#x} refuses {', '.join(map(hex, values))}", "long",
             f"mov ecx, {index:#x}; rdmsr; mov r13d, eax; mov r14d, edx;" + text +
             "rdmsr; sub eax, r13d; sub edx, r14d; or eax, edx; report eax; report r15d; end;"
             + COUNT_GP, (0, len(values)), gates={13: Gate("g")})  # fmt: skip


def lacks(*indices: int) -> MicroGuest:
    """Neither RDMSR nor WRMSR of 0."""
    text = "".join(f"mov ecx, {i:#x}; xor eax, eax; xor edx, edx; rdmsr; wrmsr;" for i in indices)
    return M(f"msr: none at {indices[0]:#x}", "long",
             text + "report r15d; end;" + COUNT_GP, (2 * len(indices),),
             gates={13: Gate("g")})  # fmt: skip


CANONICAL, BROKEN = 0x0000_1234_5678_9ABC, 0x8000_0000_0000
MSRS = (
    keeps(0x174, 0x1234), keeps(0x175, CANONICAL), keeps(0x176, CANONICAL),
    keeps(0x277, 0x07070707), keeps(0xC0000100, CANONICAL), keeps(0xC0000101, CANONICAL),
    keeps(0xC0000102, CANONICAL), keeps(0xC0000082, CANONICAL), keeps(0xC0000083, CANONICAL),
    keeps(0xC0000084, 0xFFFFFFFF), keeps(0xC0000103, 0xFFFFFFFF),
    keeps(0x1A0, 0x4_00C5_0809, 0x4_00C5_1809),
    keeps(0x2FF, 0xC06), keeps(0x200, 0xC0000006), keeps(0x201, 0x3F_FFC0_0800),
    keeps(0x250, 0x0606060606060606), keeps(0x3B, 1 << 40),
    refuses(0x175, BROKEN), refuses(0x176, BROKEN), refuses(0xC0000082, BROKEN),
    refuses(0xC0000083, BROKEN), refuses(0xC0000100, BROKEN), refuses(0xC0000101, BROKEN),
    refuses(0xC0000102, BROKEN), refuses(0xC0000103, 1 << 32),
    refuses(0x277, 0x0002000000000000, 0x08, 0x03),
    refuses(0xC0000080, 0xD01 | 1 << 1, 0xD01 | 1 << 16, 0xD01 | 1 << 32, 0xC01),
    refuses(0x2FF, 0x1000, 2, 7), refuses(0x200, 0x100, 2, 1 << 60),
    refuses(0x250, 0x0200000000000000),
    lacks(*range(0x400, 0x480)), lacks(0x480, 0x48F, 0x12345678, 0xC0010117, 0x40000000),
    M("msr: there are no performance capabilities", "long",
      "mov ecx, 0x345; rdmsr; or eax, edx; report eax; end", (0,), model="max"),
    M("msr: asynchronous page faults can be asked for", "long",
      "writemsr 0x4B564D02,SPARE_+3,0; report 1; end", (1,)),
    refuses(0x4B564D02, SPARE | 0x10, SPARE | 0x20),
    M("msr: rdmsr and wrmsr in ring 3", "long", "user64 u; u: xor ecx, ecx; b: rdmsr; end",
      (Fault(13, "b", 0),)),
    M("msr: the 64 bits of the TSC are written", "long",
      "rdtsc; mov r8d, edx; writemsr 0x10,0,0x1000; rdtsc; report edx; mov ecx, 0x3B; rdmsr;"
      "add edx, r8d; inc edx; shr edx, 12; report edx;"
      "end", (0x1000, 1)),
    M("msr: IA32_TSC_ADJUST moves the TSC", "long",
      "rdtsc; mov r8d, edx; writemsr 0x3B,0,0x100; rdtsc; sub edx, r8d; shr edx, 8; report edx;"
      "end", (1,)),
)  # fmt: skip


def raises(name: str, text: str, fault: Fault, **fields: object) -> MicroGuest:
    """`text` has the label `b` where it faults, or `fault` says otherwise."""
    return M(name, "long", text + "; end", (fault,), **fields)  # type: ignore[arg-type]


GP = Fault(13, "b", 0)
UD = Fault(6, "b")
PCIDE, OSXSAVE, UMIP, SMAP, PKE = 1 << 17, 1 << 18, 1 << 11, 1 << 21, 1 << 22
INVPCID = "hex 66 0f 38 82 18"  # invpcid rbx, [rax]
CONTROL = (
    raises("cr: PCIDE with bits in CR3[11:0]",
           "mov rax, cr3; or eax, 8; mov cr3, rax; mov rax, cr4; bts eax, 17; b: mov cr4, rax", GP),
    raises("cr: PG stays on with PCIDE",
           "mov rax, cr0; btr rax, 31; b: mov cr0, rax", GP, cr4=PCIDE),
    raises("cr: PAE stays on in long mode", "mov rax, cr4; btr rax, 5; b: mov cr4, rax", GP),
    raises("cr: a reserved bit of CR4", "mov rax, cr4; bts rax, 31; b: mov cr4, rax", GP),
    raises("cr: a reserved bit of CR4 above 32", "mov rax, cr4; bts rax, 40; b: mov cr4, rax", GP),
    raises("cr: CR3 above the physical address", "mov rax, cr3; bts rax, 52; b: mov cr3, rax", GP),
    raises("cr: CR3 bit 63 without PCIDE", "mov rax, cr3; bts rax, 63; b: mov cr3, rax", GP),
    M("cr: PAE entries with reserved bits are refused as they are loaded", "prot32",
      "mov eax, cr4; or eax, 0x20; mov cr4, eax; mov eax, SPARE_; mov cr3, eax; mov eax, cr0;"
      "bts eax, 31; b: mov cr0, eax; end", (Fault(13, "b", 0),), poke={SPARE + 24: entry(PML4, 3)}),
    raises("keys: rdpkru without CR4.PKE", "xor ecx, ecx; b: hex 0f01ee", UD, model="max"),
    raises("keys: wrpkru without CR4.PKE", "xor ecx, ecx; xor edx, edx; b: hex 0f01ef", UD,
           model="max"),
    raises("keys: rdpkru with ECX", "mov ecx, 1; b: hex 0f01ee", GP, cr4=PKE, model="max"),
    raises("keys: wrpkru with EDX", "xor ecx, ecx; mov edx, 1; b: hex 0f01ef", GP, cr4=PKE,
           model="max"),
    raises("keys: CR4.PKE where keys are not", "mov rax, cr4; bts eax, 22; b: mov cr4, rax", GP),
    M("keys: CPUID shows CR4.PKE, PKRU is read back in ring 3", "long",
      "mov eax, 7; xor ecx, ecx; cpuid; and ecx, 0x18; report ecx;"
      "push UDATA; push USTACK_; push 0x3002; push UCODE64; push u; iretq; u: xor ecx, ecx;"
      "xor edx, edx; mov eax, 0x54; hex 0f01ef; mov edx, 9; hex 0f01ee; report eax; report edx;"
      "end", (0x18, 0x54, 0), cr4=PKE, model="max"),
    M("keys: a write of a page whose key forbids writes", "long",
      "xor ecx, ecx; xor edx, edx; mov eax, 8; hex 0f01ef; mov eax, [SPARE_]; report 1;"
      "b: mov [SPARE_], eax; end", (1, Fault(14, "b", 0x23, SPARE)), cr0=1 << 16, cr4=PKE,
      poke={pte(SPARE): entry(SPARE, 7 | 1 << 59)}, model="max"),
    raises("cr: NW without CD", "mov rax, cr0; bts rax, 29; b: mov cr0, rax", GP),
    raises("cr: cr8 above 15", "mov eax, 16; b: mov cr8, rax", GP),
    raises("cr: there is no cr1", "b: hex 0f20c8", UD),
    raises("cr: there is no cr5", "b: hex 0f22e8", UD),
    M("cr: cr8 is read back", "long", "mov eax, 3; mov cr8, rax; xor eax, eax; mov rax, cr8;"
      "report eax; end", (3,), irqchip=True),
    M("cr: lmsw from memory, EM and back", "long",
      "smsw eax; xor eax, 4; mov [DATA_], eax; lmsw [DATA_]; smsw ecx; mov r8d, ecx;"
      "xor dword [DATA_], 4; lmsw [DATA_]; smsw ecx; and r8d, 4; report r8d; and ecx, 5;"
      "report ecx; end", (4, 1)),
    M("cr: smsw of 16, 32 and 64 bits", "long",
      "mov rax, 0x1122334455667788; mov rbx, rax; hex 660f01e0; report64 rax; mov rax, cr0;"
      "mov rcx, rax; hex 0f01e3; sub rbx, rcx; report64 rbx; end",
      (0x55660031, 0x11223344, 0, 0)),
    M("pcid: invpcid of PCID 0 without PCIDE", "long",
      f"mov eax, DATA_; mov ebx, 1; {INVPCID}; report 1; end", (1,)),
    raises("pcid: invpcid of another PCID without PCIDE",
           f"mov eax, DATA_; mov ebx, 1; b: {INVPCID}", GP, poke={DATA: q(1)}),
    M("pcid: invpcid type 2 with a PCID", "long",
      f"mov eax, DATA_; mov ebx, 2; {INVPCID}; report 1; end", (1,), cr4=PCIDE,
      poke={DATA: q(10)}),
    raises("pcid: invpcid type 4", f"mov eax, DATA_; mov ebx, 4; b: {INVPCID}", GP),
    raises("pcid: invpcid reserved bits", f"mov eax, DATA_; mov ebx, 2; b: {INVPCID}", GP,
           poke={DATA: q(1 << 12)}),
    raises("pcid: invpcid non-canonical", f"mov eax, DATA_; xor ebx, ebx; b: {INVPCID}", GP,
           cr4=PCIDE, poke={DATA: q(0) + q(1 << 47)}),
    raises("pcid: invpcid in ring 3", f"user64 u; u: mov eax, DATA_; b: {INVPCID}", GP),
    M("pcid: an address space of its own", "long",
      "mov dword [SPARE_], 1; mov dword [SPARE_+0x1000], 2; report dword [SPARE_];"
      "mov dword [PT_+0x80], 0x11007; mov eax, PML4_+1; mov cr3, rax; report dword [SPARE_];"
      "mov rax, PML4_; mov cr3, rax; report dword [SPARE_]; mov rax, cr3; report eax; end",
      (1, 2, 2, PML4), cr4=PCIDE),
    *(M(f"pcid: invlpg forgets all of a 2 MiB page of a PCID that was kept, {name}", "long",
        "mov dword [0x200000], 1; mov dword [0x205000], 2; mov rax, PML4_+1; mov cr3, rax;"
        "push UDATA; push USTACK_; push 2; push UCODE64; push u; iretq;"
        "u: mov ebx, 0x40000000; mov r8d, [rbx]; mov r9d, [rbx+0x5000]; int 0x40;"
        "mov r10d, [rbx]; mov r11d, [rbx+0x5000]; int 0x41;"
        f"k: mov rax, {1 << 63 | PML4 | 2:#x}; mov cr3, rax; mov rax, {1 << 63 | PML4 | 1:#x};"
        f"mov cr3, rax; mov dword [SPARE_], {new:#x}; invlpg [rbx]; iretq;"
        "l: report r8d; report r9d; report r10d; report r11d; end", (1, 2, 3, last),
        gates={0x40: Gate("k", dpl=3), 0x41: Gate("l", dpl=3)}, cr4=PCIDE,
        poke={PDPT + 8: entry(SPARE, 7), SPARE: entry(0x200000, 0x87), 0: le(3),
              SPARE + 0x2000: entry(0, 7) + bytes(32) + entry(SPARE + 0x3000, 7),
              SPARE + 0x3000: le(4)})
      for name, new, last in (("small pages in its place", SPARE + 0x2000 | 7, 4),
                              ("another in its place", 0x87, 0xC0000097))),
    raises("xcr: xgetbv without OSXSAVE", "xor ecx, ecx; b: xgetbv", UD),
    raises("xcr: xsetbv without OSXSAVE", "xor ecx, ecx; b: xsetbv", UD),
    M("xcr: OSXSAVE is seen in CPUID", "long",
      "mov eax, 1; cpuid; bt ecx, 27; setc al; movzx eax, al; report eax; mov rax, cr4;"
      "bts eax, 18; mov cr4, rax; mov eax, 1; cpuid; bt ecx, 27; setc al; movzx eax, al;"
      "report eax; end", (0, 1)),
    M("xcr: XCR0 without x87, SSE without x87, AVX without SSE", "long",
      "xor ecx, ecx; xor edx, edx; xor eax, eax; xsetbv; nop; mov eax, 2; xsetbv; nop;"
      "mov eax, 4; xsetbv; nop; mov eax, 5; xsetbv; nop; mov eax, 3; mov edx, 0x80000000;"
      "xsetbv; nop; xor edx, edx; mov ecx, 1; xsetbv; nop; mov ecx, 0x80000000; xsetbv; nop;"
      "mov ecx, 2; xgetbv; nop; report r15d; end;"
      "g: add rsp, 8; inc r15d; add qword [rsp], 3; iretq",
      (8,), cr4=OSXSAVE, gates={13: Gate("g")}),
    M("xcr: the upper half of RCX is ignored", "long",
      "mov rcx, 0x7700000000; xor edx, edx; mov eax, 3; xsetbv; xor eax, eax; xgetbv;"
      "report eax; end", (3,), cr4=OSXSAVE),
    raises("xcr: xsetbv in ring 3",
           "user64 u; u: xor ecx, ecx; xor edx, edx; mov eax, 3; b: xsetbv", GP, cr4=OSXSAVE),
    *(raises(f"umip: {name} in ring 3", f"user64 u; u: b: {text}", GP, cr4=UMIP)
      for name, text in (("sgdt", "sgdt [DATA_]"), ("sidt", "sidt [DATA_]"), ("sldt", "sldt eax"),
                         ("str", "str eax"), ("smsw", "smsw eax"))),
    M("umip: ring 0 and other bits are free", "long", "str eax; report eax; end", (0x48,),
      cr4=UMIP),
    M("hypercall: an unknown number", "long", "mov eax, -1; hex 0f01c1; report64 rax; end",
      (-1000, 0xFFFFFFFF)),
    M("hypercall: an interrupt to the CPUs of a bitmap", "long",
      APIC_ON + "mov eax, 10; mov ebx, 1; xor ecx, ecx; xor edx, edx; mov esi, 0x41; hex 0f01c1;"
      "report eax; mov eax, 10; mov edx, -1; mov ebx, -1; hex 0f01c1; report eax; sti; nop; nop;"
      "cli; end; h: report 0x41; iretq", (1, 0, 0x41), irqchip=True, gates={0x41: Gate("h")}),
)  # fmt: skip

EDGE = (
    *(M(f"edge: {name} leaves the canonical half", "long",
        "mov eax, -1; mov rdx, [p]; jmp rdx; p: dq 0x7ffffffffffd", (Fault(13, 0, 0),),
        poke={PML4 + 8 * 255: entry(SPARE + 0x1000, 7),
              SPARE + 0x1000 + 8 * 511: entry(SPARE + 0x2000, 7),
              SPARE + 0x2000 + 8 * 511: entry(SPARE + 0x3000, 7),
              SPARE + 0x3000 + 8 * 511: entry(SPARE, 7), SPARE + 0xFFD: code})
      for name, code in (("execution", b"\x90\x90\x90"), ("a hypercall", b"\x0f\x01\xc1"))),
    M("edge: jump by memory to a non-canonical address", "long",
      "b: hex ff2425; dd p; p: dq 0x1111111111111111", (Fault(13, "b", 0),)),
    M("edge: ret to a non-canonical address", "long",
      "push qword [p]; b: ret; p: dq 0x1111111111111111", (Fault(13, "b", 0),)),
    M("edge: null stack segment with another RPL", "long",
      "xor eax, eax; mov ss, eax; mov eax, 3; b: mov ss, eax; end", (Fault(13, "b", 0),)),
    M("edge: iret to ring 3 nulls GS and keeps its base", "long",
      "mov eax, 0x10; mov gs, eax; writemsr 0xC0000101,DATA_,0; mov dword [DATA_+8], 0x1234;"
      "push UDATA; push USTACK_; push 0x3002; push UCODE64; push u; iretq;"
      "u: xor ecx, ecx; mov eax, gs:[rcx+8]; report eax; mov ebx, gs; report ebx; end",
      (0x1234, 0)),
    M("edge: lock cmpxchg over two cache lines", "long",
      "xor eax, eax; mov edx, 0x55; mov ebx, DATA_+60; hex f0480fb113; setz al; movzx eax, al;"
      "report eax; report dword [DATA_+60]; end", (1, 0x55)),
    M("edge: far jump through a 64-bit pointer", "long",
      "mov dword [DATA_], t; mov dword [DATA_+4], 0; mov word [DATA_+8], 8; hex 48ff2c25; dd DATA_;"
      "end; t: report 7; end", (7,)),
    M("edge: lea and movbe of a register", "long",
      "hex 8dc0; hex 0f38f0c0; report r15d; end;"
      "h: inc r15d; add qword [rsp], 2; cmp r15d, 1; je x; add qword [rsp], 2; x: iretq",
      (2,), gates={6: Gate("h")}),
    M("edge: CLWB and PCOMMIT of a register, RDPRU", "long",
      "hex 660faef0; hex 660faef8; hex 0f01fd; report r15d; end;"
      "h: inc r15d; add qword [rsp], 4; cmp r15d, 3; jne x; sub qword [rsp], 1; x: iretq",
      (3,), gates={6: Gate("h")}),
    M("edge: IRET that sets AC lifts SMAP", "long",
      "mov eax, [SPARE_]; report eax; clac; b: mov eax, [SPARE_]; end;"
      "h: inc r15d; cmp r15d, 2; je x; or dword [rsp+24], 0x40000; add rsp, 8; iretq;"
      "x: report dword [rsp+8]; end",
      (0x64, "b"), cr4=SMAP, gates={14: Gate("h")},
      poke={**KERNEL_PAGES, SPARE: le(0x64)}),
    M("edge: push and pop of 16 bits in 64-bit mode", "long",
      "mov word [DATA_], 0x1234; hex 66ff3425; dd DATA_; mov ebx, esp; report ebx; xor ecx, ecx;"
      "hex 6659; report ecx; report esp; end", (STACK - 2, 0x1234, STACK)),
    M("edge: cmov clears the upper half even when false", "long",
      "mov rax, -1; cmp eax, eax; cmovne eax, ecx; report64 rax; end", (0xFFFFFFFF, 0)),
    M("edge: ltr marks the descriptor busy", "long",
      "mov byte [GDT_+0x4D], 0x89; mov eax, 0x48; ltr ax; movzx eax, byte [GDT_+0x4D];"
      "report eax; end", (0x8B,)),
    M("edge: ltr of a busy task", "long", "mov eax, 0x48; b: ltr ax; end", (Fault(13, "b", 0x48),)),
)  # fmt: skip

AT = f"mov ebx, {MMIO:#x};"


def updates(name: str, text: str, old: int, new: int, size: int = 4) -> MicroGuest:
    """A read-modify-write of [rbx] in device memory."""
    return M(f"mmio: {name}", "long", AT + text + "; end",
             (MmioRead(MMIO, size), MmioWrite(MMIO, le(new, size))),
             answers=le(old, size))  # fmt: skip


DEVICE = (
    updates("inc", "inc dword [rbx]", 0, 1), updates("dec byte", "dec byte [rbx]", 0, 0xFF, 1),
    updates("lock inc", "lock inc dword [rbx]", 6, 7),
    updates("lock neg", "lock neg qword [rbx]", 1234, -1234, 8),
    updates("lock not byte", "lock not byte [rbx]", 66, ~66, 1),
    updates("adc", "stc; adc dword [rbx], 0x100", 0x8400, 0x8501),
    updates("sbb", "stc; sbb dword [rbx], 0", 0x8501, 0x8500),
    updates("xadd", "mov rax, 0x1111; hex 480fc103", 0x2222, 0x3333, 8),
    updates("xchg byte", "xchg [rbx], cl", 5, 0, 1),
    updates("btc by an immediate", "btc dword [rbx], 32", 0, 1),
    updates("bts by a register", "mov eax, 5; bts [rbx], eax", 0, 32),
    updates("shld by cl", "mov ecx, 3; mov eax, 0xaaaaaaaa; hex 0fa503", 0x12345678,
            0x12345678 << 3 | 5),
    updates("shrd by cl", "mov ecx, 3; mov eax, 0x55555555; hex 0fad03", 0x12345678,
            0x12345678 >> 3 | 5 << 29),
    updates("rol", "rol dword [rbx], 4", 0x12345678, 0x23456781),
    M("mmio: smsw stores 16 bits", "long", AT + "smsw [rbx]; end", (MmioWrite(MMIO, le(0x31, 2)),)),
    M("mmio: imul by an immediate", "long", AT + "hex 6b0333; report eax; end",
      (MmioRead(MMIO, 4), 0xA06D39E8), answers=le(0x12345678)),
    M("mmio: mul qword", "long",
      AT + "mov rax, 0x1111111111111111; hex 48f723; mov rbx, rdx; report64 rax; report64 rbx; end",
      (MmioRead(MMIO, 8), *halves(0x1111111111111111 * 0x3333333333333333 & MASK64),
                     *halves(0x1111111111111111 * 0x3333333333333333 >> 64)),
      answers=le(0x3333333333333333, 8)),
    M("mmio: div by zero changes nothing", "long",
      AT + "mov eax, 1; mov edx, 2; b: hex 48f733; end", (MmioRead(MMIO, 8), Fault(0, "b")),
      answers=bytes(8)),
    M("mmio: bsf, bsr and cmov", "long",
      AT + "bsf eax, [rbx]; report eax; bsr eax, [rbx]; report eax; cmp eax, eax;"
      "cmovne eax, [rbx]; report eax; end",
      (MmioRead(MMIO, 4), 30, MmioRead(MMIO, 4), 31, MmioRead(MMIO, 4), 31),
      answers=le(0xC0000000) * 2 + le(1)),
    M("mmio: movbe", "long", AT + "hex 0f38f003; report eax; hex 0f38f103; end",
      (MmioRead(MMIO, 4), 0x01020304, MmioWrite(MMIO, le(0x04030201))), answers=le(0x04030201)),
    M("mmio: scasd matches", "long", "mov edi, MMIO_; mov eax, 0x44332211; scasd; setz cl;"
      "movzx ecx, cl; report ecx; report edi; end", (MmioRead(MMIO, 4), 1, MMIO + 4),
      answers=le(0x44332211)),
    M("mmio: repe cmpsb of two device ranges", "long",
      "mov esi, MMIO_; mov edi, MMIO_+0x400; mov ecx, 5; repe cmpsb; report ecx; report esi; end",
      (MmioRead(MMIO, 1), MmioRead(MMIO + 0x400, 1), MmioRead(MMIO + 1, 1),
       MmioRead(MMIO + 0x401, 1), 3, MMIO + 2), answers=b"aabc"),
    M("mmio: push, pop, call and ret on a stack there", "long",
      "mov r8, rsp; mov esp, MMIO_+0x80; push -7; pop rax; mov rsp, r8; report64 rax; end",
      (MmioWrite(MMIO + 0x78, le(-7, 8)), MmioRead(MMIO + 0x78, 8), *halves(-7 & MASK64)),
      answers=le(-7, 8)),
    M("mmio: enter and leave on a stack there", "long",
      "mov r8, rsp; mov esp, MMIO_+0x80; mov ebp, 0x77; enter 0x10, 0; mov r9d, esp; leave;"
      "mov r10d, esp; mov rsp, r8; report ebp; report r9d; report r10d; end",
      (MmioWrite(MMIO + 0x78, le(0x77, 8)), MmioRead(MMIO + 0x78, 8), 0x77, MMIO + 0x68,
       MMIO + 0x80),
      answers=le(0x77, 8)),
    M("mmio: near return from there", "long",
      "mov r8, rsp; mov esp, MMIO_; ret; end", (MmioRead(MMIO, 8), Fault(6, DATA + 3)),
      answers=le(DATA, 8), poke={DATA: b"\x4c\x89\xc4\x0f\x0b"}),  # mov rsp, r8; ud2
    M("mmio: far jump by a pointer there", "long", AT + "hex 48ff2b; end",
      (MmioRead(MMIO, 8), MmioRead(MMIO + 8, 2), Fault(6, DATA)),
      answers=le(DATA, 8) + le(8, 2), poke={DATA: b"\x0f\x0b"}),
    M("mmio: segment load from there", "long", AT + "mov fs, [rbx]; mov ecx, fs; report ecx; end",
      (MmioRead(MMIO, 2), 0x10), answers=le(0x10, 2)),
    M("mmio: ltr from there", "long",
      "mov byte [GDT_+0x4D], 0x89;" + AT + "ltr [rbx]; movzx eax, byte [GDT_+0x4D];"
      "report eax; end",
      (MmioRead(MMIO, 2), 0x8B), answers=le(0x48, 2)),
    M("mmio: movups there and back", "long",
      AT + "hex 0f1003; hex 0f114310; end",
      (MmioRead(MMIO, 8), MmioRead(MMIO + 8, 8), MmioWrite(MMIO + 16, b"abcdefgh"),
       MmioWrite(MMIO + 24, b"ijklmnop")), answers=b"abcdefghijklmnop"),
    M("mmio: movq of MMX", "long", AT + "hex 0f6f03; hex 0f7f4308; emms; end",
      (MmioRead(MMIO, 8), MmioWrite(MMIO + 8, b"abcdefgh")), answers=b"abcdefgh"),
    M("mmio: two pages that are one", "long",
      "mov ebx, SPARE_+0xFFF; mov ax, [rbx]; movzx eax, ax; report eax; mov ax, 0x88AA;"
      "mov [rbx], ax; mov [rbx-3], rsp; end",
      (MmioRead(MMIO + 0xFFF, 1), MmioRead(MMIO, 1), 0x7799, MmioWrite(MMIO + 0xFFF, b"\xaa"),
       MmioWrite(MMIO, b"\x88"), MmioWrite(MMIO + 0xFFC, le(STACK)),
       MmioWrite(MMIO, bytes(4))), answers=b"\x99\x77",
      poke={pte(SPARE): entry(MMIO, 3) * 2}),
    M("mmio: device memory and RAM", "long",
      "mov ebx, SPARE_+0xFFE; mov eax, [rbx]; report eax; mov dword [rbx], 0x44332211;"
      "mov ebx, SPARE_+0x1FFE; mov dword [rbx], 0x88776655; mov eax, [rbx]; report eax; end",
      (MmioRead(MMIO + 0xFFE, 2), 0x02010807, MmioWrite(MMIO + 0xFFE, b"\x11\x22"),
       MmioWrite(MMIO, b"\x77\x88"), MmioRead(MMIO, 2), 0x0A096655), answers=b"\x07\x08\x09\x0a",
      poke={pte(SPARE): entry(MMIO, 3) + entry(SPARE, 3) + entry(MMIO, 3),
            SPARE: b"\x01\x02"}, memory={SPARE: b"\x33\x44", SPARE + 0xFFE: b"\x55\x66"}),
    M("mmio: an interrupt frame on a stack there", "long",
      "mov r8, rsp; mov esp, MMIO_+0x100; int 0x40; a: end; k: mov rsp, r8; report 1; end",
      (MmioWrite(MMIO + 0xD8, le(0xC00A, 8)), MmioWrite(MMIO + 0xE0, le(8, 8)),
       MmioWrite(MMIO + 0xE8, le(2, 8)), MmioWrite(MMIO + 0xF0, le(MMIO + 0x100, 8)),
       MmioWrite(MMIO + 0xF8, le(0x10, 8)), 1), gates={0x40: Gate("k")}),
    M("mmio: a far call on a stack there", "prot32",
      "mov ebp, esp; mov esp, MMIO_+0x100; call CODE32:f; a: end; f: mov esp, ebp; report 1; end",
      (MmioWrite(MMIO + 0xFC, le(0x18)), MmioWrite(MMIO + 0xF8, le(0xC00E)), 1)),
    M("mmio: rep insb to device memory", "long",
      "mov edx, 0x60; mov edi, MMIO_+0xFFF; mov ecx, 2; rep insb; report edi; end",
      (PioRead(0x60, 1), MmioWrite(MMIO + 0xFFF, b"x"), PioRead(0x60, 1),
       MmioWrite(MMIO + 0x1000, b"y"), MMIO + 0x1001), answers=b"xy"),
    M("mmio: cmpxchg8b", "long",
      AT + "mov ebp, 0; mov eax, 1; mov edx, 2; mov ecx, 4; push rbx; mov rdi, rbx; mov ebx, 3;"
      "hex 0fc70f; setz al; movzx eax, al; report eax; end",
      (MmioRead(MMIO, 8), MmioWrite(MMIO, le(3) + le(4)), 1), answers=le(1) + le(2)),
)  # fmt: skip

STEP = "pushf; pop rax; or eax, 0x100; push rax; popf;"
TRAPS = (
    "h: report dword [rsp]; mov r11, dr6; and r11d, 0xE00F; report r11d;"
    "mov r11d, 0xFFFF0FF0; mov dr6, r11;"
)
DEBUG = (
    M("trap: after cpuid, in and the popf that ends it", "long",
      "pushf; pop r13;" + STEP + "a: push r13; b: cpuid; c: in al, 0x60; d: popf; e: nop; end;"
      + TRAPS + "mov eax, 2; iretq",
      ("b", 0x4000, "c", 0x4000, PioRead(0x60, 1), "d", 0x4000, "e", 0x4000),
      gates={1: Gate("h")}, answers=b"\0"),
    M("trap: STI does not hold the step back", "long",
      "cli;" + STEP + "a: sti; b: nop; c: nop; end;" + TRAPS +
      "cmp dword [rsp], c; jne x; and dword [rsp+16], -257; x: iretq",
      ("b", 0x4000, "c", 0x4000), gates={1: Gate("h")}),
    M("trap: MOV SS and ICEBP, the step is lost", "long",
      "mov ecx, ss;" + STEP + "mov ss, ecx; icebp; a: icebp; b: nop; c: nop; end;" + TRAPS +
      "cmp dword [rsp], c; jne x; and dword [rsp+16], -257; x: iretq",
      ("a", 0, "b", 0, "c", 0x4000), gates={1: Gate("h")}),
    *(M(f"trap: {name} holds an instruction breakpoint back", mode,
        text + "a: xor ecx, ecx; b: nop; end; h: " + f"report dword [{sp}]; end",
        ("b",), gates={1: Gate("h")}, dr={0: "a", 1: "b", 7: 0x40A})
      for name, mode, sp, text in (("MOV SS", "long", "rsp", "mov ecx, ss; mov ss, ecx;"),
                                   ("POP SS", "prot32", "esp", "push ss; pop ss;"))),
    M("trap: general detect right behind MOV SS", "long",
      "mov eax, 0x2400; mov dr7, rax; mov ecx, ss; xor edx, edx;" + STEP +
      "mov ss, ecx; a: mov dr6, rdx; b: nop; end;"
      "h: report dword [rsp]; mov r11, dr6; and r11d, 0xE00F; report r11d;"
      "cmp dword [rsp], b; jne x; and dword [rsp+16], -257; x: iretq",
      ("a", 0x2000, "b", 0x4000), gates={1: Gate("h")}),
    M("trap: watched MOV SS and ICEBP are one exception", "long",
      "mov dword [DATA_], 0x10; mov eax, 0xF0402; mov dr7, rax; mov ss, [DATA_]; icebp; a: nop;"
      "end;" + TRAPS + "iretq",
      ("a", 1), gates={1: Gate("h")}, dr={0: DATA}),
    M("trap: watched MOV SS and INT, the trap comes in the handler", "long",
      "mov dword [DATA_], 0x10; mov eax, 0xF0402; mov dr7, rax; mov ss, [DATA_]; int 0x40; end;"
      "k: nop; report 0x40; end;" + TRAPS + "iretq",
      ("k", 1, 0x40), gates={1: Gate("h"), 0x40: Gate("k")}, dr={0: DATA}),
    M("trap: breakpoint bits of DR6 are replaced, the others stay", "long",
      "mov r11d, 0xFFFF4FF2; mov dr6, r11; a: nop; end;" + TRAPS + "end",
      ("a", 0x4004), gates={1: Gate("h")}, dr={2: "a", 7: 0x420}),
    M("trap: a watchpoint leaves DR6.BS alone", "long",
      "mov r11d, 0xFFFF4FF0; mov dr6, r11; mov dword [DATA_], 1; a: mov dword [DATA_], 1; b: nop;"
      "end;" + TRAPS + "iretq",
      ("a", 0x4001, "b", 1), gates={1: Gate("h")}, dr={0: DATA, 7: 0xD0402}),
    M("trap: an I/O breakpoint with CR4.DE", "long",
      "in al, 0x60; a: nop; end;" + TRAPS + "end",
      (PioRead(0x60, 1), "a", 1), gates={1: Gate("h")}, dr={0: 0x60, 7: 0x20402}, cr4=8,
      answers=b"\0"),
    M("trap: a stepped HLT does not wait", "long",
      APIC_ON + STEP + "sti; a: hlt; b: nop; c: nop; end;" + TRAPS +
      "cmp dword [rsp], c; jne x; and dword [rsp+16], -257; x: iretq",
      ("a", 0x4000, "b", 0x4000, "c", 0x4000), gates={1: Gate("h")}, irqchip=True),
    M("trap: reserved bits of DR6 and DR7", "long",
      "xor eax, eax; mov dr6, rax; mov rax, dr6; report64 rax; mov eax, 0xFFFFFFFF; mov dr6, rax;"
      "mov rax, dr6; report64 rax; end", (0xFFFF0FF0, 0, 0xFFFFEFFF, 0)),
    raises("trap: DR7 above 32 bits", "mov rax, -1; b: mov dr7, rax", GP),
    raises("trap: DR6 in ring 3", "user64 u; u: b: mov rax, dr6", GP),
)  # fmt: skip

EVENTS = (
    M("event: two interrupts, the higher first, both before cli", "long",
      APIC_ON + SELF.format("0x44030") + SELF.format("0x44051") + "sti; nop; cli; report 3; end;"
      "h: report 0x30;" + EOI + "iretq; i: report 0x51;" + EOI + "iretq",
      (0x51, 0x30, 3), gates={0x30: Gate("h"), 0x51: Gate("i")}, irqchip=True),
    M("event: a software interrupt in the shadow of STI comes first", "long",
      APIC_ON + SELF.format("0x44030") + "sti; int 0x51; cli; report 3; end;"
      "h: report 0x30;" + EOI + "iretq; i: report 0x51; iretq",
      (0x51, 0x30, 3), gates={0x30: Gate("h"), 0x51: Gate("i")},
      irqchip=True),
    M("event: TPR lets a class in at a time", "long",
      APIC_ON + "mov dword [rbx+0x80], 0xF0; sti;" + SELF.format("0x44020") +
      SELF.format("0x4403E") + "nop; report 1; mov dword [rbx+0x80], 0x20; nop; report 2;"
      "mov dword [rbx+0x80], 0; nop; report 3; end;"
      "h: report 0x20;" + EOI + "iretq; i: report 0x3E;" + EOI + "iretq",
      (1, 0x3E, 2, 0x20, 3), gates={0x20: Gate("h"), 0x3E: Gate("i")}, irqchip=True),
    M("event: several NMIs inside an NMI are one more", "long",
      APIC_ON + "mov dword [rbx+0x310], 0; mov dword [rbx+0x300], 0x400; nop; nop; report 9; end;"
      "h: inc ecx; report ecx; cmp ecx, 1; jne x; mov dword [rbx+0x300], 0x400;"
      "mov dword [rbx+0x300], 0x400; mov dword [rbx+0x300], 0x400; nop; x: iretq",
      (1, 2, 9), gates={2: Gate("h")}, irqchip=True),
    M("event: an NMI held back by one is taken right after IRET", "long",
      APIC_ON + "mov dword [rbx+0x310], 0; mov dword [rbx+0x300], 0x400; nop; report 9; end;"
      "h: inc ecx; cmp ecx, 1; jne x; mov dword [rbx+0x300], 0x400; nop; mov r8, rsp; push 0x10;"
      "push r8; push 2; push 8; push t; iretq; t: report 4; end; x: report dword [rsp]; iretq",
      ("t", 4), gates={2: Gate("h")}, irqchip=True),
    M("event: #PF on the stack of a software interrupt", "long",
      "mov r8, rsp; mov esp, SPARE_+0x800; a: int 0x40; mov rsp, r8; report 3; end;"
      "k: report 0x40; iretq;"
      "p: mov r9, cr2; report dword [rsp]; report dword [rsp+8]; report r9d;"
      "mov dword [PT_+0x80], 0x10007; add rsp, 8; iretq",
      (2, "a", SPARE + 0x7F8, 0x40, 3), gates={0x40: Gate("k"), 14: Gate("p", ist=1)},
      poke={pte(SPARE): bytes(8)}),
    M("event: #NP of a gate's segment, then the interrupt", "long",
      "a: int 0x40; report 3; end; k: report 0x40; iretq;"
      "p: report dword [rsp]; report dword [rsp+8]; mov byte [GDT_+0x6D], 0x9B; add rsp, 8; iretq",
      (0x68, "a", 0x40, 3), gates={0x40: Gate("k"), 11: Gate("p")},
      poke={GDT + 0x68: descriptor(0, 0xFFFFF, 0x1B, 0xA),
            0x8000 + 16 * 0x40 + 2: struct.pack("<H", 0x68)}),
    M("event: iret to a page that is not there faults outside", "long",
      "push 0x10; push STACK_; push 2; push 8; push SPARE_; iretq; end",
      (Fault(14, SPARE, 0x10, SPARE),), poke={pte(SPARE): bytes(8)}),
    M("event: iret from a stack that is not there", "long",
      "mov esp, SPARE_; b: iretq; p: report dword [rsp]; report dword [rsp+8]; end",
      (0, "b"), gates={14: Gate("p", ist=1)}, poke={pte(SPARE): bytes(8)}),
)  # fmt: skip

BASE = 0xFEE00100
APIC = (
    M("apic: modes, and what leads where", "long",
      "".join(f"writemsr 0x1B,{BASE | v:#x},0; mov r14d, eax; rdmsr; report eax;"
              for v in (0xC00, 0x400, 0x800, 0, 0x400, 0xC00, 0x800, 0x400)) +
      "report r15d; end;" + COUNT_GP,
      (0xFEE00D00, 0xFEE00D00, 0xFEE00D00, 0xFEE00100, 0xFEE00100, 0xFEE00100, 0xFEE00900,
       0xFEE00900, 5), irqchip=True, gates={13: Gate("g")}),
    refuses(0x1B, 0xFEE00901, 1 << 52 | BASE | 0x800, 1 << 46 | BASE | 0x800),
    M("apic: CPUID follows the enable bit", "long",
      "mov eax, 1; cpuid; shr edx, 9; and edx, 1; report edx; writemsr 0x1B,0xFEE00100,0;"
      "mov eax, 1; cpuid; shr edx, 9; and edx, 1; report edx; writemsr 0x1B,0xFEE00900,0;"
      "mov eax, 1; cpuid; shr edx, 9; and edx, 1; report edx; end",
      (1, 0, 1), irqchip=True),
    M("apic: disabled, its page is no device's, and CR8 works on", "long",
      "writemsr 0x1B,0xFEE00100,0; mov ebx, LAPIC_; report dword [rbx+0x30];"
      "mov eax, 15; mov cr8, rax; xor eax, eax; mov rax, cr8; report eax; end",
      (MmioRead(0xFEE00030, 4), -1, 15), irqchip=True, answers=b"\xff" * 4),
    M("apic: in x2APIC mode its page is no device's", "long",
      X2APIC_ON + "mov ebx, LAPIC_; report dword [rbx+0x30]; end",
      (MmioRead(0xFEE00030, 4), -1), irqchip=True, answers=b"\xff" * 4),
    M("apic: elsewhere by IA32_APIC_BASE", "long",
      "mov ebx, LAPIC_; mov r8d, [rbx+0x30]; writemsr 0x1B,0xFED40900,0; mov ebx, 0xFED40000;"
      "sub r8d, [rbx+0x30]; report r8d; mov dword [rbx+0x80], 0x30; mov rax, cr8; report eax; end",
      (0, 3), irqchip=True),
    M("apic: TPR and CR8 are one", "long",
      "mov ebx, LAPIC_; mov eax, 5; mov cr8, rax; report dword [rbx+0x80];"
      "mov dword [rbx+0x80], 0x7A; mov rax, cr8; report eax; end", (0x50, 7), irqchip=True),
    M("apic: x2APIC registers that are not there, or one way only", "long",
      X2APIC_ON + "".join(f"mov ecx, {i:#x}; rdmsr;" for i in
                          (0x80B, 0x83F, 0x809, 0x80C, 0x80E, 0x831, 0x840, 0x8FF, 0x801)) +
      "report r15d; xor eax, eax; xor edx, edx; xor r15d, r15d;"
      + "".join(f"mov ecx, {i:#x}; wrmsr;" for i in
                (0x802, 0x803, 0x80A, 0x80D, 0x810, 0x818, 0x820, 0x839, 0x831, 0x8FF)) +
      "report r15d; end;" + COUNT_GP, (9, 10), irqchip=True, gates={13: Gate("g")}),
    M("apic: x2APIC registers that can be read and take zero", "long",
      X2APIC_ON + "".join(f"mov ecx, {i:#x}; rdmsr;" for i in
                          (0x802, 0x803, 0x808, 0x80A, 0x80D, 0x80F, 0x810, 0x817, 0x818, 0x820,
                           0x828, 0x82F, 0x830, *range(0x832, 0x83A), 0x83E)) +
      "xor eax, eax; xor edx, edx;"
      + "".join(f"mov ecx, {i:#x}; wrmsr;" for i in
                (0x808, 0x80B, 0x80F, 0x828, 0x82F, *range(0x832, 0x839), 0x83E)) +
      "report r15d; end;" + COUNT_GP, (0,), irqchip=True, gates={13: Gate("g")}),
    M("apic: x2APIC MSRs in xAPIC mode", "long",
      "".join(f"mov ecx, {i:#x}; rdmsr; wrmsr;" for i in (0x802, 0x808, 0x830, 0x83F)) +
      "report r15d; end;" + COUNT_GP, (8,), irqchip=True, gates={13: Gate("g")}),
    M("apic: x2APIC reserved bits", "long",
      X2APIC_ON + "xor edx, edx; mov eax, 1; mov ecx, 0x80B; wrmsr; mov ecx, 0x828; wrmsr;"
      "mov eax, 0x100; mov ecx, 0x808; wrmsr; mov ecx, 0x83F; wrmsr; mov eax, 0x10000;"
      "mov ecx, 0x80F; wrmsr; mov edx, 1; xor eax, eax; mov ecx, 0x838; wrmsr;"
      "report r15d; end;" + COUNT_GP, (6,), irqchip=True, gates={13: Gate("g")}),
    M("apic: self-IPI register", "long",
      X2APIC_ON + "sti; writemsr 0x83F,0x44,0; nop; report 2; end; h: report 1; xor eax, eax;"
      "xor edx, edx; mov ecx, 0x80B; wrmsr; iretq",
      (1, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("apic: a deadline that has passed fires at once and is disarmed", "long",
      APIC_ON + "mov dword [rbx+0x320], 0x40044; sti; rdtsc; mov ecx, 0x6E0; wrmsr; nop;"
      "report r9d; mov ecx, 0x6E0; rdmsr; or eax, edx; report eax; end;"
      "h: inc r9d;" + EOI + "iretq", (1, 0), irqchip=True, gates={0x44: Gate("h")}),
    M("apic: the deadline is 0 in other modes", "long",
      "writemsr 0x6E0,0x1234,0; rdmsr; report eax; mov ebx, LAPIC_;"
      "mov dword [rbx+0x320], 0x40044; mov dword [rbx+0x380], 0x1000; report dword [rbx+0x380];"
      "report dword [rbx+0x390]; end", (0, 0, 0), irqchip=True),
    M("apic: one-shot to periodic keeps counting", "long",
      APIC_ON + "mov dword [rbx+0x3E0], 0xB; mov dword [rbx+0x320], 0x10044;"
      "mov dword [rbx+0x380], 0x80000000; mov dword [rbx+0x320], 0x30044;"
      "mov eax, [rbx+0x380]; report eax; mov eax, [rbx+0x390]; shr eax, 28; report eax; end",
      (0x80000000, 7), irqchip=True),
    M("apic: a write to the initial count restarts, 0 stops", "long",
      APIC_ON + "mov dword [rbx+0x320], 0x10044; mov dword [rbx+0x380], 0x80000000;"
      "mov dword [rbx+0x380], 0; report dword [rbx+0x390]; report dword [rbx+0x380]; end",
      (0, 0), irqchip=True),
    *(M(f"apic: divide configuration {code:#x} is read back", "long",
        APIC_ON + f"mov dword [rbx+0x3E0], {code | 4:#x}; report dword [rbx+0x3E0]; end", (code,),
        irqchip=True)
      for code in (0, 1, 8, 0xB)),
    M("apic: software disable masks the table, and it stays masked", "long",
      APIC_ON + "mov dword [rbx+0x320], 0x44; mov dword [rbx+0xF0], 0xFF;"
      "report dword [rbx+0x320]; mov dword [rbx+0x320], 0x45; report dword [rbx+0x320];"
      "mov dword [rbx+0xF0], 0x1FF; mov dword [rbx+0x320], 0x46; report dword [rbx+0x320]; end",
      (0x10044, 0x10045, 0x46), irqchip=True),
    M("apic: IRR, ISR and TMR of an interrupt", "long",
      APIC_ON + SELF.format("0x44044") + "report dword [rbx+0x220]; sti; nop; end;"
      "h: report dword [rbx+0x220]; report dword [rbx+0x120]; report dword [rbx+0x1A0];"
      "report dword [rbx+0xA0];" + EOI + "report dword [rbx+0x120]; end",
      (0x10, 0, 0x10, 0, 0x40, 0), irqchip=True, gates={0x44: Gate("h")}),
    M("apic: physical destination 0 and broadcast, logical by LDR", "long",
      APIC_ON + "mov dword [rbx+0xD0], 0x02000000; sti;"
      "mov dword [rbx+0x310], 0; mov dword [rbx+0x300], 0x4044; nop; report 1;"
      "mov dword [rbx+0x310], 0xFF000000; mov dword [rbx+0x300], 0x4044; nop; report 2;"
      "mov dword [rbx+0x310], 0x02000000; mov dword [rbx+0x300], 0x4844; nop; report 3;"
      "mov dword [rbx+0x310], 0x01000000; mov dword [rbx+0x300], 0x4844; nop; report 4;"
      "mov dword [rbx+0x300], 0x84044; nop; report 5; mov dword [rbx+0x300], 0xC4044; nop;"
      "report 6; end; h: report 0x44;" + EOI + "iretq",
      (0x44, 1, 0x44, 2, 0x44, 3, 4, 0x44, 5, 6), irqchip=True, gates={0x44: Gate("h")}),
    M("apic: a renamed APIC is found by its new ID", "long",
      APIC_ON + "mov dword [rbx+0x20], 0x05000000; sti; report dword [rbx+0x20];"
      "mov dword [rbx+0x310], 0x05000000; mov dword [rbx+0x300], 0x4044; nop; report 1;"
      "mov dword [rbx+0x310], 0; mov dword [rbx+0x300], 0x4044; nop; report 2; end;"
      "h: report 0x44;" + EOI + "iretq",
      (0x05000000, 0x44, 1, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("apic: an NMI to itself needs a destination, not the shorthand", "long",
      APIC_ON + "mov dword [rbx+0x300], 0x40400; nop; nop; report 1; mov dword [rbx+0x300], 0x400;"
      "nop; report 3; end; h: report 2; iretq", (1, 2, 3), irqchip=True, gates={2: Gate("h")}),
    M("apic: an illegal vector is an error", "long",
      APIC_ON + "mov dword [rbx+0x280], 0;" + SELF.format("0x44005") +
      "mov dword [rbx+0x280], 0; report dword [rbx+0x280]; end", (0x20,), irqchip=True),
    M("apic: a register that is not there is an error", "long",
      APIC_ON + "mov dword [rbx+0x280], 0; mov eax, [rbx+0x3F0]; mov dword [rbx+0x280], 0;"
      "report dword [rbx+0x280]; end", (0x80,), irqchip=True),
)  # fmt: skip


def pin(number: int, low: int, high: int = 0) -> str:
    """Write redirection entry `number` by the IOAPIC at RDX."""
    return (f"mov dword [rdx], {0x11 + 2 * number}; mov dword [rdx+16], {high:#x};"
            f"mov dword [rdx], {0x10 + 2 * number}; mov dword [rdx+16], {low:#x};")  # fmt: skip


def up(line: int) -> str:
    """Assert a line."""
    return f"mov al, {line}; out 0xD0, al;"


def down(line: int) -> str:
    """Release a line."""
    return f"mov al, {line}; out 0xD1, al;"


IO_ON = APIC_ON + "mov edx, IOAPIC_;"
H44 = "h: report 0x44;" + EOI + "iretq"
IOAPIC_ROWS = (
    M("ioapic: identity, version and reserved bits", "long",
      IO_ON + "mov dword [rdx], 1; mov eax, [rdx+16]; and eax, 0xFF00FF; report eax;"
      "mov dword [rdx], 0; mov dword [rdx+16], 0xFF000000; report dword [rdx+16];"
      "mov dword [rdx], 2; report dword [rdx+16]; mov dword [rdx], 0x30;"
      "mov dword [rdx+16], 0xFFFFFFFF; mov eax, [rdx+16]; report eax; mov dword [rdx], 0x31;"
      "mov dword [rdx+16], 0xFFFFFFFF; report dword [rdx+16]; end",
      (0x170011, 0x0F000000, 0x0F000000, 0x1AFFF, 0xFF000000), irqchip=True),
    M("ioapic: an edge on a masked pin is lost", "long",
      IO_ON + pin(14, 0x10044) + "sti;" + up(14) + down(14) + pin(14, 0x44) + "nop; report 1;"
      + up(14) + "nop; report 2; end;" + H44,
      (1, 0x44, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: edges while one is pending are one", "long",
      IO_ON + pin(14, 0x44) + "cli;" + (up(14) + down(14)) * 3 + "sti; nop; cli; report 1; end;"
      + H44, (0x44, 1), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: a line that stays up gives one edge", "long",
      IO_ON + pin(14, 0x44) + "sti;" + up(14) + up(14) + up(14) + "nop; report 1; end;" + H44,
      (0x44, 1), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: two lines at once, the higher vector first", "long",
      IO_ON + pin(14, 0x78) + pin(15, 0x66) + "cli;" + up(15) + down(15) + up(14) + down(14) +
      "sti; a: nop; b: cli; end; h: report 0x78; report dword [rsp];" + EOI + "iretq;"
      "i: report 0x66; report dword [rsp];" + EOI + "iretq",
      (0x78, "b", 0x66, "b"), irqchip=True, gates={0x78: Gate("h"), 0x66: Gate("i")}),
    M("ioapic: level with the line lowered in the handler", "long",
      IO_ON + pin(14, 0x8044) + "sti;" + up(14) + "nop; report 1; end;"
      "h: report 0x44; report dword [rbx+0x1A0];" + down(14) + EOI + "iretq",
      (0x44, 0x10, 1), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: level masked in its handler comes again when unmasked", "long",
      IO_ON + pin(14, 0x8044) + "sti;" + up(14) + "nop; report 1;" + pin(14, 0x8044) +
      "nop; report 2; end; h: inc ecx; report 0x44; cmp ecx, 2; je x; mov dword [rdx], 0x2C;"
      "mov dword [rdx+16], 0x18044;" + EOI + "iretq; x: " + down(14) + EOI + "iretq",
      (0x44, 1, 0x44, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: a level pulse is lost once lowered before it is unmasked", "long",
      IO_ON + pin(14, 0x18044) + "sti;" + up(14) + down(14) + pin(14, 0x8044) + "nop; report 1;"
      "end;" + H44, (1,), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: level and edge trade places in TMR", "long",
      IO_ON + pin(14, 0x8044) + "sti;" + up(14) + "nop;" + pin(14, 0x44) + up(14) + "nop;"
      "report 1; end; h: report dword [rbx+0x1A0];" + down(14) + EOI + "iretq",
      (0x10, 0, 1), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: destination physical 0, logical, and no one", "long",
      IO_ON + "mov dword [rbx+0xD0], 0x01000000; sti;" + pin(14, 0x44) + up(14) + down(14) +
      "nop; report 1;" + pin(14, 0x844, 0x01000000) + up(14) + down(14) + "nop; report 2;"
      + pin(14, 0x44, 0x07000000) + up(14) + down(14) + "nop; report 3; end;" + H44,
      (0x44, 1, 0x44, 2, 3), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: lowest priority, and NMI delivery", "long",
      IO_ON + "sti;" + pin(14, 0x144) + up(14) + down(14) + "nop; report 1; cli;" +
      pin(14, 0x444) + up(14) + down(14) + "nop; report 2; end; n: report 0xA; iretq;" + H44,
      (0x44, 1, 0xA, 2), irqchip=True, gates={0x44: Gate("h"), 2: Gate("n")}),
    M("ioapic: the handler sets its own pin to edge", "long",
      IO_ON + pin(14, 0x8044) + "sti;" + up(14) + "nop; report 1; end;"
      "h: report 0x44; mov dword [rdx], 0x2C; mov dword [rdx+16], 0x44; mov eax, [rdx+16];"
      "and eax, 0x4000; report eax;" + EOI + "iretq",
      (0x44, 0, 1), irqchip=True, gates={0x44: Gate("h")}),
)  # fmt: skip

TASKS = (
    M("task: an NMI through a task gate", "prot32",
      "mov ebx, LAPIC_; mov dword [ebx+0x310], 0; mov dword [ebx+0x300], 0x400; a: nop; report 2;"
      "end; t: report 1; str ecx; report ecx; iretd", (1, 0x58, 2), irqchip=True,
      gates={2: Gate("GATE", type=5)}, poke={TASK: TSS32, SPARE: task32("t")}),
    M("task: an interrupt through a task gate", "prot32",
      "mov ebx, LAPIC_; mov dword [ebx+0xF0], 0x1FF; mov dword [ebx+0x350], 0x10000; sti;"
      "mov dword [ebx+0x300], 0x44044; nop; cli; report 2; end;"
      "t: mov ebx, LAPIC_; report 1; mov dword [ebx+0xB0], 0; iretd; report 9; end",
      (1, 2), irqchip=True, gates={0x44: Gate("GATE", type=5)},
      poke={TASK: TSS32, SPARE: task32("t")}),
    M("task: iret stores where the task goes on", "prot32",
      "call GATE:0; report 1; call GATE:0; report 2; end;"
      "t: report 7; iretd; report 8; iretd", (7, 1, 8, 2),
      poke={TASK: TSS32, SPARE: task32("t")}),
    M("task: #DE by INT 0 and by DIV", "prot32",
      "int 0; a: report 1; xor ecx, ecx; b: div ecx; end;"
      "t: report dword [TSS_+0x20]; iretd; report dword [TSS_+0x20]; end",
      ("a", 1, "b"), gates={0: Gate("GATE", type=5)},
      poke={TASK: TSS32, SPARE: task32("t")}),
    M("task: #PF through a task gate has its error code", "prot32",
      "mov eax, 0x10; mov cr4, eax; mov eax, 0x1000; mov cr3, eax; mov eax, cr0;"
      "or eax, 0x80000000; mov cr0, eax; b: mov dword [0x800000], 1; report 5; end;"
      "t: report dword [esp]; add esp, 4; mov dword [0x1008], 0x87; mov eax, cr2; report eax;"
      "iretd",
      (2, 0x800000, 5), gates={14: Gate("GATE", type=5)},
      poke={TASK: TSS32, 0x1000: struct.pack("<II", 0x87, 0), TSS + 0x1C: b"\0\x10",
            SPARE: lambda at: task32("t")(at)[:0x1C] + struct.pack("<I", 0x1000)
            + task32("t")(at)[0x20:]}),
    M("task: conforming code of ring 3 through CALL", "prot32",
      "call GATE:0; report 1; end; t: mov ecx, cs; mov ebx, ecx; iretd",
      (1,), poke={GDT + 0x68: descriptor(0, 0xFFFFF, 0x9F, 0xC), TASK: TSS32,
                  SPARE: lambda at: task32("t", cs=0x6B, ss=0x2B, ds=0x2B, es=0x2B)(at)[:0x24]
                  + struct.pack("<I", 0x3002)
                  + task32("t", cs=0x6B, ss=0x2B, ds=0x2B, es=0x2B)(at)[0x28:]}),
    M("task: iret with NT into a virtual-8086 task, #UD back by a task gate", "prot32",
      "mov word [TSS_], GATE; mov byte [GDT_+0x5D], 0x8B; pushf; or dword [esp], 0x4000; popf;"
      "iretd; a: report 1; str ecx; report ecx; end; bits 16; v: ud2; bits 32",
      (1, 0x48), gates={6: Gate("TSS_SEL", type=5)},
      poke={TASK: TSS32,
            SPARE: lambda at: task32("v", cs=0, ss=0, ds=0x1234, es=0x2345)(at)[:0x24]
            + struct.pack("<I", 0x20002)
            + task32("v", cs=0, ss=0, ds=0x1234, es=0x2345)(at)[0x28:]}),
)  # fmt: skip

CONFORM_ROWS: tuple[MicroGuest, ...] = tuple(
    replace(row, not_emulated="lacks much of this", not_nested="lacks much of this")
    for row in (*MSRS, *CONTROL, *EDGE, *DEVICE, *DEBUG, *EVENTS, *APIC, *IOAPIC_ROWS, *TASKS)
)
