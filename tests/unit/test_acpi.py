"""The ACPI tables, walked from the RSDP as a kernel walks them, and power off by what they say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest

from barevisor.board import acpi, aml, power
from barevisor.board import map as board_map
from barevisor.board.bus import Bus
from barevisor.board.ram import GuestRam
from barevisor.devices.i8042 import I8042
from barevisor.errors import ConfigError

MIB = 1 << 20


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    memory = GuestRam([(0, 2 * MIB)])
    yield memory
    memory.close()


def tables(ram: GuestRam, rsdp: int) -> dict[str, bytes]:
    """Every table by signature, with its checksums checked."""
    root = ram.read(rsdp, 36)
    assert root[:8] == b"RSD PTR "
    assert sum(root[:20]) & 0xFF == sum(root) & 0xFF == 0
    (xsdt,) = struct.unpack_from("<Q", root, 24)
    found = {"XSDT": table(ram, xsdt)}
    for (at,) in struct.iter_unpack("<Q", found["XSDT"][36:]):
        found[ram.read(at, 4).decode()] = table(ram, at)
    (dsdt,) = struct.unpack_from("<Q", found["FACP"], 140)
    found["DSDT"] = table(ram, dsdt)
    return found


def table(ram: GuestRam, at: int) -> bytes:
    (length,) = struct.unpack("<I", ram.read(at + 4, 4))
    data = ram.read(at, length)
    assert sum(data) & 0xFF == 0
    assert at >= board_map.BIOS_AREA
    assert at + length <= board_map.BIOS_AREA + board_map.BIOS_AREA_SIZE
    return data


@pytest.mark.parametrize("cpus", [1, 4, 300])
def test_tables_are_found_and_sound(cpus: int, ram: GuestRam) -> None:
    found = tables(ram, acpi.install(ram, cpus))
    assert set(found) == {"XSDT", "FACP", "APIC", "MCFG", "DSDT"}
    at, rows = 44, []
    while at < len(found["APIC"]):
        kind, size = found["APIC"][at : at + 2]
        rows.append((kind, found["APIC"][at : at + size]))
        at += size
    ids = [row[3] for kind, row in rows if kind == 0]
    ids += [int.from_bytes(row[4:8], "little") for kind, row in rows if kind == 9]
    assert ids == list(range(cpus))
    (ioapic,) = [row for kind, row in rows if kind == 1]
    assert struct.unpack_from("<II", ioapic, 4) == (board_map.IOAPIC, 0)
    assert struct.unpack_from("<QHBB", found["MCFG"], 44) == (board_map.PCI_ECAM, 0, 0, 0)


def test_too_many_cpus_are_refused(ram: GuestRam) -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        acpi.install(ram, 20_000)


def machine_with_power() -> tuple[Bus, list[str], power.ResetControl]:
    ports, ends = Bus("port"), []
    control = power.attach(ports, lambda kind, detail: ends.append(kind))
    ports.add(board_map.PORT_RESET, 1, control, "reset")
    return ports, ends, control


def test_power_off_and_reset_by_what_the_fadt_says(ram: GuestRam) -> None:
    fadt = tables(ram, acpi.install(ram, 1))["FACP"]
    ports, ends, _ = machine_with_power()
    (sleep,) = struct.unpack_from("<Q", fadt, 248)
    (reset,) = struct.unpack_from("<Q", fadt, 120)
    ports.write(sleep, 1, 1 << 2 | 0x20)  # not the S5 type
    ports.write(sleep, 1, power.SLEEP_TYPE_S5 << 2)  # not enabled
    assert ends == []
    ports.write(sleep, 1, power.SLEEP_TYPE_S5 << 2 | 0x20)
    ports.write(reset, 1, fadt[128])
    assert ends == ["poweroff", "reset"]
    assert fadt[112 + 2] & 0x10  # hardware-reduced: no PM timer, no SCI


def test_port_cf9_resets_on_the_rising_edge() -> None:
    ports, ends, _ = machine_with_power()
    for value in (0x02, 0x06, 0x06, 0x02, 0x0E):
        ports.write(0xCF9, 1, value)
    assert ends == ["reset", "reset"]
    assert ports.read(0xCF9, 1) == 0x0E


@pytest.mark.parametrize(
    ("writes", "resets"),
    [
        pytest.param([(4, 0xFE)], 1, id="pulse the reset line"),
        pytest.param([(4, 0xFF), (4, 0xF1)], 0, id="pulse nothing that resets"),
        pytest.param([(4, 0xD1), (0, 0x02)], 1, id="output port with the reset bit low"),
        pytest.param([(4, 0xD1), (0, 0x03)], 0, id="output port, open A20"),
        pytest.param([(0, 0x00)], 0, id="a byte for a keyboard that is not there"),
    ],
)
def test_keyboard_controller_reset(writes: list[tuple[int, int]], resets: int) -> None:
    ends: list[str] = []
    device = I8042(lambda kind, detail: ends.append(kind))
    for offset, value in writes:
        assert not device.bus_read(4, 1) & 0x02  # ready for a command
        device.bus_write(offset, 1, value)
    assert ends == ["reset"] * resets


def test_keyboard_controller_self_test() -> None:
    device = I8042(lambda kind, detail: None)
    device.bus_write(4, 1, 0xAA)
    assert (device.bus_read(4, 1) & 1, device.bus_read(0, 1)) == (1, 0x55)
    assert (device.bus_read(4, 1) & 1, device.bus_read(0, 1)) == (0, 0)


@pytest.mark.parametrize("size", [0, 61, 62, 63, 64, 4092, 4093, 4094, 4095, 1 << 20])
def test_package_length_counts_itself(size: int) -> None:
    body = bytes(size)
    raw = aml.package_length(body)
    extra = raw[0] >> 6
    value = raw[0] & 0x3F if not extra else raw[0] & 0xF
    value |= int.from_bytes(raw[1:], "little") << 4
    assert (value, len(raw)) == (size + len(raw), 1 + extra)


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (0, "00"), (1, "01"), (2, "0a02"), (0xFF, "0aff"), (0x100, "0b0001"),
        (0x1_0000, "0c00000100"), (1 << 32, "0e0000000001000000"),
    ],
)  # fmt: skip
def test_integers_are_shortest(value: int, raw: str) -> None:
    assert aml.integer(value).hex() == raw


def test_eisa_id() -> None:
    assert aml.eisa_id("PNP0A08").hex() == "0c41d00a08"


def test_every_pci_pin_has_a_line_beyond_the_isa_ones() -> None:
    lines = {board_map.pci_gsi(device, pin) for device in range(32) for pin in range(4)}
    assert lines == set(range(16, 24))


@pytest.mark.parametrize(
    ("memory", "ram_rows"),
    [
        (64 * MIB, [(0, 0x9_FC00), (MIB, 63 * MIB)]),
        (4096 * MIB, [(0, 0x9_FC00), (MIB, 3071 * MIB), (1 << 32, 1024 * MIB)]),
    ],
)
def test_e820_rows_do_not_overlap(memory: int, ram_rows: list[tuple[int, int]]) -> None:
    rows = board_map.e820(memory)
    assert [(e.base, e.size) for e in rows if e.type == 1] == ram_rows
    ordered = sorted(rows, key=lambda e: e.base)
    assert all(a.base + a.size <= b.base for a, b in pairwise(ordered))


def test_fixed_registers_and_32_bit_pointers_for_test_images(ram: GuestRam) -> None:
    root = ram.read(acpi.install(ram, 2, fixed=True), 36)
    (rsdt,) = struct.unpack_from("<I", root, 16)
    pointers = struct.unpack("<3I", table(ram, rsdt)[36:])
    found = {ram.read(at, 4): ram.read(at, 276) for at in pointers}
    fixed = found[b"FACP"]
    (facs,) = struct.unpack_from("<I", fixed, 36)
    assert (ram.read(facs, 4), facs % 64, facs) == (b"FACS", 0, acpi.FACS)
    assert struct.unpack_from("<I4xI8xI", fixed, 56) == (0x620, 0x604, 0x608)
    assert not struct.unpack_from("<I", fixed, 112)[0] & acpi.HW_REDUCED
