"""CPU-bound programs in the guest, beside QEMU's TCG and the host.

    python bench/cpu_bound.py [-n 5] [--only chase,gzip] [--seconds 0.3] [--megabytes 100]
                              [--json | --markdown]

Compiled here with gcc -O2: guest_programs.c, by kind. The distribution's: sha256sum, gzip and
zstd of text, and CPython on guest_python.py. Each runs for about --seconds on the host (the
commands as long as they take), and its time is its own, on the clock of where it runs. All
places must compute the same. BAREVISOR_BT selects how bt executes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _common import Report, Row, options, peer_missing, progress
from _places import (
    FOLDER,
    NATIVE,
    OURS,
    PEER,
    Runner,
    Task,
    chosen,
    compiled,
    mean_ratio,
    measure,
    native,
    places,
)

COMPILED = {
    "integer": ("integer", "digest", "sieve"),
    "memory": ("chase", "stream", "hash"),
    "calls": ("calls", "sort"),
    "indirect jumps": ("dispatch", "switches", "objects"),
    "floating point": ("nbody", "matrix", "x87"),
    "vectors": ("sse", "avx"),
}
COMMANDS = {"sha256sum": "sha256sum", "gzip": "gzip -c", "zstd": "zstd -q -c"}
PYTHON = ("nbody", "scheduler", "json", "regex", "sort", "dict", "strings")
TEXT = "/var/tmp/bench-text"
PEER_BAR, NATIVE_BAR, WORST_BAR = 3.0, 2.0, 3.5
FIRST_ROUNDS, FIRST_SECONDS = 8, 0.03
PROGRAM_LIMIT = 1 << 20


def interpreter() -> str:
    """The distribution's Python, else the one that runs this."""
    return "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


def sized(words: list[str], seconds: float) -> list[str]:
    """With as many rounds as take so long on the host."""
    rounds, took = FIRST_ROUNDS, 0.0
    while took < FIRST_SECONDS and rounds < PROGRAM_LIMIT:
        rounds *= 2
        took = int(native([*words, str(rounds)]).split()[1]) * 1e-9
    return [*words, str(max(1, round(rounds * seconds / took)))]


def all_tasks(programs: Path, runner: Path, megabytes: int) -> list[Task]:
    """Those of guest_programs.c and of CPython still want their rounds."""
    found = [
        Task(f"{kind}: {name}", [str(programs), name])
        for kind, names in COMPILED.items()
        for name in names
    ]
    found += [
        Task(f"{name} of {megabytes} MB", [str(runner), "run", *command.split(), TEXT])
        for name, command in COMMANDS.items()
        if shutil.which(name)
    ]
    script = str(FOLDER / "guest_python.py")
    return found + [Task(f"CPython: {name}", [interpreter(), script, name]) for name in PYTHON]


def prepare(tasks: Sequence[Task], runner: Path, seconds: float) -> None:
    """Size what is sized by rounds."""
    progress("sizing the programs on the host")
    for task in tasks:
        if task.words[0] != str(runner):
            task.words = sized(task.words, seconds)


def write_text(where: dict[str, Runner], runner: Path, megabytes: int) -> None:
    """The text that the commands read, in each guest's own memory."""
    for run in where.values():
        run(["sh", "-c", f"exec {runner} text {megabytes} >{TEXT}"])


def summary(tasks: Sequence[Task]) -> list[Row]:
    """The bars."""
    rows = []
    faster = mean_ratio(tasks, PEER, OURS)
    if faster is not None:
        rows.append(Row("geometric mean: peer / ours", faster, "times", bar=f">= {PEER_BAR}",
                        met=faster >= PEER_BAR))  # fmt: skip
    slower = mean_ratio(tasks, OURS, NATIVE)
    assert slower is not None
    ratios = {task.name: task.row().to_native or 0.0 for task in tasks}
    worst = max(ratios, key=lambda name: ratios[name])
    rows.append(Row("geometric mean: ours / native", slower, "times", bar=f"<= {NATIVE_BAR}",
                    met=slower <= NATIVE_BAR))  # fmt: skip
    rows.append(Row(f"most: ours / native ({worst})", ratios[worst], "times",
                    bar=f"<= {WORST_BAR}", met=ratios[worst] <= WORST_BAR))  # fmt: skip
    return rows


def main() -> int:
    parser = options(str(__doc__))
    parser.add_argument("--only", default="", help="tasks with one of these words in their name")
    parser.add_argument("--seconds", type=float, default=0.3, help="of one program on the host")
    parser.add_argument("--megabytes", type=int, default=100, help="that the commands read")
    arguments = parser.parse_args()
    peer = not peer_missing(arguments)
    report = Report("CPU-bound programs, beside QEMU's TCG and the host (lower is better)")
    with tempfile.TemporaryDirectory() as folder:
        programs = compiled(Path(folder), "guest_programs.c")
        runner = compiled(Path(folder), "guest_system.c")
        tasks = chosen(all_tasks(programs, runner, arguments.megabytes), arguments.only)
        prepare(tasks, runner, arguments.seconds)
        try:
            with places(arguments.engine, peer) as where:
                write_text(where, runner, arguments.megabytes)
                measure(tasks, where, arguments.n, warm=True)
        finally:
            Path(TEXT).unlink(missing_ok=True)
    report.rows = [*summary(tasks), *(task.row() for task in tasks)]
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
