"""Multiboot 1: an ELF32 or flat image entered in 32-bit protected mode (Multiboot 0.6.96).

The information structure goes to 0x9f000, or after an image that is there; page 0 stays the
image's own, which starts its other CPUs from it, but for three words of BIOS data.
"""

from __future__ import annotations

import struct

from barevisor.board import map as board_map
from barevisor.board.ram import GuestRam
from barevisor.boot import cpu, elf
from barevisor.boot.layout import (
    LOW_SPOT,
    c_string,
    check,
    clear_spot,
    load_segments,
    low_ram_end,
    page_up,
    store,
)
from barevisor.cpu.engine import CpuState
from barevisor.errors import ConfigError
from barevisor.records import NamedTuple

HEADER_MAGIC, BOOT_MAGIC = 0x1BAD_B002, 0x2BAD_B002
HEADER_SEARCH = 8192
"""3.1: the header lies in the first 8192 bytes, 32-bit aligned."""
ALIGN_MODULES, WANT_MEMORY, WANT_VIDEO, HAS_ADDRESSES = 1, 2, 4, 1 << 16
KNOWN = ALIGN_MODULES | WANT_MEMORY | WANT_VIDEO
"""Bits 0..15 are requirements; video is one that we do not grant and no image insists on."""
INFO_MEMORY, INFO_CMDLINE, INFO_MODULES, INFO_MMAP, INFO_LOADER = 1, 4, 8, 1 << 6, 1 << 9
INFO_SIZE = 116
MODULE = "<IIII"
MMAP = "<IQQI"
CMDLINE_LIMIT = 4096
LOADER = b"barevisor\0"
BIOS_DATA = {
    0x400: board_map.PORT_COM1,
    0x40E: board_map.EBDA >> 4,
    0x413: board_map.EBDA >> 10,
}
"""Words of a PC's BIOS data area, where images look for the end of the memory that they may use."""
BIOS_DATA_END = 0x500


class Header(NamedTuple):
    """3.1.1; the addresses count only with HAS_ADDRESSES. `at` is its offset in the file."""

    at: int
    flags: int
    header_address: int = 0
    load: int = 0
    load_end: int = 0
    bss_end: int = 0
    entry: int = 0


def find_header(data: memoryview) -> Header | None:
    """The first header whose checksum is right."""
    head = bytes(data[:HEADER_SEARCH])
    at = head.find(HEADER_MAGIC.to_bytes(4, "little"))
    while at >= 0 and at + 12 <= len(head):
        magic, flags, checksum = struct.unpack_from("<III", head, at)
        if at % 4 == 0 and (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            if not flags & HAS_ADDRESSES:
                return Header(at, flags)
            if at + 32 <= len(head):
                return Header(at, flags, *struct.unpack_from("<5I", head, at + 12))
        at = head.find(HEADER_MAGIC.to_bytes(4, "little"), at + 1)
    return None


def load(
    ram: GuestRam, data: memoryview, cmdline: str, module: bytes | memoryview | None = None
) -> CpuState:
    """Put the image, its information and at most one module into fresh RAM; the entry state.

    `cmdline` is the image's name and its arguments. Raises ConfigError."""
    header = find_header(data)
    if header is None:
        raise ConfigError("the image has no multiboot header")
    if header.flags & 0xFFFF & ~KNOWN:
        raise ConfigError(f"the image requires multiboot features {header.flags & 0xFFFF:#x}")
    if header.flags & HAS_ADDRESSES:
        entry, spans = _load_flat(ram, header, data)
    else:
        parsed = elf.parse(data)
        if parsed.bits != 32:
            raise ConfigError("a multiboot image must be ELF32", "objcopy -O elf32-i386 makes one")
        entry, spans = parsed.entry, load_segments(ram, parsed, data)
    module_span = None
    if module is not None:
        at = page_up(max([board_map.LEGACY_HOLE_END, *(end for _, end in spans)]))
        store(ram, at, bytes(module) or b"\0", "the module")
        module_span = (at, at + len(module))
        spans.append((at, at + max(len(module), 1)))
    _write_bios_data(ram, spans)
    info, gdt = _write_info(ram, spans, cmdline, module_span)
    return cpu.protected_mode(ram, entry, eax=BOOT_MAGIC, ebx=info, gdt=gdt)


def _load_flat(ram: GuestRam, h: Header, data: memoryview) -> tuple[int, list[tuple[int, int]]]:
    """The address fields of the header (3.1.3) instead of ELF's."""
    start = h.at - (h.header_address - h.load)
    size = h.load_end - h.load if h.load_end else len(data) - start
    if h.load > h.header_address or start < 0 or size <= 0 or start + size > len(data):
        raise ConfigError("the multiboot header's load addresses lie outside the image")
    end = max(h.load + size, h.bss_end)
    check(ram, h.load, end - h.load, "the image")
    ram.write(h.load, data[start : start + size])
    return h.entry, [(h.load, end)]


def _write_bios_data(ram: GuestRam, spans: list[tuple[int, int]]) -> None:
    """What a BIOS would have left there, unless the image itself lies there."""
    if all(start >= BIOS_DATA_END for start, _ in spans):
        for at, word in BIOS_DATA.items():
            ram.write(at, word.to_bytes(2, "little"))


def _write_info(
    ram: GuestRam, spans: list[tuple[int, int]], cmdline: str, module: tuple[int, int] | None
) -> tuple[int, int]:
    """Information, memory map, module row, strings and GDT in one block: its address, the GDT's."""
    text = c_string(cmdline, CMDLINE_LIMIT)
    memory_map = [
        struct.pack(MMAP, struct.calcsize(MMAP) - 4, e.base, e.size, e.type)
        for e in board_map.e820(ram.size)
    ]
    mmap = b"".join(memory_map)
    gdt_at = INFO_SIZE + 4
    module_at = gdt_at + cpu.GDT_SIZE
    mmap_at = module_at + struct.calcsize(MODULE)
    loader_at = mmap_at + len(mmap)
    text_at = loader_at + len(LOADER)
    size = text_at + len(text)
    at = clear_spot(spans, size, LOW_SPOT, board_map.EBDA)
    check(ram, at, size, "the multiboot information")
    flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER
    info = bytearray(INFO_SIZE)
    struct.pack_into(
        "<III", info, 0, flags, board_map.EBDA >> 10,
        low_ram_end(ram) - board_map.LEGACY_HOLE_END >> 10,
    )  # fmt: skip
    struct.pack_into("<III", info, 16, at + text_at, 1 if module else 0, at + module_at)
    struct.pack_into("<II", info, 44, len(mmap), at + mmap_at)
    struct.pack_into("<I", info, 64, at + loader_at)
    row = struct.pack(MODULE, *(module or (0, 0)), at + text_at if module else 0, 0)
    ram.write(at, info)
    ram.write(at + module_at, row + mmap + LOADER + text)
    return at, at + gdt_at
