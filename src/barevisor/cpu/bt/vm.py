"""Engine 2, the software engine: what the contract asks for, over the compiled parts."""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import itemgetter

from barevisor.cpu.bt.chips import Chips
from barevisor.cpu.bt.ioapic import PINS
from barevisor.cpu.engine import BlockSink, GuestDebug, MachineSpec, Vcpu
from barevisor.cpu.x86 import cpuid, hostcpuid
from barevisor.errors import EngineError
from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from barevisor.cpu.bt.vcpu import BtVcpu
    from barevisor.cpu.bt.vmcore import VmCore
    from barevisor.cpu.vmstate import VmState

MAX_CPUS = 64
"""As in state.pxd."""
WATCH_KINDS = {"read": 1, "write": 2, "access": 3}  # stops.pxd: STOP_ON_READ, STOP_ON_WRITE
TSC_RATES = range(100_000, 20_000_001)
"""In kHz, what a guest's TSC can be made to run at: slower and faster than any machine, and what
IA32_PLATFORM_INFO can tell."""
STEPS = 5
"""How many mnemonics `counters` names."""
MSI_MASK = 0xFFFF_FFFF_FFFF_FFFF


def _features(spec: MachineSpec) -> frozenset[str]:
    """Raises ConfigError or EngineError, naming what this CPU lacks."""
    if spec.features is None:
        return cpuid.features(spec.cpu_model, hostcpuid.cpuid)
    absent = sorted(spec.features - cpuid.features("host", hostcpuid.cpuid))
    if absent:
        raise EngineError(f"the bt engine here lacks {', '.join(absent)}")
    return spec.features


class BtEngine:
    """The contract's Engine. The compiled half is loaded when a VM is made: it is large."""

    name = "bt"

    @property
    def file_memory(self) -> bool:
        """See Engine.file_memory: for direct execution."""
        from barevisor.cpu.bt import tiers

        return tiers.direct() != tiers.DIRECT_OFF

    def probe(self) -> str:
        """See Engine.probe: an x86-64 host that lets us map code which was just written."""
        if (host := os.uname().machine) != "x86_64":
            return f"the bt engine runs x86-64 guests on x86-64 hosts, not on {host}"
        from barevisor.cpu.bt.codemem import CodeMemory

        try:
            CodeMemory(4096)
        except (EngineError, OSError) as e:
            return str(e)
        return ""

    def create_vm(self, spec: MachineSpec) -> BtVm:
        """See Engine.create_vm."""
        return BtVm(spec)


class BtVm:
    """The contract's EngineVm."""

    def __init__(self, spec: MachineSpec) -> None:
        from barevisor.cpu.bt import clock, handlers, tiers, vmcore

        if not 1 <= spec.cpus <= MAX_CPUS:
            raise EngineError(f"{spec.cpus} CPUs: the bt engine runs 1 to {MAX_CPUS}")
        self.spec = spec
        since = clock.sample()
        self._features = _features(spec)
        handlers.install()
        self._khz = clock.tsc_khz(since)
        self._chips = Chips(spec.irqchip)
        self._core: vmcore.VmCore | None = vmcore.VmCore(
            spec.irqchip,
            self._khz,
            self._chips.ioapic.eoi,
            tiers.translator(spec.cpus),
            tiers.direct(),
        )
        self._chips.core = self._core
        self._vcpus: list[BtVcpu] = []

    def _open(self) -> VmCore:
        if self._core is None:
            raise EngineError("the VM is closed")
        return self._core

    def set_memory(
        self, slot: int, gpa: int, size: int, host_address: int, *, readonly: bool = False,
        file: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """See EngineVm.set_memory; every vCPU must be outside `run`."""
        self._open().set_memory(slot, gpa, size, host_address, readonly, file)

    def create_vcpu(self, index: int) -> Vcpu:
        """See EngineVm.create_vcpu."""
        from barevisor.cpu.bt import vcpu
        from barevisor.cpu.x86.instructions import FEATURES

        if not 0 <= index < self.spec.cpus or any(v.index == index for v in self._vcpus):
            raise EngineError(f"vCPU {index} of a VM with {self.spec.cpus}")
        names = self._features
        made = vcpu.BtVcpu(
            self._open(),
            self._chips,
            index,
            self._table(index),
            cpuid.mask(names, FEATURES),
            cpuid.cr4_allowed(names),
            cpuid.efer_allowed(names),
        )
        self._vcpus.append(made)
        return made

    def _table(self, index: int) -> tuple[cpuid.CpuidRow, ...]:
        """What vCPU `index` tells its guest."""
        return cpuid.table(self._features, index, self.spec.cpus, self._khz, self.spec.irqchip)

    def irq_line(self, gsi: int, level: bool) -> None:
        """See EngineVm.irq_line."""
        if not 0 <= gsi < PINS:
            raise EngineError(f"interrupt line {gsi}: there are {PINS}")
        self._open()
        self._chips.line(gsi, level)

    def signal_msi(self, address: int, data: int) -> None:
        """See EngineVm.signal_msi. A message that no local APIC takes is lost, as on a bus."""
        self._open().msi(address & MSI_MASK, data & 0xFFFF_FFFF)

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        """See EngineVm.add_doorbell: on the vCPU's thread, with the value."""
        self._chips.add_doorbell(gpa, size, on_write)

    def remove_doorbell(self, gpa: int) -> None:
        """See EngineVm.remove_doorbell."""
        self._chips.remove_doorbell(gpa)

    def add_late_ports(self, base: int, size: int, on_write: Callable[[int, bytes], None]) -> None:
        """See EngineVm.add_late_ports: an exit costs little here, and stays one."""

    def ignore_port(self, port: int, size: int) -> None:
        """See EngineVm.ignore_port; the same."""

    def memory_written(self, gpa: int, size: int) -> None:
        """See EngineVm.memory_written. Late writers of a closed VM are ignored."""
        if self._core is not None:
            self._core.memory_written(gpa, size)

    def set_debug(self, debug: GuestDebug | None) -> None:
        """See EngineVm.set_debug. Nothing is written to guest memory, and the guest's debug
        registers stay its own."""
        core = self._open()
        if debug is None:
            for vcpu in self._vcpus:
                vcpu.set_step(False)
            core.end_debug()
            return
        watches = [(w.address, w.size, WATCH_KINDS[w.kind]) for w in debug.watchpoints]
        core.set_debug([b.address for b in debug.breakpoints], watches)

    def trace_blocks(self, sink: BlockSink) -> None:
        """See EngineVm.trace_blocks."""
        for vcpu in self._vcpus:
            vcpu.set_trace(sink)
        self._open().trace()

    def get_state(self) -> VmState:
        """See EngineVm.get_state."""
        from barevisor.cpu.vmstate import VmState

        core = self._open()
        state = VmState(core.get_clock(), self._khz, self._table(0))
        if self.spec.irqchip:
            state.pics = [core.get_pic(n) for n in range(2)]
            state.ioapic = self._chips.ioapic.get_state()
            state.pit = self._chips.pit.get_state()
        return state

    def set_state(self, state: VmState) -> None:
        """See EngineVm.set_state. No vCPU has run yet. A TSC that is not the host's is multiplied,
        and RDTSC then ends direct execution."""
        from barevisor.cpu.portable import differences, same_rate

        if reasons := differences(state, self.get_state(), rates=TSC_RATES):
            raise EngineError(f"the guest cannot go on on bt: {'; '.join(reasons)}")
        core = self._open()
        if not same_rate(state.tsc_khz, self._khz):
            self._khz = state.tsc_khz
            core.set_tsc_khz(self._khz)
            for vcpu in self._vcpus:
                vcpu.set_cpuid(self._table(vcpu.index))
        for number, pic in enumerate(state.pics):
            core.set_pic(number, pic)
        if state.ioapic is not None:
            self._chips.ioapic.set_state(state.ioapic)
        if state.pit is not None:
            self._chips.pit.set_state(state.pit)
        core.set_clock(state.clock)

    def counters(self) -> dict[str, int]:
        """See EngineVm.counters. "chips": accesses to IOAPIC, 8259s and 8254, and doorbells; they
        leave compiled code and are answered in the engine. "direct_...": all CPUs' ways into direct
        execution, pages mapped for it, milliseconds there. "translator_...": TranslatorOwner's;
        "interpreted_...": the instructions that translations left to the interpreter most
        often."""
        found = {
            "instructions": sum(vcpu.instructions() for vcpu in self._vcpus),
            "chips": self._chips.accesses,
            "doorbells": self._chips.rung,
        }
        owner = None if self._core is None else self._core.translator
        if owner is not None:
            found |= {f"translator_{name}": count for name, count in owner.stats().items()}
            steps = sorted(owner.steps().items(), key=itemgetter(1), reverse=True)
            found |= {f"interpreted_{name.lower()}": count for name, count in steps[:STEPS]}
        for vcpu in self._vcpus:
            for name, count in vcpu.direct_counters().items():
                found[f"direct_{name}"] = found.get(f"direct_{name}", 0) + count
        return found

    def close(self) -> None:
        """See EngineVm.close."""
        core, self._core = self._core, None
        if core is None:
            return
        self._chips.close()
        for vcpu in self._vcpus:
            vcpu.close()
        core.close()
