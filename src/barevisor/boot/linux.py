"""Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

The unpacked kernel is put at the physical addresses it was linked for (16 MiB) and entered at
startup_64: without its decompressor there is no KASLR, and boots are repeatable.
"""

from __future__ import annotations

import os
import struct

from barevisor.board import map as board_map
from barevisor.board.ram import GuestRam
from barevisor.boot import bzimage, cache, cpu
from barevisor.boot.bzimage import HEADER_START, SetupHeader
from barevisor.boot.cache import Kernel
from barevisor.boot.files import StrPath
from barevisor.boot.image import Image, Kind
from barevisor.boot.layout import c_string, check, store, top_spot
from barevisor.cpu.engine import CpuState
from barevisor.errors import ConfigError
from barevisor.records import NamedTuple

BOOT_PARAMS, BOOT_PARAMS_SIZE = 0x7000, 0x1000
CMDLINE, CMDLINE_ROOM = 0x2_0000, 0x1_0000
KERNEL_MIN = board_map.LEGACY_HOLE_END

# struct boot_params (arch/x86/include/uapi/asm/bootparam.h); offsets of zero-page.rst.
ACPI_RSDP, E820_COUNT, E820_TABLE, E820_MAX = 0x070, 0x1E8, 0x2D0, 128
BOOT_FLAG, SIGNATURE, VERSION, LOADER, LOAD_FLAGS = 0x1FE, 0x202, 0x206, 0x210, 0x211
RAMDISK, RAMDISK_SIZE, CMDLINE_AT, VIDEO_MODE = 0x218, 0x21C, 0x228, 0x1FA
UNKNOWN_LOADER, LOADED_HIGH, VIDEO_NORMAL = 0xFF, 1, 0xFFFF

MTRR_DEF_TYPE, MTRR_ENABLED, WRITE_BACK = 0x2FF, 1 << 11, 6
"""Without it Linux takes MTRRs, and so PAT, for unusable."""

VMLINUX_HEADER = SetupHeader(
    raw=b"", payload_at=0, payload_size=0, cmdline_limit=2047, initrd_max=0x7FFF_FFFF,
    init_size=0, preferred=0,
)  # fmt: skip
"""What is assumed of a kernel that comes without a setup header."""


class Linux(NamedTuple):
    """An unpacked kernel and its setup header."""

    kernel: Kernel
    header: SetupHeader
    cached: bool


def prepare(image: Image, folder: StrPath | None = None) -> Linux:
    """Unpack a bzImage, or take it from the cache in `folder` (None: no cache); a vmlinux needs
    neither. Raises ConfigError."""
    if image.kind != Kind.BZIMAGE:
        return Linux(cache.from_elf(image.data), VMLINUX_HEADER, False)
    header = bzimage.parse_header(image.data)
    if header.payload_size == 0:
        return Linux(_as_it_is(image, header), header, False)
    if folder is None:
        return Linux(_unpacked(image, header), header, False)
    key = cache.key_of(image.path)
    path = os.path.join(folder, f"{key.hex()}.kernel")
    kept = cache.load(path, key)
    if kept is None:
        kernel = _unpacked(image, header)
        cache.save(path, key, kernel)
        return Linux(kernel, header, False)
    return Linux(kept, header, True)


def _as_it_is(image: Image, header: SetupHeader) -> Kernel:
    """A program in a kernel's clothes, such as a memory test."""
    start, size = header.preferred, len(image.data) - header.payload_at
    if size <= bzimage.ENTRY_64:
        raise ConfigError(f"{image.path}: the bzImage is truncated")
    extent = (start, header.payload_at, size)
    return Kernel(start + bzimage.ENTRY_64, start, start + size, (extent,), image.data)


def _unpacked(image: Image, header: SetupHeader) -> Kernel:
    try:
        return cache.from_elf(memoryview(bzimage.unpack(image.data, header)))
    except ConfigError as e:
        raise ConfigError(f"{image.path}: {e}", e.hint) from e


def load(
    ram: GuestRam, linux: Linux, cmdline: str, initrd: bytes | memoryview, rsdp: int
) -> CpuState:
    """Put kernel, initrd, command line and boot_params into fresh RAM; vCPU 0's entry state.

    Raises ConfigError when the memory is too small or the command line too long."""
    kernel, header = linux.kernel, linux.header
    if kernel.start < KERNEL_MIN:
        raise ConfigError(f"the kernel is linked for {kernel.start:#x}, below 1 MiB")
    end = max(kernel.end, kernel.start + header.init_size)
    check(ram, kernel.start, end - kernel.start, "the kernel")
    for physical, offset, size in kernel.extents:
        ram.write(physical, kernel.data[offset : offset + size])
    text = c_string(cmdline, min(header.cmdline_limit + 1, CMDLINE_ROOM))
    store(ram, CMDLINE, text, "the command line")
    initrd_at = 0
    if initrd:
        initrd_at = top_spot(ram, len(initrd), end, header.initrd_max + 1, "the initrd")
        ram.write(initrd_at, initrd)
    ram.write(BOOT_PARAMS, boot_params(header, ram.size, (initrd_at, len(initrd)), rsdp))
    return cached(cpu.long_mode(ram, kernel.entry, rsi=BOOT_PARAMS))


def cached(state: CpuState) -> CpuState:
    """`state` with memory write-back, as a firmware leaves it on every CPU. The TSC runs on: what
    it is at first is the engine's to choose, and bt's can then be the host's own (ADR 20)."""
    state.tsc = None
    state.msrs[MTRR_DEF_TYPE] = MTRR_ENABLED | WRITE_BACK
    return state


def boot_params(
    header: SetupHeader, memory_bytes: int, initrd: tuple[int, int], rsdp: int
) -> bytes:
    """The "zero page"."""
    page = bytearray(BOOT_PARAMS_SIZE)
    page[HEADER_START : HEADER_START + len(header.raw)] = header.raw
    struct.pack_into("<Q", page, ACPI_RSDP, rsdp)
    struct.pack_into("<H", page, VIDEO_MODE, VIDEO_NORMAL)
    struct.pack_into("<H", page, BOOT_FLAG, 0xAA55)
    page[SIGNATURE : SIGNATURE + 4] = b"HdrS"
    if not header.raw:
        struct.pack_into("<H", page, VERSION, bzimage.PROTOCOL_MIN)
    page[LOADER] = UNKNOWN_LOADER
    page[LOAD_FLAGS] |= LOADED_HIGH
    struct.pack_into("<II", page, RAMDISK, *initrd)
    struct.pack_into("<I", page, CMDLINE_AT, CMDLINE)
    entries = board_map.e820(memory_bytes)
    page[E820_COUNT] = len(entries)
    for i, e in enumerate(entries):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * i, e.base, e.size, e.type)
    return bytes(page)
