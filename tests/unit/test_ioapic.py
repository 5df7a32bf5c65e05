"""The I/O APIC's pins: edge, level, masks, remote IRR."""

import pytest

from barevisor.cpu.bt.ioapic import LEVEL, MASKED, PINS, REMOTE_IRR, IoApic

Message = tuple[int, bool, int, int, bool]


class Bench:
    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.taken = 1
        self.chip = IoApic(self.deliver)

    def deliver(self, dest: int, logical: bool, mode: int, vector: int, level: bool) -> int:
        self.sent.append((dest, logical, mode, vector, level))
        return self.taken

    def entry(self, pin: int, low: int, high: int = 0) -> None:
        for register, value in ((0x11 + 2 * pin, high), (0x10 + 2 * pin, low)):
            self.chip.write(0x00, register)
            self.chip.write(0x10, value)

    def low(self, pin: int) -> int:
        self.chip.write(0x00, 0x10 + 2 * pin)
        return self.chip.read(0x10)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_reset_masks_every_pin(bench: Bench) -> None:
    assert [bench.low(pin) for pin in range(PINS)] == [MASKED] * PINS


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        pytest.param(0x31, 0x0200_0000, (2, False, 0, 0x31, False), id="fixed-physical"),
        pytest.param(0x0931, 0x0300_0000, (3, True, 1, 0x31, False), id="lowest-logical"),
        pytest.param(0x0431, 0, (0, False, 4, 0x31, False), id="nmi"),
    ],
)
def test_edge_sends_once(bench: Bench, low: int, high: int, message: Message) -> None:
    bench.entry(4, low, high)
    bench.chip.line(4, True)
    bench.chip.line(4, True)
    assert bench.sent == [message]
    bench.chip.line(4, False)
    bench.chip.line(4, True)
    assert bench.sent == [message, message]


def test_masked_edge_is_lost_and_masked_level_waits(bench: Bench) -> None:
    for pin, level in ((4, 0), (5, LEVEL)):
        bench.entry(pin, MASKED | level | 0x31)
        bench.chip.line(pin, True)
        bench.entry(pin, level | 0x31)
    assert bench.sent == [(0, False, 0, 0x31, True)]


def test_level_waits_for_eoi_and_fires_again_while_high(bench: Bench) -> None:
    bench.entry(9, LEVEL | 0x41)
    bench.chip.line(9, True)
    assert bench.low(9) & REMOTE_IRR
    bench.chip.line(9, True)
    assert len(bench.sent) == 1
    bench.chip.eoi(0x41)
    assert len(bench.sent) == 2
    bench.chip.line(9, False)
    bench.chip.eoi(0x41)
    assert len(bench.sent) == 2
    assert not bench.low(9) & REMOTE_IRR


def test_eoi_of_another_vector_changes_nothing(bench: Bench) -> None:
    bench.entry(9, LEVEL | 0x41)
    bench.chip.line(9, True)
    bench.chip.eoi(0x42)
    assert bench.low(9) & REMOTE_IRR


def test_level_that_nobody_takes_can_be_sent_again(bench: Bench) -> None:
    bench.taken = 0
    bench.entry(9, LEVEL | 0x41)
    bench.chip.line(9, True)
    assert not bench.low(9) & REMOTE_IRR


def test_guest_cannot_set_read_only_bits_and_edge_clears_remote_irr(bench: Bench) -> None:
    bench.entry(9, LEVEL | 0x41)
    bench.chip.line(9, True)
    bench.entry(9, MASKED | 0x41)
    assert bench.low(9) == MASKED | 0x41
    bench.entry(9, MASKED | REMOTE_IRR | 1 << 12)
    assert bench.low(9) == MASKED


@pytest.mark.parametrize(
    ("register", "value"),
    [pytest.param(1, 0x170011, id="version"), pytest.param(0x40, 0, id="none")],
)
def test_registers(bench: Bench, register: int, value: int) -> None:
    bench.chip.write(0, register)
    assert bench.chip.read(0x10) == value
