"""Exits counted and timed by kind and device, for `--stats`. Nothing here runs without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from barevisor.cpu.engine import Exit, MmioRead, MmioWrite, PioRead, PioWrite, Vcpu
from barevisor.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from barevisor.board.bus import Bus

KINDS: dict[type, str] = {
    PioRead: "port read", PioWrite: "port write", MmioRead: "mmio read", MmioWrite: "mmio write",
}  # fmt: skip
LIMIT = 4096
"""Places that are told apart; a guest that touches more of them cannot make us grow."""
OTHERS = -2
NOWHERE = -1

Key = tuple[str, int]


class Row(NamedTuple):
    """What happened `times` times and took `seconds` of Python in all. `where`: its device."""

    kind: str
    where: str
    times: int
    seconds: float


class Report(NamedTuple):
    """`exits`: those that reached Python, the dearest first; `calls`: doorbells and interrupts,
    which need no exit on every engine. `inside`: seconds in the engine, over all vCPUs.
    `engine`: what the engine counted itself, by its own names."""

    exits: tuple[Row, ...]
    calls: tuple[Row, ...]
    inside: float
    engine: Mapping[str, int]

    @property
    def total(self) -> int:
        """Exits that reached Python."""
        return sum(row.times for row in self.exits)


class Tally:
    """Counts and seconds by key. One thread, or under the caller's lock."""

    def __init__(self) -> None:
        self.cells: dict[Key, list[float]] = {}

    def add(self, key: Key, seconds: float) -> None:
        cell = self.cells.get(key)
        if cell is None:
            if len(self.cells) >= LIMIT:
                key = (key[0], OTHERS)
            cell = self.cells.setdefault(key, [0, 0.0])
        cell[0] += 1
        cell[1] += seconds


class CountedVcpu:
    """A vCPU whose exits are counted; an exit's time is from its return to the next `run`."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu, self._run = vcpu, vcpu.run
        self.tally = Tally()
        self.inside = 0.0
        self._last: Key | None = None
        self._since = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vcpu, name)

    def run(self) -> Exit:
        """See Vcpu.run."""
        start = time.perf_counter()
        if self._last is not None:
            self.tally.add(self._last, start - self._since)
        done = self._run()
        self._since = end = time.perf_counter()
        self.inside += end - start
        self._last = _key(done)
        return done


def _key(done: Exit) -> Key:
    match done:
        case PioRead(port) | PioWrite(port):
            return KINDS[type(done)], port
        case MmioRead(gpa) | MmioWrite(gpa):
            return KINDS[type(done)], gpa
    return type(done).__name__.lower(), NOWHERE


class Stats:
    """The statistics of one machine."""

    def __init__(self) -> None:
        self._vcpus: list[CountedVcpu] = []
        self._calls = Tally()
        self._lock = threading.Lock()

    def vcpu(self, vcpu: Vcpu) -> Vcpu:
        """`vcpu`, counted."""
        counted = CountedVcpu(vcpu)
        self._vcpus.append(counted)
        return counted

    def timed(
        self, kind: str, call: Callable[..., None], where: int = NOWHERE
    ) -> Callable[..., None]:
        """`call`, counted."""

        def wrapper(*arguments: Any) -> None:
            start = time.perf_counter()
            try:
                call(*arguments)
            finally:
                took = time.perf_counter() - start
                with self._lock:
                    self._calls.add((kind, where), took)

        return wrapper

    def report(self, ports: Bus, memory: Bus, engine: Mapping[str, int]) -> Report:
        """All of it. Call when no vCPU runs."""
        exits: dict[tuple[str, str], list[float]] = {}
        for vcpu in self._vcpus:
            _merge(exits, vcpu.tally, ports, memory)
        calls: dict[tuple[str, str], list[float]] = {}
        with self._lock:
            _merge(calls, self._calls, ports, memory)
        inside = sum(vcpu.inside for vcpu in self._vcpus)
        return Report(_rows(exits), _rows(calls), inside, engine)


def _merge(into: dict[tuple[str, str], list[float]], tally: Tally, ports: Bus, memory: Bus) -> None:
    for (kind, at), (count, seconds) in tally.cells.items():
        cell = into.setdefault((kind, _owner(kind, at, ports, memory)), [0, 0.0])
        cell[0] += count
        cell[1] += seconds


def _owner(kind: str, at: int, ports: Bus, memory: Bus) -> str:
    """The device at a port or address."""
    if at == NOWHERE:
        return ""
    if at == OTHERS:
        return "others"
    window = (ports if kind.startswith("port") else memory).find(at)
    return window.name if window is not None else "nobody"


def _rows(cells: dict[tuple[str, str], list[float]]) -> tuple[Row, ...]:
    rows = [Row(kind, where, int(n), seconds) for (kind, where), (n, seconds) in cells.items()]
    return tuple(sorted(rows, key=lambda row: -row.seconds))
