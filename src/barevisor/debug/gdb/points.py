"""A client's breakpoints and watchpoints (packets Z and z), and how a stop at one is told."""

from __future__ import annotations

from collections.abc import Collection

from barevisor.cpu.engine import Breakpoint, DebugStop, GuestDebug, Watchpoint
from barevisor.debug.gdb.packets import PacketError, numbers
from barevisor.debug.target import Stopped

SIGINT, SIGTRAP, SIGABRT, SIGSEGV = 2, 5, 6, 11
ENOSPC = 28
POINTS_MAX = 1024
WATCH_MAX = 4096
"""Bytes that one watchpoint may watch."""
KINDS = (b"0", b"1", b"2", b"3", b"4")
WATCH = {2: "write", 3: "read", 4: "access"}
WORDS = {2: b"watch", 3: b"rwatch", 4: b"awatch"}


class Points:
    """What the client has set: (kind, address, size), in the order it was set."""

    def __init__(self) -> None:
        self._set: dict[tuple[int, int, int], None] = {}

    def copy(self) -> Points:
        """One that changes on its own."""
        made = Points()
        made._set = dict(self._set)
        return made

    def insert(self, text: bytes) -> None:
        """KIND,ADDRESS,SIZE; what follows a ";" is for servers that said that they know it.
        Raises PacketError."""
        key = _read(text)
        if len(self._set) >= POINTS_MAX:
            raise PacketError(ENOSPC)
        self._set[key] = None

    def remove(self, text: bytes) -> None:
        """One that is not set is no error: the client may have lost count. Raises PacketError."""
        self._set.pop(_read(text), None)

    def wanted(self) -> GuestDebug:
        """All of them, as an engine takes them."""
        breaks = tuple(Breakpoint(at, kind == 1) for kind, at, _ in self._set if kind < 2)
        watches = tuple(
            Watchpoint(at, size, WATCH[kind])  # type: ignore[arg-type]
            for kind, at, size in self._set
            if kind >= 2
        )
        return GuestDebug(breaks, watches)

    def reply(self, stop: Stopped, says: Collection[bytes]) -> bytes:
        """T: the signal, the thread, and why, in words that the client says it knows."""
        thread = b"thread:%x;" % (stop.cpu + 1)
        match stop.why:
            case DebugStop("breakpoint", address):
                soft = any(kind == 0 and at == address for kind, at, _ in self._set)
                word = b"swbreak" if soft else b"hwbreak"
                return b"T%02x" % SIGTRAP + thread + (word + b":;" if word in says else b"")
            case DebugStop("watch", address):
                kind = next(kind for kind, at, _ in self._set if kind >= 2 and at == address)
                return b"T%02x" % SIGTRAP + thread + b"%s:%x;" % (WORDS[kind], address)
            case DebugStop():
                return b"T%02x" % SIGTRAP + thread
        return b"T%02x" % SIGSEGV + thread


def _read(text: bytes) -> tuple[int, int, int]:
    kind, address, size = numbers(text.split(b";")[0], count=3)
    if kind > 4 or (kind >= 2 and not 0 < size <= WATCH_MAX):
        raise PacketError
    return kind, address, size
