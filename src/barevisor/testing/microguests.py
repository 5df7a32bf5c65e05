"""Micro guests: what a CPU engine must do, one row each (see `micro` for how they run).

Expected results come from the manuals (SDM volumes 2 and 3; APM volume 2 for SYSCALL), not from
what an engine was seen to do.
"""

from __future__ import annotations

from dataclasses import replace

from barevisor.cpu.engine import MmioRead, MmioWrite, PioRead, PioWrite
from barevisor.testing.micro import (
    CODE,
    DATA,
    GDT,
    IST1,
    MMIO,
    PD,
    PDPT,
    PML4,
    PT,
    RSP0,
    SPARE,
    STACK,
    USER_STACK,
    Fault,
    Gate,
    MicroGuest,
    call_gate,
    descriptor,
    entry,
    page_tables,
    pte,
)  # fmt: skip

M = MicroGuest
XD = 1 << 63
AC, IF = 1 << 18, 1 << 9
SMEP, SMAP, OSXSAVE, DE, PSE, PAE = 1 << 20, 1 << 21, 1 << 18, 8, 16, 32
CR0_TS, CR0_WP, CR0_AM = 8, 1 << 16, 1 << 18
KERNEL_PAGES = {PT: b"".join(entry(n << 12, 7 if n == SPARE >> 12 else 3) for n in range(512))}
"""All pages but SPARE belong to the kernel (for SMEP and SMAP)."""
APIC_ON = "mov ebx, LAPIC_; mov dword [rbx+0xF0], 0x1FF; mov dword [rbx+0x350], 0x10000\n"
EOI = "mov dword [rbx+0xB0], 0\n"
SELF = "mov dword [rbx+0x300], 0x44044\n"  # fixed, vector 0x44, to itself


def u32(value: int) -> bytes:
    """Little-endian."""
    return value.to_bytes(4, "little")


PORTS = (
    M("real: ports of every size", "real",
      "mov al, 0x11; out 0x20, al; mov ax, 0x2233; out 0x20, ax; mov dx, 0x120;"
      "mov eax, 0x44556677; out dx, eax; xor eax, eax; in al, 0x60; report eax; in ax, 0x62;"
      "report eax; in eax, dx; report eax; end",
      (PioWrite(0x20, 1, b"\x11"), PioWrite(0x20, 2, b"\x33\x22"),
       PioWrite(0x120, 4, b"\x77\x66\x55\x44"), PioRead(0x60, 1), 0xAA, PioRead(0x62, 2), 0xCCBB,
       PioRead(0x120, 4), 0x04030201),
      answers=b"\xaa\xbb\xcc\1\2\3\4"),
    M("real: rep outsb takes bytes in order", "real",
      "mov si, text; mov cx, 5; mov dx, 0xE9; rep outsb; movzx eax, cx; report eax; end;"
      "text: db 'h', 'e', 'l', 'l', 'o'",
      (PioWrite(0xE9, 1, b"hello"), 0)),
    M("real: rep insw stores and moves DI", "real",
      "mov di, DATA_; mov cx, 3; mov dx, 0x1F0; rep insw; movzx eax, di; report eax; end",
      (PioRead(0x1F0, 2, 3), DATA + 6), answers=b"abcdef", memory={DATA: b"abcdef"}),
    M("long: outsd downwards with DF", "long",
      "std; mov esi, d+4; mov ecx, 2; mov edx, 0xE9; rep outsd; cld; sub esi, d; report esi; end;"
      "d: dd 0x11111111, 0x22222222",
      (PioWrite(0xE9, 4, u32(0x22222222) + u32(0x11111111)), -4)),
    M("long: insb to two pages", "long",
      "mov edi, SPARE_+0xFFE; mov ecx, 4; mov edx, 0x60; rep insb; report edi; end",
      (PioRead(0x60, 1, 4), SPARE + 0x1002), answers=b"wxyz", memory={SPARE + 0xFFE: b"wxyz"}),
    M("long: in leaves the upper half for al and ax, clears it for eax", "long",
      "mov rax, -1; in al, 0x60; report64 rax; mov rax, -1; in eax, 0x64; report64 rax; end",
      (PioRead(0x60, 1), 0xFFFFFF05, 0xFFFFFFFF, PioRead(0x64, 4), 0x01020304, 0),
      answers=b"\5\4\3\2\1"),
    M("user: I/O bitmap allows 0x60 and forbids 0x70", "prot32",
      "user32 u; u: in al, 0x60; b: in al, 0x70; end",
      (PioRead(0x60, 1), Fault(13, "b", 0)), answers=b"\0"),
    M("user: a word at 0x67 needs two bits of the I/O bitmap", "prot32",
      "user32 u; u: in al, 0x67; b: in ax, 0x67; end",
      (PioRead(0x67, 1), Fault(13, "b", 0)), answers=b"\0"),
)  # fmt: skip

MMIO_ROWS = (
    M("long: mmio stores of every size", "long",
      "mov ebx, MMIO_; mov byte [rbx], 0x11; mov word [rbx+2], 0x2233;"
      "mov dword [rbx+4], 0x44556677; mov rax, 0x1122334455667788; mov [rbx+8], rax; end",
      (MmioWrite(MMIO, b"\x11"), MmioWrite(MMIO + 2, b"\x33\x22"),
       MmioWrite(MMIO + 4, b"\x77\x66\x55\x44"),
       MmioWrite(MMIO + 8, b"\x88\x77\x66\x55\x44\x33\x22\x11"))),
    M("long: mmio loads of every size", "long",
      "mov ebx, MMIO_; movzx eax, byte [rbx]; report eax; movsx eax, word [rbx+2]; report eax;"
      "mov eax, [rbx+4]; report eax; mov rax, [rbx+8]; report64 rax; end",
      (MmioRead(MMIO, 1), 0x81, MmioRead(MMIO + 2, 2), 0xFFFF8382, MmioRead(MMIO + 4, 4),
       0x87868584, MmioRead(MMIO + 8, 8), 0x0B0A0988, 0x0F0E0D0C),
      answers=bytes(range(0x81, 0x89)) + bytes(range(9, 16))),
    M("long: add to mmio reads, then writes", "long",
      "mov ebx, MMIO_; add dword [rbx], 5; pushf; pop rax; and eax, 1; report eax; end",
      (MmioRead(MMIO, 4), MmioWrite(MMIO, u32(4)), 1), answers=b"\xff" * 4),
    M("long: rep stosd to mmio", "long",
      "mov edi, MMIO_; mov eax, 0x01020304; mov ecx, 2; rep stosd; report edi; end",
      (MmioWrite(MMIO, u32(0x01020304)), MmioWrite(MMIO + 4, u32(0x01020304)), MMIO + 8)),
    M("long: movsd from mmio to memory", "long",
      "mov esi, MMIO_; mov edi, DATA_; movsd; report esi; end",
      (MmioRead(MMIO, 4), MMIO + 4), answers=b"mmio", memory={DATA: b"mmio"}),
    M("long: xchg with mmio", "long",
      "mov ebx, MMIO_; mov ecx, 7; xchg [rbx], ecx; report ecx; end",
      (MmioRead(MMIO, 4), MmioWrite(MMIO, u32(7)), 9), answers=u32(9)),
    M("prot32: push from mmio, pop to mmio", "prot32",
      "mov ebx, MMIO_; push dword [ebx]; pop dword [ebx+4]; end",
      (MmioRead(MMIO, 4), MmioWrite(MMIO + 4, b"push")), answers=b"push"),
    M("real: mmio in the VGA hole of a 4 MiB guest's 32-bit address", "real",
      "lgdt [p]; mov eax, cr0; or al, 1; mov cr0, eax; mov bx, DATA; mov fs, bx; and al, 0xFE;"
      "mov cr0, eax; mov ebx, MMIO_; mov byte fs:[ebx], 9; end; p: dw 0x7F; dd GDT_",
      (MmioWrite(MMIO, b"\x09"),)),
)  # fmt: skip

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

PIC_INIT = "".join(
    f"mov al, {value}; out {port}, al;"
    for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1),
                        (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, 1), (0xA1, 0xFF))
)  # fmt: skip
WAIT = "sti; w: hlt; jmp w;"
INTERRUPTS = (
    M("apic: one-shot timer wakes hlt", "long",
      APIC_ON + "mov dword [rbx+0x3E0], 11; mov dword [rbx+0x320], 0x40;"
      "mov dword [rbx+0x380], 100000; sti; hlt; a: report 2; end;"
      "h: report 1; report dword [rbx+0x390];" + EOI + "iretq",
      (1, 0, 2), irqchip=True, gates={0x40: Gate("h")}),
    M("apic: periodic timer", "long",
      APIC_ON + "mov dword [rbx+0x3E0], 11; mov dword [rbx+0x320], 0x20040;"
      "mov dword [rbx+0x380], 500000; xor ecx, ecx;" + WAIT +
      "h: inc ecx; report ecx;" + EOI + "cmp ecx, 3; je x; iretq; x: end",
      (1, 2, 3), irqchip=True, gates={0x40: Gate("h")}),
    M("apic: TSC deadline timer", "long",
      APIC_ON + "mov dword [rbx+0x320], 0x40040; rdtsc; add eax, 200000; adc edx, 0;"
      "mov ecx, 0x6E0; wrmsr;" + WAIT +
      "h: report 1; mov ecx, 0x6E0; rdmsr; or eax, edx; report eax; end",
      (1, 0), irqchip=True, gates={0x40: Gate("h")}),
    M("apic: masked timer is silent", "long",
      APIC_ON + "mov dword [rbx+0x3E0], 11; mov dword [rbx+0x320], 0x10040; sti;"
      "mov dword [rbx+0x380], 10; l: mov eax, [rbx+0x390]; test eax, eax; jne l; nop; report 1;"
      "end; h: report 9; end",
      (1,), irqchip=True, gates={0x40: Gate("h")}),
    M("apic: interrupt to itself", "long",
      APIC_ON + "sti;" + SELF + "nop; nop; report 2; end; h: report 1;" + EOI + "iretq",
      (1, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("apic: in-service blocks equal priority until EOI", "long",
      APIC_ON + "sti;" + SELF + "nop; nop; report 9; end; h: inc ecx; report ecx; cmp ecx, 2;"
      "je x; sti;" + SELF + "nop; nop; report 8;" + EOI + "nop; nop; report 7; x: end",
      (1, 8, 2), irqchip=True, gates={0x44: Gate("h")}, regs={}),
    M("apic: cr8 holds an interrupt back", "long",
      APIC_ON + "sti; mov eax, 4; mov cr8, rax;" + SELF + "nop; nop; report 1; xor eax, eax;"
      "mov cr8, rax; nop; report 3; end; h: report 2;" + EOI + "iretq",
      (1, 2, 3), irqchip=True, gates={0x44: Gate("h")}),
    M("apic: NMI comes with interrupts off, and not inside an NMI", "long",
      APIC_ON + "mov dword [rbx+0x310], 0; mov dword [rbx+0x300], 0x4400; nop; nop; report 3; end;"
      "h: inc ecx; report ecx; cmp ecx, 1; jne x; mov dword [rbx+0x300], 0x4400; nop; nop;"
      "report 0x11; x: iretq",
      (1, 0x11, 2, 3), irqchip=True, gates={2: Gate("h")}),
    M("apic: x2APIC registers are MSRs", "long",
      "writemsr 0x1B,0xFEE00D00,0; writemsr 0x80F,0x1FF,0; mov ecx, 0x802; rdmsr; report eax; sti;"
      "writemsr 0x83F,0x44,0; nop; report 2; end; h: report 1; writemsr 0x80B,0,0; iretq",
      (0, 1, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("irq: sti shields one instruction", "long",
      APIC_ON + SELF + "sti; a: nop; b: nop; end; h: report dword [rsp]; end",
      ("b",), irqchip=True, gates={0x44: Gate("h")}),
    M("irq: sti and cli let nothing in", "long",
      APIC_ON + SELF + "sti; cli; nop; nop; report 1; end; h: report 9; end",
      (1,), irqchip=True, gates={0x44: Gate("h")}),
    M("irq: popf opens at once", "long",
      APIC_ON + SELF + "push 0x202; popf; b: nop; end; h: report dword [rsp]; end",
      ("b",), irqchip=True, gates={0x44: Gate("h")}),
    M("irq: sti and hlt lose no wake-up", "long",
      APIC_ON + SELF + "sti; hlt; b: nop; end; h: report dword [rsp]; end",
      ("b",), irqchip=True, gates={0x44: Gate("h")}),
    M("irq: message-signalled", "long",
      APIC_ON + "mov al, 0x44; out 0xD2, al;" + WAIT + "h: report 1; end",
      (1,), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: edge-triggered line", "long",
      APIC_ON + "mov edx, IOAPIC_; mov dword [rdx], 0x1A; mov dword [rdx+0x10], 0x44;"
      "mov dword [rdx], 0x1B; mov dword [rdx+0x10], 0; mov al, 5; out 0xD0, al; sti; nop; nop;"
      "report 2; out 0xD1, al; end; h: report 1;" + EOI + "mov al, 5; iretq",
      (1, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: level-triggered line comes again until lowered", "long",
      APIC_ON + "mov edx, IOAPIC_; mov dword [rdx], 0x1A; mov dword [rdx+0x10], 0x8044;"
      "mov dword [rdx], 0x1B; mov dword [rdx+0x10], 0; mov al, 5; out 0xD0, al; sti; nop; nop;"
      "report 9; end; h: inc ecx; report ecx; cmp ecx, 2; jne x; mov al, 5; out 0xD1, al;"
      "mov dword [rdx], 0x1A; mov eax, [rdx+0x10]; and eax, 0x4000; report eax;" + EOI +
      "mov eax, [rdx+0x10]; and eax, 0x4000; report eax; end; x: " + EOI + "iretq",
      (1, 2, 0x4000, 0), irqchip=True, gates={0x44: Gate("h")}),
    M("ioapic: masked line waits", "long",
      APIC_ON + "mov edx, IOAPIC_; mov dword [rdx], 0x1A; mov dword [rdx+0x10], 0x18044;"
      "mov dword [rdx], 0x1B; mov dword [rdx+0x10], 0; mov al, 5; out 0xD0, al; sti; nop; nop;"
      "report 1; mov dword [rdx], 0x1A; mov dword [rdx+0x10], 0x8044; nop; nop; report 9; end;"
      "h: report 2; end",
      (1, 2), irqchip=True, gates={0x44: Gate("h")}),
    M("pic: PIT channel 0 through the 8259", "long",
      APIC_ON + "mov dword [rbx+0x350], 0x700;" + PIC_INIT + "mov al, 0xFE; out 0x21, al;"
      "mov al, 0x34; out 0x43, al; mov al, 0; out 0x40, al; mov al, 8; out 0x40, al;"
      "xor ecx, ecx;" + WAIT +
      "h: inc ecx; report ecx; mov al, 0x20; out 0x20, al; cmp ecx, 2; je x; iretq; x: end",
      (1, 2), irqchip=True, gates={0x20: Gate("h")}),
    M("pic: a line of the slave", "long",
      APIC_ON + "mov dword [rbx+0x350], 0x700;" + PIC_INIT + "mov al, 0xFB; out 0x21, al;"
      "mov al, 0xFD; out 0xA1, al; mov al, 9; out 0xD0, al;" + WAIT +
      "h: mov al, 0x0B; out 0xA0, al; in al, 0xA0; movzx eax, al; report eax; end",
      (2,), irqchip=True, gates={0x29: Gate("h")}),
    M("real: timer interrupt by the vector table", "real",
      "writemsr 0x1B,0xFEE00100,0;" + PIC_INIT +
      "mov al, 0xFE; out 0x21, al; mov al, 0x34; out 0x43, al; mov al, 0; out 0x40, al;"
      "mov al, 8; out 0x40, al; sti; w: hlt; jmp w; h: report 1; end",
      (1,), irqchip=True, gates={0x20: Gate("h")}),
)  # fmt: skip

# ---- where a row cannot run: facts about places, not about the architecture ----

EMULATED = {
    "lacks the instruction": (
        "long: xsave and xrstor", "long: cmpxchg16b, equal", "long: cmpxchg16b, different",
        "long: cmpxchg16b needs alignment",
    ),
    "does not check this": (
        "real: a word at 0xFFFF is beyond the limit", "prot32: stack limit is a stack fault",
        "long: #GP, mov cr0 above 32 bits", "long: #GP, wrmsr of an invalid PAT",
        "long: #GP, iretq to a non-canonical address",
        "user: #AC, unaligned load with AC and AM", "debug: general detect",
        "long: #SS, non-canonical stack, on IST",
    ),
    "has no 32-bit paging and no 1 GiB pages": (
        "prot32: paging with 4 KiB and 4 MiB pages", "prot32: PAE paging with NX",
        "paging: 1 GiB page",
    ),
    "runs user code directly and wants KVM's own user selectors": (
        "user: int 0x80 frame", "user: syscall and sysret", "user: sysret to compatibility mode",
        "user: iretq to compatibility mode and int back",
        "user: 64-bit call gate and far return",
    ),
    "stores the first half before the second faults": (
        "paging: access across two pages faults on the second",
    ),
    "has no data watchpoints, and no MOV SS shadow for traps": (
        "debug: single step waits behind mov ss", "debug: write watchpoint is a trap",
        "debug: read-write watchpoint of another register",
    ),
    "looks for interrupts only after a while": (
        "apic: interrupt to itself", "apic: in-service blocks equal priority until EOI",
        "apic: cr8 holds an interrupt back",
        "apic: NMI comes with interrupts off, and not inside an NMI",
        "apic: x2APIC registers are MSRs", "irq: sti shields one instruction",
        "irq: popf opens at once", "ioapic: edge-triggered line",
        "ioapic: level-triggered line comes again until lowered", "ioapic: masked line waits",
    ),
}  # fmt: skip
"""A /dev/kvm that emulates ring 0 by instruction (6.18 with kvm_pvm). It also ends the run with
an emulation failure at many more instructions; that needs no row here."""

NESTED = {
    "checks no segment limits and rights": (
        "real: a word at 0xFFFF is beyond the limit", "prot32: segment base and limit",
        "prot32: expand-down segment", "prot32: stack limit is a stack fault",
        "prot32: use of a null selector", "prot32: write to a read-only segment",
        "prot32: write through CS",
    ),
    "checks no canonical addresses here": (
        "long: #GP, wrmsr of a non-canonical LSTAR", "long: #GP, jump to a non-canonical address",
        "long: #GP, iretq to a non-canonical address", "long: #SS, non-canonical stack, on IST",
    ),
    "gives another error code or address": (
        "long: #GP, int through no gate", "long: a gate not present makes #NP",
        "long: #GP whose gate is not present is a double fault", "paging: reserved bit",
    ),
    "has no such exception": (
        "long: #UD, lock mov", "long: #XM, unmasked SSE division by zero",
        "user: #AC, unaligned load with AC and AM", "debug: icebp", "debug: general detect",
    ),
    "does not take DR7 from the VMCB": (
        "debug: instruction breakpoint is a fault, RF passes it",
        "debug: write watchpoint is a trap", "debug: read-write watchpoint of another register",
    ),
    "notices the store too late": ("code: store into the next instruction",),
    "saves no SSE state for the inner guest": ("long: xsave and xrstor",),
    "makes KVM emulate it, which cuts the value to 32 bits": ("long: #GP, mov cr0 above 32 bits",),
}  # fmt: skip
"""KVM on the AMD SVM of QEMU 7.2's TCG."""


def _limits(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: reason for reason, names in table.items() for name in names}


def _rows(*groups: tuple[MicroGuest, ...]) -> tuple[MicroGuest, ...]:
    emulated, nested = _limits(EMULATED), _limits(NESTED)
    rows = tuple(
        replace(r, not_emulated=emulated.pop(r.name, ""), not_nested=nested.pop(r.name, ""))
        for group in groups
        for r in group
    )
    if emulated or nested:
        raise ValueError(f"no such rows: {[*emulated, *nested]}")
    return rows


ROWS = _rows(
    PORTS, MMIO_ROWS, REAL, PROTECTED, EXCEPTIONS, LONG, ATOMIC, STRINGS, PAGING, DEBUG,
    CODE_ROWS, INTERRUPTS,
)  # fmt: skip
