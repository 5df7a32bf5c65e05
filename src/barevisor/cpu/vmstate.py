"""VmState: what the CPUs of a VM share, the same dataclasses for both engines.

Interrupt controllers, timer and clock; the other half of a saved machine beside its CpuStates.
Apart from the contract, because a start does not need it.
"""

from __future__ import annotations

from barevisor.cpu.x86.cpuid import CpuidRow
from barevisor.records import dataclass, field


@dataclass(slots=True)
class PicState:
    """One 8259A with the edge/level register of PC chipsets (Intel 8259A data sheet).

    lines: levels of the inputs. base: ICW2. lowest: the IRQ of lowest priority. initialising:
    which ICW comes next (2, 3, 4), or 0. icw4: ICW1 announced one. read_isr, poll,
    special_mask: by OCW3. nested, auto_eoi: by ICW4. elcr: 1 for level-triggered.
    """

    irr: int = 0
    isr: int = 0
    imr: int = 0
    lines: int = 0
    elcr: int = 0
    base: int = 0
    lowest: int = 7
    initialising: int = 0
    icw4: bool = False
    auto_eoi: bool = False
    rotate: bool = False
    nested: bool = False
    read_isr: bool = False
    poll: bool = False
    special_mask: bool = False


@dataclass(slots=True)
class IoApicState:
    """The IOAPIC (Intel 82093AA data sheet): redirection entries as the guest reads them, the
    index register, the levels of its inputs."""

    id: int = 0
    select: int = 0
    table: list[int] = field(default_factory=lambda: [1 << 16] * 24)
    lines: int = 0


@dataclass(slots=True)
class PitChannel:
    """One counter of the 8254 (Intel 8254 data sheet). access: 1 low byte, 2 high, 3 both.
    elapsed: nanoseconds since it was loaded. low: the first byte of a write of two. high_next: a
    read of two bytes is half done. latch: bytes that reads return first, status before them."""

    reload: int = 0x10000
    mode: int = 0
    bcd: bool = False
    access: int = 3
    gate: bool = True
    running: bool = False
    elapsed: int = 0
    low: int | None = None
    high_next: bool = False
    latch: list[int] = field(default_factory=list)
    status: int | None = None


@dataclass(slots=True)
class PitState:
    """The 8254. `speaker`: bit 1 of port 0x61; its bit 0 is channel 2's gate."""

    channels: list[PitChannel] = field(default_factory=lambda: [PitChannel() for _ in range(3)])
    speaker: bool = False


@dataclass(slots=True)
class VmState:
    """A VM without its memory and CPUs, portable between engines like CpuState.

    clock: kvm-clock in ns. tsc_khz, cpuid (CPU 0's): what the guest was told, and must find again.
    Without interrupt controllers `pics` is empty, and `ioapic` and `pit` are None.
    """

    clock: int = 0
    tsc_khz: int = 0
    cpuid: tuple[CpuidRow, ...] = ()
    pics: list[PicState] = field(default_factory=list)
    ioapic: IoApicState | None = None
    pit: PitState | None = None
