from barevisor.cpu.bt.chips import Chips
from barevisor.cpu.bt.vmcore import VmCore
from barevisor.cpu.engine import BlockSink, CpuState, Exit, Registers
from barevisor.cpu.x86.cpuid import CpuidRow

class BtVcpu:
    """The contract's Vcpu (cpu/engine.py), and registers for debuggers and tests."""

    index: int
    def __init__(
        self,
        core: VmCore,
        chips: Chips,
        index: int,
        rows: tuple[CpuidRow, ...],
        features: int,
        cr4: int,
        efer: int,
    ) -> None: ...
    def run(self) -> Exit: ...
    def complete_read(self, data: bytes) -> None: ...
    def kick(self) -> None: ...
    def get_state(self) -> CpuState: ...
    def set_state(self, state: CpuState) -> None: ...
    def get_regs(self) -> Registers: ...
    def set_regs(self, regs: Registers) -> None: ...
    def translate(self, linear: int) -> int | None: ...
    def instructions(self) -> int: ...
    def rip(self) -> int: ...
    def set_step(self, on: bool) -> None: ...
    def set_trace(self, sink: BlockSink) -> None:
        """See EngineVm.trace_blocks."""
    def direct_counters(self) -> dict[str, int]:
        """Of direct execution: ways into it, pages mapped for it, milliseconds there."""
    def set_cpuid(self, rows: tuple[CpuidRow, ...]) -> None:
        """What CPUID tells from now; the CPU is outside `run`."""
    def read_msr(self, index: int) -> int | None:
        """As RDMSR; None: #GP."""
    def write_msr(self, index: int, value: int) -> bool:
        """As WRMSR; False: #GP."""
    def apic_read(self, offset: int) -> int:
        """A load from the local APIC's page."""
    def apic_write(self, offset: int, value: int) -> None:
        """A store to the local APIC's page."""
    def interrupt(self) -> int | None:
        """Acknowledge the interrupt that could be delivered now: its vector, or None."""
    def poll_timer(self) -> bool:
        """Whether the local APIC's timer has fired since the last look."""
    def close(self) -> None: ...
