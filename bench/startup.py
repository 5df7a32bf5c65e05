"""Barevisor's own start-up: `bare --help`, `import barevisor`, the first guest instruction.

    python bench/startup.py [-n 20] [--json]

Processes are timed from their start to their end. The first instruction is the mark that Vm sets
just before its vCPU runs, on the monotonic clock that all processes share, less the time at
which the process was started; everything is cached by a first start that is not counted. Other
work on the machine only adds to a time, so the fastest of the rounds is told too.
"""

from __future__ import annotations

import subprocess
import sys
import time

from _common import Report, Row, alternate, bare, median, options, process_seconds

BARS = {"bare --help": 0.120, "import barevisor": 0.120, "first guest instruction": 0.400}
FIRST = """
import os, sys
from barevisor.cli.main import main
from barevisor.vm import Vm

def boot(self, real=Vm.boot):
    real(self)
    print(self.phases.at["start"], file=sys.stderr, flush=True)
    os._exit(0)  # what the guest does then is timed elsewhere

Vm.boot = boot
sys.exit(main(["run", "--engine", sys.argv[1], "--", "true"]))
"""


def first_instruction(engine: str) -> float:
    """Of `bare run -- true`."""
    begun = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", FIRST, engine], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return float(process.stderr.split()[0]) - begun


def main() -> int:
    arguments = options(str(__doc__), rounds=20).parse_args()
    python = [sys.executable, "-c"]
    first_instruction(arguments.engine)
    found = alternate(
        arguments.n,
        {
            "bare --help": lambda: process_seconds(bare("--help")),
            "import barevisor": lambda: process_seconds([*python, "import barevisor"]),
            "import barevisor.vm": lambda: process_seconds([*python, "import barevisor.vm"]),
            "python alone": lambda: process_seconds([*python, "pass"]),
            "first guest instruction": lambda: first_instruction(arguments.engine),
        },
    )
    report = Report("start-up, from process start")
    for name, seconds in found.items():
        middle, bar = median(seconds), BARS.get(name)
        text = "" if bar is None else f"< {bar * 1000:.0f}"
        met = None if bar is None else middle < bar
        report.rows.append(Row(name, middle * 1000, "ms", bar=text, met=met))
    fastest = [f"{name} {min(seconds) * 1000:.0f}" for name, seconds in found.items()]
    report.notes.append(f"fastest, ms: {', '.join(fastest)}")
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
