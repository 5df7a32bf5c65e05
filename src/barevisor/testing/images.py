"""Builders of bootable images: small, valid, and easy to spoil in one place."""

from __future__ import annotations

import struct
from dataclasses import dataclass

PT_LOAD, PT_NOTE = 1, 4


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes at a physical address; `memory_size` above their length is zeros (bss)."""

    physical: int
    data: bytes
    memory_size: int = 0
    type: int = PT_LOAD
    virtual: int | None = None


def elf(parts: list[Part], entry: int, *, bits: int = 64, machine: int | None = None) -> bytes:
    """An ELF executable; by default for the x86 of that width."""
    wide = bits == 64
    machine = machine if machine is not None else (62 if wide else 3)
    header_size, row_size = (64, 56) if wide else (52, 32)
    at = header_size + row_size * len(parts)
    table, body = b"", b""
    for p in parts:
        memory = max(p.memory_size, len(p.data))
        virtual = p.physical if p.virtual is None else p.virtual
        offset = at + len(body)
        if wide:
            row = (p.type, 7, offset, virtual, p.physical, len(p.data), memory, 16)
            table += struct.pack("<IIQQQQQQ", *row)
        else:
            row = (p.type, offset, virtual, p.physical, len(p.data), memory, 7, 16)
            table += struct.pack("<IIIIIIII", *row)
        body += p.data
    identity = b"\x7fELF" + bytes((2 if wide else 1, 1, 1)) + bytes(9)
    word = "Q" if wide else "I"
    rest = struct.pack(
        f"<HHI{word}{word}{word}IHHHHHH",
        2, machine, 1, entry, header_size, 0, 0, header_size, row_size, len(parts), 0, 0, 0,
    )  # fmt: skip
    return identity + rest + table + body


def note(owner: bytes, kind: int, description: bytes) -> bytes:
    """One ELF note."""
    name = owner + b"\0"
    head = struct.pack("<III", len(name), len(description), kind)
    return head + name + bytes(-len(name) % 4) + description + bytes(-len(description) % 4)


def pvh_elf(code: bytes, at: int = 0x10_0000, *, bits: int = 64) -> bytes:
    """`code`, entered at `at` by the PVH protocol."""
    description = note(b"Xen", 18, at.to_bytes(bits // 8, "little"))
    parts = [Part(at, code), Part(0, description, type=PT_NOTE)]
    return elf(parts, at, bits=bits)


def multiboot_header(flags: int = 0, *addresses: int) -> bytes:
    """The header, with its address fields if given."""
    fields = (0x1BAD_B002, flags, -(0x1BAD_B002 + flags) & 0xFFFF_FFFF, *addresses)
    return struct.pack(f"<{len(fields)}I", *fields)


def multiboot_elf(code: bytes, at: int = 0x10_0000, *, bss: int = 0, flags: int = 0) -> bytes:
    """`code` right after a multiboot header at `at`; the entry is its first byte."""
    data = multiboot_header(flags) + code
    return elf([Part(at, data, len(data) + bss)], at + 12, bits=32)


def bzimage(
    payload: bytes, *, protocol: int = 0x20F, xloadflags: int = 1, compressed: bool = True
) -> bytes:
    """A setup header and a compressed `payload`, which ends with its unpacked size; or one that
    runs as it is, from ENTRY_64 on."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    struct.pack_into("<I", setup, 0x1F4, (len(payload) + 15) // 16)
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x206] = b"\xeb\x66HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<I", setup, 0x22C, 0x7FFF_FFFF)
    struct.pack_into("<H", setup, 0x236, xloadflags)
    struct.pack_into("<I", setup, 0x238, 2047)
    size = len(payload) if compressed else 0
    struct.pack_into("<IIQQII", setup, 0x248, 0, size, 0, 0x100_0000, 0x10_0000, 0)
    return bytes(setup) + payload + bytes(-len(payload) % 16)
