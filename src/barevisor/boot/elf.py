"""ELF executables, read with every number bounded (System V ABI, "Object Files"; ELF-64).

Only what a loader needs: the entry, the loadable segments at their physical addresses, and
notes. The file is the user's and may be anything, so each complaint is one ConfigError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from barevisor.errors import ConfigError
from barevisor.records import NamedTuple

MAGIC = b"\x7fELF"
CLASS_32, CLASS_64 = 1, 2
EM_386, EM_X86_64 = 3, 62
MACHINES = {
    2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 22: "s390", 40: "32-bit ARM",
    183: "64-bit ARM", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_NOTE = 1, 4
MAX_HEADERS = 256
MAX_NOTES = 1 << 16


class Segment(NamedTuple):
    """A program header: `file_size` bytes at `offset` belong at `physical`; the rest is zero."""

    type: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int


class Elf(NamedTuple):
    """A checked header. Segments lie inside the file and do not overlap in memory."""

    bits: int
    machine: int
    entry: int
    segments: tuple[Segment, ...]

    @property
    def loads(self) -> list[Segment]:
        """What has bytes in memory, by physical address."""
        loads = [s for s in self.segments if s.type == PT_LOAD and s.memory_size]
        return sorted(loads, key=lambda s: s.physical)

    def entry_physical(self) -> int:
        """The entry's physical address: some kernels give a virtual one."""
        for s in self.loads:
            if s.virtual <= self.entry < s.virtual + s.memory_size:
                return self.entry - s.virtual + s.physical
        return self.entry


def parse(data: memoryview, *, size: int | None = None) -> Elf:
    """Headers of `data` (the file, or its beginning with the file's real `size`).

    Raises ConfigError: not ELF, wrong byte order or architecture, truncated, or inconsistent."""
    size = len(data) if size is None else size
    if bytes(data[:4]) != MAGIC or len(data) < 52:
        raise ConfigError("not an ELF file")
    wide = data[4] == CLASS_64
    if data[4] not in (CLASS_32, CLASS_64) or (wide and len(data) < 64):
        raise ConfigError("an ELF file of unknown class, or truncated")
    machine = int.from_bytes(data[18:20], "little" if data[5] == 1 else "big")
    if data[5] != 1 or machine not in (EM_386, EM_X86_64):
        what = MACHINES.get(machine, f"machine {machine}")
        raise ConfigError(f"the image is for {what}, not x86", "give an x86-64 image")
    kind = int.from_bytes(data[16:18], "little")
    if kind not in (ET_EXEC, ET_DYN):
        raise ConfigError("the ELF file is not an executable", "give a linked image, not an object")
    if wide:
        entry, table = struct.unpack_from("<QQ", data, 24)
        entry_size, count = struct.unpack_from("<HH", data, 54)
    else:
        entry, table = struct.unpack_from("<II", data, 24)
        entry_size, count = struct.unpack_from("<HH", data, 42)
    if count > MAX_HEADERS or entry_size < (56 if wide else 32):
        raise ConfigError(f"the ELF file has {count} program headers of {entry_size} bytes")
    if table + count * entry_size > len(data):
        raise ConfigError("the ELF file is truncated: its program headers are missing")
    segments = tuple(_segment(data, table + i * entry_size, wide) for i in range(count))
    elf = Elf(64 if wide else 32, machine, entry, segments)
    _check(elf, size)
    return elf


def _segment(data: memoryview, at: int, wide: bool) -> Segment:
    if wide:
        kind, _, offset, virtual, physical, filesz, memsz = struct.unpack_from("<IIQQQQQ", data, at)
    else:
        kind, offset, virtual, physical, filesz, memsz = struct.unpack_from("<IIIIII", data, at)
    return Segment(kind, offset, virtual, physical, filesz, memsz)


def _check(elf: Elf, size: int) -> None:
    end = 0
    if not elf.loads:
        raise ConfigError("the ELF file has nothing to load")
    for s in elf.loads:
        if s.file_size > s.memory_size:
            raise ConfigError("an ELF segment is larger in the file than in memory")
        if s.offset + s.file_size > size:
            raise ConfigError("the ELF file is truncated: a segment ends past its end",
                              "fetch or build the image again")  # fmt: skip
        if s.physical < end:
            raise ConfigError(f"ELF segments overlap at {s.physical:#x}")
        end = s.physical + s.memory_size


def notes(elf: Elf, data: memoryview) -> Iterator[tuple[str, int, bytes]]:
    """(owner, type, description) of every note in the file; stops at the first malformed one."""
    for s in elf.segments:
        if s.type != PT_NOTE or s.file_size > MAX_NOTES or s.offset + s.file_size > len(data):
            continue
        raw, at = bytes(data[s.offset : s.offset + s.file_size]), 0
        while at + 12 <= len(raw):
            name_size, desc_size, kind = struct.unpack_from("<III", raw, at)
            desc_at = at + 12 + (name_size + 3 & ~3)
            end = desc_at + desc_size
            if end > len(raw):
                break
            owner = raw[at + 12 : at + 12 + name_size].rstrip(b"\0").decode("latin-1")
            yield owner, kind, raw[desc_at:end]
            at = desc_at + (desc_size + 3 & ~3)
