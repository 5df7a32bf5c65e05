"""What kind of image a file is, and one clear line when it is none that can boot here.

The checks look at magic numbers only; each loader parses its own format in full.
"""

from __future__ import annotations

import struct

from barevisor.boot.files import StrPath, map_file
from barevisor.errors import ConfigError
from barevisor.records import NamedTuple

BZIMAGE_MAGIC_AT, BOOT_FLAG_AT = 0x202, 0x1FE
HINT = "give a bzImage (/boot/vmlinuz-*), a vmlinux, or a PVH or multiboot ELF image"

FOREIGN = (
    (0x38, b"ARMd", "64-bit ARM"),
    (0x30, b"RISCV\0\0\0", "RISC-V"),
    (0x24, b"\x18\x28\x6f\x01", "32-bit ARM"),
)
"""Magic numbers of other architectures' kernel images (Linux, Documentation/arch/*/boot*)."""

PE_MACHINES = {0xAA64: "64-bit ARM", 0x5064: "RISC-V", 0x6264: "LoongArch", 0x1C0: "32-bit ARM"}


class Kind:
    """How an image is booted, by its name in messages."""

    BZIMAGE = "bzImage"
    LINUX = "vmlinux"
    PVH = "PVH ELF"
    MULTIBOOT = "multiboot ELF"


class Image(NamedTuple):
    """A file, mapped read-only. `kind`: of Kind; `path` names it in messages and caches."""

    kind: str
    path: StrPath
    data: memoryview


def open_image(path: StrPath) -> Image:
    """Map and identify the file. Raises ConfigError."""
    data = map_file(path, HINT)
    try:
        return Image(identify(data), path, data)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}", e.hint or HINT) from e


def identify(data: memoryview) -> str:
    """Its Kind. Raises ConfigError, without the file's name."""
    if bytes(data[BZIMAGE_MAGIC_AT : BZIMAGE_MAGIC_AT + 4]) == b"HdrS":
        return Kind.BZIMAGE
    from barevisor.boot import elf, multiboot  # a bzImage, the usual one, needs neither

    if bytes(data[:4]) == elf.MAGIC:
        return _identify_elf(data)
    if multiboot.find_header(data) is not None:
        return Kind.MULTIBOOT
    for at, magic, name in FOREIGN:
        if bytes(data[at : at + len(magic)]) == magic:
            raise _foreign(name)
    if bytes(data[:2]) == b"MZ" and len(data) >= 0x40:
        pe = struct.unpack_from("<I", data, 0x3C)[0]
        if bytes(data[pe : pe + 4]) == b"PE\0\0" and pe + 6 <= len(data):
            machine = struct.unpack_from("<H", data, pe + 4)[0]
            if machine in PE_MACHINES:
                raise _foreign(PE_MACHINES[machine])
    if len(data) < 0x400:
        raise ConfigError(f"not a kernel, or truncated: it is {len(data)} bytes long")
    raise ConfigError("not a kernel image")


def _foreign(name: str) -> ConfigError:
    return ConfigError(f"the kernel is for {name}, not x86", "give an x86-64 image")


def _identify_elf(data: memoryview) -> str:
    """PVH before Linux: a vmlinux with both is entered the same way in the end, and an image
    that has only the note is no Linux."""
    from barevisor.boot import elf, multiboot, pvh

    parsed = elf.parse(data)
    header = multiboot.find_header(data)
    if header is not None and (parsed.bits == 32 or header.flags & multiboot.HAS_ADDRESSES):
        return Kind.MULTIBOOT
    if pvh.entry_of(parsed, data) is not None:
        return Kind.PVH
    if parsed.bits == 64:
        return Kind.LINUX
    raise ConfigError("a 32-bit ELF file without a multiboot header or a PVH note")
