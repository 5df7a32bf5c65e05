"""A program at three places: in our guest, in QEMU's, and on the host.

Every program prints what it computed and the nanoseconds that it took by its own clock, so that
starting a guest, and a process in it, is not counted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from _common import (
    ENVIRONMENT,
    READY_SECONDS,
    Row,
    checked,
    geometric_mean,
    guest_run,
    median,
    our_guest,
    peer_guest,
    progress,
)

from barevisor.config import VmConfig
from barevisor.guest.agent import AgentClient

OURS, PEER, NATIVE = "bare", "qemu", "native"
FOLDER = Path(__file__).parent

Runner = Callable[[Sequence[str]], bytes]
"""A command to its stdout. Raises SystemExit when it fails."""


@dataclass(slots=True)
class Task:
    """A command that prints "result nanoseconds". Places must print the same `result`, unless
    it says something of the place. `seconds` are by place, one of each round."""

    name: str
    words: list[str]
    same: bool = True
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def at(self, place: str) -> float | None:
        found = self.seconds.get(place)
        return median(found) if found else None

    def row(self, bar: float | None = None) -> Row:
        """In seconds; `bar` is the most that ours / peer's may be."""
        ours, peer = self.at(OURS), self.at(PEER)
        assert ours is not None
        met = None if bar is None or peer is None else ours <= bar * peer
        text = "" if bar is None else f"<= {bar:.1f} x peer"
        return Row(self.name, ours, "s", peer, self.at(NATIVE), text, met)


def compiled(folder: Path, source: str) -> Path:
    """A program of this folder, by gcc -O2 as a distribution would."""
    program = folder / Path(source).stem
    subprocess.run(["gcc", "-O2", "-o", program, FOLDER / source, "-lm"], check=True)
    return program


def native(words: Sequence[str]) -> bytes:
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout


def inside(client: AgentClient) -> Runner:
    """In a guest, by its agent."""
    return lambda words: checked(guest_run(client, list(words))).stdout


@contextmanager
def places(
    engine: str, peer: bool, memory_mib: int = 512, machine: str = "q35"
) -> Iterator[dict[str, Runner]]:
    """Both guests, booted and idle, and the host."""
    with ExitStack() as stack:
        config = VmConfig(memory=memory_mib << 20)
        ours = stack.enter_context(our_guest(engine, config=config))
        found = {OURS: inside(ours.client)}
        if peer:
            other = stack.enter_context(peer_guest(machine, memory_mib))
            other.client.wait_ready(READY_SECONDS)
            found[PEER] = inside(other.client)
        yield {**found, NATIVE: native}


def measure(tasks: Sequence[Task], where: dict[str, Runner], rounds: int, warm: bool) -> None:
    """Fill in `seconds`, places in turn. With `warm`, each runs once before, uncounted, so that no
    file is read for the first time."""
    for task in tasks:
        for turn in range(-1 if warm else 0, rounds):
            printed = set()
            for place, run in where.items():
                result, took = run(task.words).split()
                printed.add(result)
                if turn >= 0:
                    task.seconds.setdefault(place, []).append(int(took) * 1e-9)
            if task.same and len(printed) != 1:
                raise SystemExit(f"{task.name} computed different results: {printed}")
        progress(f"  {task.name}: " + ", ".join(f"{p} {task.at(p):.3f} s" for p in where))


def mean_ratio(tasks: Sequence[Task], above: str, below: str) -> float | None:
    """Geometric mean of the times at one place over those at another; None without both."""
    ratios = []
    for task in tasks:
        dividend, divisor = task.at(above), task.at(below)
        if dividend is None or divisor is None:
            return None
        ratios.append(dividend / divisor)
    return geometric_mean(ratios)


def chosen(tasks: Sequence[Task], names: str) -> list[Task]:
    """Those that a list of words, with commas between them, names; all for an empty one. A
    word names each task that has it in its name."""
    words = [word for word in names.split(",") if word]
    found = [t for t in tasks if not words or any(word in t.name for word in words)]
    if not found:
        raise SystemExit(f"no task has any of {names!r} in its name")
    return found
