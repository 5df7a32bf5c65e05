"""Packets of the remote protocol: framing, escapes, checksums (gdb manual, "Overview").

The client may send anything: a packet has a size that we chose, numbers have at most 64 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PACKET_SIZE = 0x4000
"""Of a packet's text, announced to the client."""
INTERRUPT = 0x03
ESCAPE = 0x7D
ESCAPED = re.compile(rb"[#$}*]")
HEX = re.compile(rb"[0-9a-fA-F]{1,16}")


class ProtocolError(Exception):
    """The client's bytes are not the protocol: nothing to do but to hang up."""


class PacketError(Exception):
    """One packet makes no sense, or asks for what cannot be done: the answer is E and `code`."""

    def __init__(self, code: int = 22) -> None:  # EINVAL
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet's text, escapes undone. `sound`: its checksum was right."""

    text: bytes
    sound: bool = True


Token = Packet | Literal["interrupt", "ack", "nack"]


class Framer:
    """Bytes of a stream in, tokens out."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[Token]:
        """What `data` completes. Raises ProtocolError for a packet that is too long."""
        self._kept += data
        while self._kept:
            first = self._kept[0]
            if first == ord("$"):
                packet = self._packet()
                if packet is None:
                    return
                yield packet
                continue
            del self._kept[0]
            if first == INTERRUPT:
                yield "interrupt"
            elif first == ord("+"):
                yield "ack"
            elif first == ord("-"):
                yield "nack"
            # Anything else between packets is noise, as on the serial lines it was made for.

    def _packet(self) -> Packet | None:
        """The packet at the start of what is kept, once all of it is here."""
        end = self._kept.find(b"#", 1, PACKET_SIZE + 2)
        if end < 0:
            if len(self._kept) > PACKET_SIZE + 1:
                raise ProtocolError(f"a packet of over {PACKET_SIZE} bytes")
            return None
        if len(self._kept) < end + 3:
            return None
        raw = bytes(self._kept[1:end])
        given = bytes(self._kept[end + 1 : end + 3])
        del self._kept[: end + 3]
        sound = HEX.fullmatch(given) is not None and int(given, 16) == sum(raw) & 0xFF
        return Packet(unescape(raw), sound)


def unescape(raw: bytes) -> bytes:
    """ "}" and a byte xor 0x20; a "}" at the very end stands for itself."""
    if ESCAPE not in raw:
        return raw
    return re.sub(rb"}(.)", lambda m: bytes([m[1][0] ^ 0x20]), raw, flags=re.DOTALL)


def escape(text: bytes) -> bytes:
    """The reverse; "*" too, which would mean a run of bytes."""
    return ESCAPED.sub(lambda m: bytes([ESCAPE, m[0][0] ^ 0x20]), text)


def encode(text: bytes) -> bytes:
    """A packet with this text."""
    body = escape(text)
    return b"$%s#%02x" % (body, sum(body) & 0xFF)


def number(text: bytes) -> int:
    """A hexadecimal number of at most 64 bits. Raises PacketError."""
    if HEX.fullmatch(text) is None:
        raise PacketError
    return int(text, 16)


def numbers(text: bytes, separator: bytes = b",", count: int = 2) -> list[int]:
    """Exactly `count` numbers. Raises PacketError."""
    parts = text.split(separator)
    if len(parts) != count:
        raise PacketError
    return [number(part) for part in parts]


def unhex(text: bytes) -> bytes:
    """Bytes of pairs of digits. Raises PacketError."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise PacketError from None
