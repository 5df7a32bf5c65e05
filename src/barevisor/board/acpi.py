"""The ACPI tables (ACPI 6.5): what a stock kernel needs to find CPUs, PCI, serial port and RTC.

Hardware-reduced ACPI (3.11.1): no SCI, no PM timer, no fixed registers to probe, so the kernel
neither enables ACPI mode nor waits for a PIT; it sleeps by the sleep control register and resets
by the reset register. The boot flags say that there is no 8042 keyboard controller and no VGA, so
no driver probes for one.
"""

from __future__ import annotations

import struct

from barevisor.board import aml
from barevisor.board import map as board_map
from barevisor.board.power import RESET_STUB, RESET_VALUE, SLEEP_TYPE_S5
from barevisor.board.ram import GuestRam
from barevisor.errors import ConfigError

OEM_ID, OEM_TABLE_ID, CREATOR = b"BAREVM", b"BAREVSOR", b"BARE"
SYSTEM_IO = 1

# FADT flags (table 5.10) and IA-PC boot architecture flags (5.2.9.3).
WBINVD, PROC_C1, PWR_BUTTON, SLP_BUTTON, FIX_RTC = 1 << 0, 1 << 2, 1 << 4, 1 << 5, 1 << 6
RESET_REG_SUP, HEADLESS, HW_REDUCED = 1 << 10, 1 << 12, 1 << 20
FADT_FLAGS = (
    WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON | FIX_RTC | RESET_REG_SUP | HEADLESS | HW_REDUCED
)
LEGACY_DEVICES, NO_VGA, NO_ASPM = 1 << 0, 1 << 2, 1 << 4
BOOT_FLAGS = LEGACY_DEVICES | NO_VGA | NO_ASPM

ENABLED = 1
FACS = board_map.BIOS_AREA + 64
FACS_WAKING_VECTOR = FACS + 12
PCAT_COMPAT = 1
"""The machine has 8259s too (5.2.12)."""
XAPIC_MAX = 255
"""APIC IDs from here on need x2APIC entries (5.2.12.12)."""


def install(ram: GuestRam, cpus: int, *, fixed: bool = False, pci: bool = True) -> int:
    """Write all tables, and the code that the reset vector leads to, into the BIOS area; returns
    the RSDP's address. `fixed`: with the fixed registers and 32-bit pointers that test images
    look for, the FACS at FACS. `pci`: there are functions to find. Raises ConfigError
    when the CPUs' rows do not fit."""
    at = FACS
    end = board_map.RESET_VECTOR
    image = bytearray(board_map.BIOS_AREA_SIZE)

    def place(data: bytes) -> int:
        nonlocal at
        address, at = at, (at + len(data) + 15) & ~15
        if at > end:
            raise ConfigError(f"the ACPI tables of {cpus} CPUs do not fit", "fewer --cpus")
        offset = address - board_map.BIOS_AREA
        image[offset : offset + len(data)] = data
        return address

    if fixed:
        place(facs())
    dsdt_at = place(dsdt(pci=pci))
    pointers = [place(fadt(dsdt_at, fixed=fixed)), place(madt(cpus))]
    pointers += [place(mcfg())] if pci else []
    xsdt_at = place(table(b"XSDT", 1, struct.pack(f"<{len(pointers)}Q", *pointers)))
    rsdt = table(b"RSDT", 1, struct.pack(f"<{len(pointers)}I", *pointers))
    root = rsdp(xsdt_at, place(rsdt) if fixed else 0)
    image[: len(root)] = root
    ram.write(board_map.BIOS_AREA, memoryview(image)[: at - board_map.BIOS_AREA])
    ram.write(board_map.RESET_VECTOR, RESET_STUB)
    return board_map.BIOS_AREA


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of `data` zero."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table with its header (5.2.6)."""
    head = struct.pack(
        "<4sIBB6s8sI4sI",
        signature, 36 + len(body), revision, 0, OEM_ID, OEM_TABLE_ID, 1, CREATOR, 1,
    )  # fmt: skip
    whole = bytearray(head + body)
    whole[9] = checksum(whole)
    return bytes(whole)


def rsdp(xsdt: int, rsdt: int = 0) -> bytes:
    """Root pointer, revision 2 (5.2.5.3): two checksums."""
    data = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, rsdt, 36, xsdt, 0))
    data[8] = checksum(data[:20])
    data[32] = checksum(data)
    return bytes(data)


def _io_register(port: int) -> bytes:
    """Generic address structure (5.2.3.2) of a byte-wide port."""
    return struct.pack("<BBBBQ", SYSTEM_IO, 8, 0, 1, port)


def facs() -> bytes:
    """Firmware control structure (5.2.10), whose waking vector a system writes."""
    return struct.pack("<4sI", b"FACS", 64).ljust(64, b"\0")


def fadt(dsdt_at: int, *, fixed: bool = False) -> bytes:
    """Fixed description table, revision 6.5 (5.2.9), hardware-reduced unless `fixed`."""
    body = bytearray(276 - 36)

    def put(offset: int, data: bytes) -> None:
        body[offset - 36 : offset - 36 + len(data)] = data

    put(40, struct.pack("<I", dsdt_at))
    put(109, struct.pack("<H", BOOT_FLAGS))
    put(112, struct.pack("<I", FADT_FLAGS))
    put(116, _io_register(board_map.PORT_RESET) + bytes((RESET_VALUE,)))
    put(131, b"\5")
    put(140, struct.pack("<Q", dsdt_at))
    put(244, _io_register(board_map.PORT_SLEEP) + _io_register(board_map.PORT_SLEEP + 1))
    put(268, b"Barevsor")
    if fixed:
        put(36, struct.pack("<I", FACS))
        put(46, struct.pack("<H", board_map.GSI_SCI))
        put(56, struct.pack("<I", board_map.PORT_TEST_PM_EVENTS))
        put(64, struct.pack("<I", board_map.PORT_TEST_PM))
        put(76, struct.pack("<I", board_map.PORT_TEST_PM_TIMER))
        put(88, b"\4\2\0\4")  # their lengths
        put(112, struct.pack("<I", FADT_FLAGS & ~HW_REDUCED))
    return table(b"FACP", 6, bytes(body))


def madt(cpus: int) -> bytes:
    """Interrupt controllers (5.2.12): a local APIC a CPU, one IOAPIC, the PIT's override."""
    entries = [struct.pack("<II", board_map.LAPIC, PCAT_COMPAT)]
    for i in range(cpus):
        if i < XAPIC_MAX:
            entries.append(struct.pack("<BBBBI", 0, 8, i, i, ENABLED))
        else:
            entries.append(struct.pack("<BBHIII", 9, 16, 0, i, ENABLED, i))
    entries.append(struct.pack("<BBBBII", 1, 12, 0, 0, board_map.IOAPIC, 0))
    entries.append(struct.pack("<BBBBIH", 2, 10, 0, 0, board_map.GSI_PIT, 0))
    entries.append(struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1))  # NMI on LINT1 of all
    return table(b"APIC", 5, b"".join(entries))


def mcfg() -> bytes:
    """PCI Firmware 3.3, 4.1.2: where ECAM is, and that it covers bus 0 alone."""
    space = struct.pack("<QHBB4x", board_map.PCI_ECAM, 0, 0, board_map.PCI_BUSES - 1)
    return table(b"MCFG", 1, bytes(8) + space)


def dsdt(*, pci: bool = True) -> bytes:
    """What has no discovery of its own: the PCI root, the serial port, the RTC, power off."""
    com1 = aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.ONE),
        aml.name("_CRS", aml.resources(
            aml.io(board_map.PORT_COM1, 8), aml.irq(board_map.GSI_COM1))),
    )  # fmt: skip
    rtc = aml.device(
        "RTC0",
        aml.name("_HID", aml.eisa_id("PNP0B00")),
        aml.name("_CRS", aml.resources(
            aml.io(board_map.PORT_RTC, 2), aml.irq(board_map.GSI_RTC))),
    )  # fmt: skip
    # Linux believes MCFG only when a PNP0C02 claims the range (arch/x86/pci/mmconfig-shared.c).
    reserved = aml.device(
        "MRES",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name("_CRS", aml.resources(
            aml.memory32(board_map.PCI_ECAM, board_map.PCI_ECAM_SIZE))),
    )  # fmt: skip
    root = (_pci_root(), reserved) if pci else ()
    s5 = aml.package(aml.integer(SLEEP_TYPE_S5), aml.ZERO, aml.ZERO, aml.ZERO)
    return table(
        b"DSDT",
        2,
        aml.name("\\_S5", s5) + aml.scope("\\_SB", com1, rtc, *root),
    )


def _pci_root() -> bytes:
    # In a method, so that the kernel parses the 128 rows only for a device without MSI-X.
    routes = [
        aml.package(aml.integer(device << 16 | 0xFFFF), aml.integer(pin), aml.ZERO,
                    aml.integer(board_map.pci_gsi(device, pin)))
        for device in range(32)
        for pin in range(4)
    ]  # fmt: skip
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A08")),
        aml.name("_CID", aml.eisa_id("PNP0A03")),
        aml.name("_SEG", aml.ZERO),
        aml.name("_BBN", aml.ZERO),
        aml.name("_UID", aml.ZERO),
        aml.name("_CRS", aml.resources(
            aml.window(aml.BUS_NUMBER, 0, board_map.PCI_BUSES),
            aml.io(0xCF8, 8),
            aml.window(aml.MEMORY, board_map.PCI_MMIO, board_map.PCI_MMIO_SIZE),
            aml.window(aml.MEMORY, board_map.PCI_MMIO64, board_map.PCI_MMIO64_SIZE),
        )),
        aml.method("_PRT", aml.give(aml.package(*routes))),
    )  # fmt: skip
