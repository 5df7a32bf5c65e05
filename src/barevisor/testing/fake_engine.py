"""An engine that plays a script of exits: drives a Machine with no CPU at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy

from barevisor.cpu.engine import (
    BlockSink,
    CpuState,
    Exit,
    GuestDebug,
    Interrupted,
    MachineSpec,
    Registers,
)
from barevisor.cpu.vmstate import VmState

Step = Exit | Callable[[], None]
"""An exit to return, or something to call before the next one."""


class Sink:
    """A device on a bus that keeps what is stored to it; reads as 0."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def bus_read(self, offset: int, size: int) -> int:
        """0."""
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Kept in `seen`."""
        self.seen.append(value)


class FakeVcpu:
    """Returns its script's exits in turn, then sleeps until it is kicked."""

    def __init__(self, index: int, script: Iterable[Step]) -> None:
        self.index = index
        self.script: Iterator[Step] = iter(script)
        self.answers: list[bytes] = []
        self.state = CpuState(mp_state="runnable" if index == 0 else "init")
        self.in_run = False
        self.stepping = False
        self._kicked = threading.Event()

    def run(self) -> Exit:
        """The next exit; a kick comes first."""
        self.in_run = True
        try:
            while not self._kicked.is_set():
                step = next(self.script, None)
                if step is None:
                    self._kicked.wait()
                elif callable(step):
                    step()
                else:
                    return step
            self._kicked.clear()
            return Interrupted()
        finally:
            self.in_run = False

    def complete_read(self, data: bytes) -> None:
        """Kept in `answers`."""
        self.answers.append(data)

    def kick(self) -> None:
        """Sticky, as the contract says."""
        self._kicked.set()

    def _stopped(self) -> None:
        if self.in_run:
            raise RuntimeError("the state of a running vCPU was touched")

    def get_state(self) -> CpuState:
        """A copy."""
        self._stopped()
        return deepcopy(self.state)

    def set_state(self, state: CpuState) -> None:
        """Replace."""
        self._stopped()
        self.state = deepcopy(state)

    def get_regs(self) -> Registers:
        """A copy."""
        return self.get_state().regs

    def set_regs(self, regs: Registers) -> None:
        """Replace."""
        self.state.regs = deepcopy(regs)

    def translate(self, linear: int) -> int | None:
        """Identity below 4 GiB."""
        return linear if linear < 1 << 32 else None

    def instructions(self) -> int:
        """It executes none."""
        return 0

    def rip(self) -> int:
        """Of the state."""
        return self.state.regs.rip

    def set_step(self, on: bool) -> None:
        """Kept in `stepping`."""
        self._stopped()
        self.stepping = on


class FakeVm:
    """Records what the machine asks of it."""

    def __init__(self, spec: MachineSpec, scripts: list[list[Step]]) -> None:
        self.spec = spec
        self.scripts = scripts
        self.memory: dict[int, tuple[int, int, int]] = {}
        self.irqs: list[tuple[int, bool]] = []
        self.msis: list[tuple[int, int]] = []
        self.written: list[tuple[int, int]] = []
        self.doorbells: dict[int, tuple[int, Callable[[int], None]]] = {}
        self.ignored: list[tuple[int, int]] = []
        self.late_ports: dict[int, tuple[int, Callable[[int, bytes], None]]] = {}
        self.debug: GuestDebug | None = None
        self.sink: BlockSink | None = None
        self.closed = False
        self.state = VmState()

    def set_memory(
        self, slot: int, gpa: int, size: int, host_address: int, *, readonly: bool = False,
        file: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """Recorded in `memory`."""
        self.memory[slot] = (gpa, size, host_address)

    def create_vcpu(self, index: int) -> FakeVcpu:
        """A vCPU with its script, empty where none was given."""
        return FakeVcpu(index, self.scripts[index] if index < len(self.scripts) else [])

    def irq_line(self, gsi: int, level: bool) -> None:
        """Recorded in `irqs`."""
        self.irqs.append((gsi, level))

    def signal_msi(self, address: int, data: int) -> None:
        """Recorded in `msis`."""
        self.msis.append((address, data))

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        """Recorded in `doorbells`."""
        self.doorbells[gpa] = (size, on_write)

    def remove_doorbell(self, gpa: int) -> None:
        """Forget it."""
        del self.doorbells[gpa]

    def add_late_ports(self, base: int, size: int, on_write: Callable[[int, bytes], None]) -> None:
        """Recorded in `late_ports`."""
        self.late_ports[base] = (size, on_write)

    def ignore_port(self, port: int, size: int) -> None:
        """Recorded in `ignored`."""
        self.ignored.append((port, size))

    def memory_written(self, gpa: int, size: int) -> None:
        """Recorded in `written`."""
        self.written.append((gpa, size))

    def get_state(self) -> VmState:
        """A copy."""
        return deepcopy(self.state)

    def set_state(self, state: VmState) -> None:
        """Replace."""
        self.state = deepcopy(state)

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}

    def set_debug(self, debug: GuestDebug | None) -> None:
        """Recorded in `debug`."""
        self.debug = debug

    def trace_blocks(self, sink: BlockSink) -> None:
        """Recorded in `sink`."""
        self.sink = sink

    def close(self) -> None:
        """Recorded in `closed`."""
        self.closed = True


class FakeEngine:
    """One script of steps for each vCPU."""

    name = "fake"
    file_memory = False

    def __init__(self, *scripts: list[Step]) -> None:
        self.scripts = list(scripts)
        self.vm: FakeVm | None = None

    def probe(self) -> str:
        """It always can."""
        return ""

    def create_vm(self, spec: MachineSpec) -> FakeVm:
        """The last one is kept in `vm`."""
        self.vm = FakeVm(spec, self.scripts)
        return self.vm
