"""The 16550 as drivers use it."""

from __future__ import annotations

import pytest

from barevisor.devices.debugcon import DebugConsole
from barevisor.devices.serial import Serial

RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)


class Port:
    """A serial port with its line's history and output."""

    def __init__(self, *, fifo: bool = True, interrupts: bool = True) -> None:
        self.out = bytearray()
        self.levels: list[bool] = [False]
        self.device = Serial(self.out.extend, self.line)
        if fifo:
            self.write(IIR, 0x01)
        if interrupts:
            self.write(MCR, 0x0B)

    def line(self, level: bool) -> None:
        if level != self.levels[-1]:
            self.levels.append(level)

    def read(self, offset: int) -> int:
        return self.device.bus_read(offset, 1)

    def write(self, offset: int, value: int) -> None:
        self.device.bus_write(offset, 1, value)


def test_output_is_sent_at_once() -> None:
    port = Port()
    for byte in b"hello":
        assert port.read(LSR) == 0x60
        port.write(RBR, byte)
    assert port.out == b"hello"


def test_late_bytes_are_sent_together_with_one_interrupt() -> None:
    port = Port()
    port.write(IER, 0x02)
    assert port.read(IIR) & 0x0F == 0x02
    port.device.late_write(0, b"hello")
    assert port.out == b"hello"
    assert port.levels == [False, True, False, True]
    port.write(LCR, 0x83)
    port.device.late_write(0, b"\x0c")
    assert (port.read(RBR), port.out) == (0x0C, b"hello")
    port.write(LCR, 0x03)
    port.write(MCR, 0x1B)
    port.device.late_write(0, b"ab")
    assert (port.read(RBR), port.read(RBR), port.out) == (0x61, 0x62, b"hello")


def test_linux_probe_finds_a_16550a() -> None:
    """What drivers/tty/serial/8250/8250_port.c, autoconfig() looks at."""
    port = Port(fifo=False, interrupts=False)
    port.write(IER, 0)
    assert port.read(IER) & 0x0F == 0
    port.write(IER, 0x0F)
    assert port.read(IER) & 0x0F == 0x0F
    port.write(IER, 0)
    port.write(MCR, 0x10 | 0x0A)
    assert port.read(MSR) & 0xF0 == 0x90
    port.write(MCR, 0)
    port.write(IIR, 0x01)
    assert port.read(IIR) >> 6 == 3
    port.write(SCR, 0xA5)
    assert port.read(SCR) == 0xA5


def test_divisor_hides_data_and_ier() -> None:
    port = Port()
    port.write(IER, 0x05)
    port.write(LCR, 0x83)
    port.write(RBR, 0x0C)
    port.write(IER, 0x01)
    assert (port.read(RBR), port.read(IER)) == (0x0C, 0x01)
    port.write(LCR, 0x03)
    assert (port.read(IER), port.out) == (0x05, b"")


def test_transmit_interrupt_is_raised_again_after_each_byte() -> None:
    port = Port()
    port.write(IER, 0x02)
    assert port.levels[-1]
    assert port.read(IIR) & 0x0F == 0x02
    assert not port.levels[-1]
    assert port.read(IIR) & 0x0F == 0x01
    port.write(RBR, 0x41)
    port.write(RBR, 0x42)  # without reading IIR: an edge must still be seen
    assert port.levels == [False, True, False, True, False, True]


def test_receive_through_the_fifo() -> None:
    port = Port()
    port.write(IER, 0x01)
    assert port.device.feed(bytes(range(40))) == 40
    got = bytearray()
    while port.read(LSR) & 1:
        assert port.read(IIR) & 0x0F == 0x04
        got.append(port.read(RBR))
    assert got == bytes(range(40))
    assert port.levels == [False, True, False]


@pytest.mark.parametrize(
    ("fed", "identity"), [(7, 0x0C), (8, 0x04)], ids=["below the trigger", "at the trigger"]
)
def test_receive_trigger_level(fed: int, identity: int) -> None:
    port = Port()
    port.write(IIR, 0x81)
    port.write(IER, 0x01)
    port.device.feed(bytes(fed))
    assert port.read(IIR) & 0x0F == identity


def test_input_is_bounded() -> None:
    port = Port()
    total = sum(port.device.feed(bytes(1 << 19)) for _ in range(4))
    assert total == (1 << 20) + 16


def test_no_interrupt_without_out2() -> None:
    port = Port(interrupts=False)
    port.write(IER, 0x03)
    port.device.feed(b"x")
    assert port.levels == [False]
    port.write(MCR, 0x08)
    assert port.levels == [False, True]


def test_loopback_gives_bytes_back_and_counts_overruns() -> None:
    port = Port()
    port.write(MCR, 0x10)
    for i in range(17):
        port.write(RBR, i)
    assert port.out == b""
    assert port.read(LSR) == 0x63
    assert port.read(LSR) == 0x61
    assert [port.read(RBR) for _ in range(16)] == list(range(16))


def test_clearing_the_fifo_drops_what_was_received() -> None:
    port = Port()
    port.device.feed(b"abc")
    port.write(IIR, 0x03)
    assert not port.read(LSR) & 1


def test_any_access_is_harmless() -> None:
    port = Port()
    for offset in range(8):
        for size in (1, 2, 4):
            for value in (0, 0xFF, 0xFFFF_FFFF):
                port.device.bus_write(offset, size, value & (1 << 8 * size) - 1)
                assert 0 <= port.device.bus_read(offset, size) <= 0xFF


def test_debug_console() -> None:
    out = bytearray()
    device = DebugConsole(out.extend)
    for byte in b"hi":
        device.bus_write(0, 1, byte)
    assert (out, device.bus_read(0, 1)) == (b"hi", 0xE9)
