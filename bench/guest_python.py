"""What bench/cpu_bound.py runs in the guest's CPython: guest_python.py NAME ROUNDS.

Prints a checksum, which must be the same wherever it runs, and the nanoseconds that it took; the
start of the interpreter is not counted. The kinds are those of the pyperformance suite.
"""

from __future__ import annotations

import heapq
import json
import random
import re
import sys
import time
import zlib
from collections.abc import Callable

Body = tuple[list[float], list[float], float]


def nbody(rounds: int) -> float:
    """Floating point in lists."""
    bodies: list[Body] = [
        ([i * 1.5, i * i * 0.25, 3.0 - i], [0.1 * i, 0.2, -0.1 * i], 1.0 / (i + 1))
        for i in range(5)
    ]
    pairs = [(a, b) for i, a in enumerate(bodies) for b in bodies[i + 1 :]]
    for _ in range(rounds * 20):
        for (at, speed, mass), (other, other_speed, other_mass) in pairs:
            dx, dy, dz = at[0] - other[0], at[1] - other[1], at[2] - other[2]
            pull = 0.001 * (dx * dx + dy * dy + dz * dz + 0.001) ** -1.5
            for k, d in enumerate((dx, dy, dz)):
                speed[k] -= d * other_mass * pull
                other_speed[k] += d * mass * pull
        for at, speed, _ in bodies:
            for k in range(3):
                at[k] += 0.001 * speed[k]
    return round(bodies[0][0][0], 9)


class Task:
    """One of a small operating system's: methods, attributes, a linked queue."""

    def __init__(self, name: int, link: Task | None) -> None:
        self.name, self.link = name, link
        self.packets: list[int] = []
        self.handled = 0

    def wants_to_run(self) -> bool:
        return bool(self.packets)

    def run(self, tasks: dict[int, Task]) -> None:
        self.handled += self.handle(self.packets.pop(), tasks)

    def handle(self, packet: int, tasks: dict[int, Task]) -> int:
        raise NotImplementedError


class Worker(Task):
    def handle(self, packet: int, tasks: dict[int, Task]) -> int:
        tasks[packet % len(tasks)].packets.append(packet * 5 % 8191)
        return 1


class Device(Task):
    def handle(self, packet: int, tasks: dict[int, Task]) -> int:
        tasks[(packet + self.name) % len(tasks)].packets.append(packet + 1)
        return 2


def scheduler(rounds: int) -> int:
    """Objects and calls, as in richards."""
    tasks: dict[int, Task] = {}
    first: Task | None = None
    for name in range(12):
        first = tasks[name] = (Worker if name % 2 else Device)(name, first)
        first.packets.extend((name * 37 + 11, name))
    for _ in range(rounds * 15):
        task = first
        while task is not None:
            if task.wants_to_run():
                task.run(tasks)
            task = task.link
    return sum(task.handled * (name + 1) for name, task in tasks.items())


def documents(rounds: int) -> int:
    """json, there and back."""
    record = {
        "name": "a guest", "tags": ["x86", "virtio", "κόσμος"], "size": [1.5, 2, None, True],
        "nested": [{"id": i, "text": f"row {i}\n" * 3, "at": i / 7} for i in range(20)],
    }  # fmt: skip
    total = 0
    for i in range(rounds * 2):
        record["count"] = i
        text = json.dumps(record)
        total += len(text) + len(json.loads(text)["nested"])
    return total


def regexes(rounds: int) -> int:
    """The re module's matcher on mail headers and numbers."""
    lines = [f"From: user{i}@host{i * 7 % 13}.example.org  ({i * i}, {i}.5e-3)" for i in range(50)]
    mail = re.compile(r"(?P<user>[\w.]+)@(?:[a-z0-9]+\.)+(?:org|com)")
    numbers = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
    total = 0
    for _ in range(rounds):
        for line in lines:
            found = mail.search(line)
            total += len(found["user"]) if found else 0
            total += len(numbers.findall(line)) + len(re.sub(r"\s+", " ", line))
    return total


def sorting(rounds: int) -> int:
    """sorted() with keys, and a heap."""
    source = random.Random(3)
    values = [(source.random(), str(source.randrange(10_000))) for _ in range(800)]
    total = 0
    for i in range(rounds):
        ordered = sorted(values, key=lambda pair: (pair[1], pair[0]))
        heap: list[float] = []
        for value, _ in ordered[:150]:
            heapq.heappush(heap, value)
        total += int(ordered[i % 800][1]) + int(heapq.nsmallest(3, heap)[2] * 1000)
    return total


def dictionaries(rounds: int) -> int:
    """Words counted, grouped and looked up."""
    words = [f"{chr(97 + i * 7 % 26)}{i * i % 97}" for i in range(600)]
    total = 0
    for i in range(rounds * 2):
        counts: dict[str, int] = {}
        for word in words:
            counts[word] = counts.get(word, 0) + 1
        groups: dict[int, set[str]] = {}
        for word, count in counts.items():
            groups.setdefault(count, set()).add(word)
        total += sum(count * len(group) for count, group in groups.items()) + i
    return total


def strings(rounds: int) -> int:
    """Text split, joined, formatted, encoded."""
    text = "the quick brown fox jumps over the lazy dog, " * 12
    total = 0
    for i in range(rounds * 6):
        parts = text.replace("fox", f"fox {i:06d}").title().split()
        joined = "-".join(part.strip(",").upper() for part in parts)
        total += zlib.crc32(joined.encode()) & 0xFFFF
    return total


PROGRAMS: dict[str, Callable[[int], float]] = {
    "nbody": nbody, "scheduler": scheduler, "json": documents, "regex": regexes,
    "sort": sorting, "dict": dictionaries, "strings": strings,
}  # fmt: skip


def main(name: str, rounds: str) -> None:
    start = time.perf_counter_ns()
    result = PROGRAMS[name](int(rounds)) if int(rounds) else 0
    print(result, time.perf_counter_ns() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
