"""What the micro guests of `microguests` run in: memory, tables, default handlers, and a runner.

Memory (4 MiB of RAM; what lies above it in the first GiB is not mapped, and what has no RAM is
MMIO). Page tables map the first 2 MiB with 4 KiB pages, RAM's second half with one 2 MiB page,
and the fourth GiB with 2 MiB pages, all identity, writable and for users too.

Ports: a 32-bit OUT to REPORT is a value the guest reports; an OUT to END ends it. An OUT of AL to
RAISE, LOWER or MSI asks the runner to drive line AL or to send vector AL to APIC 0.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from barevisor.board.ram import GuestRam
from barevisor.cpu import engine
from barevisor.cpu.engine import CpuState, DescriptorTable, PioRead, PioWrite, Segment
from barevisor.testing.asm import Assembled, assemble

RAM_SIZE = 0x400000
PML4, PDPT, PD, PT, PD3 = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
REAL_STACK, GDT, IDT, TSS, STUBS, CODE, DATA = (
    0x7000,
    0x7000,
    0x8000,
    0x9000,
    0xA000,
    0xC000,
    0xE000,
)
SPARE, STACK, RSP0, IST1, USER_STACK = 0x10000, 0x30000, 0x38000, 0x3C000, 0x48000
MMIO, LAPIC, IOAPIC = 0xD0000000, 0xFEE00000, 0xFEC00000

REPORT, RAISE, LOWER, MSI, END = 0x10, 0xD0, 0xD1, 0xD2, 0xF4
FAULT = 0xEC000000
"""The default handler reports FAULT + vector, the low half of the saved RIP, then the error code
of a vector that has one, then for #PF the low half of CR2, and ends."""

WITH_ERROR_CODE = (8, 10, 11, 12, 13, 14, 17, 21)
MAX_EXITS = 2000
SECONDS = 20.0

SELECTORS = {
    "CODE64": 0x08, "DATA": 0x10, "CODE32": 0x18, "UCODE32": 0x23, "UDATA": 0x2B,
    "UCODE64": 0x33, "DATA16": 0x38, "CODE16": 0x40, "TSS_SEL": 0x48, "GATE": 0x58,
    "SPARE_SEL": 0x68,
}  # fmt: skip
SYMBOLS = {
    **SELECTORS, "PML4_": PML4, "PDPT_": PDPT, "PD_": PD, "PT_": PT, "GDT_": GDT, "IDT_": IDT,
    "TSS_": TSS, "DATA_": DATA, "SPARE_": SPARE, "STACK_": STACK, "RSP0_": RSP0, "IST1_": IST1,
    "USTACK_": USER_STACK, "MMIO_": MMIO, "LAPIC_": LAPIC, "IOAPIC_": IOAPIC, "RSTACK_": REAL_STACK,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """What the default handler reports; `rip` and `cr2` may be labels."""

    vector: int
    rip: str | int
    error: int = 0
    cr2: int | str = 0


Expected = int | str | engine.Exit | Fault
"""One expected step: a reported value, a reported label's address, an exit, or a fault's end."""


@dataclass(frozen=True, slots=True)
class Gate:
    """An IDT gate to `label`: type 0xE interrupt, 0xF trap, 5 task (the label is a selector)."""

    label: str
    dpl: int = 0
    ist: int = 0
    type: int = 0xE
    present: bool = True


@dataclass(frozen=True, slots=True)
class MicroGuest:
    """A row: `text` starts at CODE in `mode` and must cause `expect`, in order, then end.

    mode: real, prot16, prot32, long or compat. cpus: those behind the first wait for INIT and SIPI;
    what they report is among the steps, and any of them may end it. irqchip: whether the VM has
    one. answers: what reads take, in order. cr0, cr4, efer: bits to add (cr0_off: to clear). msrs:
    set before. gates: by vector. poke: bytes at addresses, once the tables are there; a value may
    be a function of the labels. memory: what RAM must hold in the end. not_emulated, not_nested:
    why it cannot run on a /dev/kvm that emulates ring 0, or on KVM under QEMU's TCG.
    """

    name: str
    mode: str
    text: str
    expect: tuple[Expected, ...] = ()
    irqchip: bool = False
    cpus: int = 1
    answers: bytes = b""
    cr0: int = 0
    cr0_off: int = 0
    cr4: int = 0
    efer: int = 0
    rflags: int = 2
    msrs: dict[int, int] = field(default_factory=dict)
    dr: dict[int, int | str] = field(default_factory=dict)
    gates: dict[int, Gate] = field(default_factory=dict)
    poke: dict[int, bytes | Callable[[dict[str, int]], bytes]] = field(default_factory=dict)
    memory: dict[int, bytes] = field(default_factory=dict)
    regs: dict[str, int] = field(default_factory=dict)
    end: str = "port"
    not_emulated: str = ""
    not_nested: str = ""
    model: str = "host"
    """MachineSpec.cpu_model. "max": what a host's CPU may lack, so for the software engine."""


@dataclass(slots=True)
class Outcome:
    """What a run did. `steps` leaves out the ports that talk to the runner, REPORT excepted
    (there: the value). `end` is "port", "halted", "shutdown" or what went wrong."""

    steps: list[int | engine.Exit]
    end: str
    state: CpuState
    memory: dict[int, bytes]


# ---- memory ----


def entry(address: int, flags: int) -> bytes:
    """A page table entry of 8 bytes."""
    return struct.pack("<Q", address | flags)


def u32(value: int) -> bytes:
    """Little-endian."""
    return value.to_bytes(4, "little")


def pte(address: int) -> int:
    """Where the 4 KiB entry of a linear address below 2 MiB lies."""
    return PT + 8 * (address >> 12)


def descriptor(base: int, limit: int, access: int, flags: int) -> bytes:
    """SDM, "Segment Descriptors"; `limit` is the 20-bit field, `flags` G, D/B, L, AVL."""
    low = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | access << 40
    return struct.pack("<Q", low | (limit >> 16) << 48 | flags << 52 | (base >> 24 & 0xFF) << 56)


def call_gate(offset: int, selector: int, dpl: int, *, wide: bool, parameters: int = 0) -> bytes:
    """SDM, "Call Gates"; 16 bytes in IA-32e mode."""
    raw = struct.pack(
        "<HHBBH", offset & 0xFFFF, selector, parameters, 0x8C | dpl << 5, offset >> 16
    )
    return raw + bytes(8) if wide else raw


def gdt(long: bool) -> bytes:
    """The table of SELECTORS. STAR's and SYSENTER's order of selectors is kept."""
    rows = [
        bytes(8),
        descriptor(0, 0xFFFFF, 0x9B, 0xA),
        descriptor(0, 0xFFFFF, 0x93, 0xC),
        descriptor(0, 0xFFFFF, 0x9B, 0xC),
        descriptor(0, 0xFFFFF, 0xFB, 0xC),
        descriptor(0, 0xFFFFF, 0xF3, 0xC),
        descriptor(0, 0xFFFFF, 0xFB, 0xA),
        descriptor(0, 0xFFFF, 0x93, 0),
        descriptor(0, 0xFFFF, 0x9B, 0),
        descriptor(TSS, 0x67 if long else 0x87, 0x8B, 0),
    ]
    return b"".join(rows)


def tss(long: bool) -> bytes:
    """A stack for ring 0 and IST1; in 32 bits an I/O bitmap at 0x68 that allows 0x60-0x67."""
    raw = bytearray(0x90)
    if long:
        struct.pack_into("<Q", raw, 4, RSP0)
        struct.pack_into("<Q", raw, 0x24, IST1)
        struct.pack_into("<H", raw, 0x66, 0x68)
    else:
        struct.pack_into("<II", raw, 4, RSP0, SELECTORS["DATA"])
        raw[0x68:0x88] = b"\xff" * 32
        raw[0x68 + 0xC] = 0
        struct.pack_into("<H", raw, 0x66, 0x68)
    return bytes(raw)


def page_tables() -> dict[int, bytes]:
    """The identity map of the module's docstring."""
    return {
        PML4: entry(PDPT, 7),
        PDPT: entry(PD, 7) + bytes(16) + entry(PD3, 7),
        PD: entry(PT, 7) + entry(0x200000, 0x87),
        PT: b"".join(entry(page << 12, 7) for page in range(512)),
        PD3: b"".join(entry(0xC0000000 + (n << 21), 0x97) for n in range(512)),
    }


def _gate(g: Gate, offset: int, long: bool) -> bytes:
    access = g.present << 7 | g.dpl << 5 | g.type
    if long:
        low = struct.pack("<HHBB", offset & 0xFFFF, SELECTORS["CODE64"], g.ist, access)
        return low + struct.pack("<HII", offset >> 16 & 0xFFFF, 0, 0)
    selector = offset if g.type == 5 else SELECTORS["CODE32"]
    offset = 0 if g.type == 5 else offset
    return struct.pack("<HHBBH", offset & 0xFFFF, selector, 0, access, offset >> 16)


# ---- default handlers ----


def _stub(vector: int, mode: str) -> str:
    """Protected and long mode; the saved CS:IP lies above the error code."""
    wide = mode in ("long", "compat")
    sp, bp, step = ("rsp", "rbp", 8) if wide else ("esp", "ebp", 4)
    has = vector in WITH_ERROR_CODE
    lines = [f"v{vector}: mov {bp}, {sp}", f"mov eax, {FAULT | vector}", f"out {REPORT}, eax"]
    lines += [f"mov eax, [{bp}+{step * has}]", f"out {REPORT}, eax"]
    if has:
        lines += [f"mov eax, [{bp}]", f"out {REPORT}, eax"]
    if vector == 14:
        lines += ["mov rax, cr2" if wide else "mov eax, cr2", f"out {REPORT}, eax"]
    return "\n".join([*lines, f"out {END}, al"])


def _real_stub(vector: int) -> str:
    """Real mode pushes no error codes (SDM, "Interrupt and Exception Handling")."""
    return f"""v{vector}: mov bp, sp; mov eax, {FAULT | vector}; out {REPORT}, eax
        movzx eax, word [bp+0]; out {REPORT}, eax; out {END}, al"""


def _report(rest: str) -> str:
    """`report X`: EAX is X's and is lost."""
    return f"out {REPORT}, eax" if rest == "eax" else f"mov eax, {rest}; out {REPORT}, eax"


def _report64(rest: str) -> str:
    """`report64 X`: low half, high half; RAX is lost."""
    return f"mov rax, {rest}; out {REPORT}, eax; shr rax, 32; out {REPORT}, eax"


MACROS: dict[str, Callable[[str], str]] = {
    "report": _report,
    "report64": _report64,
    "end": lambda rest: f"out {END}, al",
    "user64": lambda rest: f"push UDATA; push USTACK_; push 2; push UCODE64; push {rest}; iretq",
    "user32": lambda rest: f"push UDATA; push USTACK_; push 2; push UCODE32; push {rest}; iretd",
    "writemsr": lambda rest: "mov ecx, {}; mov eax, {}; mov edx, {}; wrmsr".format(
        *rest.split(",")
    ),
}  # fmt: skip

# ---- a machine ----


@dataclass(slots=True)
class Image:
    """RAM's initial contents and the CPU's initial state for a row."""

    parts: dict[int, bytes]
    state: CpuState
    labels: dict[str, int]


def build(row: MicroGuest) -> Image:
    """Assemble a row and lay out its memory."""
    bits = {"real": 16, "prot16": 16, "prot32": 32, "long": 64, "compat": 32}[row.mode]
    code = assemble(row.text, CODE, bits, SYMBOLS, MACROS)
    if len(code.code) > DATA - CODE:
        raise ValueError(f"{row.name}: {len(code.code)} bytes of code")
    long = row.mode in ("long", "compat")
    parts = {GDT: gdt(long), TSS: tss(long), CODE: code.code}
    if long:
        parts |= page_tables()
    parts |= _vectors(row, code)
    for at, value in row.poke.items():
        parts[at] = value if isinstance(value, bytes) else value(code.labels)
    return Image(parts, _state(row, long, code), code.labels)


def _vectors(row: MicroGuest, code: Assembled) -> dict[int, bytes]:
    if row.mode == "real":
        text = "\n".join(_real_stub(v) for v in range(20))
        stubs = assemble(text, STUBS, 16)
        table = bytearray(0x400)
        for v in range(20):
            struct.pack_into("<HH", table, 4 * v, stubs.labels[f"v{v}"], 0)
        for v, g in row.gates.items():
            struct.pack_into("<HH", table, 4 * v, code.labels[g.label], 0)
        return {0: bytes(table), STUBS: stubs.code}
    long = row.mode in ("long", "compat")
    text = "\n".join(_stub(v, row.mode) for v in range(32))
    stubs = assemble(text, STUBS, 64 if long else 32)
    gates = {v: _gate(Gate(""), stubs.labels[f"v{v}"], long) for v in range(32)}
    gates |= {v: _gate(g, {**SYMBOLS, **code.labels}[g.label], long) for v, g in row.gates.items()}
    step = 16 if long else 8
    table = bytearray(256 * step)
    for v, raw in gates.items():
        table[v * step : v * step + step] = raw
    return {IDT: bytes(table), STUBS: stubs.code}


def _flat(selector: int, kind: int, *, db: bool, long: bool = False) -> Segment:
    return Segment(selector, 0, 0xFFFFFFFF, kind, True, 0, db, True, long, True)


def _state(row: MicroGuest, long: bool, code: Assembled) -> CpuState:
    s = CpuState()
    s.regs.rip, s.regs.rflags = CODE, row.rflags
    s.regs.rsp = REAL_STACK if row.mode in ("real", "prot16") else STACK
    s.cr0 = s.cr0 | 0x20
    s.cr0 &= ~0x60000000
    if row.mode == "real":
        s.idt = DescriptorTable(0, 0x3FF)
    else:
        _protected(s, row.mode)
    if long:
        s.cr3, s.cr4, s.efer, s.cr0 = PML4, 0x620, 0xD01, s.cr0 | 0x80010000
    s.cr0 = (s.cr0 | row.cr0) & ~row.cr0_off
    s.cr4 |= row.cr4
    s.efer |= row.efer
    s.msrs = dict(row.msrs)
    for n, value in row.dr.items():
        number = code.labels[value] if isinstance(value, str) else value
        if n == 7:
            s.dr7 = number
        else:
            s.dr[n] = number
    return s


def _protected(s: CpuState, mode: str) -> None:
    name = {"prot16": "CODE16", "prot32": "CODE32", "long": "CODE64", "compat": "CODE32"}[mode]
    s.cr0 |= 1
    if mode == "prot16":
        s.cs = Segment(SELECTORS[name], 0, 0xFFFF, 11)
        data = Segment(SELECTORS["DATA16"], 0, 0xFFFF, 3)
    else:
        s.cs = _flat(SELECTORS[name], 11, db=mode != "long", long=mode == "long")
        data = _flat(SELECTORS["DATA"], 3, db=True)
    for segment in ("ds", "es", "fs", "gs", "ss"):
        setattr(s, segment, replace(data))
    long = mode in ("long", "compat")
    s.tr = Segment(SELECTORS["TSS_SEL"], TSS, 0x67 if long else 0x87, 11, s=False)
    s.gdt = DescriptorTable(GDT, 0x7F)
    s.idt = DescriptorTable(IDT, 0xFFF if long else 0x7FF)


# ---- the runner ----


def run(
    kind: engine.Engine,
    row: MicroGuest,
    features: frozenset[str] | None = None,
    *,
    tss_type: int = 11,
) -> Outcome:
    """Run a row on an engine. Bounded in exits and time. `features`: of the CPU, instead of its
    model's. `tss_type`: that of TR (11: busy)."""
    image = build(row)
    image.state.tr.type = tss_type
    ram = GuestRam([(0, RAM_SIZE)], file=kind.file_memory)
    for at, raw in image.parts.items():
        ram.write(at, raw)
    spec = engine.MachineSpec(
        cpus=row.cpus, irqchip=row.irqchip, cpu_model=row.model, features=features
    )
    vm = kind.create_vm(spec)
    try:
        vm.set_memory(0, 0, RAM_SIZE, ram.host_address, file=ram.file(0))
        vcpu = vm.create_vcpu(0)
        vcpu.set_state(image.state)
        steps, end = _run_all(vm, vcpu, row)
        state = vcpu.get_state()
        memory = {a: ram.read(a, len(wanted)) for a, wanted in row.memory.items()}
        return Outcome(steps, end, state, memory)
    finally:
        vm.close()
        ram.close()


class Moving:
    """A VM with one CPU that is somewhere else after every exit: on the next of `kinds`, by what
    get_state and set_state carry. It is its own vCPU."""

    index = 0

    def __init__(
        self, kinds: Sequence[engine.Engine], spec: engine.MachineSpec, ram: tuple[int, int]
    ) -> None:
        """`ram`: host address and size, mapped at 0."""
        self._kinds, self.spec, self._ram = kinds, spec, ram
        self._bells: set[int] = set()
        self.moves = 0
        self._started = False
        self.vm, self.vcpu = self._make(kinds[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vm if hasattr(self.vm, name) else self.vcpu, name)

    def _make(self, kind: engine.Engine) -> tuple[engine.EngineVm, engine.Vcpu]:
        vm = kind.create_vm(self.spec)
        vm.set_memory(0, 0, self._ram[1], self._ram[0])
        return vm, vm.create_vcpu(0)

    def get_state(self) -> CpuState:
        """The CPU's."""
        return self.vcpu.get_state()

    def set_state(self, state: CpuState) -> None:
        """The CPU's."""
        self.vcpu.set_state(state)

    def run(self) -> engine.Exit:
        """Move, unless the CPU owes an exit first, and run."""
        if not self._started:
            self._started = True
            return self.vcpu.run()
        self.vcpu.get_state()
        self.vcpu.kick()
        done = self.vcpu.run()
        if not isinstance(done, engine.Interrupted):
            return done
        self.moves += 1
        shared, own = self.vm.get_state(), self.vcpu.get_state()
        self.vm.close()
        vm, vcpu = self._make(self._kinds[self.moves % len(self._kinds)])
        vm.set_state(shared)
        vcpu.set_state(own)
        self.vm, self.vcpu = vm, vcpu
        return self.vcpu.run()


def run_moving(
    kinds: Sequence[engine.Engine], row: MicroGuest, features: frozenset[str]
) -> tuple[Outcome, int]:
    """Run a row of one CPU, on another of `kinds` after each exit; and how often it moved."""
    image = build(row)
    ram = mmap.mmap(-1, RAM_SIZE)
    anchor = ctypes.c_char.from_buffer(ram)
    for at, raw in image.parts.items():
        ram[at : at + len(raw)] = raw
    spec = engine.MachineSpec(irqchip=row.irqchip, features=features)
    # JUSTIFICATION: the micro guest's RAM; `ram` outlives the VMs.
    moving = Moving(kinds, spec, (ctypes.addressof(anchor), RAM_SIZE))
    try:
        moving.set_state(image.state)
        steps: list[int | engine.Exit] = []
        timer = threading.Timer(SECONDS, lambda: moving.vcpu.kick())
        timer.start()
        try:
            end = _loop(moving, moving, row, steps)  # type: ignore[arg-type]
        finally:
            timer.cancel()
            timer.join()
        memory = {a: ram[a : a + len(w)] for a, w in row.memory.items()}
        return Outcome(steps, end, moving.get_state(), memory), moving.moves
    finally:
        moving.vm.close()
        del anchor


def _run_all(
    vm: engine.EngineVm, first: engine.Vcpu, row: MicroGuest
) -> tuple[list[int | engine.Exit], str]:
    """Every CPU on a thread of its own; the first end sends all of them home."""
    vcpus = [first, *(vm.create_vcpu(i) for i in range(1, row.cpus))]
    steps: list[int | engine.Exit] = []
    ends: list[str] = []
    over = threading.Event()

    def one(vcpu: engine.Vcpu) -> None:
        ends.append(_loop(vm, vcpu, row, steps, over))
        over.set()
        for other in vcpus:
            if other is not vcpu:
                other.kick()

    def late() -> None:
        over.set()
        first.kick()

    timer = threading.Timer(SECONDS, late)
    others = [threading.Thread(target=one, args=(v,)) for v in vcpus[1:]]
    for thread in (timer, *others):
        thread.start()
    try:
        one(first)
    finally:
        timer.cancel()
        for thread in (timer, *others):
            thread.join()
    return steps, ends[0]


def _loop(
    vm: engine.EngineVm,
    vcpu: engine.Vcpu,
    row: MicroGuest,
    steps: list[int | engine.Exit],
    over: threading.Event | None = None,
) -> str:
    """Run to the guest's end, and say what that was. An interruption before `over` is set was meant
    for a VM that this thread ran before, and came too late for it."""
    answers = row.answers
    for _ in range(MAX_EXITS):
        done = vcpu.run()
        match done:
            case PioWrite(port=0xF4):
                return "port"
            case PioWrite(port=0x10, data=data):
                steps.append(int.from_bytes(data, "little"))
            case PioWrite(port=0xD0 | 0xD1 as port, data=data):
                vm.irq_line(data[0], port == RAISE)
            case PioWrite(port=0xD2, data=data):
                vm.signal_msi(LAPIC, data[0])
            case engine.Halted():
                return "halted"
            case engine.Shutdown():
                return "shutdown"
            case PioRead() | engine.MmioRead():
                steps.append(done)
                size = done.size * (done.items if isinstance(done, PioRead) else 1)
                vcpu.complete_read(answers[:size].ljust(size, b"\xff"))
                answers = answers[size:]
            case PioWrite() | engine.MmioWrite():
                steps.append(done)
            case engine.Interrupted() if over is not None and not over.is_set():
                continue
            case engine.Interrupted():
                return f"not done after {SECONDS:g} s"
            case _:
                return str(done)
    return f"not done after {MAX_EXITS} exits"


def expected_steps(row: MicroGuest) -> list[int | engine.Exit]:
    """The row's `expect` with labels and faults turned into reported values."""
    labels = build(row).labels
    steps: list[int | engine.Exit] = []
    for e in row.expect:
        if isinstance(e, Fault):
            steps += [FAULT | e.vector, labels[e.rip] if isinstance(e.rip, str) else e.rip]
            if row.mode != "real" and e.vector in WITH_ERROR_CODE:
                steps.append(e.error)
            if e.vector == 14:
                steps.append(labels[e.cr2] if isinstance(e.cr2, str) else e.cr2)
        elif isinstance(e, str):
            steps.append(labels[e])
        else:
            steps.append(e & 0xFFFFFFFF if isinstance(e, int) else e)
    return steps


def differences(outcome: Outcome, row: MicroGuest) -> dict[str, tuple[Any, Any]]:
    """What the run did and what the row says, where they are not the same; {} for a good run."""
    regs = {name: getattr(outcome.state.regs, name) for name in row.regs}
    pairs = {
        "steps": (merged(outcome.steps), merged(expected_steps(row))),
        "end": (outcome.end, row.end),
        "regs": (regs, row.regs),
        "memory": (outcome.memory, row.memory),
    }
    return {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}


def merged(steps: list[int | engine.Exit]) -> list[int | engine.Exit]:
    """With neighbouring port accesses of one port and size as one: an engine may give the items
    of a string instruction in as many exits as it likes."""
    done: list[int | engine.Exit] = []
    for step in steps:
        last = done[-1] if done else None
        match last, step:
            case PioWrite(port, size, data), PioWrite() as new if new.port == port:
                if new.size == size:
                    done[-1] = PioWrite(port, size, data + new.data)
                    continue
            case PioRead(port, size, count), PioRead() as new if new.port == port:
                if new.size == size:
                    done[-1] = PioRead(port, size, count + new.items)
                    continue
        done.append(step)
    return done
