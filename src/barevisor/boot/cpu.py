"""The CPU states that boot protocols ask for: flat 32-bit protected mode, and 64-bit mode."""

from __future__ import annotations

import struct

from barevisor.board.ram import GuestRam
from barevisor.cpu.engine import CpuState, DescriptorTable, Registers, Segment

GDT, GDT_SIZE = 0x500, 40
PAGE_TABLES = 0x9000
"""PML4, PDPT and four page directories: 6 pages."""
STACK = 0x8000
IDENTITY_GIB = 4

CR0_PE, CR0_ET, CR0_PG = 1 << 0, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
PTE_PRESENT_WRITE, PTE_LARGE = 0x3, 0x80

CODE64, CODE32, DATA = 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
TSS = 0x0000_8B00_0000_0067
BOOT_CS, BOOT_DS, BOOT_TSS = 0x10, 0x18, 0x20
"""boot.rst, 64-bit boot protocol: __BOOT_CS and __BOOT_DS."""


def _flat(selector: int, kind: int, *, db: bool, long: bool) -> Segment:
    return Segment(selector, 0, 0xFFFF_FFFF, kind, db=db, long=long, g=True)


def _state(ram: GuestRam, gdt: int, *, long: bool) -> CpuState:
    entries = [0, 0, CODE64 if long else CODE32, DATA, TSS]
    ram.write(gdt, b"".join(entry.to_bytes(8, "little") for entry in entries))
    data = _flat(BOOT_DS, 3, db=True, long=False)
    return CpuState(
        cs=_flat(BOOT_CS, 11, db=not long, long=long),
        ds=data, es=data, fs=data, gs=data, ss=data,
        tr=Segment(BOOT_TSS, 0, 0x67, 11, s=False),
        gdt=DescriptorTable(gdt, GDT_SIZE - 1),
        idt=DescriptorTable(0, 0),
        cr0=CR0_PE | CR0_ET,
    )  # fmt: skip


def protected_mode(
    ram: GuestRam, entry: int, *, eax: int = 0, ebx: int = 0, gdt: int = GDT
) -> CpuState:
    """32-bit flat protected mode, paging and interrupts off (multiboot 1 and PVH). The TSC is 0,
    as after power-up."""
    state = _state(ram, gdt, long=False)
    state.tsc = 0
    state.regs = Registers(rax=eax, rbx=ebx, rip=entry)
    return state


def long_mode(ram: GuestRam, entry: int, *, rsi: int) -> CpuState:
    """64-bit mode, the first 4 GiB mapped at their own addresses with 2 MiB pages."""
    state = _state(ram, GDT, long=True)
    state.regs = Registers(rsi=rsi, rip=entry, rsp=STACK)
    state.cr0 |= CR0_PG
    state.cr3 = _identity_map(ram)
    state.cr4 = CR4_PAE
    state.efer = EFER_LME | EFER_LMA
    return state


def _identity_map(ram: GuestRam) -> int:
    directories = PAGE_TABLES + 0x2000
    pdpt = [(directories + 0x1000 * i) | PTE_PRESENT_WRITE for i in range(IDENTITY_GIB)]
    pages = range(PTE_PRESENT_WRITE | PTE_LARGE, IDENTITY_GIB << 30, 1 << 21)
    for at, entries in (
        (PAGE_TABLES, [(PAGE_TABLES + 0x1000) | PTE_PRESENT_WRITE]),
        (PAGE_TABLES + 0x1000, pdpt),
        (directories, pages),
    ):
        ram.write(at, struct.pack(f"<{len(entries)}Q", *entries))
    return PAGE_TABLES
