"""The paging rules of the software engine against a plain model of them.

Random entries at all four levels, both rings, reads, writes and fetches, with CR0.WP, CR4.SMEP,
CR4.SMAP, EFER.NXE and RFLAGS.AC on and off, and protection keys of user and supervisor pages (SDM,
"4-Level Paging", "Access Rights", "Page-Fault Exceptions", "Accessed and Dirty Flags",
"Protection Keys").
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
PML4, PDPT, PD, PT = 0x10000, 0x11000, 0x12000, 0x13000
TABLES = (0x14000, 0x15000, 0x16000)
"""PDPT, PD and PT of the page under test."""
GDT, IDT, TSS, CODE, DATA, STACK = 0x1000, 0x2000, 0x3000, 0x4000, 0x600000, 0x9000
WHERE = (3 << 39 | 5 << 30 | 1 << 21 | 9 << 12) + 0x120
PLACES = (PML4 + 8 * 3, TABLES[0] + 8 * 5, TABLES[1] + 8 * 1, TABLES[2] + 8 * 9)
LANDINGS = (WHERE & 0x3FFFFFFF, DATA + (WHERE & 0x1FFFFF), DATA + (WHERE & 0xFFF))
"""Where WHERE lies in a page of 1 GiB at 0, of 2 MiB and of 4 KiB at DATA."""
P, RW, US, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
WP, SMEP, SMAP, NXE, AC = 1 << 16, 1 << 20, 1 << 21, 1 << 11, 1 << 18
PKE, PKS, PKRS, PK = 1 << 22, 1 << 24, 0x6E1, 0x20
ADDRESS = (1 << 46) - 0x1000
RESERVED = (1 << 52) - (1 << 46)
READ, WRITE, FETCH = 0, 2, 0x10
CODES = {READ: 0, WRITE: 0x10, FETCH: 0x20}
# mov eax, [rbx]; out 0x11, al / mov [rbx], eax; out 0x11, al / jmp rbx
PROGRAMS = {0: b"\x8b\x03\xe6\x11", 0x10: b"\x89\x03\xe6\x11", 0x20: b"\xff\xe3"}
HANDLER = b"\x58\xe6\x10"  # pop rax; out 0x10, al
WRPKRU, WRPKRU_AT = b"\x0f\x01\xef\xe6\x11", 0x40  # wrpkru; out 0x11, al


@dataclass(frozen=True)
class Case:
    """Four entries, from the PML4's down; `kind` is the access's bit in an error code."""

    entries: tuple[int, int, int, int]
    kind: int
    user: bool
    wp: bool
    smep: bool
    smap: bool
    nxe: bool
    ac: bool
    pke: bool = False
    pks: bool = False
    rights: int = 0
    """PKRU and IA32_PKRS alike; key 0, which the handler's pages have, is free."""


def used(case: Case) -> list[int]:
    """The entries that the walk reads, when nothing faults."""
    for level in (1, 2):
        if case.entries[level] & PS:
            return list(case.entries[: level + 1])
    return list(case.entries)


def reserved(case: Case, level: int, entry: int) -> bool:
    low = {0: PS, 1: 0x3FFFE000 if entry & PS else 0, 2: 0x1FE000 if entry & PS else 0, 3: 0}
    return bool(entry & (RESERVED | low[level]) or (entry & NX and not case.nxe))


def expected(case: Case) -> int | None:
    """The error code, or None when the access succeeds."""
    told = case.kind | (4 if case.user else 0)
    if case.kind == FETCH and not (case.nxe or case.smep):
        told &= ~FETCH
    rights = RW | US
    nx = False
    for level, entry in enumerate(used(case)):
        if not entry & P:
            return told
        if reserved(case, level, entry):
            return told | 9
        rights &= entry
        nx |= bool(entry & NX)
    keyed = forbidden(case, rights, used(case)[-1])
    if keyed or refused(case, rights, nx):
        return told | 1 | (PK if keyed else 0)
    return None


def forbidden(case: Case, rights: int, leaf: int) -> bool:
    """By its protection key."""
    on = case.pke if rights & US else case.pks and not case.user
    access, write = (case.rights >> 2 * (leaf >> 59 & 15) + n & 1 for n in (0, 1))
    if case.kind == FETCH or not on:
        return False
    return bool(access or (write and case.kind == WRITE and (case.user or case.wp)))


def refused(case: Case, rights: int, nx: bool) -> bool:
    if case.kind == FETCH:
        return nx or (not rights & US if case.user else bool(rights & US and case.smep))
    if case.user:
        return not rights & US or (case.kind == WRITE and not rights & RW)
    if rights & US and case.smap and not case.ac:
        return True
    return case.kind == WRITE and not rights & RW and case.wp


class Rig:
    """One vCPU whose page tables are rewritten for each case."""

    def __init__(self) -> None:
        self.ram = mmap.mmap(-1, RAM)
        self._anchor = ctypes.c_char.from_buffer(self.ram)
        self.vm = BtEngine().create_vm(MachineSpec(irqchip=False, cpu_model="max"))
        # JUSTIFICATION: the guest's RAM; `ram` outlives the VM.
        self.vm.set_memory(0, 0, RAM, ctypes.addressof(self._anchor))
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self._fill()
        self.base = self._state()

    def _fill(self) -> None:
        raw = gdt(True)
        self.ram[GDT : GDT + len(raw)] = raw
        frame = bytearray(tss(True))
        struct.pack_into("<Q", frame, 4, STACK)
        self.ram[TSS : TSS + len(frame)] = bytes(frame)
        at = CODE + 0x80
        gate = struct.pack("<HHHHQ", at & 0xFFFF, 8, 0x8E00, at >> 16, 0)
        self.ram[IDT + 14 * 16 : IDT + 15 * 16] = gate
        for offset, code in PROGRAMS.items():
            for side in (0, 0x1000):  # a kernel's and a user's copy
                self.ram[CODE + side + offset : CODE + side + offset + len(code)] = code
        self.ram[at : at + 3] = HANDLER
        self.ram[CODE + WRPKRU_AT : CODE + WRPKRU_AT + len(WRPKRU)] = WRPKRU
        self.ram[PML4 : PML4 + 8] = struct.pack("<Q", PDPT | 7)
        self.ram[PDPT : PDPT + 8] = struct.pack("<Q", PD | 7)
        self.ram[PD : PD + 8] = struct.pack("<Q", PT | 7)
        pages = [n << 12 | (7 if n == CODE + 0x1000 >> 12 else 3) for n in range(512)]
        self.ram[PT : PT + 4096] = struct.pack("<512Q", *pages)

    def _state(self) -> CpuState:
        s = self.vcpu.get_state()
        s.cr0, s.cr3, s.cr4, s.efer = 0x80000031, PML4, 0x620, 0x501
        s.gdt, s.idt = DescriptorTable(GDT, 0x7F), DescriptorTable(IDT, 0xFFF)
        s.tr = Segment(0x48, TSS, 0x67, 11, s=False)
        return s

    def _set_pkru(self, value: int) -> None:
        s = replace(self.base)
        s.cr4 |= PKE
        s.regs = replace(s.regs, rip=CODE + WRPKRU_AT, rax=value, rcx=0, rdx=0, rflags=2)
        s.cs = Segment(8, 0, 0xFFFFFFFF, 11, long=True, g=True)
        self.vcpu.set_state(s)
        assert isinstance(self.vcpu.run(), PioWrite)

    def _prepare(self, case: Case) -> None:
        if case.pke:
            self._set_pkru(case.rights)
        for at, entry in zip(PLACES, case.entries, strict=True):
            self.ram[at : at + 8] = struct.pack("<Q", entry)
        ring = 3 if case.user else 0
        s = replace(self.base)
        s.cr0 |= WP if case.wp else 0
        s.cr4 |= (SMEP if case.smep else 0) | (SMAP if case.smap else 0)
        s.cr4 |= (PKE if case.pke else 0) | (PKS if case.pks else 0)
        s.msrs = {**s.msrs, PKRS: case.rights}
        s.efer |= NXE if case.nxe else 0
        code = CODE + (0x1000 if case.user else 0) + CODES[case.kind]
        rflags = 0x3002 | (AC if case.ac else 0)
        s.regs = replace(s.regs, rip=code, rbx=WHERE, rsp=STACK, rflags=rflags)
        s.cs = Segment(0x33 if ring else 8, 0, 0xFFFFFFFF, 11, True, ring, False, True, True, True)
        s.ss = Segment(0x2B if ring else 16, 0, 0xFFFFFFFF, 3, True, ring, True, True, False, True)
        s.ds = s.es = s.ss
        self.vcpu.set_state(s)

    def run(self, case: Case) -> int | None:
        """The error code, or None."""
        self._prepare(case)
        match self.vcpu.run():
            case PioWrite(0x10, 1, data):
                return data[0]
            case PioWrite(0x11):
                return None
            case other:
                raise AssertionError(other)

    def entries(self, case: Case) -> list[int]:
        """Those of `used` as they are now."""
        return [struct.unpack_from("<Q", self.ram, at)[0] for at in PLACES[: len(used(case))]]

    def close(self) -> None:
        self.vm.close()
        del self._anchor


def random_case(r: random.Random) -> Case:
    """Mostly present entries: a walk that stops early says little."""

    def flags(level: int) -> int:
        value = P if r.random() < 0.95 else 0
        value |= RW if r.random() < 0.7 else 0
        value |= US if r.random() < 0.7 else 0
        value |= NX if r.random() < 0.1 else 0
        value |= 1 << r.randrange(46, 52) if r.random() < 0.03 else 0
        value |= (A if r.random() < 0.3 else 0) | r.choice([0, 0x200, 0x800])
        return value | (PS if level == 0 and r.random() < 0.02 else 0)

    large = r.choice([0, 0, 0, 1, 2])
    targets = [*TABLES, DATA]
    if large:
        targets[large] = (DATA if large == 2 else 0) | PS
        targets[large] |= r.choice([0x2000, 0x100000]) if r.random() < 0.05 else 0
    entries = [flags(level) | target for level, target in enumerate(targets)]
    kind = r.choice([READ, WRITE, FETCH])
    case = Case(tuple(entries), kind, *(r.random() < 0.5 for _ in range(6)))  # type: ignore[arg-type]
    if r.random() < 0.6:
        return case
    entries = [e | r.randrange(16) << 59 for e in entries]
    return replace(
        case, entries=tuple(entries), pke=r.random() < 0.6, pks=r.random() < 0.6,
        rights=r.randrange(1 << 30) << 2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.mark.parametrize("seed", range(10))
def test_paging_agrees_with_the_model(seed: int, rig: Rig) -> None:
    r = random.Random(seed)
    for _ in range(400):
        case = random_case(r)
        for at in LANDINGS:
            rig.ram[at : at + 2] = b"\xe6\x11"  # what a fetch finds: out 0x11, al
        want = expected(case)
        assert rig.run(case) == want, case
        if want is None:
            dirty = D if case.kind == WRITE else 0
            marked = [e | A for e in used(case)]
            marked[-1] |= dirty
            assert rig.entries(case) == marked, case
