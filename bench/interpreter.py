"""Guest instructions a second on compiled code; own memory; an idle guest.

    python bench/interpreter.py [-n 5] [--million 200] [--idle 20] [--json]

Speed: guest_programs.c, compiled here with gcc -O2, runs in our guest, in QEMU's and natively. A
program's time is its own, on the clock of where it runs. Its instructions are the engine's own
count (Vcpu.instructions) over a run, less that of a run of no rounds: what the guest retired, its
kernel's ticks among them. With valgrind here, cachegrind counts the user instructions of the
same program to check that (its CPU is not ours, so the C library may take another path).

Memory: of a `bare run` process, all that is resident (smaps) but the guest's RAM. Idle: processor
time of a `bare run` process whose guest sleeps, over --idle seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from _common import (
    READY_SECONDS,
    Report,
    Row,
    bare,
    checked,
    guest_run,
    median,
    options,
    our_guest,
    peer_guest,
    peer_missing,
    progress,
)

from barevisor.guest.agent import AgentClient

PROGRAMS = ("integer", "sieve", "hash", "calls", "dispatch", "sort", "digest", "matrix")
SOURCE = Path(__file__).with_name("guest_programs.c")
SPEED_BAR, MEMORY_BAR, IDLE_BAR = 150.0, 150.0, 2.0
CHECK_ROUNDS = 20
RAM_BYTES = 512 << 20  # what `bare run` gives by default; no other mapping is as large
WORKLOAD = "python3 -c 'import json, decimal, re, asyncio' 2>/dev/null; ls -R /usr/lib | wc -l"

Runner = Callable[[str, int], bytes]
"""(program, rounds) to what it printed: the checksum, and the nanoseconds it took."""


@dataclass(slots=True)
class Speed:
    """Of one program: seconds by place, the engine's count, cachegrind's ratio to it."""

    name: str
    instructions: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    check: float | None = None

    def rate(self, place: str) -> float | None:
        """Million instructions a second, or None when it did not run there."""
        found = self.seconds.get(place)
        return self.instructions / median(found) / 1e6 if found else None


def compile_programs(folder: Path) -> Path:
    """With gcc -O2, as a distribution would."""
    program = folder / "guest_programs"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(SOURCE), "-lm"], check=True)
    return program


def cachegrind(program: Path, name: str, rounds: int) -> int:
    """User instructions of one run, by valgrind."""
    done = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
         str(program), name, str(rounds)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if found is None:
        raise SystemExit(f"valgrind said no count:\n{done.stderr}")
    return int(found[1].replace(",", ""))


def native(program: Path) -> Runner:
    def run(name: str, rounds: int) -> bytes:
        words = [str(program), name, str(rounds)]
        return subprocess.run(words, capture_output=True, check=True).stdout

    return run


def measure(
    program: Path, rounds: int, turns: int, places: dict[str, Runner], count: Callable[[], int]
) -> list[Speed]:
    """Every program at every place, in turn; all must print the same."""
    found = []
    for name in PROGRAMS:
        speed = Speed(name)
        counts = []
        for _ in range(turns):
            printed = set()
            for place, run in places.items():
                before = count()
                checksum, took = run(name, rounds).split()
                if place == "bare":
                    counts.append(count() - before)
                printed.add(checksum)
                speed.seconds.setdefault(place, []).append(int(took) * 1e-9)
            if len(printed) != 1:
                raise SystemExit(f"{name} computed different results: {printed}")
        speed.instructions = median([float(c) for c in counts])
        found.append(speed)
        progress(f"  {name}: " + ", ".join(f"{p} {speed.rate(p):.0f} M/s" for p in places))
    return found


def correct(speeds: list[Speed], overhead: dict[str, int]) -> None:
    """Take off what a run of no rounds executes."""
    for speed in speeds:
        speed.instructions -= overhead[speed.name]


def check(program: Path, run: Runner, count: Callable[[], int], speeds: list[Speed]) -> None:
    """The engine's count against cachegrind's, on small runs."""
    for speed in speeds:
        counts = []
        for rounds in (0, CHECK_ROUNDS):
            before = count()
            run(speed.name, rounds)
            counts.append(count() - before)
        theirs = cachegrind(program, speed.name, CHECK_ROUNDS) - cachegrind(program, speed.name, 0)
        speed.check = (counts[1] - counts[0]) / theirs


def speeds_of(engine: str, million: int, turns: int, peer: bool) -> list[Speed]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        program = compile_programs(Path(folder))
        guest = stack.enter_context(our_guest(engine))

        def count() -> int:
            return sum(vcpu.instructions() for vcpu in guest.machine.vcpus)

        def on(client: AgentClient) -> Runner:
            def run(name: str, rounds: int) -> bytes:
                words = [str(program), name, str(rounds)]
                return checked(guest_run(client, words)).stdout

            return run

        places = {"bare": on(guest.client), "native": native(program)}
        if peer:
            other = stack.enter_context(peer_guest())
            other.client.wait_ready(READY_SECONDS)
            places["qemu"] = on(other.client)
        ours = places["bare"]
        overhead = {}
        for name in PROGRAMS:
            ours(name, 0)
            before = count()
            ours(name, 0)
            overhead[name] = count() - before
        speeds = measure(program, million, turns, places, count)
        correct(speeds, overhead)
        if shutil.which("valgrind"):
            check(program, ours, count, speeds)
        return speeds


# ---- memory and idling -------------------------------------------------------------------


def resident(pid: int) -> tuple[float, float]:
    """(all but guest RAM, guest RAM) of a process in MiB, by smaps."""
    own = ram = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            size = int(line.split()[1])
            ram, own = (ram + size, own) if inside else (ram, own + size)
        elif re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            low, high = line.split()[0].split("-")
            inside = int(high, 16) - int(low, 16) >= RAM_BYTES
    return own / 1024, ram / 1024


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sleeping_guest(engine: str, seconds: float) -> tuple[float, float, float]:
    """(own MiB after a workload, guest MiB, share of a core in percent) of `bare run`."""
    script = f"{WORKLOAD}; echo up; sleep {seconds + 30:g}"
    process = subprocess.Popen(
        bare("run", "--engine", engine, "--", "sh", "-c", script),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != b"up\n":
            if not line:
                raise SystemExit("the guest ended early")
        time.sleep(3)
        before, start = processor_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        used, took = processor_seconds(process.pid) - before, time.monotonic() - start
        own, ram = resident(process.pid)
    finally:
        process.terminate()
        process.wait()
    return own, ram, used / took * 100


# ---- the report --------------------------------------------------------------------------


def speed_rows(speeds: list[Speed]) -> list[Row]:
    def row(name: str, one: Speed, met: bool | None = None) -> Row:
        ours = one.rate("bare")
        assert ours is not None
        bar = f">= {SPEED_BAR:.0f}" if met is not None else ""
        return Row(name, ours, "M instr/s", one.rate("qemu"), one.rate("native"), bar, met)

    total = Speed("all", sum(s.instructions for s in speeds))
    for place in speeds[0].seconds:
        total.seconds[place] = [sum(median(s.seconds[place]) for s in speeds)]
    rate = total.rate("bare")
    rows = [row("all programs", total, rate is not None and rate >= SPEED_BAR)]
    return rows + [row(f"  {speed.name}", speed) for speed in speeds]


def main() -> int:
    parser = options(str(__doc__))
    parser.add_argument("--million", type=int, default=200, help="instructions of one program")
    parser.add_argument("--idle", type=float, default=20, help="seconds to watch a sleeping guest")
    arguments = parser.parse_args()
    engine = arguments.engine
    os.environ["BAREVISOR_BT"] = "interpret"  # translated code is not counted
    report = Report("the interpreter on compiled code, beside QEMU's TCG (higher is better)")
    peer = not peer_missing(arguments)
    speeds = speeds_of(engine, arguments.million, arguments.n, peer)
    report.rows += speed_rows(speeds)
    checks = [f"{s.name} {s.check:.4f}" for s in speeds if s.check is not None]
    if checks:
        report.notes.append(f"the engine's count / cachegrind's: {', '.join(checks)}")
    own, ram, idle = sleeping_guest(engine, arguments.idle)
    report.rows.append(Row("own memory", own, "MiB", bar=f"< {MEMORY_BAR:.0f}",
                           met=own < MEMORY_BAR))  # fmt: skip
    report.rows.append(Row("guest RAM in use", ram, "MiB"))
    report.rows.append(Row("idle guest", idle, "% of a core", bar=f"< {IDLE_BAR:.0f}",
                           met=idle < IDLE_BAR))  # fmt: skip
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
