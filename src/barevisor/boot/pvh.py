"""PVH direct boot: an ELF entered in 32-bit protected mode with an hvm_start_info.

Source: Xen public headers, arch-x86/hvm/start_info.h, and docs/misc/pvh.
"""

from __future__ import annotations

import struct

from barevisor.board import map as board_map
from barevisor.board.ram import GuestRam
from barevisor.boot import cpu, elf
from barevisor.boot.layout import c_string, check, clear_spot, load_segments, store, top_spot
from barevisor.cpu.engine import CpuState
from barevisor.errors import ConfigError

NOTE_OWNER, NOTE_PHYS32_ENTRY = "Xen", 18
MAGIC, VERSION = 0x336E_C578, 1
START_INFO = "<IIIIQQQQII"
MODULE, MEMMAP = "<QQQQ", "<QQII"
CMDLINE_LIMIT = 4096
INFO_SPOT = 0x8_0000


def entry_of(parsed: elf.Elf, data: memoryview) -> int | None:
    """The 32-bit physical entry that the image's Xen note names, or None."""
    for owner, kind, desc in elf.notes(parsed, data):
        if owner == NOTE_OWNER and kind == NOTE_PHYS32_ENTRY and len(desc) in (4, 8):
            return int.from_bytes(desc, "little")
    return None


def load(
    ram: GuestRam, data: memoryview, cmdline: str, initrd: bytes | memoryview, rsdp: int
) -> CpuState:
    """Put the image, its start info and one module into fresh RAM; vCPU 0's entry state.

    Raises ConfigError."""
    parsed = elf.parse(data)
    entry = entry_of(parsed, data)
    if entry is None or entry >= 1 << 32:
        raise ConfigError("the image has no PVH entry note")
    spans = load_segments(ram, parsed, data)
    text = c_string(cmdline, CMDLINE_LIMIT)
    memory_map = board_map.e820(ram.size)
    modules_at = struct.calcsize(START_INFO)
    map_at = modules_at + struct.calcsize(MODULE)
    text_at = map_at + len(memory_map) * struct.calcsize(MEMMAP)
    gdt_at = text_at + len(text) + 7 & ~7
    size = gdt_at + cpu.GDT_SIZE
    at = clear_spot(spans, size, INFO_SPOT, board_map.EBDA)
    check(ram, at, size, "the PVH start info")
    module = b""
    if initrd:
        floor = max(at + size, *(end for _, end in spans))
        module_at = top_spot(ram, len(initrd), floor, board_map.LOW_RAM_MAX, "the initrd")
        store(ram, module_at, initrd, "the initrd")
        module = struct.pack(MODULE, module_at, len(initrd), 0, 0)
    info = struct.pack(
        START_INFO, MAGIC, VERSION, 0, 1 if module else 0, at + modules_at if module else 0,
        at + text_at, rsdp, at + map_at, len(memory_map), 0,
    )  # fmt: skip
    rows = b"".join(struct.pack(MEMMAP, e.base, e.size, e.type, 0) for e in memory_map)
    ram.write(at, info + module.ljust(map_at - modules_at, b"\0") + rows + text)
    return cpu.protected_mode(ram, entry, ebx=at, gdt=at + gdt_at)
