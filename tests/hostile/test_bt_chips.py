"""A hostile guest at the engine's own devices: anything may be written anywhere.

Nothing here may raise, hang or start more than the one timer thread. What the values do is the
guest's own affair; that the chips still work afterwards is checked.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from barevisor.cpu.bt.chips import PIC_PORTS, PIT_PORTS
from barevisor.cpu.bt.vcpu import BtVcpu
from barevisor.cpu.bt.vm import BtEngine, BtVm
from barevisor.cpu.engine import MachineSpec

ROUNDS = 20_000
EDGES = (0, 1, 0xFF, 0x100, 0xFFFF, 1 << 31, 0xFFFFFFFF, 1 << 47, 1 << 63, 2**64 - 1)


@pytest.fixture(params=range(4), ids=lambda n: f"seed{n}")
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.param)


@pytest.fixture
def vm() -> Iterator[BtVm]:
    vm = BtEngine().create_vm(MachineSpec())
    yield vm
    vm.close()


@pytest.fixture
def cpu(vm: BtVm) -> BtVcpu:
    cpu = vm.create_vcpu(0)
    assert isinstance(cpu, BtVcpu)
    return cpu


def value(rng: random.Random, bits: int) -> int:
    return rng.choice((rng.choice(EDGES), rng.getrandbits(bits))) & (1 << bits) - 1


def test_local_apic_page(cpu: BtVcpu, rng: random.Random) -> None:
    for _ in range(ROUNDS):
        offset = rng.randrange(0x1000)
        if rng.random() < 0.2:
            assert 0 <= cpu.apic_read(offset) < 1 << 32
        else:
            cpu.apic_write(offset, value(rng, 32))
        cpu.interrupt()
        cpu.poll_timer()


def test_msrs(cpu: BtVcpu, rng: random.Random) -> None:
    ranges = ((0, 0x1000), (0xC0000080, 0xC0000110), (0x4B564D00, 0x4B564D10))
    for _ in range(ROUNDS):
        index = rng.randrange(*rng.choice(ranges))
        if rng.random() < 0.3:
            cpu.read_msr(index)
        else:
            cpu.write_msr(index, value(rng, 64))
        cpu.interrupt()
        cpu.poll_timer()


def test_register_page_of_a_snapshot(cpu: BtVcpu, rng: random.Random) -> None:
    state = cpu.get_state()
    for _ in range(300):
        state.lapic = rng.randbytes(1024)
        cpu.set_state(state)
        cpu.interrupt()
        cpu.poll_timer()
        state = cpu.get_state()


def test_interrupt_controllers_and_timer(vm: BtVm, cpu: BtVcpu, rng: random.Random) -> None:
    chips = vm._chips
    ports = sorted(PIC_PORTS | PIT_PORTS)
    for _ in range(ROUNDS):
        match rng.randrange(6):
            case 0:
                size = rng.choice((1, 2, 4))
                answer = chips.port_read(rng.choice(ports), size)
                assert answer is not None
                assert 0 <= answer < 1 << 8 * size
            case 1:
                size = rng.choice((1, 2, 4))
                data = rng.randbytes(size * rng.randint(1, 16))
                assert chips.port_write(rng.choice(ports), size, data)
            case 2:
                gpa = 0xFEC00000 + rng.randrange(0x1000)
                assert chips.mmio_write(gpa, rng.randbytes(rng.choice((1, 2, 4, 8))))
            case 3:
                chips.mmio_read(0xFEC00000 + rng.choice((0, 0x10, 0x40)), 4)
            case 4:
                vm.irq_line(rng.randrange(24), rng.random() < 0.5)
            case 5:
                vm.signal_msi(value(rng, 64), value(rng, 32))
                cpu.interrupt()
    assert sum(t.name == "pit" for t in threading.enumerate()) <= 1
    # Programmed like any BIOS would, the pair still delivers.
    for port, data in ((0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0x7F), (0x4D0, 0)):
        chips.port_write(port, 1, bytes([data]))
    cpu.apic_write(0xF0, 0x1FF)
    cpu.apic_write(0x350, 0x700)
    vm.irq_line(7, False)
    vm.irq_line(7, True)
    assert cpu.interrupt() == 15
