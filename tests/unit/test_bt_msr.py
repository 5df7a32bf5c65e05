"""MSRs of the software engine: which exist, which values they take, and the two clocks."""

from __future__ import annotations

import dataclasses
import struct
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest

from barevisor.board.ram import GuestRam
from barevisor.cpu.bt import clock
from barevisor.cpu.bt.vcpu import BtVcpu
from barevisor.cpu.bt.vm import BtEngine, BtVm
from barevisor.cpu.engine import CpuState, Events, MachineSpec, PioWrite
from barevisor.errors import EngineError

NON_CANONICAL = 1 << 47
SIZE = 0x10000
TSC, TSC_DEADLINE = 0x10, 0x6E0
SVR, LVT_TIMER, DEADLINE_MODE = 0xF0, 0x320, 1 << 18
RATES = [
    pytest.param(Fraction(1), id="the host's"),
    pytest.param(Fraction(999, 1000), id="a little less"),
    pytest.param(Fraction(7, 3), id="more"),
    pytest.param(Fraction(1, 7), id="much less"),
]


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    ram = GuestRam([(0, SIZE)])
    yield ram
    ram.close()


@pytest.fixture
def vm(ram: GuestRam) -> Iterator[BtVm]:
    vm = BtEngine().create_vm(MachineSpec(cpu_model="x86-64-v2"))
    vm.set_memory(0, 0, SIZE, ram.host_address)
    yield vm
    vm.close()


@pytest.fixture
def cpu(vm: BtVm) -> BtVcpu:
    cpu = vm.create_vcpu(0)
    assert isinstance(cpu, BtVcpu)
    return cpu


@pytest.mark.parametrize(
    ("index", "value"),
    [
        pytest.param(0x8B, 1 << 32, id="microcode"),
        pytest.param(0xFE, 0x508, id="mtrrcap"),
        pytest.param(0x3A, 1, id="feature-control-locked"),
        pytest.param(0x179, 0, id="no-machine-check-banks"),
        pytest.param(0x1A0, 0x1801, id="misc-enable"),
        pytest.param(0x277, 0x0007040600070406, id="pat"),
        pytest.param(0x1B, 0xFEE00900, id="apic-base"),
        pytest.param(0x48, None, id="no-spec-ctrl"),
        pytest.param(0x10A, None, id="no-arch-capabilities"),
        pytest.param(0x400, None, id="no-mc0"),
        pytest.param(0x345, 0, id="no-perf-capabilities"),
        pytest.param(0x4B564D02, 0, id="async-pf-off"),
        pytest.param(0xDA0, None, id="no-xss"),
        pytest.param(0xC0010015, None, id="no-amd-hwcr"),
        pytest.param(0x12345678, None, id="unknown"),
    ],
)
def test_read(cpu: BtVcpu, index: int, value: int | None) -> None:
    assert cpu.read_msr(index) == value


@pytest.mark.parametrize(
    ("index", "value", "fine"),
    [
        pytest.param(0xC0000081, 2**64 - 1, True, id="star"),
        pytest.param(0xC0000082, 0xFFFF_8000_0000_0000, True, id="lstar"),
        pytest.param(0xC0000082, NON_CANONICAL, False, id="lstar-non-canonical"),
        pytest.param(0xC0000084, 1 << 32, False, id="sfmask-high"),
        pytest.param(0xC0000100, NON_CANONICAL, False, id="fs-base-non-canonical"),
        pytest.param(0xC0000103, 1 << 32, False, id="tsc-aux-high"),
        pytest.param(0x175, NON_CANONICAL, False, id="sysenter-esp-non-canonical"),
        pytest.param(0x277, 0x0606060606060606, True, id="pat"),
        pytest.param(0x277, 0x02, False, id="pat-reserved-type"),
        pytest.param(0x277, 0x08, False, id="pat-too-large"),
        pytest.param(0x2FF, 0xC06, True, id="mtrr-default"),
        pytest.param(0x2FF, 0xC02, False, id="mtrr-default-type"),
        pytest.param(0x2FF, 1 << 12, False, id="mtrr-default-reserved"),
        pytest.param(0x200, 0x8000_0006, True, id="mtrr-base"),
        pytest.param(0x200, 1 << 46, False, id="mtrr-base-beyond-memory"),
        pytest.param(0x201, 0x3FFF_8000_0800, True, id="mtrr-mask"),
        pytest.param(0x201, 1, False, id="mtrr-mask-reserved"),
        pytest.param(0x26F, 0x0606060606060606, True, id="mtrr-fixed"),
        pytest.param(0x26F, 7, False, id="mtrr-fixed-type"),
        pytest.param(0xC0000080, 0x901, True, id="efer"),
        pytest.param(0xC0000080, 0x1000, False, id="efer-svme"),
        pytest.param(0x1B, 1 << 46 | 0x900, False, id="apic-base-beyond-memory"),
        pytest.param(0xFE, 0, False, id="mtrrcap-read-only"),
        pytest.param(0x3A, 0, False, id="feature-control-read-only"),
        pytest.param(0x4B564D04, 2, False, id="pv-eoi-reserved"),
        pytest.param(0x4B564D00, 2**64 - 4, True, id="wall-clock-outside-memory"),
        pytest.param(0x4B564D01, SIZE - 16 | 1, True, id="system-time-half-outside-memory"),
    ],
)
def test_write(cpu: BtVcpu, index: int, value: int, fine: bool) -> None:
    assert cpu.write_msr(index, value) is fine


def test_efer_keeps_lma_and_reports_what_was_written(cpu: BtVcpu) -> None:
    assert cpu.write_msr(0xC0000080, 0xD01)
    assert cpu.read_msr(0xC0000080) == 0x901


def test_tsc_and_its_adjustment_move_together(cpu: BtVcpu) -> None:
    """SDM, "IA32_TSC_ADJUST MSR"."""
    before = cpu.read_msr(0x10) or 0
    cpu.write_msr(0x3B, 10**15)
    assert 10**15 <= (cpu.read_msr(0x10) or 0) - before < 10**15 + 10**11
    cpu.write_msr(0x10, 0)
    assert (cpu.read_msr(0x10) or 0) < 10**11
    assert (cpu.read_msr(0x3B) or 0) > 2**63  # negative


# ---- the clocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("khz", [1_000, 999_999, 1_000_000, 2_445_428, 5_000_000, 20_000_000])
def test_clock_scale(khz: int) -> None:
    """struct pvclock_vcpu_time_info: ns = ((ticks << shift) * mul) >> 32."""
    mul, shift = clock.clock_scale(khz)
    assert 1 << 31 <= mul < 1 << 32
    ticks = khz * 3_600_000  # an hour
    shifted = ticks << shift if shift >= 0 else ticks >> -shift
    assert abs((shifted * mul >> 32) - 3_600_000_000_000) < 3_000


def told(vm: BtVm, rate: Fraction) -> int:
    """The guest comes from where the TSC runs at `rate` of the host's; what it was told, in kHz."""
    state = vm.get_state()
    state.tsc_khz = int(state.tsc_khz * rate)
    vm.set_state(state)
    return state.tsc_khz


@pytest.mark.parametrize("rate", RATES)
def test_a_guest_s_tsc_goes_on_at_the_rate_that_it_was_told(
    vm: BtVm, cpu: BtVcpu, rate: Fraction
) -> None:
    khz = told(vm, rate)
    assert vm.get_state().tsc_khz == khz
    start = cpu.get_state()
    start.tsc = 10**15
    cpu.set_state(start)
    moments = []
    for _ in range(2):
        moments.append((clock.sample()[0], cpu.read_msr(TSC) or 0, clock.sample()[0]))
        time.sleep(0.01)
    (early, first, late), (then, last, end) = moments
    assert first >= 10**15
    assert (then - late) * rate * Fraction("0.99999") < last - first
    assert last - first < (end - early) * rate * Fraction("1.00001")


@pytest.mark.parametrize("rate", RATES)
def test_a_deadline_is_in_the_guest_s_ticks(vm: BtVm, cpu: BtVcpu, rate: Fraction) -> None:
    khz = told(vm, rate)
    cpu.apic_write(SVR, 0x1FF)
    cpu.apic_write(LVT_TIMER, DEADLINE_MODE | 0x50)
    deadline = (cpu.read_msr(TSC) or 0) + 20 * khz
    before = time.monotonic()
    cpu.write_msr(TSC_DEADLINE, deadline)
    while not cpu.poll_timer():
        assert time.monotonic() < before + 10
    assert (cpu.read_msr(TSC) or 0) >= deadline
    assert time.monotonic() - before > 0.019


def test_cpuid_tells_the_rate_that_the_guest_was_told(vm: BtVm, cpu: BtVcpu, ram: GuestRam) -> None:
    khz = told(vm, Fraction(1, 2))
    ram.write(0x100, bytes.fromhex("66b810000040 0fa2 e610"))  # mov eax, ..; cpuid; out 16, al
    state = cpu.get_state()
    state.cs.selector, state.cs.base, state.regs.rip = 0, 0, 0x100
    cpu.set_state(state)
    assert isinstance(cpu.run(), PioWrite)
    assert cpu.get_regs().rax == khz
    assert cpu.read_msr(0xCE) == khz // 100_000 << 8


@pytest.mark.parametrize("khz", [0, -1, 99_999, 20_000_001])
def test_a_rate_that_no_machine_has_is_refused(vm: BtVm, khz: int) -> None:
    state = vm.get_state()
    state.tsc_khz = khz
    with pytest.raises(EngineError, match=f"its TSC runs at {khz} kHz, the one here at"):
        vm.set_state(state)


def kvm_clock(cpu: BtVcpu, ram: GuestRam) -> float:
    """Read it as a guest does; seconds."""
    raw = struct.unpack("<IIQQIbBH", ram.read(0x2000, 32))
    version, _, stamp, system, mul, shift, flags, _ = raw
    assert version % 2 == 0
    assert flags == 1
    ticks = (cpu.read_msr(0x10) or 0) - stamp
    return (system + ((ticks << shift if shift >= 0 else ticks >> -shift) * mul >> 32)) / 1e9


@pytest.mark.parametrize("rate", RATES)
def test_kvm_clock_runs_and_goes_on_when_registered_again(
    vm: BtVm, cpu: BtVcpu, ram: GuestRam, rate: Fraction
) -> None:
    told(vm, rate)
    cpu.write_msr(0x4B564D01, 0x2001)
    before, first, after = time.monotonic(), kvm_clock(cpu, ram), time.monotonic()
    time.sleep(0.05)
    for _ in range(2):
        least, now = time.monotonic() - after, kvm_clock(cpu, ram)
        assert least - 0.002 < now - first < time.monotonic() - before + 0.002
        cpu.write_msr(0x4B564D01, 0x2001)


def test_wall_clock_plus_system_time_is_now(cpu: BtVcpu, ram: GuestRam) -> None:
    cpu.write_msr(0x4B564D00, 0x3000)
    cpu.write_msr(0x4B564D01, 0x2001)
    version, seconds, ns = struct.unpack("<III", ram.read(0x3000, 12))
    assert version % 2 == 0
    assert abs(seconds + ns / 1e9 + kvm_clock(cpu, ram) - time.time()) < 0.05


# ---- the whole state -------------------------------------------------------------------------


def flatten(state: CpuState) -> dict[str, object]:
    """Without what moves by itself."""
    return {k: v for k, v in dataclasses.asdict(state).items() if k != "tsc"}


def test_a_restored_state_without_wall_clock_leaves_page_0_alone(
    cpu: BtVcpu, ram: GuestRam
) -> None:
    ram.write(0, bytes(range(64)))
    cpu.set_state(cpu.get_state())
    assert ram.read(0, 64) == bytes(range(64))


def test_state_round_trip(cpu: BtVcpu) -> None:
    s = cpu.get_state()
    for at, name in enumerate(("rax", "rbx", "rsp", "r15")):
        setattr(s.regs, name, 2**64 - 1 - at)
    s.regs.rip, s.regs.rflags = 0x1234, 0xCD7
    s.cr2, s.cr3, s.dr6 = 0xFFFF_8000_0000_1234, 0x5000, 0xFFFF4FF0
    s.dr = [1, 2, 3, 4]
    s.gdt.base, s.gdt.limit = 0xFFFF_8000_0000_0000, 0x7F
    s.fs.base, s.gs.selector, s.ldt.unusable = 0x1000, 8, True
    s.msrs[0xC0000082] = 0xFFFF_8000_0000_2000
    s.events = Events(interrupt_shadow=1, nmi_pending=True, nmi_masked=True)
    s.mp_state = "halted"
    cpu.set_state(s)
    assert flatten(cpu.get_state()) == flatten(s)


@pytest.mark.parametrize(
    "broken",
    [{"xsave": b"short"}, {"lapic": b"short"}, {"msrs": {0x48: 1}}],
    ids=["xsave", "lapic", "unknown-msr"],
)
def test_refused_state(cpu: BtVcpu, broken: dict[str, object]) -> None:
    state = dataclasses.replace(cpu.get_state(), **broken)  # type: ignore[arg-type]
    with pytest.raises(EngineError):
        cpu.set_state(state)


@pytest.mark.parametrize("cpus", [0, 65])
def test_how_many_cpus(cpus: int) -> None:
    with pytest.raises(EngineError, match="1 to 64"):
        BtEngine().create_vm(MachineSpec(cpus=cpus))
