"""The memory and port map of the machine: every fixed address is a row here, and only here.

A small modern PC: RAM below and above a 1 GiB hole under 4 GiB, the PCI window and the
interrupt controllers in the hole, and the ACPI tables where a PC's BIOS would be.
"""

from __future__ import annotations

from barevisor.errors import ConfigError
from barevisor.records import NamedTuple

MIB = 1 << 20

# ---- memory ------------------------------------------------------------------------------

EBDA = 0x9_FC00
"""End of conventional memory: 639 KiB, as a PC BIOS reports it."""
LEGACY_HOLE, LEGACY_HOLE_END = 0xA_0000, 0x10_0000
BIOS_AREA, BIOS_AREA_SIZE = 0xE_0000, 0x2_0000
"""ACPI 6.5, 5.2.5.1: a guest without a boot loader's hint looks for the RSDP here."""

RESET_VECTOR = 0xF_FFF0
"""Where FFFF:0000 and the vector at the top of 4 GiB lead on a PC."""

LOW_RAM_MAX = 0xC000_0000
HIGH_RAM = 0x1_0000_0000
RAM_MAX = 252 << 30

PCI_MMIO, PCI_MMIO_SIZE = 0xC000_0000, 0x2000_0000
PCI_ECAM, PCI_BUSES = 0xE000_0000, 1
PCI_ECAM_SIZE = PCI_BUSES << 20
"""PCI Express Base, "ECAM": 1 MiB a bus."""
IOAPIC = 0xFEC0_0000
LAPIC = 0xFEE0_0000
TESTDEV_MMIO, TESTDEV_MMIO_SIZE = 0xFF00_0000, 0x1_0000
PCI_MMIO64, PCI_MMIO64_SIZE = 1 << 38, 1 << 37
"""Above any RAM, and below 1 << 39: client CPUs have no more physical address bits."""

# ---- ports -------------------------------------------------------------------------------

PORT_I8042_DATA, PORT_I8042_COMMAND = 0x60, 0x64
PORT_RTC = 0x70
PORT_TEST_LATCH, PORT_TEST_FLUSH, PORT_TEST_LATCH_BYTES = 0xE0, 0xE4, 0xE8
PORT_DEBUGCON = 0xE9
PORT_TEST_EXIT = 0xF4
PORT_COM1 = 0x3F8
PORT_FW_CFG = 0x510
PORT_SLEEP = 0x600
PORT_TEST_PM, PORT_TEST_PM_TIMER, PORT_TEST_PM_EVENTS = 0x604, 0x608, 0x620
"""ACPI's fixed registers, for test images: the first two are where QEMU's q35 has them."""
PORT_PCI_ADDRESS = 0xCF8
PORT_RESET = 0xCF9
PORT_TEST_IRQ = 0x2000

# ---- interrupt lines ---------------------------------------------------------------------

GSI_COUNT = 24
GSI_COM1, GSI_RTC = 4, 8
GSI_SCI = 9
GSI_PIT = 2
"""ISA interrupt 0 arrives at IOAPIC pin 2, as on every PC."""
GSI_PCI, GSI_PCI_COUNT = 16, 8

E820_RAM, E820_RESERVED = 1, 2


class E820Entry(NamedTuple):
    """[base, base+size) is of `type` (1 RAM, 2 reserved)."""

    base: int
    size: int
    type: int


def pci_gsi(device: int, pin: int) -> int:
    """The interrupt line of INTA..INTD (pin 0..3) of a device on bus 0."""
    return GSI_PCI + (device + pin) % GSI_PCI_COUNT


def ram_ranges(memory_bytes: int) -> list[tuple[int, int]]:
    """(gpa, size) of all RAM: up to 3 GiB from 0, the rest from 4 GiB. Raises ConfigError."""
    if memory_bytes % 4096 or not MIB <= memory_bytes <= RAM_MAX:
        raise ConfigError(
            f"a machine cannot have {memory_bytes} bytes of memory",
            "give whole pages, from 1 MiB to 252 GiB",
        )
    low = min(memory_bytes, LOW_RAM_MAX)
    ranges = [(0, low)]
    if memory_bytes > low:
        ranges.append((HIGH_RAM, memory_bytes - low))
    return ranges


def e820(memory_bytes: int) -> list[E820Entry]:
    """The map that the boot protocols report; ECAM is reserved so that Linux trusts MCFG."""
    low = min(memory_bytes, LOW_RAM_MAX)
    entries = [
        E820Entry(0, EBDA, E820_RAM),
        E820Entry(EBDA, LEGACY_HOLE - EBDA, E820_RESERVED),
        E820Entry(BIOS_AREA, BIOS_AREA_SIZE, E820_RESERVED),
        E820Entry(LEGACY_HOLE_END, low - LEGACY_HOLE_END, E820_RAM),
        E820Entry(PCI_ECAM, PCI_ECAM_SIZE, E820_RESERVED),
    ]
    if memory_bytes > low:
        entries.append(E820Entry(HIGH_RAM, memory_bytes - low, E820_RAM))
    return [e for e in entries if e.size]
