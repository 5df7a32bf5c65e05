"""Hostile guests for the software engine: everything random, nothing may reach the host.

A case is a seed. From it come the mode and privilege, code (random bytes, mutated instructions of
the table, privileged instructions with garbage), registers near the ends of pages and of RAM, and
damage to page tables, descriptor tables and the task state. RAM lies between pages that nobody
may touch and a slot of host memory that is read-only for us too, so an access that escapes ends
the process; `bench/fuzz_bt.py` and the tests run cases in a child and report its seed.

What the guest makes of it is its own affair. Checked are: every `run` ends soon after a kick, the
state can be read back and set again, memory stays bounded, and a sane guest still runs after it.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import random
import resource
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from barevisor.cpu import engine
from barevisor.cpu.x86 import instructions
from barevisor.testing import micro, rows
from barevisor.testing.asm import assemble

GUARD = 1 << 20
ROM_AT, ROM_SIZE = 0xF0000000, 0x10000
PKE, PKS, PKRS = 1 << 22, 1 << 24, 0x6E1
KICK_EVERY = 0.003
MAX_CPU_SECONDS = 0.25
"""CPU time that one `run` may take: a kick arrives every KICK_EVERY, so this is a hang."""
MAX_GROWTH = 200 << 20
EXITS = 60
CASES_PER_VM = 64
PROT_NONE, PROT_READ = 0, 1
MODES = ("real", "prot16", "prot32", "long", "compat")
KINDS = ("bytes", "rows", "system", "selfmod")

EDGES = (
    0, 1, 2, 7, 8, 0xF, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF,
    0x80000000, 0xFFFFFFFF, 1 << 32, 0x7FFFFFFFFFFF, 1 << 47, 0xFFFF800000000000,
    0xFFFFFFFFFFFFF000, 1 << 63, 2**64 - 1,
)  # fmt: skip
PLACES = (
    micro.CODE, micro.DATA, micro.SPARE, micro.STACK, micro.GDT, micro.IDT, micro.TSS, micro.PML4,
    micro.PD, micro.PT, micro.RAM_SIZE, 0x200000, 0x100000, 0x10000, micro.MMIO, micro.LAPIC,
    micro.IOAPIC, ROM_AT, ROM_AT + ROM_SIZE, 1 << 32, 1 << 64,
)  # fmt: skip
MSRS = (
    0x10, 0x1B, 0x3B, 0x174, 0x175, 0x176, 0x1A0, 0x1D9, 0x200, 0x201, 0x250, 0x277, 0x2FF, 0x6E0,
    0x800, 0x808, 0x80B, 0x80D, 0x80F, 0x828, 0x830, 0x832, 0x838, 0x83E, 0x83F, 0x4B564D00,
    0x4B564D01, 0x4B564D02, 0x4B564D03, 0x4B564D04, 0xC0000080, 0xC0000081, 0xC0000082,
    0xC0000083, 0xC0000084, 0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103, 0xDA0,
)  # fmt: skip
PLAIN_HEX = """
    0f20c0 0f20d8 0f20e0 0f22c0 0f22d8 0f22e0 440f20c0 440f22c0 0f21f8 0f23f8 0f23c0 0f23c9 0f32
    0f30 0f01d0 0f01d1 0f01c1 0f01d9 0f01f8 0f01f9 0f01ca 0f01cb 0f06 0f08 0f09 0fa2 0f31 0f05
    0f07 480f07 0f34 0f35 480f35 cf 48cf 66cf cb 48cb c3 f4 fb fa fc fd 9c 9d ce cc f1 cd80 cd20
    cd0e e6f0 e4f0 ee ec ef ed f36e f36f f36c f36d 6e 6c f3a4 f3a5 f348a5 f3aa f348ab f3ac f3a6
    f2ae f267a4 f366a5 c8ffff1f c800001f c8100000 c9 60 61 8ed0 8ed8 8ec0 8ee0 8ee8 17 0fa1 0fa9
    0fb2 ca0800 f390 0fc7f0 0fc7f8 0fae38 0f18 dbe3 dbe2 d9fa d9f0 dcf9 d9f8 d9e8 d9ee def9 0f77
    9b eb00 ebfe 75fe e2fe 74f0 0f0b
"""
"""Privileged and odd instructions without a memory operand."""
SNIPPETS = tuple(bytes.fromhex(text) for text in PLAIN_HEX.split())
MEMORY_HEX = """
    0f0110 0f0118 0f0100 0f0108 0f0138 0f0130 0f0010 0f0018 0f0000 0f0008 0f0020 0fae00 0fae08
    480fae00 480fae08 0fae10 0fae18 0fae20 0fae28 480fae20 480fae28 0fae30 480fae30 0fc720
    0fc718 0fc728 0fae38 660fae38 660fae30 d920 d930 dd20 dd30 d928 d938 ff18 ff28 48ff18 48ff28
    660f388200 660f388000 0fc708 480fc708 f00fc708 f0480fc708 62 0f c5f877 c5fc1000 c5fc1100
    c5fd6f00 c4e27d8c00 c4e27d8e00 c4e2798e00 c4e27d2e00 0f2900 0f2800 0ff700 0fe700 0f1800
    0f0d00 0fc300 df20 df30 db28 db38 ff30 8f00 ff10 ff20 f0ff00 f00fab00 0fb200 0fb400 8e00
    8c00 c500 c400 63 0fbb00 480fa300 480fab00 f0480fb300
"""
"""The same with one: the last byte is ModRM, [eax]."""
MEMORY_SNIPPETS = tuple(bytes.fromhex(text) for text in MEMORY_HEX.split())


class Escaped(Exception):
    """A check failed: the boundary does not hold."""


@dataclass(slots=True)
class Totals:
    """What a batch of cases did."""

    cases: int = 0
    runs: int = 0
    instructions: int = 0


# ---- what the guest gets --------------------------------------------------------------------


def number(rng: random.Random) -> int:
    """A 64-bit value, likely a nasty one."""
    match rng.randrange(5):
        case 0:
            return rng.choice(EDGES)
        case 1:
            return rng.choice(PLACES) + rng.randint(-70, 70) & 2**64 - 1
        case 2:
            return rng.randrange(micro.RAM_SIZE)
        case 3 if rng.random() < 0.2:
            return micro.LAPIC + rng.randrange(0x400)
        case 3:
            return (rng.randrange(micro.RAM_SIZE) & ~0xFFF) + rng.randint(-70, 16) & 2**64 - 1
        case _:
            return rng.getrandbits(rng.choice((8, 16, 32, 48, 64)))


@functools.cache
def forms() -> tuple[tuple[bytes, int, bool], ...]:
    """(bytes, mode, has a memory operand) of every plain encoding of the table."""
    return tuple(form for row in instructions.rows() for form in rows.encodings(row))


@functools.cache
def encodings() -> dict[int, tuple[bytes, ...]]:
    """Their bytes, by code size."""
    return {
        bits: tuple(sorted({raw for raw, size, _ in forms() if size == bits}))
        for bits in (16, 32, 64)
    }


def with_address(rng: random.Random, raw: bytes, bits: int) -> bytes:
    """`raw` ends with ModRM [eax]: another base, or an absolute address."""
    if bits == 16 or rng.random() < 0.5:
        return raw[:-1] + bytes([raw[-1] & 0x38 | rng.randrange(8)]) + rng.randbytes(2)
    where = struct.pack("<I", number(rng) & 0xFFFFFFFF)
    if bits == 64:
        return raw[:-1] + bytes([raw[-1] & 0x38 | 4, 0x25]) + where
    return raw[:-1] + bytes([raw[-1] & 0x38 | 5]) + where


def instruction(rng: random.Random, kind: str, bits: int) -> bytes:
    """Bytes of one instruction, or of none."""
    if kind == "bytes":
        return rng.randbytes(rng.randint(1, 16))
    if kind == "system" and rng.random() < 0.7:
        if rng.random() < 0.35:
            return with_address(rng, rng.choice(MEMORY_SNIPPETS), bits)
        if rng.random() < 0.3:
            msr = rng.choice(MSRS)
            if msr == 0x830 and rng.random() < 0.5:  # an IPI to itself: fixed, NMI, INIT, SIPI
                ipi = struct.pack("<I", rng.choice((0x40041, 0x44400, 0x44500, 0x44600, 0xC4500)))
                return b"\xb9\x30\x08\0\0\x31\xd2\xb8" + ipi + b"\x0f\x30"
            load = b"\xb9" + struct.pack("<I", msr)
            load += b"\xb8" + struct.pack("<I", number(rng) & 0xFFFFFFFF)
            return load + b"\xba" + struct.pack("<I", number(rng) >> 32) + b"\x0f\x30"
        return rng.choice(SNIPPETS)
    raw = bytearray(rng.choice(encodings()[bits]))
    if rng.random() < 0.3:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    while rng.random() < 0.2:
        raw[:0] = bytes([rng.choice((0xF0, 0xF2, 0xF3, 0x66, 0x67, 0x2E, 0x64, 0x65, 0x48, 0x4F))])
    return bytes(raw)


def code(rng: random.Random, kind: str, bits: int) -> bytes:
    """Up to a page; often a loop, and in "selfmod" with stores into itself."""
    parts: list[bytes] = []
    for _ in range(rng.choice((3, 12, 60))):
        if kind == "selfmod" and rng.random() < 0.4:
            at = micro.CODE + rng.randint(-8, 300)
            if bits == 64:
                where = b"\x04\x25" + struct.pack("<I", at)
            else:
                where = (
                    b"\x05" + struct.pack("<I", at)
                    if bits == 32
                    else b"\x06" + struct.pack("<H", at)
                )
            parts.append(rng.choice((b"\x89", b"\x88", b"\x66\x89", b"\x01")) + where)
            continue
        parts.append(instruction(rng, "rows" if kind == "selfmod" else kind, bits))
    body = b"".join(parts)[:3900]
    if rng.random() < 0.4:
        body += b"\xe9" + struct.pack("<i", -len(body) - 5)[: 2 if bits == 16 else 4]
    return body


def damage(rng: random.Random, ram: bytearray, mode: str) -> None:
    """Spoil page tables, descriptor tables, the IDT or the TSS."""
    targets = [(micro.GDT, 0x80), (micro.IDT, 0x800), (micro.TSS, 0x90)]
    if mode in ("long", "compat"):
        targets += [(micro.PML4, 64), (micro.PDPT, 64), (micro.PD, 64), (micro.PT, 0x1000)]
    for _ in range(rng.choice((0, 0, 1, 4, 20))):
        base, size = rng.choice(targets)
        at = base + (rng.randrange(size) & ~7)
        (old,) = struct.unpack_from("<Q", ram, at)
        match rng.randrange(4):
            case 0:
                new = old ^ 1 << rng.randrange(64)
            case 1:
                new = number(rng)
            case 2:
                new = number(rng) & ~0xFFF | old & 0xFFF | 1
            case _:
                new = rng.choice((base, 0x200000, micro.RAM_SIZE, ROM_AT, micro.LAPIC)) | 0xE7
        struct.pack_into("<Q", ram, at, new & 2**64 - 1)


def state(rng: random.Random, mode: str, image: micro.Image) -> engine.CpuState:
    """The initial state of a case."""
    s = replace(image.state, regs=replace(image.state.regs), msrs={}, dr=[0, 0, 0, 0])
    for name in engine.GPR_NAMES:
        setattr(s.regs, name, number(rng))
    if rng.random() < 0.8:
        s.regs.rsp = image.state.regs.rsp
    s.regs.rflags = 2 | rng.choice((0, 0x200, rng.getrandbits(22) & 0x244FD5))
    s.regs.rip = rng.choice(
        (micro.CODE,) * 6 + (0x200000 - 5, 0x11000 - 7, micro.RAM_SIZE - 9, ROM_AT, micro.MMIO)
    )
    if mode in ("real", "prot16"):
        s.regs.rip &= 0xFFFF
    if mode not in ("real", "prot16") and rng.random() < 0.4:
        wide = mode == "long"
        selector = micro.SELECTORS["UCODE64" if wide else "UCODE32"]
        s.cs = replace(s.cs, selector=selector, dpl=3)
        s.ss = replace(s.ss, selector=micro.SELECTORS["UDATA"], dpl=3)
    if rng.random() < 0.3:
        s.cr0 ^= rng.choice((8, 4, 2, 0x20, 0x10000, 0x40000))
    if rng.random() < 0.5:
        s.cr4 |= 0x40600
        s.xcr0 = 7
    if rng.random() < 0.1:
        s.cr4 |= PKE | PKS
        s.msrs[PKRS] = rng.getrandbits(32)
    if rng.random() < 0.1:
        s.dr = [number(rng) for _ in range(4)]
        s.dr7 = rng.getrandbits(32) | 0x400
    if rng.random() < 0.3:
        image_bytes = bytearray(576)
        struct.pack_into("<H", image_bytes, 0, rng.choice((0x37F, 0x340, rng.getrandbits(16))))
        struct.pack_into("<I", image_bytes, 24, rng.choice((0x1F80, 0, rng.getrandbits(16))))
        image_bytes[512] = 3
        image_bytes[32:416] = rng.randbytes(384)
        s.xsave = bytes(image_bytes)
    return s


# ---- the world around it --------------------------------------------------------------------


@contextmanager
def walled() -> Iterator[tuple[mmap.mmap, int, int]]:
    """RAM, its address, and that of a read-only page range; no access is allowed around them."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    room = mmap.mmap(-1, micro.RAM_SIZE + ROM_SIZE + 3 * GUARD)
    anchor = ctypes.c_char.from_buffer(room)
    base = ctypes.addressof(anchor)
    rom = GUARD + micro.RAM_SIZE + GUARD
    room[rom : rom + ROM_SIZE] = random.Random(0).randbytes(ROM_SIZE)
    # JUSTIFICATION: raw addresses; walls around the guest's memory make an escape a SIGSEGV.
    for at, size, rights in (
        (0, GUARD, PROT_NONE),
        (GUARD + micro.RAM_SIZE, GUARD, PROT_NONE),
        (rom, ROM_SIZE, PROT_READ),
        (rom + ROM_SIZE, GUARD, PROT_NONE),
    ):
        if libc.mprotect(base + at, size, rights):
            raise OSError(ctypes.get_errno(), "mprotect")
    try:
        yield room, base + GUARD, base + rom
    finally:
        del anchor
        libc.mprotect(base, len(room), 3)


class Kicker:
    """Kicks one vCPU at a time, again and again."""

    def __init__(self) -> None:
        self.vcpu: engine.Vcpu | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kicker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(KICK_EVERY):
            vcpu = self.vcpu
            if vcpu is not None:
                vcpu.kick()

    def close(self) -> None:
        self.vcpu = None
        self._stop.set()
        self._thread.join()


@functools.cache
def plain(mode: str, skip: bool = False) -> micro.Image:
    """Tables and handlers of the micro guests; with `skip`, handlers a page behind CODE that step
    over one byte of what faulted, so that nonsense runs on."""
    if not skip:
        return micro.build(micro.MicroGuest("hostile", mode, "nop"))
    text = ["nop; align 4096"]
    for v in range(20):
        has = v in micro.WITH_ERROR_CODE
        if mode == "real":
            text.append(f"s{v}: push bp; mov bp, sp; inc word [bp+2]; pop bp; iret")
        elif mode in ("long", "compat"):
            text.append(f"s{v}: add rsp, {8 * has}; inc qword [rsp]; iretq")
        else:
            text.append(f"s{v}: add esp, {4 * has}; inc dword [esp]; iretd")
    if mode in ("prot16", "prot32", "compat"):  # the handlers' own code segment
        text.insert(1, "bits 64" if mode == "compat" else "bits 32")
    gates = {v: micro.Gate(f"s{v}", dpl=3) for v in range(20)}
    return micro.build(micro.MicroGuest("hostile", mode, "\n".join(text), gates=gates))


SANE = "mov rcx, 1000; xor eax, eax; l: add rax, rcx; push rax; pop rax; loop l; out 0xf4, al"


class Box:
    """One VM in walled memory. `restart` makes a new one."""

    def __init__(self, kind: engine.Engine, room: mmap.mmap, ram: int, rom: int) -> None:
        self.kind, self.room, self.ram, self.rom = kind, room, ram, rom
        self.kicker = Kicker()
        self.vm: engine.EngineVm | None = None
        self.totals = Totals()

    def restart(self, irqchip: bool) -> tuple[engine.EngineVm, engine.Vcpu]:
        if self.vm is not None:
            self.vm.close()
        self.vm = vm = self.kind.create_vm(engine.MachineSpec(irqchip=irqchip, cpu_model="max"))
        # JUSTIFICATION: guest memory; the room outlives the VM.
        vm.set_memory(0, 0, micro.RAM_SIZE, self.ram)
        vm.set_memory(1, ROM_AT, ROM_SIZE, self.rom, readonly=True)
        return vm, vm.create_vcpu(0)

    def load(self, parts: dict[int, bytes], *, clear: bool) -> None:
        if clear:
            self.room[GUARD : GUARD + micro.RAM_SIZE] = bytes(micro.RAM_SIZE)
        for at, raw in parts.items():
            self.room[GUARD + at : GUARD + at + len(raw)] = raw

    def close(self) -> None:
        self.kicker.close()
        if self.vm is not None:
            self.vm.close()


def case(box: Box, vm: engine.EngineVm, vcpu: engine.Vcpu, seed: int, kind: str = "") -> None:
    """Run one seed."""
    rng = random.Random(seed)
    mode = rng.choice(MODES)
    chosen = rng.choice(KINDS)
    image = plain(mode, rng.random() < 0.6)
    bits = 64 if mode == "long" else 16 if mode in ("real", "prot16") else 32
    box.load(image.parts, clear=rng.random() < 0.05)
    s = state(rng, mode, image)
    text = code(rng, kind or chosen, bits)
    at = s.regs.rip if s.regs.rip < micro.RAM_SIZE else micro.CODE
    text = text[: micro.RAM_SIZE - at]
    box.load({at: text}, clear=False)
    if rng.random() < 0.5:
        box.load({micro.STUBS: text[:4000]}, clear=False)
    _damage_room(rng, box, mode)
    vm.memory_written(0, micro.RAM_SIZE)
    vcpu.set_state(s)
    drive(rng, box, vm, vcpu)
    again = vcpu.get_state()
    again.msrs = {}
    vcpu.set_state(again)


def _damage_room(rng: random.Random, box: Box, mode: str) -> None:
    low = bytearray(box.room[GUARD : GUARD + 0x20000])
    damage(rng, low, mode)
    box.room[GUARD : GUARD + 0x20000] = bytes(low)


def drive(rng: random.Random, box: Box, vm: engine.EngineVm, vcpu: engine.Vcpu) -> None:
    """Run until the guest gives up, two kicks have arrived, or EXITS. Raises Escaped, with
    BAREVISOR_BT=lockstep also when the tiers differ (they may where a device's registers, or a
    page table that the access itself marks, are read as data: such a run has no second time)."""
    kicks = 0
    before = vcpu.instructions()
    box.kicker.vcpu = vcpu
    for _ in range(EXITS):
        start = time.thread_time()
        done = vcpu.run()
        used = time.thread_time() - start
        box.totals.runs += 1
        if used > MAX_CPU_SECONDS:
            raise Escaped(f"one run took {used:.2f} s of CPU time; it ended with {done}")
        match done:
            case engine.InternalError(reason=reason) if reason.startswith("lockstep"):
                raise Escaped(reason)
            case engine.Shutdown() | engine.InternalError() | engine.DebugStop() | engine.Halted():
                break
            case engine.Interrupted():
                kicks += 1
                if kicks == 2:
                    break
            case engine.PioRead() | engine.MmioRead():
                size = done.size * (done.items if isinstance(done, engine.PioRead) else 1)
                vcpu.complete_read(rng.randbytes(size))
        if rng.random() < 0.1:
            vm.signal_msi(micro.LAPIC, rng.getrandbits(8))
    box.kicker.vcpu = None
    box.totals.cases += 1
    box.totals.instructions += (vcpu.instructions() - before) & 2**64 - 1


def sane(box: Box, vm: engine.EngineVm, vcpu: engine.Vcpu) -> None:
    """A well-behaved guest on the VM that was attacked."""
    image = plain("long")
    box.load(image.parts, clear=True)
    box.load({micro.CODE: assemble(SANE, micro.CODE, 64).code}, clear=False)
    vm.memory_written(0, micro.RAM_SIZE)
    s = replace(image.state, regs=replace(image.state.regs))
    vcpu.set_state(s)
    done: engine.Exit = engine.Interrupted()
    while isinstance(done, engine.Interrupted):
        done = vcpu.run()
    if not isinstance(done, engine.PioWrite) or vcpu.get_regs().rax != 500500:
        raise Escaped(f"a sane guest ended with {done}, rax={vcpu.get_regs().rax:#x}")


def run_cases(kind: engine.Engine, first: int, count: int, current: ctypes.c_uint64) -> Totals:
    """Seeds first..first+count. `current` always holds the one that runs. Raises Escaped."""
    with walled() as (room, ram, rom):
        box = Box(kind, room, ram, rom)
        peak = 0
        try:
            for seed in range(first, first + count):
                current.value = seed
                if (seed - first) % CASES_PER_VM == 0:
                    vm, vcpu = box.restart(irqchip=bool(seed & 1024) or seed & 64 == 0)
                case(box, vm, vcpu, seed)
                if (seed - first) % CASES_PER_VM == CASES_PER_VM - 1:
                    sane(box, vm, vcpu)
                    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
                    peak = peak or now
                    if now - peak > MAX_GROWTH:
                        raise Escaped(f"{now - peak >> 20} MiB more memory than at the start")
            return box.totals
        finally:
            box.close()
