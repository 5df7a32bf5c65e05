"""bzImage: the setup header, and the compressed kernel inside.

Source: Linux, Documentation/arch/x86/boot.rst.

The host unpacks the kernel, so the guest skips its own decompressor. An unpacked kernel is
kept in the user's cache folder in a form that needs no work to load (see cache.py).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from barevisor.errors import ConfigError
from barevisor.records import NamedTuple

HEADER_START, HEADER_END_AT = 0x1F1, 0x201
HEADER_LIMIT = 0x290
"""End of the header's place in struct boot_params."""
PROTOCOL_MIN = 0x20C
"""2.12 (Linux 3.8): xloadflags, which says that there is a 64-bit entry."""
XLF_KERNEL_64 = 1
ENTRY_64 = 0x200
"""Where it is in the part behind the setup code."""
MAX_KERNEL = 1 << 29
LZ4_CHUNK = 8 << 20
"""What the kernel build's `lz4 -l` compresses at a time (the legacy frame format)."""


class SetupHeader(NamedTuple):
    """The fields a loader needs, and `raw`, which goes into boot_params at HEADER_START. Without a
    payload (size 0) nothing is compressed: `payload_at` is where the whole begins."""

    raw: bytes
    payload_at: int
    payload_size: int
    cmdline_limit: int
    initrd_max: int
    init_size: int
    preferred: int


def parse_header(data: memoryview) -> SetupHeader:
    """Raises ConfigError: not a bzImage, too old, 32-bit, truncated."""
    if len(data) < HEADER_LIMIT or bytes(data[0x202:0x206]) != b"HdrS":
        raise ConfigError("not a bzImage, or truncated")
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    if protocol < PROTOCOL_MIN:
        raise ConfigError(f"boot protocol {protocol >> 8}.{protocol & 0xFF} is too old",
                          "use a kernel of version 3.8 or newer")  # fmt: skip
    (xloadflags,) = struct.unpack_from("<H", data, 0x236)
    if not xloadflags & XLF_KERNEL_64:
        raise ConfigError("a 32-bit kernel", "give an x86-64 kernel")
    setup_size = ((data[HEADER_START] or 4) + 1) * 512
    (paragraphs,) = struct.unpack_from("<I", data, 0x1F4)
    offset, size = struct.unpack_from("<II", data, 0x248)
    at = setup_size + offset
    if setup_size + 16 * paragraphs > len(data) + 15 or at + size > len(data):
        raise ConfigError("the bzImage is truncated", "fetch it again")
    end = min(0x202 + data[HEADER_END_AT], HEADER_LIMIT)
    return SetupHeader(
        raw=bytes(data[HEADER_START:end]),
        payload_at=at,
        payload_size=size,
        cmdline_limit=struct.unpack_from("<I", data, 0x238)[0],
        initrd_max=struct.unpack_from("<I", data, 0x22C)[0],
        init_size=struct.unpack_from("<I", data, 0x260)[0],
        preferred=struct.unpack_from("<Q", data, 0x258)[0],
    )


def unpack(data: memoryview, header: SetupHeader) -> bytes:
    """The vmlinux inside. Raises ConfigError: unknown compression, damaged, too large."""
    payload = data[header.payload_at : header.payload_at + header.payload_size]
    head = bytes(payload[:8])
    known = next((row for row in FORMATS if head.startswith(row[0])), None)
    if known is None:
        raise ConfigError(f"the kernel is compressed in an unknown way ({head[:4].hex()})",
                          "gzip, xz, lzma, bzip2, lz4 and zstd are known")  # fmt: skip
    _, name, expand = known
    # Every build appends the unpacked size (gzip has it in its own last four bytes).
    (size,) = struct.unpack("<I", payload[-4:])
    if not 0 < size <= MAX_KERNEL:
        raise ConfigError(f"the bzImage says it unpacks to {size} bytes: damaged")
    try:
        kernel = expand(payload, size)
    except (zlib.error, OSError, ValueError, EOFError, RuntimeError) as e:
        raise ConfigError(f"the kernel inside the bzImage is damaged: {name}: {e}",
                          "fetch it again") from e  # fmt: skip
    if len(kernel) != size:
        raise ConfigError(
            f"the kernel inside the bzImage is damaged: {len(kernel)} bytes of {size}",
            "fetch it again",
        )
    return kernel


def _gzip(payload: memoryview, size: int) -> bytes:
    return zlib.decompressobj(31).decompress(payload, size)


def _xz(payload: memoryview, size: int) -> bytes:
    """Also the older .lzma; the x86 filter is part of the format."""
    import lzma  # here, and below: only a kernel that needs it pays for the import

    try:
        return lzma.LZMADecompressor().decompress(bytes(payload), size)
    except lzma.LZMAError as e:
        raise ValueError(e) from e


def _bzip2(payload: memoryview, size: int) -> bytes:
    import bz2

    return bz2.BZ2Decompressor().decompress(bytes(payload), size)


def _zstd(payload: memoryview, size: int) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(payload) as reader:
            return bytes(reader.read(size))
    except zstandard.ZstdError as e:
        raise ValueError(e) from e


def _lz4(payload: memoryview, size: int) -> bytes:
    import lz4.block  # type: ignore[import-untyped]

    parts: list[bytes] = []
    at, left = 4, size
    while left:
        length = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        if not length or at + length > len(payload):
            raise ValueError(f"a block of {length} bytes at {at}")
        room = min(LZ4_CHUNK, left)
        try:
            part = lz4.block.decompress(payload[at : at + length], uncompressed_size=room)
        except lz4.block.LZ4BlockError as e:
            raise ValueError(e) from e
        if not part:
            raise ValueError(f"an empty block at {at}")
        parts.append(part)
        at, left = at + length, left - len(part)
    return b"".join(parts)


FORMATS: tuple[tuple[bytes, str, Callable[[memoryview, int], bytes]], ...] = (
    (b"\x02\x21\x4c\x18", "lz4", _lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\0", "xz", _xz),
    (b"\x5d\0\0", "lzma", _xz),
    (b"BZh", "bzip2", _bzip2),
)
