"""Engine 1: the host CPU through /dev/kvm."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EACCES, ENODEV, ENOENT, ENXIO

from barevisor.cpu.engine import BlockSink, GuestDebug, MachineSpec, Vcpu
from barevisor.cpu.kvm import abi, cpuid, ioctls, state
from barevisor.cpu.kvm.debug import BLOCKIRQ, Stops
from barevisor.cpu.kvm.doorbell import Doorbells
from barevisor.cpu.kvm.late import LatePorts
from barevisor.cpu.kvm.vcpu import KvmVcpu
from barevisor.errors import ConfigError, EngineError
from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from barevisor.cpu.kvm import chipabi
    from barevisor.cpu.vmstate import VmState

DEVICE = "/dev/kvm"
API_VERSION = 12

# Three pages for a TSS and one for page tables that KVM keeps below 4 GiB for Intel CPUs without
# unrestricted guest mode (api.rst 4.37, 4.40). JUSTIFICATION: the addresses that QEMU and
# Firecracker use too, in the hole under the firmware's 256 KiB, where no board puts RAM.
IDENTITY_MAP_ADDR = 0xFFFBC000
TSS_ADDR = 0xFFFBD000

LEVELS = [[abi.IrqLevel(gsi, level) for level in (0, 1)] for gsi in range(24)]
"""KVM_IRQ_LINE's arguments; a serial port's line changes twice a byte."""
READONLY = 1 << 1  # KVM_MEM_READONLY
PIT_SPEAKER = 1  # KVM_PIT_SPEAKER_DUMMY: port 0x61 is in the kernel too

NO_KVM = "use --engine bt"
HINTS = {
    EACCES: "add yourself to the group kvm (`sudo usermod -aG kvm $USER`, then log in anew), or "
    "use --engine bt",
    ENOENT: "load kvm-intel or kvm-amd if this machine has hardware virtualization (its firmware "
    "may have it off), or use --engine bt",
    ENXIO: "the kvm module finds no hardware virtualization here: use --engine bt",
    ENODEV: "the kvm module finds no hardware virtualization here: use --engine bt",
}
"""By the errno of opening the device."""


def open_device() -> int:
    """A descriptor of /dev/kvm with every capability that the engine needs, or EngineError."""
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise EngineError(f"{DEVICE}: {e.strerror}", HINTS.get(e.errno or 0, NO_KVM)) from e
    try:
        version = ioctls.GET_API_VERSION(fd)
        if version != API_VERSION:
            raise EngineError(f"{DEVICE}: API version {version}, not {API_VERSION}")
        if missing := ioctls.missing(fd):
            hint = "the host's kernel is too old, or was built without: use --engine bt"
            raise EngineError(f"{DEVICE} lacks {', '.join(missing)}", hint)
    except EngineError:
        os.close(fd)
        raise
    return fd


class KvmEngine:
    """The contract's Engine."""

    name = "kvm"
    file_memory = False

    def probe(self) -> str:
        """See Engine.probe; the work is in kvm/probe.py."""
        from barevisor.cpu.kvm.probe import probe

        return probe(self)

    def create_vm(self, spec: MachineSpec) -> KvmVm:
        """See Engine.create_vm."""
        return KvmVm(spec)


class KvmVm:
    """The contract's EngineVm."""

    def __init__(self, spec: MachineSpec) -> None:
        self.spec = spec
        self._vcpus: list[KvmVcpu] = []
        self._told: abi.Cpuid | None = None
        self._khz = 0
        self._fd = -1
        self._kvm = open_device()
        try:
            limit = ioctls.capability(self._kvm, "KVM_CAP_MAX_VCPUS")
            # An xAPIC destination is 8 bits wide, and 255 means all.
            if not 1 <= spec.cpus <= min(limit, 255):
                raise EngineError(f"{spec.cpus} CPUs: KVM here takes 1 to {min(limit, 255)}")
            self._create()
        except EngineError:
            self.close()
            raise

    def _create(self) -> None:
        kvm = self._kvm
        self._run_size = ioctls.GET_VCPU_MMAP_SIZE(kvm)
        self._deadline = ioctls.capability(kvm, "KVM_CAP_TSC_DEADLINE_TIMER") > 0
        self._msrs = _msr_list(kvm)
        self._cpuid = _supported_cpuid(kvm)
        self._stops = Stops(_guest_debug(kvm))
        self._fd = fd = ioctls.CREATE_VM(kvm)
        self._bells = Doorbells(fd)
        self._ports = LatePorts(kvm, fd)
        ioctls.SET_IDENTITY_MAP_ADDR(fd, abi.U64(IDENTITY_MAP_ADDR))
        ioctls.SET_TSS_ADDR(fd, TSS_ADDR)
        if self.spec.irqchip:
            ioctls.CREATE_IRQCHIP(fd)
            ioctls.CREATE_PIT2(fd, abi.PitConfig(flags=PIT_SPEAKER))
        self._features = self._wanted()

    def _wanted(self) -> frozenset[str] | None:
        """The features of the guest's CPUs; None for all that this host has. Raises EngineError,
        naming what KVM lacks."""
        names, model = self.spec.features, self.spec.cpu_model
        if names is None and model not in ("host", "max"):
            from barevisor.cpu.x86 import cpuid as models  # most guests have the host's CPU

            names = models.NAMED.get(model)
            if names is None:
                known = ", ".join(models.MODELS)
                raise ConfigError(f"unknown CPU model {model!r}", f"one of {known}")
        if names is not None:
            absent = sorted(names - cpuid.features(self._cpuid, self._deadline))
            if absent:
                raise EngineError(
                    f"CPU model {model}: KVM here lacks {', '.join(absent)}",
                    "use --cpu common, which has what both engines have",
                )
        return names

    def _table(self, index: int, fd: int) -> abi.Cpuid:
        """What vCPU `index`, whose descriptor is `fd`, tells its guest."""
        cpus, irqchip = self.spec.cpus, self.spec.irqchip
        if self._features is None:
            return cpuid.adjust(self._cpuid, index, cpus, self._deadline and irqchip)
        from barevisor.cpu.x86 import cpuid as models

        khz = ioctls.GET_TSC_KHZ(fd)
        return cpuid.table(models.table(self._features, index, cpus, khz, irqchip))

    def set_memory(
        self, slot: int, gpa: int, size: int, host_address: int, *, readonly: bool = False,
        file: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """See EngineVm.set_memory."""
        flags = READONLY if readonly else 0
        region = abi.MemoryRegion(slot, flags, gpa, size, host_address)
        ioctls.SET_USER_MEMORY_REGION(self._fd, region)
        self._stops.memory(slot, gpa, size, host_address, readonly)

    def create_vcpu(self, index: int) -> Vcpu:
        """See EngineVm.create_vcpu."""
        if not 0 <= index < self.spec.cpus:
            raise EngineError(f"vCPU {index} of a VM with {self.spec.cpus}")
        fd = ioctls.CREATE_VCPU(self._fd, index)
        try:
            ioctls.SET_CPUID2(fd, table := self._table(index, fd))
            if index == 0:
                self._told, self._khz = table, ioctls.GET_TSC_KHZ(fd)
            msrs = self._msrs - _not_offered(table)
            vcpu = KvmVcpu(
                fd, index, self._run_size, self.spec.irqchip, msrs, self._stops, self._ports
            )
        except (EngineError, OSError):
            os.close(fd)
            raise
        self._vcpus.append(vcpu)
        return vcpu

    def irq_line(self, gsi: int, level: bool) -> None:
        """See EngineVm.irq_line."""
        ioctls.IRQ_LINE(self._fd, LEVELS[gsi][level])

    def signal_msi(self, address: int, data: int) -> None:
        """See EngineVm.signal_msi. A message that no local APIC takes is lost, as on a bus."""
        low, high = address & 0xFFFF_FFFF, address >> 32
        ioctls.SIGNAL_MSI(self._fd, abi.Msi(address_lo=low, address_hi=high, data=data))

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        """See EngineVm.add_doorbell. The kernel hides the stored value: on_write gets 0."""
        self._bells.add(gpa, size, on_write)

    def remove_doorbell(self, gpa: int) -> None:
        """See EngineVm.remove_doorbell."""
        self._bells.remove(gpa)

    def add_late_ports(self, base: int, size: int, on_write: Callable[[int, bytes], None]) -> None:
        """See EngineVm.add_late_ports and kvm/late.py."""
        self._ports.add(base, size, on_write)

    def ignore_port(self, port: int, size: int) -> None:
        """See EngineVm.ignore_port."""
        self._ports.ignore(port, size)

    def memory_written(self, gpa: int, size: int) -> None:
        """Nothing to do: the host CPU keeps its instruction fetch coherent."""

    def set_debug(self, debug: GuestDebug | None) -> None:
        """See EngineVm.set_debug and kvm/debug.py."""
        for vcpu in self._vcpus if debug is None else ():
            vcpu.set_step(False)
        try:
            self._stops.set(debug, self._vcpus)
        finally:
            for vcpu in self._vcpus:
                vcpu.update_debug()

    def trace_blocks(self, sink: BlockSink) -> None:
        """See EngineVm.trace_blocks."""
        raise EngineError(
            "the kvm engine cannot trace blocks: the host's CPU runs the guest",
            "use --engine bt, or --trace exits",
        )

    def get_state(self) -> VmState:
        """See EngineVm.get_state."""
        from barevisor.cpu.kvm import chipabi, chips
        from barevisor.cpu.vmstate import VmState

        if self._told is None:
            raise EngineError("a VM without vCPUs has no state")
        ioctls.GET_CLOCK(self._fd, clock := chipabi.Clock())
        told = cpuid.rows(self._told.entries[: self._told.nent])
        found = VmState(clock.clock, self._khz, told)
        if self.spec.irqchip:
            found.pics = [chips.pic_from(self._chip(n)) for n in (chips.MASTER, chips.SLAVE)]
            found.ioapic = chips.ioapic_from(self._chip(chips.IOAPIC))
            ioctls.GET_PIT2(self._fd, pit := chipabi.PitState())
            found.pit = chips.pit_from(pit)
        return found

    def _chip(self, number: int) -> chipabi.IrqChip:
        from barevisor.cpu.kvm import chipabi

        ioctls.GET_IRQCHIP(self._fd, chip := chipabi.IrqChip(chip_id=number))
        return chip

    def set_state(self, saved: VmState) -> None:
        """See EngineVm.set_state."""
        from barevisor.cpu.kvm import chipabi, chips
        from barevisor.cpu.portable import differences

        if reasons := differences(saved, self.get_state()):
            raise EngineError(f"the guest cannot go on on kvm: {'; '.join(reasons)}")
        for number, pic in enumerate(saved.pics):
            ioctls.SET_IRQCHIP(self._fd, chips.pic_to(pic, number))
        if saved.ioapic is not None:
            ioctls.SET_IRQCHIP(self._fd, chips.ioapic_to(saved.ioapic))
        if saved.pit is not None:
            ioctls.SET_PIT2(self._fd, chips.pit_to(saved.pit))
        ioctls.SET_CLOCK(self._fd, chipabi.Clock(clock=saved.clock))

    def counters(self) -> dict[str, int]:
        """See EngineVm.counters: the kernel's own, over all vCPUs; {} where it has no binary
        statistics (Linux before 5.14)."""
        if not ioctls.capability(self._kvm, ioctls.GET_STATS_FD.cap):
            return {}
        from barevisor.cpu.kvm import counters

        return counters.total([vcpu.stats_fd() for vcpu in self._vcpus])

    def close(self) -> None:
        """See EngineVm.close."""
        if self._fd >= 0:
            self._bells.close()
            self._ports.close()
            for vcpu in self._vcpus:
                vcpu.close()
            os.close(self._fd)
        if self._kvm >= 0:
            os.close(self._kvm)
        self._fd = self._kvm = -1


def supported_features() -> frozenset[str]:
    """Names of x86/cpuid.py's features that guests can have. Raises EngineError."""
    kvm = open_device()
    try:
        deadline = ioctls.capability(kvm, "KVM_CAP_TSC_DEADLINE_TIMER") > 0
        return cpuid.features(_supported_cpuid(kvm), deadline)
    finally:
        os.close(kvm)


def _not_offered(told: abi.Cpuid) -> set[int]:
    """KVM's own MSRs that the guest was not told of; KVM lists them all, some not even 0."""
    told_of = (e.eax for e in told.entries[: told.nent] if e.function == cpuid.KVM_FEATURES)
    word = next(told_of, 0)
    return {msr for msr, bit in state.PARAVIRTUAL.items() if not word >> bit & 1}


def _msr_list(kvm: int) -> set[int]:
    ioctls.GET_MSR_INDEX_LIST(kvm, raw := abi.MsrList(nmsrs=abi.MSR_INDICES))
    return set(raw.indices[: raw.nmsrs])


def _supported_cpuid(kvm: int) -> list[abi.CpuidEntry]:
    ioctls.GET_SUPPORTED_CPUID(kvm, raw := abi.Cpuid(nent=abi.CPUID_ENTRIES))
    return list(raw.entries[: raw.nent])


def _guest_debug(kvm: int) -> int:
    """KVM_GUESTDBG_* bits that the kernel knows; 0 for none at all."""
    if not ioctls.capability(kvm, "KVM_CAP_SET_GUEST_DEBUG"):
        return 0
    return ioctls.capability(kvm, "KVM_CAP_SET_GUEST_DEBUG2") or BLOCKIRQ - 1
