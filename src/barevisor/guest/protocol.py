"""The agent protocol: frames over one byte stream between the host and the guest's init.

The words are in guest/init/wire.py, which the guest's side is compiled from. This file is the
host's side of the framing; the guest is hostile, so every frame is checked against a row of
FROM_GUEST before anything else sees it, and nothing larger than one frame is ever kept.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence

from barevisor.errors import ConfigError, GuestError
from barevisor.guest.init import wire
from barevisor.records import NamedTuple

HEADER = struct.Struct("<IHHI")
HELLO = struct.Struct("<IIQQ")
SPAWN_HEAD = struct.Struct("<HHIIII")
NUMBER = struct.Struct("<I")
FAILED = struct.Struct("<II")
WINDOW = struct.Struct("<HH")
assert HEADER.size == wire.HEADER
assert SPAWN_HEAD.size == wire.SPAWN_HEAD

OUTPUTS = (wire.STDOUT, wire.STDERR)
ANY = range(wire.MAX_PAYLOAD + 1)


class Rule(NamedTuple):
    """What a kind of frame may look like: payload sizes, flags, and whether it has an id."""

    name: str
    sizes: range
    flags: tuple[int, ...] = (0,)
    has_id: bool = True


def _exactly(size: int) -> range:
    return range(size, size + 1)


FROM_GUEST = {
    wire.HELLO: Rule("HELLO", _exactly(HELLO.size), has_id=False),
    wire.SPAWNED: Rule("SPAWNED", _exactly(4)),
    wire.SPAWN_FAILED: Rule("SPAWN_FAILED", _exactly(8)),
    wire.DATA: Rule("DATA", ANY, OUTPUTS),
    wire.CREDIT: Rule("CREDIT", _exactly(4), (wire.STDIN,)),
    wire.CLOSE: Rule("CLOSE", _exactly(0), (wire.STDIN,)),
    wire.EXIT: Rule("EXIT", _exactly(4)),
    wire.DRAINED: Rule("DRAINED", _exactly(0)),
    wire.DONE: Rule("DONE", _exactly(0)),
    wire.SYNC: Rule("SYNC", _exactly(0), has_id=False),
}


class Frame(NamedTuple):
    """One frame from the guest that keeps its rule."""

    kind: int
    flags: int
    id: int
    payload: bytes

    def number(self) -> int:
        """The payload of a frame whose rule says four bytes."""
        return int(NUMBER.unpack(self.payload)[0])


def encode(kind: int, flags: int = 0, id: int = 0, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return HEADER.pack(len(payload), kind, flags, id) + payload


class Decoder:
    """Cuts a byte stream into frames. Keeps less than one frame between calls."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises GuestError at the first that breaks a rule."""
        self._kept += data
        at = 0
        try:
            while len(self._kept) - at >= HEADER.size:
                length, kind, flags, id = HEADER.unpack_from(self._kept, at)
                check(length, kind, flags, id)  # before waiting for a payload that never ends
                end = at + HEADER.size + length
                if end > len(self._kept):
                    return
                payload = bytes(self._kept[at + HEADER.size : end])
                at = end
                yield Frame(kind, flags, id, payload)
        finally:
            del self._kept[:at]


def check(length: int, kind: int, flags: int, id: int) -> None:
    """Raise GuestError unless the header keeps its rule."""
    rule = FROM_GUEST.get(kind)
    if rule is None:
        raise GuestError(f"the guest's agent sent an unknown frame {kind}")
    if length not in rule.sizes or flags not in rule.flags or rule.has_id != (id != 0):
        raise GuestError(
            f"the guest's agent sent a bad {rule.name} frame: "
            f"{length} bytes, flags {flags:#x}, id {id}"
        )


def spawn_request(
    argv: Sequence[str | bytes],
    env: Mapping[str, str],
    cwd: str,
    *,
    rows: int = 0,
    columns: int = 0,
    uid: int = wire.KEEP_ID,
    gid: int = wire.KEEP_ID,
) -> bytes:
    """The payload of SPAWN. Raises ConfigError when it is too large or has a NUL byte."""
    words = [os.fsencode(word) for word in argv]
    variables = [os.fsencode(f"{name}={value}") for name, value in env.items()]
    strings = [os.fsencode(cwd), *words, *variables]
    if not words:
        raise ConfigError("no command given")
    if any(b"\0" in string for string in strings):
        raise ConfigError("the command, its environment or its folder contains a NUL byte")
    head = SPAWN_HEAD.pack(rows & 0xFFFF, columns & 0xFFFF, uid, gid, len(words), len(variables))
    payload = head + b"".join(string + b"\0" for string in strings)
    if len(payload) > wire.MAX_PAYLOAD or len(strings) > wire.MAX_STRINGS:
        raise ConfigError(
            f"the command and its environment take {len(payload) >> 10} KiB, "
            f"more than {wire.MAX_PAYLOAD >> 10}"
        )
    return payload
