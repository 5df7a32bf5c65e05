"""Images of every kind, sound and spoiled, and what the loaders leave in RAM."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.block
import pytest
import zstandard

from barevisor.board.ram import GuestRam
from barevisor.boot import bzimage, cache, cpu, elf, linux, multiboot, pvh
from barevisor.boot.image import Image, Kind, open_image
from barevisor.errors import ConfigError
from barevisor.testing import images
from barevisor.testing.images import Part

MIB = 1 << 20
CODE = bytes(range(1, 200)) * 30
VMLINUX = images.elf(
    [
        Part(16 * MIB, CODE + bytes(300_000) + CODE, 2 * MIB, virtual=0xFFFF_FFFF_8100_0000),
        Part(18 * MIB, b"data", 0x1000, virtual=0xFFFF_FFFF_8120_0000),
    ],
    0xFFFF_FFFF_8100_0010,
)


def lz4_legacy(data: bytes) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[at : at + (8 << 20)], store_size=False)
        out += len(block).to_bytes(4, "little") + block
    return out


XZ_FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz with the x86 filter": lambda d: lzma.compress(
        d, check=lzma.CHECK_CRC32, filters=XZ_FILTERS
    ),
    "lzma": lambda d: lzma.compress(d, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "lz4": lz4_legacy,
    "zstd": lambda d: zstandard.ZstdCompressor().compress(d),
}


def packed(data: bytes, packer: str = "lz4") -> bytes:
    body = PACKERS[packer](data)
    return body if packer == "gzip" else body + len(data).to_bytes(4, "little")


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    memory = GuestRam([(0, 64 * MIB)])
    yield memory
    memory.close()


# ---- identification ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(images.bzimage(packed(VMLINUX)), Kind.BZIMAGE, id="bzImage"),
        pytest.param(VMLINUX, Kind.LINUX, id="vmlinux"),
        pytest.param(images.pvh_elf(CODE), Kind.PVH, id="PVH 64"),
        pytest.param(images.pvh_elf(CODE, bits=32), Kind.PVH, id="PVH 32"),
        pytest.param(images.multiboot_elf(CODE), Kind.MULTIBOOT, id="multiboot ELF32"),
        pytest.param(
            images.multiboot_header(1 << 16, 0x10_0000, 0x10_0000, 0, 0, 0x10_0020),
            Kind.MULTIBOOT, id="multiboot flat",
        ),
    ],
)  # fmt: skip
def test_identify(data: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    assert open_image(path).kind == kind


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "empty", id="empty file"),
        pytest.param(b"#!/bin/sh\n", "not a kernel, or truncated", id="a script"),
        pytest.param(b"x" * 5000, "not a kernel image", id="text"),
        pytest.param(bytes(0x38) + b"ARMd" + bytes(4000), "64-bit ARM", id="arm64 Image"),
        pytest.param(images.elf([Part(0, b"x")], 0, machine=183), "64-bit ARM", id="arm64 ELF"),
        pytest.param(images.elf([Part(0, b"x")], 0, machine=243), "RISC-V", id="riscv ELF"),
        pytest.param(
            b"MZ" + bytes(0x3A) + struct.pack("<I", 0x40) + b"PE\0\0\x64\xaa" + bytes(1000),
            "64-bit ARM", id="arm64 EFI",
        ),
        pytest.param(VMLINUX[:100], "program headers are missing", id="cut in the headers"),
        pytest.param(VMLINUX[:60], "truncated", id="cut in the ELF header"),
        pytest.param(VMLINUX[:5000], "a segment ends past", id="cut in a segment"),
        pytest.param(images.elf([Part(0, b"x")], 0, bits=32), "without a multiboot", id="plain"),
        pytest.param(images.elf([], 0), "nothing to load", id="no segments"),
        pytest.param(
            images.elf([Part(0x1000, b"x" * 64), Part(0x1020, b"y" * 64)], 0), "overlap",
            id="overlapping segments",
        ),
    ],
)  # fmt: skip
def test_a_bad_image_is_one_line_and_a_hint(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=says) as caught:
        open_image(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none: No such file"):
        open_image(tmp_path / "none")
    with pytest.raises(ConfigError, match="directory"):
        open_image(tmp_path)


def test_elf_survives_any_bytes_in_its_headers() -> None:
    for at in range(64 + 2 * 56):
        for value in (0, 0x7F, 0xFF):
            spoiled = bytearray(VMLINUX[:4096])
            spoiled[at] = value
            try:
                parsed = elf.parse(memoryview(spoiled), size=len(VMLINUX))
                list(elf.notes(parsed, memoryview(spoiled)))
            except ConfigError:
                continue


# ---- bzImage -------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
def test_unpack(packer: str) -> None:
    data = memoryview(images.bzimage(packed(VMLINUX, packer)))
    assert bzimage.unpack(data, bzimage.parse_header(data)) == VMLINUX


@pytest.mark.parametrize("packer", PACKERS)
def test_a_damaged_payload_is_said_so(packer: str) -> None:
    raw = bytearray(packed(VMLINUX, packer))
    raw[len(raw) // 2 : len(raw) // 2 + 8] = b"\xff" * 8
    raw[20] ^= 0xFF
    data = memoryview(images.bzimage(bytes(raw)))
    try:
        assert len(bzimage.unpack(data, bzimage.parse_header(data))) == len(VMLINUX)
    except ConfigError as e:
        assert "damaged" in str(e)  # noqa: PT017 - LZ4 has no checksum: it may unpack


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(images.bzimage(packed(VMLINUX), protocol=0x204), "2.4 is too old", id="old"),
        pytest.param(images.bzimage(packed(VMLINUX), xloadflags=0), "32-bit", id="32-bit"),
        pytest.param(images.bzimage(packed(VMLINUX))[:1300], "truncated", id="truncated"),
        pytest.param(images.bzimage(b"\x89LZO" + bytes(60)), "unknown way", id="LZO"),
        pytest.param(
            images.bzimage(PACKERS["xz with the x86 filter"](bytes(9)) + b"\xff" * 4),
            "damaged", id="claims 4 GiB",
        ),
        pytest.param(
            images.bzimage(PACKERS["zstd"](bytes(9)) + b"\x08\0\0\0"), None, id="longer than said",
        ),
        pytest.param(
            images.bzimage(PACKERS["zstd"](bytes(9)) + b"\x0a\0\0\0"), "9 bytes of 10",
            id="shorter than said",
        ),
    ],
)  # fmt: skip
def test_bad_bzimages(data: bytes, says: str | None) -> None:
    view = memoryview(data)
    if says is None:
        assert bzimage.unpack(view, bzimage.parse_header(view)) == bytes(8)
        return
    with pytest.raises(ConfigError, match=says):
        bzimage.unpack(view, bzimage.parse_header(view))


@pytest.mark.parametrize("size", [0x200, 0x201])
def test_a_bzimage_without_a_payload_is_entered_as_it_is(size: int, tmp_path: Path) -> None:
    path = tmp_path / "memtest"
    path.write_bytes(images.bzimage(bytes(size), compressed=False)[: 1024 + size])
    image = open_image(path)
    if size <= bzimage.ENTRY_64:
        with pytest.raises(ConfigError, match="truncated"):
            linux.prepare(image)
    else:
        kernel = linux.prepare(image).kernel
        assert (kernel.entry, kernel.extents) == (16 * MIB + 0x200, ((16 * MIB, 1024, size),))


# ---- the cache -----------------------------------------------------------------------------


def kernel_file(tmp_path: Path) -> Image:
    path = tmp_path / "vmlinuz"
    path.write_bytes(images.bzimage(packed(VMLINUX)))
    return open_image(path)


def loaded(kernel: cache.Kernel) -> dict[int, bytes]:
    return {p: bytes(kernel.data[o : o + n]) for p, o, n in kernel.extents}


def test_the_second_start_takes_the_kernel_from_the_cache(tmp_path: Path) -> None:
    image = kernel_file(tmp_path)
    first = linux.prepare(image, tmp_path / "cache")
    second = linux.prepare(image, tmp_path / "cache")
    assert (first.cached, second.cached) == (False, True)
    assert loaded(first.kernel) == loaded(second.kernel)
    assert len(second.kernel.extents) == 3  # the zeros in the middle are not there
    assert (second.kernel.entry, second.kernel.start, second.kernel.end) == (
        16 * MIB + 0x10, 16 * MIB, 18 * MIB + 0x1000,
    )  # fmt: skip
    assert not [p for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")]


def test_a_changed_kernel_is_unpacked_again(tmp_path: Path) -> None:
    linux.prepare(kernel_file(tmp_path), tmp_path / "cache")
    os.utime(tmp_path / "vmlinuz", ns=(1, 1))
    image = open_image(tmp_path / "vmlinuz")
    assert not linux.prepare(image, tmp_path / "cache").cached


@pytest.mark.parametrize("spoil", ["cut", "longer", "header", "mode", "empty", "table"])
def test_an_unsound_cache_file_is_not_used(spoil: str, tmp_path: Path) -> None:
    image = kernel_file(tmp_path)
    linux.prepare(image, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    data = bytearray(path.read_bytes())
    if spoil == "mode":
        path.chmod(0o666)
    else:
        data[60 if spoil == "header" else 80] ^= spoil in ("header", "table")
        path.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b""}.get(spoil, data))
    again = linux.prepare(image, tmp_path / "cache")
    assert not again.cached
    assert linux.prepare(image, tmp_path / "cache").cached


def test_only_the_newest_kernels_are_kept(tmp_path: Path) -> None:
    for i in range(cache.KEEP + 2):
        image = kernel_file(tmp_path)
        os.utime(image.path, ns=(i, i))
        linux.prepare(image, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == cache.KEEP


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert not linux.prepare(kernel_file(tmp_path), tmp_path / "cache").cached


# ---- Linux ---------------------------------------------------------------------------------


def u32(ram: GuestRam, at: int) -> int:
    return int.from_bytes(ram.read(at, 4), "little")


def u64(ram: GuestRam, at: int) -> int:
    return int.from_bytes(ram.read(at, 8), "little")


def test_linux_boot_protocol(ram: GuestRam, tmp_path: Path) -> None:
    ready = linux.prepare(kernel_file(tmp_path))
    state = linux.load(ram, ready, "console=ttyS0 quiet", b"initrd!", rsdp=0xE_0000)
    page = state.regs.rsi
    assert state.regs.rip == 16 * MIB + 0x10
    assert ram.read(16 * MIB, len(CODE)) == CODE
    assert ram.read(18 * MIB, 4) == b"data"
    assert ram.read(page + 0x202, 4) == b"HdrS"
    assert u64(ram, page + 0x70) == 0xE_0000
    assert ram.read(page + 0x210, 1) == b"\xff"
    assert ram.read(u32(ram, page + 0x228), 20) == b"console=ttyS0 quiet\0"
    at, size = u32(ram, page + 0x218), u32(ram, page + 0x21C)
    assert (at % 4096, ram.read(at, size)) == (0, b"initrd!")
    assert at == 64 * MIB - 4096
    count = ram.read(page + 0x1E8, 1)[0]
    rows = [struct.unpack("<QQI", ram.read(page + 0x2D0 + 20 * i, 20)) for i in range(count)]
    assert (0x10_0000, 63 * MIB, 1) in rows
    assert (0xE000_0000, 1 << 20, 2) in rows


def test_linux_is_entered_in_64_bit_mode_with_identity_pages(ram: GuestRam) -> None:
    state = cpu.long_mode(ram, 0x100_0000, rsi=0x7000)
    assert state.cs.long
    assert not state.cs.db
    assert state.efer == 0x500
    assert state.cr0 & 0x8000_0001 == 0x8000_0001
    assert not state.regs.rflags & 0x200
    for linear in (0, 0x7123, 0x1234_5678, 0xFFFF_F000):
        table = state.cr3
        for shift in (39, 30):
            table = u64(ram, table + 8 * (linear >> shift & 511)) & ~0xFFF
        entry = u64(ram, table + 8 * (linear >> 21 & 511))
        assert entry & 0x83 == 0x83
        assert (entry & ~0xFFF) + (linear & 0x1F_FFFF) == linear
    gdt = ram.read(state.gdt.base, state.gdt.limit + 1)
    assert gdt[state.cs.selector : state.cs.selector + 8] == bytes.fromhex("ffff0000009baf00")


def test_a_plain_vmlinux_gets_a_setup_header(ram: GuestRam) -> None:
    kernel = cache.from_elf(memoryview(VMLINUX))
    state = linux.load(ram, linux.Linux(kernel, linux.VMLINUX_HEADER, False), "", b"", 0)
    assert ram.read(state.regs.rsi + 0x202, 4) == b"HdrS"
    assert u32(ram, state.regs.rsi + 0x218) == 0


@pytest.mark.parametrize(
    ("memory", "cmdline", "initrd", "says"),
    [
        pytest.param(16 * MIB, "", 0, "the kernel needs memory", id="memory below the kernel"),
        pytest.param(20 * MIB, "", 3 * MIB, "initrd of 3072 KiB does not fit", id="initrd"),
        pytest.param(20 * MIB, "x" * 2048, 0, "2048 bytes, the limit is 2047", id="long cmdline"),
        pytest.param(20 * MIB, "a\0b", 0, "command line", id="zero byte in cmdline"),
    ],
)
def test_linux_says_what_does_not_fit(memory: int, cmdline: str, initrd: int, says: str) -> None:
    ram = GuestRam([(0, memory)])
    kernel = cache.from_elf(memoryview(VMLINUX))
    with pytest.raises(ConfigError, match=says):
        linux.load(ram, linux.Linux(kernel, linux.VMLINUX_HEADER, False), cmdline, bytes(initrd), 0)
    ram.close()


# ---- PVH -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0x10_0000, 0x8_0000], ids=["at 1 MiB", "where the info would be"])
def test_pvh_start_info(at: int, ram: GuestRam) -> None:
    data = memoryview(images.pvh_elf(CODE, at))
    state = pvh.load(ram, data, "hello", b"module", rsdp=0xE_0000)
    info = state.regs.rbx
    assert ram.read(at, len(CODE)) == CODE
    assert (state.regs.rip, state.cs.db, state.cs.long, state.cr0) == (at, True, False, 0x11)
    fields = struct.unpack("<IIIIQQQQII", ram.read(info, 56))
    magic, version, flags, modules, modlist, cmdline, rsdp, memmap, rows, _ = fields
    assert (magic, version, flags, modules, rsdp) == (0x336EC578, 1, 0, 1, 0xE_0000)
    assert ram.read(cmdline, 6) == b"hello\0"
    start, size, _, _ = struct.unpack("<QQQQ", ram.read(modlist, 32))
    assert ram.read(start, size) == b"module"
    first = struct.unpack("<QQII", ram.read(memmap, 24))
    assert first == (0, 0x9_FC00, 1, 0)
    assert rows == 5
    assert u64(ram, state.gdt.base + 0x10) == cpu.CODE32


# ---- multiboot -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "cmdline", "info_low"),
    [
        pytest.param(0x10_0000, "image a b", True, id="image at 1 MiB"),
        pytest.param(0x40_0000, "image a b", True, id="image at 4 MiB"),
        pytest.param(0x9_F000, "image a b", False, id="image where the info would be"),
        pytest.param(0x10_0000, "image " + "x" * 4000, False, id="long command line"),
    ],
)
@pytest.mark.parametrize("module", [None, b"", b"NR_CPUS=2\n"], ids=["none", "empty", "module"])
def test_multiboot_information(
    at: int, cmdline: str, info_low: bool, module: bytes | None, ram: GuestRam
) -> None:
    ram.write(0, b"\xaa" * 4096)
    data = memoryview(images.multiboot_elf(CODE, at, bss=0x3000))
    state = multiboot.load(ram, data, cmdline, module)
    info = state.regs.rbx
    assert (state.regs.rax, state.regs.rip) == (0x2BADB002, at + 12)
    assert ram.read(at + 12, len(CODE)) == CODE
    assert (info == 0x9_F000) is info_low
    assert info >= 0x9_F000
    page = bytearray(b"\xaa" * 4096)  # other CPUs' code and the IDT go there
    for where, word in ((0x400, 0x3F8), (0x40E, 0x9FC0), (0x413, 639)):
        page[where : where + 2] = word.to_bytes(2, "little")
    assert ram.read(0, 4096) == page
    flags, lower, upper = struct.unpack("<III", ram.read(info, 12))
    assert (flags & 0x4D, lower, upper) == (0x4D, 639, 63 * 1024)
    text, modules, mods_at = struct.unpack("<III", ram.read(info + 16, 12))
    assert ram.read(text, len(cmdline) + 1) == cmdline.encode() + b"\0"
    assert modules == (0 if module is None else 1)
    end_of_image = at + 12 + len(CODE) + 0x3000
    if module is not None:
        start, end = struct.unpack("<II", ram.read(mods_at, 8))
        assert (start % 4096, ram.read(start, end - start)) == (0, module)
        assert start >= end_of_image
    length, rows = struct.unpack("<II", ram.read(info + 44, 8))
    first = struct.unpack("<IQQI", ram.read(rows, 24))
    assert (first, length % 24) == ((20, 0, 0x9_FC00, 1), 0)


def test_a_multiboot_image_in_page_0_keeps_it(ram: GuestRam) -> None:
    multiboot.load(ram, memoryview(images.multiboot_elf(CODE, 0)), "x")
    assert ram.read(12, len(CODE)) == CODE


def test_multiboot_flat_image_with_addresses(ram: GuestRam) -> None:
    base = 0x20_0000
    header = images.multiboot_header(1 << 16, base + 8, base, 0, base + 0x2000, base + 0x40)
    data = bytes(8) + header + CODE
    state = multiboot.load(ram, memoryview(data), "flat")
    assert ram.read(base, len(data)) == data
    assert state.regs.rip == base + 0x40


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(images.multiboot_elf(CODE, flags=0x100), "features 0x100", id="features"),
        pytest.param(images.multiboot_elf(CODE, 0x1000_0000), "more --memory|has not", id="far"),
        pytest.param(
            images.multiboot_header(1 << 16, 0, 0x10_0000, 0, 0, 0), "lie outside", id="addresses"
        ),
        pytest.param(
            images.elf([Part(0x10_0000, images.multiboot_header())], 0), "ELF32", id="ELF64"
        ),
        pytest.param(b"\x02\xb0\xad\x1b" + bytes(64), "no multiboot header", id="checksum"),
    ],
)
def test_bad_multiboot_images(data: bytes, says: str, ram: GuestRam) -> None:
    with pytest.raises(ConfigError, match=says):
        multiboot.load(ram, memoryview(data), "x")
