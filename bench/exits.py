"""Where a guest's time goes outside the engine: exits, doorbells, interrupts, virtio-fs requests.

    python bench/exits.py [--json] [COMMAND...]        (default: true)

Boots and runs COMMAND with counting wrappers around the engine's contract. The time of an exit is
from when `run` returned it to the next `run`. "engine" is processor time inside `run`, less
the doorbells that rang there; "asleep or waiting" is the rest of its wall time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from _common import checked, guest_run, machine_facts, our_guest

from barevisor.assembly import LinuxGuest
from barevisor.board.machine import Machine
from barevisor.cpu.engine import (
    Engine,
    EngineVm,
    Exit,
    MachineSpec,
    MmioRead,
    MmioWrite,
    PioRead,
    PioWrite,
    Vcpu,
)
from barevisor.cpu.select import select
from barevisor.devices.virtio.fuse import changes, server
from barevisor.devices.virtio.fuse.abi import Op

Key = tuple[str, int]


@dataclass(slots=True)
class Tally:
    """Counts and seconds by key, and the sums of `run`."""

    counts: Counter[Key] = field(default_factory=Counter)
    seconds: Counter[Key] = field(default_factory=Counter)
    wall: float = 0.0
    processor: float = 0.0

    def add(self, key: Key, seconds: float) -> None:
        self.counts[key] += 1
        self.seconds[key] += seconds  # type: ignore[assignment]

    def timed(self, key: Key, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, counted."""

        def wrapper(*arguments: object) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.add(key, time.perf_counter() - start)

        return wrapper


def key_of(exit: Exit) -> Key:
    """What to count it under."""
    match exit:
        case PioRead(port) | PioWrite(port):
            return type(exit).__name__, port
        case MmioRead(gpa) | MmioWrite(gpa):
            return type(exit).__name__, gpa
    return type(exit).__name__, -1


class CountingVcpu:
    """A vCPU whose exits are counted."""

    def __init__(self, vcpu: Vcpu, tally: Tally) -> None:
        self._vcpu, self._tally = vcpu, tally
        self._last: tuple[Key, float] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._vcpu, name)

    def run(self) -> Exit:
        tally, start = self._tally, time.perf_counter()
        if self._last is not None:
            tally.add(self._last[0], start - self._last[1])
        used = time.thread_time()
        exit = self._vcpu.run()
        tally.processor += time.thread_time() - used
        end = time.perf_counter()
        tally.wall += end - start
        self._last = key_of(exit), end
        return exit


class CountingVm:
    """An EngineVm whose vCPUs, doorbells and interrupts are counted."""

    def __init__(self, vm: EngineVm, tally: Tally) -> None:
        self._vm, self._tally = vm, tally
        self.signal_msi = tally.timed(("message-signalled interrupt", -1), vm.signal_msi)
        self.memory_written = tally.timed(("memory_written", -1), vm.memory_written)

    def __getattr__(self, name: str) -> object:
        return getattr(self._vm, name)

    def create_vcpu(self, index: int) -> CountingVcpu:
        return CountingVcpu(self._vm.create_vcpu(index), self._tally)

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        self._vm.add_doorbell(gpa, size, self._tally.timed(("doorbell", gpa), on_write))

    def irq_line(self, gsi: int, level: bool) -> None:
        self._tally.add(("interrupt line", gsi), 0.0)
        self._vm.irq_line(gsi, level)


class CountingEngine:
    """The contract's Engine around another."""

    def __init__(self, engine: Engine, tally: Tally) -> None:
        self._engine, self._tally, self.name = engine, tally, engine.name

    def probe(self) -> str:
        return self._engine.probe()

    def create_vm(self, spec: MachineSpec) -> CountingVm:
        return CountingVm(self._engine.create_vm(spec), self._tally)


def count_requests(tally: Tally) -> None:
    """Wrap every virtio-fs operation."""
    for table in (server.READING, changes.CHANGING):
        for op, row in list(table.items()):
            handler = tally.timed((f"virtio-fs {Op(op).name}", -1), row.handler)
            table[op] = replace(row, handler=handler)


def name_of(machine: Machine, key: Key) -> str:
    """With the device at that port or address."""
    kind, at = key
    if at < 0:
        return kind
    bus = machine.ports if kind.startswith("Pio") else machine.memory
    window = bus.find(at) if kind.startswith(("Pio", "Mmio", "doorbell")) else None
    owner = "nobody" if window is None else window.name
    return f"{kind} {at:#x}" + (f" ({owner})" if not kind.startswith("interrupt") else "")


def table(machine: Machine, tally: Tally, total: float) -> list[dict[str, object]]:
    """Rows of name, count and milliseconds, the dearest first."""
    bells = sum(s for key, s in tally.seconds.items() if key[0] == "doorbell")
    outside = sum(s for k, s in tally.seconds.items() if k[0][:3] in ("Pio", "Mmi", "Int", "Hal"))
    sums = [
        ("total", 0, total),
        ("engine", 0, tally.processor - bells),
        ("asleep or waiting for a processor", 0, tally.wall - tally.processor),
        ("exits answered in Python", 0, outside),
        ("doorbells answered in Python", 0, bells),
    ]
    rows = [(name_of(machine, key), tally.counts[key], s) for key, s in tally.seconds.items()]
    rows.sort(key=lambda row: -row[2])
    return [{"name": n, "count": c, "ms": round(s * 1000, 3)} for n, c, s in sums + rows]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", default="bt", choices=("bt", "kvm"))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    tally = Tally()
    count_requests(tally)
    begun = 0.0

    def prepare(guest: LinuxGuest) -> None:
        nonlocal begun
        begun = time.perf_counter()

    engine = CountingEngine(select(arguments.engine)[0], tally)
    words = arguments.command or ["true"]
    with our_guest(engine, prepare) as guest:  # type: ignore[arg-type]
        checked(guest_run(guest.client, words))
        total = time.perf_counter() - begun
        rows = table(guest.machine, tally, total)
        million = sum(vcpu.instructions() for vcpu in guest.machine.vcpus) / 1e6
    if arguments.json:
        print(json.dumps({"rows": rows, "million": million, "machine": machine_facts()}, indent=1))
        return 0
    for row in rows:
        print(f"{row['ms']:>11.1f} ms {row['count']:>8}  {row['name']}")
    print(f"{million:.0f} million guest instructions counted (BAREVISOR_BT=interpret counts all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
