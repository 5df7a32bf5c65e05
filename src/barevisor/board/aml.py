"""AML, the byte code of ACPI: the few terms that our DSDT needs (ACPI 6.5, chapter 20.2).

Every function returns the term's bytes, so a table is an expression.
"""

from __future__ import annotations

import struct

ZERO, ONE = b"\0", b"\1"
EDGE, ACTIVE_LOW = 0x02, 0x04
MEMORY, IO, BUS_NUMBER = 0, 1, 2


def package_length(body: bytes) -> bytes:
    """PkgLength (20.2.4) of `body`: it counts its own bytes."""
    if len(body) + 1 < 1 << 6:
        return bytes((len(body) + 1,))
    for extra in (1, 2, 3):
        total = len(body) + 1 + extra
        if total < 1 << 4 + 8 * extra:
            return bytes((extra << 6 | total & 0xF,)) + (total >> 4).to_bytes(extra, "little")
    raise ValueError(f"{len(body)} bytes do not fit into an AML package")


def segment(name: str) -> bytes:
    """A NameSeg, padded; a leading backslash makes it a root name (20.2.2)."""
    root = name.startswith("\\")
    plain = name.lstrip("\\")
    if not 0 < len(plain) <= 4:
        raise ValueError(f"{name!r} is no AML name segment")
    return b"\\" * root + plain.ljust(4, "_").encode("ascii")


def integer(value: int) -> bytes:
    """The shortest constant (20.2.3)."""
    if value < 2:
        return bytes((value,))
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << 8 * size:
            return bytes((prefix,)) + value.to_bytes(size, "little")
    raise ValueError(f"{value:#x} does not fit into 64 bits")


def string(text: str) -> bytes:
    """An ASCII string."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(name: str) -> bytes:
    """`PNP0501` as the 32-bit integer that _HID holds (19.3.4, EISAID)."""
    letters = [ord(c) - 0x40 for c in name[:3]]
    packed = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(name[3:], 16)
    return b"\x0c" + packed.to_bytes(4, "big")


def name(target: str, value: bytes) -> bytes:
    """Name (target, value)."""
    return b"\x08" + segment(target) + value


def _block(opcode: bytes, body: bytes) -> bytes:
    return opcode + package_length(body) + body


def scope(target: str, *terms: bytes) -> bytes:
    """Scope (target) { terms }."""
    return _block(b"\x10", segment(target) + b"".join(terms))


def device(target: str, *terms: bytes) -> bytes:
    """Device (target) { terms }."""
    return _block(b"\x5b\x82", segment(target) + b"".join(terms))


def method(target: str, *terms: bytes) -> bytes:
    """Method (target, 0, NotSerialized) { terms }."""
    return _block(b"\x14", segment(target) + ZERO + b"".join(terms))


def package(*elements: bytes) -> bytes:
    """Package () { elements }; at most 255."""
    return _block(b"\x12", bytes((len(elements),)) + b"".join(elements))


def buffer(data: bytes) -> bytes:
    """Buffer () { data }."""
    return _block(b"\x11", integer(len(data)) + data)


def give(value: bytes) -> bytes:
    """Return (value)."""
    return b"\xa4" + value


# ---- resource descriptors (6.4) ----------------------------------------------------------


def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate () { descriptors }; a zero checksum in the end tag is always valid."""
    return buffer(b"".join(descriptors) + b"\x79\0")


def io(base: int, size: int) -> bytes:
    """IO (Decode16, base, base, 1, size)."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, size)


def irq(line: int) -> bytes:
    """IRQNoFlags () {line}: ISA's edge-triggered, active high, not shared."""
    return struct.pack("<BH", 0x22, 1 << line)


def memory32(base: int, size: int) -> bytes:
    """Memory32Fixed (ReadWrite, base, size)."""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def window(kind: int, base: int, size: int) -> bytes:
    """A range that a bridge passes on (6.4.3.5), in the narrowest address space descriptor.

    Position decoding, fixed minimum and maximum, produced for the devices below."""
    end = base + size
    if kind == BUS_NUMBER:
        tag, code = 0x88, "H"
    elif end <= 1 << 32:
        tag, code = 0x87, "I"
    else:
        tag, code = 0x8A, "Q"
    values = struct.pack(f"<5{code}", 0, base, end - 1, 0, size)
    writable = 1 if kind == MEMORY else 0
    body = struct.pack("<BBB", kind, 0x0C, writable) + values
    return struct.pack("<BH", tag, len(body)) + body
