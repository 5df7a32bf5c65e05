"""The contract between a CPU engine and everything above it.

Two engines implement it: `kvm` (the host CPU through /dev/kvm) and `bt` (the software engine).
Nothing above this file asks which one runs. An engine owns the CPUs, their local APICs and the
PC's interrupt controllers (IOAPIC, 8259 pair, 8254), as the in-kernel irqchip of KVM does;
every other device lives above, and is reached through exits.

Exits are records, so the run loop is one `match`. A read exit is answered with
`Vcpu.complete_read` before the next `run`; a write exit needs no answer.
"""

from __future__ import annotations

from collections.abc import Callable

from barevisor.records import TYPE_CHECKING, NamedTuple, Protocol, dataclass, field

if TYPE_CHECKING:
    from typing import Literal

    from barevisor.cpu.vmstate import VmState

    StopReason = Literal["breakpoint", "step", "watch"]

__all__ = [
    "BlockSink", "Breakpoint", "CpuState", "DebugStop", "DescriptorTable", "Engine", "EngineVm",
    "Events", "Exit", "GuestDebug", "Halted", "InternalError", "Interrupted", "MachineSpec",
    "MmioRead", "MmioWrite", "PioRead", "PioWrite", "Registers", "Segment", "Shutdown",
    "SystemEvent", "Vcpu", "Watchpoint",
]  # fmt: skip


# ---- exits -------------------------------------------------------------------------------


class PioRead(NamedTuple):
    """IN or INS: `items` of `size` (1, 2, 4) bytes from `port`; answer size*items bytes."""

    port: int
    size: int
    items: int = 1


class PioWrite(NamedTuple):
    """OUT or OUTS: `data` holds one or more items of `size` (1, 2, 4) bytes for `port`."""

    port: int
    size: int
    data: bytes


class MmioRead(NamedTuple):
    """A load from guest-physical memory that no slot backs; answer `size` (1..8) bytes."""

    gpa: int
    size: int


class MmioWrite(NamedTuple):
    """A store to guest-physical memory that no slot backs, 1..8 bytes."""

    gpa: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Interrupted:
    """`kick` was called, or a signal arrived. Call `run` again to go on."""


@dataclass(frozen=True, slots=True)
class Halted:
    """HLT that nothing can end, because interrupts are off and no NMI can come, or because the
    VM was created without interrupt controllers (MachineSpec.irqchip is False)."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Triple fault. The CPU's state is as it was when it gave up; on an AMD host's kvm that of a
    reset, because the CPU leaves none."""


class SystemEvent(NamedTuple):
    """The guest asked the engine itself for "shutdown", "reset" or "crash"."""

    kind: str


class InternalError(NamedTuple):
    """The engine cannot go on: an instruction it cannot emulate, or a failed VM entry."""

    reason: str
    data: tuple[int, ...] = ()


class DebugStop(NamedTuple):
    """What a debugger asked for (`EngineVm.set_debug`, `Vcpu.set_step`) came about; the guest's
    own debug exceptions do not exit.

    reason: "breakpoint" (its instruction has not run), "step" (one instruction ran, or an
    exception was delivered instead; kvm goes on through its handler) or "watch" (the instruction
    that made the access has run).
    address: the breakpoint's, the next instruction's, the watchpoint's; linear.
    """

    reason: StopReason
    address: int


Exit = (
    PioRead | PioWrite | MmioRead | MmioWrite | Interrupted | Halted | Shutdown | SystemEvent
    | InternalError | DebugStop
)  # fmt: skip


# ---- what a debugger asks for --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Stop before the instruction at a linear address. `hardware`: never by a changed byte in
    guest memory. An engine that never changes any makes no difference."""

    address: int
    hardware: bool = False


@dataclass(frozen=True, slots=True)
class Watchpoint:
    """Stop behind an instruction that touches [address, address+size), linear. An engine may
    take "read" for "access". Stores of devices and of the debugger do not count."""

    address: int
    size: int
    kind: Literal["read", "write", "access"]


@dataclass(frozen=True, slots=True)
class GuestDebug:
    """All that a debugger has set, for every vCPU of a VM."""

    breakpoints: tuple[Breakpoint, ...] = ()
    watchpoints: tuple[Watchpoint, ...] = ()


BlockSink = Callable[[int, list[tuple[int, int, int, int]]], None]
"""Takes a vCPU's index and the blocks that it ran: linear address, 16, 32 or 64, CPL, bytes."""


# ---- CpuState: the same dataclass for both engines, so a snapshot moves between them -----

GPR_NAMES = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
"""In encoding order (SDM, Table "Register Encodings")."""


@dataclass(slots=True)
class Registers:
    """General registers, in encoding order, with rip and rflags."""

    rax: int = 0
    rcx: int = 0
    rdx: int = 0
    rbx: int = 0
    rsp: int = 0
    rbp: int = 0
    rsi: int = 0
    rdi: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2


@dataclass(slots=True)
class Segment:
    """A segment register with its hidden part. `limit` is in bytes (granularity applied)."""

    selector: int = 0
    base: int = 0
    limit: int = 0xFFFF
    type: int = 3
    present: bool = True
    dpl: int = 0
    db: bool = False
    s: bool = True
    long: bool = False
    g: bool = False
    avl: bool = False
    unusable: bool = False


@dataclass(slots=True)
class DescriptorTable:
    """GDTR or IDTR."""

    base: int = 0
    limit: int = 0xFFFF


@dataclass(slots=True)
class Events:
    """What is pending or blocked between two instructions (as struct kvm_vcpu_events).

    `exception` and `interrupt` are vectors or -1. `interrupt_shadow`: 1 STI, 2 MOV SS.
    """

    exception: int = -1
    exception_error: int | None = None
    exception_address: int = 0
    interrupt: int = -1
    interrupt_soft: bool = False
    interrupt_shadow: int = 0
    nmi_pending: bool = False
    nmi_masked: bool = False


@dataclass(slots=True)
class CpuState:
    """Everything that a vCPU is, portable between engines. The default is the reset state
    with flat real-mode segments (SDM, "First Instruction Executed", is set by `reset`).

    `xsave`: the standard (not compacted) XSAVE image; empty means the initial state.
    `lapic`: the 1 KiB register page of KVM_GET_LAPIC (api.rst 4.57); empty means reset.
    `msrs`: by MSR number; only MSRs that are not a field of their own.
    `tsc`: the time stamp counter; None: it runs on as it is (never from `get_state`).
    `mp_state`: "runnable", "halted", "init" (waits for INIT/SIPI) or "sipi".
    """

    regs: Registers = field(default_factory=Registers)
    cs: Segment = field(default_factory=lambda: Segment(type=11))
    ds: Segment = field(default_factory=Segment)
    es: Segment = field(default_factory=Segment)
    fs: Segment = field(default_factory=Segment)
    gs: Segment = field(default_factory=Segment)
    ss: Segment = field(default_factory=Segment)
    tr: Segment = field(default_factory=lambda: Segment(type=11, s=False))
    ldt: Segment = field(default_factory=lambda: Segment(type=2, s=False))
    gdt: DescriptorTable = field(default_factory=DescriptorTable)
    idt: DescriptorTable = field(default_factory=DescriptorTable)
    cr0: int = 0x6000_0010
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    xcr0: int = 1
    apic_base: int = 0xFEE0_0900
    dr: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    dr6: int = 0xFFFF_0FF0
    dr7: int = 0x400
    xsave: bytes = b""
    lapic: bytes = b""
    msrs: dict[int, int] = field(default_factory=dict)
    tsc: int | None = None
    events: Events = field(default_factory=Events)
    mp_state: str = "runnable"


# ---- the contract ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What an engine must know before it creates a VM.

    irqchip: local APICs, IOAPIC, 8259 pair and 8254 in the engine. Without it HLT is `Halted`
    and there are no interrupts (micro guests).
    cpu_model: a name in `cpu.x86.cpuid` ("host" announces what host and engine both have,
    "max" also what CpuState does not carry: a machine that is never saved).
    features: exactly these (names of `cpu.x86.cpuid.BITS`) instead of a model's. Two engines given
    the same model other than "host", or the same features, tell their guests the same.
    """

    cpus: int = 1
    irqchip: bool = True
    cpu_model: str = "host"
    features: frozenset[str] | None = None


class Vcpu(Protocol):
    """One virtual CPU. `run` is called by one thread; only `kick` may come from others."""

    index: int

    def run(self) -> Exit:
        """Execute the guest until something needs the VMM. Releases the GIL while it runs."""

    def complete_read(self, data: bytes) -> None:
        """Answer the PioRead or MmioRead that `run` returned last; the next `run` uses it."""

    def kick(self) -> None:
        """Make `run` return Interrupted soon; sticky if the vCPU is not in `run`. Any thread,
        also from a signal handler."""

    def get_state(self) -> CpuState:
        """A copy of the whole state; only while `run` is not running. An instruction that a
        device has answered is completed before; where that is another exit, `run` returns it
        next, and the state is that in the middle of the instruction."""

    def set_state(self, state: CpuState) -> None:
        """Replace the whole state; only while `run` is not running."""

    def get_regs(self) -> Registers:
        """The general registers alone (cheap)."""

    def set_regs(self, regs: Registers) -> None:
        """Replace the general registers alone (cheap)."""

    def translate(self, linear: int) -> int | None:
        """Guest-physical address of a linear address by the current page tables, or None."""

    def instructions(self) -> int:
        """Guest instructions that the engine has counted so far: 0 on kvm; on bt those that it
        interpreted, which with BAREVISOR_BT=interpret are all."""

    def rip(self) -> int:
        """RIP as it is after the last exit (an unanswered read has not happened yet), cheaply:
        nothing is completed. Only while `run` is not running."""

    def set_step(self, on: bool) -> None:
        """From the next `run` on, each ends with DebugStop "step" behind one instruction (exits
        of that instruction come first). Interrupts wait meanwhile, where the engine can do
        that. Only while no vCPU runs. Raises EngineError."""


class EngineVm(Protocol):
    """One VM on an engine: memory, interrupt controllers, vCPUs."""

    spec: MachineSpec

    def set_memory(
        self, slot: int, gpa: int, size: int, host_address: int, *, readonly: bool = False,
        file: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """Back [gpa, gpa+size) with host memory (page-aligned); size 0 removes the slot.
        A store to a readonly slot is an MmioWrite exit. The caller keeps the memory alive. `file`:
        the descriptor of the file that it is a shared mapping of, and the offset there."""

    def create_vcpu(self, index: int) -> Vcpu:
        """CPU `index` (also its APIC ID), in reset state; CPUs above 0 wait for INIT/SIPI."""

    def irq_line(self, gsi: int, level: bool) -> None:
        """Drive interrupt line `gsi` (0..23: IOAPIC pins; 0..15 also reach the 8259s)."""

    def signal_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt, as a PCI device's memory write would."""

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        """Call `on_write(value)` when the guest stores `size` (0: any) bytes at `gpa`, without a
        MmioWrite exit. On the vCPU's thread or on a thread of the engine's: be quick, lock.
        kvm cannot see the value and passes 0, so give each meaning an address of its own."""

    def remove_doorbell(self, gpa: int) -> None:
        """Undo add_doorbell."""

    def add_late_ports(self, base: int, size: int, on_write: Callable[[int, bytes], None]) -> None:
        """Stores inside [base, base+size) need not exit: they may come to `on_write(offset, data)`
        instead, in their order, on a vCPU's thread, before `run` returns the next exit of the CPU
        that made them; where `size` is 1, several at once. That may be long after, so only for
        what nobody waits for; and an engine may still make each a PioWrite. `on_write` does not
        raise. Before any `run`."""

    def ignore_port(self, port: int, size: int) -> None:
        """Stores of exactly `size` bytes to `port` need not exit: nobody answers there. An engine
        may still make each a PioWrite. Before any `run`."""

    def memory_written(self, gpa: int, size: int) -> None:
        """The VMM stored into guest RAM (a device's DMA): translated code there is stale."""

    def set_debug(self, debug: GuestDebug | None) -> None:
        """Replace all breakpoints and watchpoints. None: the debugger is gone, steps end too. A
        breakpoint at RIP stops the next `run` at once: to go on, step without it first.
        Only while no vCPU runs. Raises EngineError when the engine has no room or cannot
        reach an address; then nothing is set."""

    def trace_blocks(self, sink: BlockSink) -> None:
        """Call `sink` with every block of guest code that runs, in order for each vCPU, on its
        thread. Before the first `run`. Raises EngineError where the host's CPU runs the guest."""

    def get_state(self) -> VmState:
        """A copy of what the CPUs share; no vCPU may be in `run`."""

    def set_state(self, state: VmState) -> None:
        """Replace it, before the states of the vCPUs are set. Raises EngineError, which names what
        the guest was told and would not find here (see `cpu.portable`)."""

    def counters(self) -> dict[str, int]:
        """What the engine itself counted so far, by its own names ("exits": all that left guest
        code, also those that never reach Python); empty where it does not count."""

    def close(self) -> None:
        """Free everything; vCPUs must not be in `run`. Idempotent."""


class Engine(Protocol):
    """A kind of CPU: `kvm` or `bt`."""

    name: str
    file_memory: bool
    """Whether guest RAM should lie in a file, so that processes of the engine can map it, too."""

    def probe(self) -> str:
        """ "" when a stock kernel can run on this engine here, else the reason in one line."""

    def create_vm(self, spec: MachineSpec) -> EngineVm:
        """Raises EngineError, which names the ioctl or the limit."""
