"""PCI configuration space, base addresses and MSI-X, through both access mechanisms."""

from __future__ import annotations

import pytest

from barevisor.board.bus import Bus
from barevisor.board.msix import MsiX
from barevisor.board.pci import ECAM_BUS_SIZE, PciFunction, PciHost
from barevisor.errors import ConfigError

ECAM = 0xE000_0000


class Echo:
    """Answers with the offset; remembers the last store."""

    def __init__(self) -> None:
        self.last: tuple[int, int, int] | None = None

    def bus_read(self, offset: int, size: int) -> int:
        return offset

    def bus_write(self, offset: int, size: int, value: int) -> None:
        self.last = (offset, size, value)


class Machine:
    """Two buses, a host and one function with a 32-bit, a 64-bit and an MSI-X BAR."""

    def __init__(self, **options: object) -> None:
        self.ports, self.memory = Bus("ports"), Bus("memory")
        self.sent: list[tuple[int, int]] = []
        self.host = PciHost(self.ports, self.memory, self.msi, **options)  # type: ignore[arg-type]
        self.function = PciFunction(0x1234, 0x5678, 0x078000, revision=3, subsystem=(1, 2))
        self.small, self.big = Echo(), Echo()
        self.function.add_bar(0, 0x1000, self.small)
        self.function.add_bar(2, 0x10000, self.big, wide=True)
        self.function.add_msix(4, MsiX(3, self.msi))
        self.host.add(self.function)
        self.host.assign()

    def msi(self, address: int, data: int) -> None:
        self.sent.append((address, data))

    def read(self, offset: int, size: int = 4) -> int:
        return self.memory.read(ECAM + 0x8000 + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.memory.write(ECAM + 0x8000 + offset, size, value)


def test_ports_and_ecam_show_the_same_space() -> None:
    m = Machine()
    for offset in range(0, 0x100, 4):
        m.ports.write(0xCF8, 4, 0x8000_0800 | offset)
        assert m.ports.read(0xCFC, 4) == m.read(offset)
    m.ports.write(0xCF8, 4, 0x8000_0800)
    assert m.ports.read(0xCFE, 2) == 0x5678
    assert m.ports.read(0xCF8, 4) == 0x8000_0800


ABSENT = [
    ("disabled", 0x0000_0800, 0xCFC, 4),
    ("no such device", 0x8000_F800, 0xCFC, 4),
    ("another bus", 0x8001_0800, 0xCFC, 4),
    ("past the data port", 0x8000_0800, 0xCFE, 4),
]


@pytest.mark.parametrize(("name", "address", "port", "size"), ABSENT, ids=[r[0] for r in ABSENT])
def test_absent_reads_all_ones(name: str, address: int, port: int, size: int) -> None:
    m = Machine()
    m.ports.write(0xCF8, 4, address)
    assert m.ports.read(port, size) == (1 << 8 * size) - 1
    m.ports.write(port, size, 0)


def test_header() -> None:
    m = Machine()
    assert m.read(0x00) == 0x5678_1234
    assert m.read(0x08) == 0x078000_03
    assert m.read(0x2C) == 0x0002_0001
    m.write(0x00, 4, 0)
    m.write(0x3C, 1, 11)
    assert (m.read(0x00), m.read(0x3C, 1)) == (0x5678_1234, 11)
    assert m.memory.read(ECAM, 4) == 0x0008_1B36


def test_bar_sizing_moving_and_hiding() -> None:
    m = Machine()
    base = m.read(0x10)
    assert m.memory.read(base + 8, 4) == 0xFFFF_FFFF  # not decoded yet
    m.write(0x04, 2, 0x2)
    assert m.memory.read(base + 8, 4) == 8
    m.write(0x10, 4, 0xFFFF_FFFF)
    assert m.read(0x10) == 0xFFFF_F000
    m.write(0x10, 4, 0xD000_0000)
    assert m.memory.read(base + 8, 4) == 0xFFFF_FFFF
    m.memory.write(0xD000_0010, 2, 0x1234)
    assert m.small.last == (0x10, 2, 0x1234)
    m.write(0x04, 2, 0)
    assert m.memory.find(0xD000_0010) is None


def test_a_wide_bar_moves_above_4_gib() -> None:
    m = Machine(mmio64=(0x80_0000_0000, 0x1000_0000))
    assert m.read(0x18) & 0xF == 0x4
    assert m.read(0x1C) == 0x80
    m.write(0x04, 2, 0x2)
    assert m.memory.read(0x80_0000_0040, 4) == 0x40


@pytest.mark.parametrize("base", [0, 0xFEE0_0000, 0xE000_0000, 0xDFFF_F000 + 0x1000])
def test_a_bar_outside_the_window_answers_nothing(base: int) -> None:
    m = Machine()
    m.write(0x04, 2, 0x2)
    m.write(0x10, 4, base)
    window = m.memory.find(base)
    assert window is None or window.device is not m.small


def test_a_bar_over_another_answers_nothing() -> None:
    m = Machine()
    m.write(0x04, 2, 0x2)
    other = m.read(0x18) & ~0xF
    m.write(0x10, 4, other)
    window = m.memory.find(other)
    assert window is not None
    assert window.device is m.big


def test_no_room_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no room"):
        Machine(mmio=(0xC000_0000, 0x8000))


def test_a_reset_of_the_host_stops_every_function() -> None:
    m = Machine()
    m.write(0x04, 2, 0x6)
    base = m.read(0x10)
    m.host.reset()
    assert m.read(0x04, 2) == 0
    assert m.memory.find(base) is None
    assert m.read(0x10) == base  # where the host put it


class TestMsiX:
    """One function's vectors, through its BAR and its capability."""

    def setup_method(self) -> None:
        self.m = Machine()
        self.m.write(0x04, 2, 0x6)
        self.table = self.m.read(0x20)
        self.at = self.m.read(0x34, 1)
        self.msix = self.m.function.msix
        assert self.msix is not None
        self.m.memory.write(self.table + 16, 8, 0xFEE0_1000)
        self.m.memory.write(self.table + 24, 4, 0x41)

    def test_off_sends_nothing(self) -> None:
        assert self.msix is not None
        assert not self.msix.notify(1)
        assert self.m.sent == []

    def test_capability(self) -> None:
        assert self.m.read(self.at, 1) == 0x11
        assert self.m.read(self.at + 2, 2) == 2  # table size - 1
        assert self.m.read(self.at + 4) & 7 == 4

    def test_masked_vector_waits_and_is_sent_once(self) -> None:
        assert self.msix is not None
        self.m.write(self.at + 2, 2, 0x8000)
        self.msix.notify(1)
        self.msix.notify(1)
        assert self.m.sent == []
        assert self.m.memory.read(self.table + 0x800, 8) == 0b10
        self.m.memory.write(self.table + 28, 4, 0)
        assert self.m.sent == [(0xFEE0_1000, 0x41)]
        assert self.m.memory.read(self.table + 0x800, 8) == 0

    def test_function_mask(self) -> None:
        assert self.msix is not None
        self.m.memory.write(self.table + 28, 4, 0)
        self.m.write(self.at + 2, 2, 0xC000)
        self.msix.notify(1)
        assert self.m.sent == []
        self.m.write(self.at + 2, 2, 0x8000)
        assert self.m.sent == [(0xFEE0_1000, 0x41)]

    def test_stray_stores_change_nothing(self) -> None:
        before = [self.m.memory.read(self.table + i, 4) for i in range(0, 0x1000, 4)]
        for offset, size in [(17, 2), (16, 1), (0x800, 8), (0x2C, 8), (0xFF8, 8)]:
            self.m.memory.write(self.table + offset, size, (1 << 8 * size) - 1)
        assert [self.m.memory.read(self.table + i, 4) for i in range(0, 0x1000, 4)] == before


def test_configuration_space_in_memory_is_what_the_guest_reads() -> None:
    space = memoryview(bytearray(ECAM_BUS_SIZE))
    m = Machine(ecam_memory=space)
    slot = m.host.add(PciFunction(0x1AF4, 0x1044, 0x010203, name="lent"))
    at = slot << 15
    assert bytes(space[at : at + 4]) == b"\xf4\x1a\x44\x10"
    m.memory.write(ECAM + at + 0x3C, 1, 0x5A)
    assert space[at + 0x3C] == 0x5A
    assert bytes(space[at + 0x1000 : at + 0x1004]) == b"\xff" * 4


def test_without_legacy_there_are_no_configuration_ports() -> None:
    m = Machine(legacy=False)
    m.ports.write(0xCF8, 4, 0x8000_0000)
    assert (m.ports.read(0xCF8, 4), m.ports.read(0xCFC, 4)) == (0xFFFF_FFFF, 0xFFFF_FFFF)
