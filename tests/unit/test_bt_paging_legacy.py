"""32-bit and PAE paging of the software engine against a plain model of them.

As test_bt_paging.py does for 4-level paging: random entries, both rings, reads, writes and
fetches, with CR0.WP, CR4.PSE, CR4.SMEP, CR4.SMAP and EFER.NXE on and off (SDM, "32-Bit Paging",
"PAE Paging", "Access Rights", "Page-Fault Exceptions").
"""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from barevisor.cpu.bt.vm import BtEngine
from barevisor.cpu.engine import CpuState, DescriptorTable, MachineSpec, PioWrite, Segment, Vcpu
from barevisor.testing.micro import gdt, tss

RAM = 0x800000
TOP, LOW_PD, LOW_PT, PDPT = 0x10000, 0x11000, 0x12000, 0x13000
TABLES = (0x14000, 0x15000)
"""PD and PT of the page under test; 32-bit paging has its PDE in TOP."""
GDT, IDT, TSS, CODE, DATA, STACK = 0x1000, 0x2000, 0x3000, 0x4000, 0x400000, 0x9000
P, RW, US, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
WP, PSE, PAE, SMEP, SMAP, NXE = 1 << 16, 1 << 4, 1 << 5, 1 << 20, 1 << 21, 1 << 11
READ, WRITE, FETCH = 0, 2, 0x10
CODES = {READ: 0, WRITE: 0x10, FETCH: 0x20}
# mov eax, [ebx]; out 0x11, al / mov [ebx], eax; out 0x11, al / jmp ebx
PROGRAMS = {0: b"\x8b\x03\xe6\x11", 0x10: b"\x89\x03\xe6\x11", 0x20: b"\xff\xe3"}
HANDLER = b"\x58\xe6\x10"  # pop eax; out 0x10, al


@dataclass(frozen=True)
class Case:
    """Entries from the top down: PDE, PTE, or with `pae` PDPTE, PDE, PTE."""

    pae: bool
    entries: tuple[int, ...]
    kind: int
    user: bool
    wp: bool
    pse: bool
    smep: bool
    smap: bool
    nxe: bool

    @property
    def linear(self) -> int:
        return (1 << 30 | 1 << 21 if self.pae else 5 << 22) | 9 << 12 | 0x120

    @property
    def places(self) -> tuple[int, ...]:
        """Where `entries` are."""
        if self.pae:
            return PDPT + 8, TABLES[0] + 8, TABLES[1] + 8 * 9
        return TOP + 4 * 5, TABLES[1] + 4 * 9

    @property
    def large(self) -> bool:
        """Does the PDE map a page? Without PAE that takes CR4.PSE."""
        return bool(self.entries[-2] & PS) and (self.pae or self.pse)

    def used(self) -> tuple[int, ...]:
        return self.entries[:-1] if self.large else self.entries


def reserved(case: Case, level: int, entry: int) -> bool:
    """`level` counts down to the PTE's 0."""
    if not case.pae:
        return level == 1 and case.large and bool(entry & 1 << 21)
    high = (1 << 63) - (1 << 46)
    if level == 2:
        return bool(entry & (high | NX | 0x1E6))
    low = 0x1FE000 if level == 1 and case.large else 0
    return bool(entry & (high | low) or (entry & NX and not case.nxe))


def expected(case: Case) -> int | None:
    """The error code, or None when the access succeeds."""
    told = case.kind | (4 if case.user else 0)
    if case.kind == FETCH and not ((case.nxe and case.pae) or case.smep):
        told &= ~FETCH
    rights, nx = RW | US, False
    for at, entry in enumerate(case.used()):
        level = len(case.entries) - 1 - at
        if not entry & P:
            return told
        if reserved(case, level, entry):
            return told | 9
        if level < 2:
            rights &= entry
            nx |= bool(entry & NX)
    return told | 1 if refused(case, rights, nx) else None


def refused(case: Case, rights: int, nx: bool) -> bool:
    if case.kind == FETCH:
        return nx or (not rights & US if case.user else bool(rights & US and case.smep))
    if case.user:
        return not rights & US or (case.kind == WRITE and not rights & RW)
    if rights & US and case.smap:
        return True
    return case.kind == WRITE and not rights & RW and case.wp


class Rig:
    """One vCPU whose page tables are rewritten for each case."""

    def __init__(self) -> None:
        self.ram = mmap.mmap(-1, RAM)
        self._anchor = ctypes.c_char.from_buffer(self.ram)
        self.vm = BtEngine().create_vm(MachineSpec(irqchip=False))
        # JUSTIFICATION: the guest's RAM; `ram` outlives the VM.
        self.vm.set_memory(0, 0, RAM, ctypes.addressof(self._anchor))
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self._fill()

    def _fill(self) -> None:
        frame = bytearray(tss(False))
        struct.pack_into("<II", frame, 4, STACK, 0x10)
        at = CODE + 0x80
        gate = struct.pack("<HHHH", at & 0xFFFF, 0x18, 0x8E00, at >> 16)
        for place, raw in ((GDT, gdt(False)), (TSS, bytes(frame)), (IDT + 14 * 8, gate)):
            self.ram[place : place + len(raw)] = raw
        for offset, code in PROGRAMS.items():
            for side in (0, 0x1000):  # a kernel's and a user's copy
                self.ram[CODE + side + offset : CODE + side + offset + len(code)] = code
        self.ram[at : at + len(HANDLER)] = HANDLER

    def _tables(self, case: Case) -> None:
        """The first 2 MiB for the programs, and the case's entries."""
        form, size = ("<Q", 8) if case.pae else ("<I", 4)
        pages = [n << 12 | (7 if n == CODE + 0x1000 >> 12 else 3) for n in range(512)]
        self.ram[LOW_PT : LOW_PT + 512 * size] = struct.pack(f"<512{form[1]}", *pages)
        rows = {LOW_PD if case.pae else TOP: LOW_PT | 7, PDPT: LOW_PD | 1}
        rows.update(zip(case.places, case.entries, strict=True))
        for at, entry in rows.items():
            self.ram[at : at + size] = struct.pack(form, entry)

    def _state(self, case: Case) -> CpuState:
        s = self.vcpu.get_state()
        s.cr0, s.cr3 = 0x80000031 | (WP if case.wp else 0), PDPT if case.pae else TOP
        flags = ((case.pae, PAE), (case.pse, PSE), (case.smep, SMEP), (case.smap, SMAP))
        s.cr4 = 0x600 | sum(bit for on, bit in flags if on)
        s.efer = NXE if case.nxe else 0
        s.gdt, s.idt = DescriptorTable(GDT, 0x7F), DescriptorTable(IDT, 0x7FF)
        s.tr = Segment(0x48, TSS, 0x87, 11, s=False)
        code = CODE + (0x1000 if case.user else 0) + CODES[case.kind]
        s.regs = replace(s.regs, rip=code, rbx=case.linear, rsp=STACK, rflags=0x3002)
        ring = 3 if case.user else 0
        s.cs = Segment(0x23 if ring else 0x18, 0, 0xFFFFFFFF, 11, dpl=ring, db=True, g=True)
        s.ss = Segment(0x2B if ring else 0x10, 0, 0xFFFFFFFF, 3, dpl=ring, db=True, g=True)
        s.ds = s.es = s.ss
        return s

    def run(self, case: Case) -> int | None:
        """The error code, or None."""
        self._tables(case)
        self.vcpu.set_state(self._state(case))
        match self.vcpu.run():
            case PioWrite(0x10, 1, data):
                return data[0]
            case PioWrite(0x11):
                return None
            case other:
                raise AssertionError(other)

    def entries(self, case: Case) -> list[int]:
        """Those of `used` as they are now."""
        form = "<Q" if case.pae else "<I"
        return [struct.unpack_from(form, self.ram, at)[0] for at, _ in self._used(case)]

    def _used(self, case: Case) -> list[tuple[int, int]]:
        return list(zip(case.places, case.used(), strict=False))

    def close(self) -> None:
        self.vm.close()
        del self._anchor


def random_case(r: random.Random) -> Case:
    """Mostly present entries: a walk that stops early says little."""
    pae, pse = r.random() < 0.6, r.random() < 0.5
    marked_large = r.random() < 0.4
    large = marked_large and (pae or pse)  # else the bit is ignored

    def flags() -> int:
        value = P if r.random() < 0.95 else 0
        value |= RW if r.random() < 0.7 else 0
        value |= US if r.random() < 0.7 else 0
        if pae:
            value |= NX if r.random() < 0.1 else 0
            value |= 1 << r.randrange(46, 63) if r.random() < 0.04 else 0
        return value | (A if r.random() < 0.3 else 0) | r.choice([0, 0x200, 0x800])

    directory = flags() | (DATA if large else TABLES[1]) | (PS if marked_large else 0)
    if large and r.random() < 0.1:
        directory |= r.choice([0x2000, 0x100000]) if pae else 1 << 21
    entries = [directory, flags() | DATA]
    if pae:
        top = TABLES[0] | (P if r.random() < 0.97 else 0)
        top |= r.choice([RW, US, 0x20, 0x100, 1 << 46, NX]) if r.random() < 0.04 else 0
        entries.insert(0, top)
    kind = r.choice([READ, WRITE, FETCH])
    user, wp, smep, smap, nxe = (r.random() < 0.5 for _ in range(5))
    return Case(pae, tuple(entries), kind, user, wp, pse, smep, smap, nxe)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def marked(case: Case) -> list[int]:
    """The entries once the access has succeeded; a PDPTE has no accessed bit."""
    done = [e | A for e in case.used()]
    if case.pae:
        done[0] = case.entries[0]
    done[-1] |= D if case.kind == WRITE else 0
    return done


@pytest.mark.parametrize("seed", range(10))
def test_legacy_paging_agrees_with_the_model(seed: int, rig: Rig) -> None:
    r = random.Random(seed)
    for _ in range(400):
        case = random_case(r)
        for mask in (0xFFF, 0x1FFFFF, 0x3FFFFF):
            at = DATA + (case.linear & mask)
            rig.ram[at : at + 2] = b"\xe6\x11"  # what a fetch finds: out 0x11, al
        want = expected(case)
        assert rig.run(case) == want, case
        if want is None:
            assert rig.entries(case) == marked(case), case
