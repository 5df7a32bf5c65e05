"""Rows for `microguests`: ports, device memory, and what interrupts a CPU."""

from __future__ import annotations

from barevisor.cpu.engine import MmioRead, MmioWrite, PioRead, PioWrite
from barevisor.testing.micro import (
    DATA,
    MMIO,
    SPARE,
    Fault,
    Gate,
    MicroGuest,
    u32,
)  # fmt: skip

M = MicroGuest
APIC_ON = "mov ebx, LAPIC_; mov dword [rbx+0xF0], 0x1FF; mov dword [rbx+0x350], 0x10000\n"
EOI = "mov dword [rbx+0xB0], 0\n"
SELF = "mov dword [rbx+0x300], 0x44044\n"  # fixed, vector 0x44, to itself

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

DEVICE_ROWS = (*PORTS, *MMIO_ROWS, *INTERRUPTS)
