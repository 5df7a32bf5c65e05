"""The local APIC of the software engine, register by register, with no guest running."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from barevisor.cpu.bt.vcpu import BtVcpu
from barevisor.cpu.bt.vm import BtEngine, BtVm
from barevisor.cpu.engine import MachineSpec

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR2 = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_LINT0, LVT_ERROR, TMICT, TMCCT, TDCR = 0x320, 0x350, 0x370, 0x380, 0x390, 0x3E0
MASKED, PERIODIC, DEADLINE = 1 << 16, 1 << 17, 1 << 18
APIC_BASE, TSC, TSC_DEADLINE = 0x1B, 0x10, 0x6E0
SELF, EXTINT = 1 << 18, 7 << 8


@pytest.fixture
def vm() -> Iterator[BtVm]:
    vm = BtEngine().create_vm(MachineSpec())
    yield vm
    vm.close()


@pytest.fixture
def cpu(vm: BtVm) -> BtVcpu:
    """Software-enabled, LINT0 masked."""
    cpu = vm.create_vcpu(0)
    assert isinstance(cpu, BtVcpu)
    cpu.apic_write(SVR, 0x1FF)
    cpu.apic_write(LVT_LINT0, MASKED)
    return cpu


@pytest.fixture
def x2(cpu: BtVcpu) -> BtVcpu:
    assert cpu.write_msr(APIC_BASE, 0xFEE00D00)
    return cpu


@pytest.mark.parametrize(
    ("offset", "write", "read"),
    [
        pytest.param(VERSION, 0, 0x60014, id="version-read-only"),
        pytest.param(ID, 0x05000000, 0x05000000, id="id"),
        pytest.param(TPR, 0x12345678, 0x78, id="tpr"),
        pytest.param(LDR, 0xFFFFFFFF, 0xFF000000, id="ldr"),
        pytest.param(DFR, 0, 0x0FFFFFFF, id="dfr-cluster"),
        pytest.param(SVR, 0xFFFFFFFF, 0x1FF, id="svr"),
        pytest.param(LVT_TIMER, 0xFFFFFFFF & ~DEADLINE, 0x300FF, id="lvt-timer"),
        pytest.param(LVT_LINT0, 0xFFFFFFFF, 0x1A7FF, id="lint0"),
        pytest.param(LVT_ERROR, 0xFFFFFFFF, 0x100FF, id="lvt-error"),
        pytest.param(TDCR, 0xFFFFFFFF, 0xB, id="divide"),
        pytest.param(ICR2, 0xFFFFFFFF, 0xFF000000, id="icr2"),
        pytest.param(0x2F0, 0xFFFFFFFF, 0x107FF, id="cmci"),
        pytest.param(0x3F0, 0, 0, id="self-ipi-only-x2apic"),
    ],
)
def test_register(cpu: BtVcpu, offset: int, write: int, read: int) -> None:
    cpu.apic_write(offset, write)
    assert cpu.apic_read(offset) == read


def test_an_undefined_register_is_an_error(cpu: BtVcpu) -> None:
    cpu.apic_read(0x40)
    assert cpu.apic_read(ESR) == 0
    cpu.apic_write(ESR, 0)
    assert cpu.apic_read(ESR) == 0x80


def test_priorities(cpu: BtVcpu) -> None:
    """SDM, "Task and Processor Priorities": a vector needs a higher class than PPR."""
    for vector in (0x31, 0x45, 0x4A):
        cpu.apic_write(ICR, SELF | vector)
    cpu.apic_write(TPR, 0x40)
    assert cpu.interrupt() is None
    cpu.apic_write(TPR, 0)
    assert cpu.interrupt() == 0x4A
    assert cpu.apic_read(PPR) == 0x40
    assert cpu.interrupt() is None
    cpu.apic_write(EOI, 0)
    assert cpu.interrupt() == 0x45
    cpu.apic_write(EOI, 0)
    assert cpu.interrupt() == 0x31
    assert cpu.apic_read(ISR + 0x10) == 1 << 0x11


@pytest.mark.parametrize("vector", [0, 15])
def test_low_vectors_are_errors(cpu: BtVcpu, vector: int) -> None:
    cpu.apic_write(ICR, SELF | vector)
    cpu.apic_write(ESR, 0)
    assert cpu.apic_read(ESR) == 0x20
    assert cpu.interrupt() is None


@pytest.mark.parametrize(
    ("address", "data", "taken"),
    [
        pytest.param(0xFEE00000, 0x41, True, id="physical"),
        pytest.param(0xFEEFF000, 0x41, True, id="broadcast"),
        pytest.param(0xFEE01000, 0x41, False, id="another-cpu"),
        pytest.param(0xFEE01004, 0x41, True, id="logical-flat"),
        pytest.param(0xFEE02004, 0x41, False, id="logical-flat-other"),
        pytest.param(0xFEE0000C, 0x141, False, id="logical-nobody"),
        pytest.param(0xFEE00008, 0x41, True, id="lowest-priority-hint"),
        pytest.param(0xFEE00000, 0x05, False, id="illegal-vector"),
    ],
)
def test_msi(vm: BtVm, cpu: BtVcpu, address: int, data: int, taken: bool) -> None:
    cpu.apic_write(LDR, 0x01000000)
    vm.signal_msi(address, data)
    assert cpu.interrupt() == (0x41 if taken else None)


@pytest.mark.parametrize(
    ("dest", "taken"), [(0x12, True), (0x22, False), (0x1D, False), (0xFF, True)]
)
def test_logical_cluster(vm: BtVm, cpu: BtVcpu, dest: int, taken: bool) -> None:
    cpu.apic_write(DFR, 0x0FFFFFFF)
    cpu.apic_write(LDR, 0x12000000)
    vm.signal_msi(0xFEE00004 | dest << 12, 0x41)
    assert (cpu.interrupt() == 0x41) is taken


def test_software_disabled_takes_nothing_and_masks(vm: BtVm, cpu: BtVcpu) -> None:
    cpu.apic_write(LVT_TIMER, 0x50)
    cpu.apic_write(SVR, 0xFF)
    vm.signal_msi(0xFEE00000, 0x41)
    assert cpu.interrupt() is None
    assert cpu.apic_read(LVT_TIMER) == MASKED | 0x50
    cpu.apic_write(LVT_TIMER, 0x50)
    assert cpu.apic_read(LVT_TIMER) == MASKED | 0x50


def test_level_interrupt_waits_for_eoi(vm: BtVm, cpu: BtVcpu) -> None:
    """Through the IOAPIC: the line stays high, so the EOI brings it again."""
    chips = vm._chips
    for register, value in ((0x2A, 0x8043), (0x2B, 0)):
        chips.mmio_write(0xFEC00000, register.to_bytes(4, "little"))
        chips.mmio_write(0xFEC00010, value.to_bytes(4, "little"))
    vm.irq_line(13, True)
    assert cpu.interrupt() == 0x43
    assert cpu.apic_read(TMR + 0x20) == 1 << 3
    assert cpu.apic_read(IRR + 0x20) == 0
    cpu.apic_write(EOI, 0)
    assert cpu.interrupt() == 0x43
    vm.irq_line(13, False)
    cpu.apic_write(EOI, 0)
    assert cpu.interrupt() is None


def test_the_virtual_wire_is_there_from_the_start(vm: BtVm) -> None:
    first, second = vm.create_vcpu(0), BtEngine().create_vm(MachineSpec(cpus=2)).create_vcpu(1)
    assert isinstance(first, BtVcpu)
    assert isinstance(second, BtVcpu)
    assert (first.apic_read(LVT_LINT0), second.apic_read(LVT_LINT0)) == (EXTINT, MASKED)


@pytest.mark.parametrize("offset", [0x2F0, LVT_TIMER, 0x330, 0x340, LVT_LINT0, 0x360, LVT_ERROR])
def test_off_and_on_masks_every_source(cpu: BtVcpu, offset: int) -> None:
    """The virtual wire of LINT0 is the firmware's; an APIC that was off has none."""
    assert cpu.write_msr(APIC_BASE, 0xFEE00100)
    assert cpu.write_msr(APIC_BASE, 0xFEE00900)
    assert cpu.apic_read(offset) == MASKED


def test_self_shorthand_sends_fixed_interrupts_only(cpu: BtVcpu) -> None:
    for mode in (1, 4, 5, 6, 7):
        cpu.apic_write(ICR, SELF | mode << 8 | 0x41)
    assert cpu.interrupt() is None
    assert not cpu.apic_read(IRR + 0x20)


@pytest.mark.parametrize(
    ("lvt", "taken"),
    [(0x45, 0x45), (EXTINT, 0x30), (MASKED | 0x45, None), (MASKED | EXTINT, None)],
    ids=["fixed", "ExtINT", "fixed, masked", "ExtINT, masked"],
)
def test_the_8259_pair_is_on_lint0(vm: BtVm, cpu: BtVcpu, lvt: int, taken: int | None) -> None:
    for port, value in ((0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xFE)):
        vm._chips.port_write(port, 1, bytes((value,)))
    cpu.apic_write(LVT_LINT0, lvt)
    vm.irq_line(0, True)
    assert cpu.interrupt() == taken
    vm.irq_line(0, False)


# ---- the timer -------------------------------------------------------------------------------


def test_one_shot_fires_once(cpu: BtVcpu) -> None:
    cpu.apic_write(LVT_TIMER, 0x50)
    cpu.apic_write(TDCR, 0xB)
    cpu.apic_write(TMICT, 100_000_000)
    assert 0 < cpu.apic_read(TMCCT) <= 100_000_000
    assert not cpu.poll_timer()
    time.sleep(0.101)
    assert cpu.poll_timer()
    assert not cpu.poll_timer()
    assert (cpu.interrupt(), cpu.apic_read(TMCCT)) == (0x50, 0)


def test_divider_slows_the_count(cpu: BtVcpu) -> None:
    cpu.apic_write(LVT_TIMER, MASKED | 0x50)
    cpu.apic_write(TDCR, 0xA)  # by 128
    cpu.apic_write(TMICT, 1_000_000)
    time.sleep(0.002)
    assert 0 < cpu.apic_read(TMCCT) < 1_000_000 - 2_000_000 // 128 + 100


def test_periodic_fires_again(cpu: BtVcpu) -> None:
    cpu.apic_write(LVT_TIMER, PERIODIC | 0x50)
    cpu.apic_write(TDCR, 0xB)
    cpu.apic_write(TMICT, 1_000_000)
    for _ in range(3):
        time.sleep(0.0015)
        assert cpu.poll_timer()
    cpu.apic_write(TMICT, 0)
    time.sleep(0.0015)
    assert not cpu.poll_timer()


def test_a_change_of_mode_loses_no_interrupt(cpu: BtVcpu) -> None:
    """A one-shot that expired before anybody looked fires, and does not begin again."""
    cpu.apic_write(LVT_TIMER, 0x50)
    cpu.apic_write(TDCR, 0xB)
    cpu.apic_write(TMICT, 1000)
    time.sleep(0.001)
    cpu.apic_write(LVT_TIMER, PERIODIC | 0x50)
    assert (cpu.interrupt(), cpu.apic_read(TMCCT)) == (0x50, 0)


def test_a_short_period_counts_no_higher_than_asked(cpu: BtVcpu) -> None:
    cpu.apic_write(LVT_TIMER, PERIODIC | MASKED | 0x50)
    cpu.apic_write(TDCR, 0xB)
    cpu.apic_write(TMICT, 4096)
    assert cpu.apic_read(TMCCT) <= 4096


def test_deadline(cpu: BtVcpu) -> None:
    assert cpu.write_msr(TSC_DEADLINE, 1)
    assert cpu.read_msr(TSC_DEADLINE) == 0  # another mode: ignored
    cpu.apic_write(LVT_TIMER, DEADLINE | 0x50)
    far = (cpu.read_msr(TSC) or 0) + 10**12
    cpu.write_msr(TSC_DEADLINE, far)
    assert cpu.read_msr(TSC_DEADLINE) == far
    assert not cpu.poll_timer()
    cpu.write_msr(TSC_DEADLINE, 1)
    assert cpu.poll_timer()
    assert cpu.read_msr(TSC_DEADLINE) == 0
    cpu.write_msr(TSC_DEADLINE, far)
    cpu.write_msr(TSC_DEADLINE, 0)
    assert (cpu.read_msr(TSC_DEADLINE), cpu.poll_timer()) == (0, False)


def test_a_new_tsc_moves_the_deadline(cpu: BtVcpu) -> None:
    cpu.apic_write(LVT_TIMER, DEADLINE | 0x50)
    cpu.write_msr(TSC_DEADLINE, (cpu.read_msr(TSC) or 0) + 10**12)
    cpu.write_msr(TSC, (cpu.read_msr(TSC) or 0) + 2 * 10**12)
    assert cpu.poll_timer()


# ---- x2APIC ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "value", "fine"),
    [
        pytest.param(0x80B, 0, True, id="eoi"),
        pytest.param(0x80B, 1, False, id="eoi-not-zero"),
        pytest.param(0x808, 0x100, False, id="tpr-reserved"),
        pytest.param(0x80D, 1, False, id="ldr-read-only"),
        pytest.param(0x80E, 0, False, id="no-dfr"),
        pytest.param(0x82F, 1 << 17, False, id="cmci-reserved"),
        pytest.param(0x830, 1 << 13, False, id="icr-reserved"),
        pytest.param(0x831, 0, False, id="no-icr2"),
        pytest.param(0x832, 1 << 32, False, id="lvt-high-half"),
        pytest.param(0x838, 0xFFFFFFFF, True, id="tmict"),
        pytest.param(0x802, 0, False, id="id-read-only"),
        pytest.param(0x8FF, 0, False, id="undefined"),
    ],
)
def test_x2apic_write(x2: BtVcpu, index: int, value: int, fine: bool) -> None:
    assert x2.write_msr(index, value) is fine


def test_x2apic_registers_need_the_mode(cpu: BtVcpu) -> None:
    assert cpu.read_msr(0x802) is None
    assert not cpu.write_msr(0x80B, 0)


def test_x2apic_self_ipi_and_icr(x2: BtVcpu) -> None:
    assert (x2.read_msr(0x802), x2.read_msr(0x80D)) == (0, 1)
    assert x2.write_msr(0x83F, 0x61)
    assert x2.interrupt() == 0x61
    x2.write_msr(0x80B, 0)
    for destination, mode in ((0, 0), (0xFFFFFFFF, 0), (1, 1 << 11)):
        assert x2.write_msr(0x830, destination << 32 | mode | 0x62)
        assert x2.interrupt() == 0x62
        x2.write_msr(0x80B, 0)
    assert x2.read_msr(0x830) == 1 << 32 | 1 << 11 | 0x62


@pytest.mark.parametrize(
    ("start", "to", "fine"),
    [
        pytest.param(0x900, 0xD00, True, id="xapic-to-x2apic"),
        pytest.param(0xD00, 0x900, False, id="x2apic-to-xapic"),
        pytest.param(0xD00, 0x100, True, id="x2apic-off"),
        pytest.param(0x900, 0x500, False, id="x2apic-without-enable"),
        pytest.param(0x100, 0xD00, False, id="off-to-x2apic"),
        pytest.param(0x900, 0x901, False, id="reserved"),
    ],
)
def test_base_transitions(cpu: BtVcpu, start: int, to: int, fine: bool) -> None:
    assert cpu.write_msr(APIC_BASE, 0xFEE00000 | start)
    assert cpu.write_msr(APIC_BASE, 0xFEE00000 | to) is fine
    assert cpu.read_msr(APIC_BASE) == 0xFEE00000 | (to if fine else start)


# ---- state -----------------------------------------------------------------------------------


def test_register_page_round_trip(cpu: BtVcpu) -> None:
    cpu.apic_write(TPR, 0x20)
    cpu.apic_write(LDR, 0x01000000)
    cpu.apic_write(LVT_TIMER, PERIODIC | 0x50)
    cpu.apic_write(TMICT, 4_000_000_000)
    cpu.apic_write(ICR, SELF | 0x71)
    cpu.apic_write(ICR, SELF | 0x81)
    assert cpu.interrupt() == 0x81
    before = cpu.get_state()
    cpu.set_state(before)
    after = cpu.get_state()
    a, b = bytearray(before.lapic), bytearray(after.lapic)
    for page in (a, b):
        page[TMCCT : TMCCT + 4] = bytes(4)
    assert a == b
    cpu.apic_write(EOI, 0)
    assert cpu.interrupt() == 0x71


def test_pv_eoi_word_ends_an_interrupt() -> None:
    """MSR_KVM_PV_EOI_EN: the flag is set for a lone edge interrupt; clearing it is the EOI."""
    from barevisor.board.ram import GuestRam

    vm = BtEngine().create_vm(MachineSpec())
    ram = GuestRam([(0, 0x10000)])
    vm.set_memory(0, 0, 0x10000, ram.host_address)
    cpu = vm.create_vcpu(0)
    assert isinstance(cpu, BtVcpu)
    cpu.apic_write(SVR, 0x1FF)
    cpu.apic_write(LVT_LINT0, MASKED)
    assert cpu.write_msr(0x4B564D04, 0x1001)
    vm.signal_msi(0xFEE00000, 0x41)
    assert cpu.interrupt() == 0x41
    assert ram.read(0x1000, 4) == b"\1\0\0\0"
    ram.write(0x1000, bytes(4))
    vm.signal_msi(0xFEE00000, 0x41)
    assert cpu.interrupt() == 0x41
    vm.signal_msi(0xFEE00000, 0x41)
    assert cpu.interrupt() is None  # the guest did not clear it: it must write the register
    assert ram.read(0x1000, 4) == bytes(4)
    cpu.apic_write(EOI, 0)
    assert cpu.interrupt() == 0x41
    assert cpu.write_msr(0x4B564D04, 0x7FFF_0000_0001)  # no RAM there: ignored
    vm.close()
    ram.close()
