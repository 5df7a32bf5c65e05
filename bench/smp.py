"""Two busy threads on two vCPUs against one, in one guest.

    python bench/smp.py [-n 5] [--seconds 1.0] [--json | --markdown]

A program of guest_programs.c, alone and then twice at once, in a guest of two vCPUs: the
throughput of two over that of one. Beside it QEMU's TCG and the host itself, of which a
shared machine may not have two whole CPUs to give. What does not depend on that: the work
done for each second of processor time that this process got, with two busy vCPUs against one;
twice that is what two whole CPUs would give.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from _common import (
    READY_SECONDS,
    Report,
    Row,
    alternate,
    median,
    options,
    our_guest,
    peer_guest,
    peer_missing,
)
from _places import NATIVE, OURS, PEER, Runner, compiled, inside, native
from cpu_bound import sized

from barevisor.config import VmConfig

BAR = 1.8
CPUS = 2
PROGRAM = "integer"


def scaling(run: Runner, words: list[str]) -> float:
    """Throughput of CPUS at once over that of one."""
    alone = int(run(words).split()[1])
    with ThreadPoolExecutor(CPUS) as pool:
        together = [int(out.split()[1]) for out in pool.map(run, [words] * CPUS)]
    return sum(alone / took for took in together)


def cost(run: Runner, words: list[str], busy: int) -> float:
    """Seconds of this process's processor time for so many programs at once."""
    began = time.process_time()
    with ThreadPoolExecutor(busy) as pool:
        list(pool.map(run, [words] * busy))
    return time.process_time() - began


def main() -> int:
    parser = options(str(__doc__))
    parser.add_argument("--seconds", type=float, default=1.0, help="of the program on the host")
    arguments = parser.parse_args()
    report = Report(f"throughput of {CPUS} busy vCPUs over that of one (higher is better)")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        program = compiled(Path(folder), "guest_programs.c")
        words = sized([str(program), PROGRAM], arguments.seconds)
        config = VmConfig(cpus=CPUS)
        guest = stack.enter_context(our_guest(arguments.engine, config=config))
        where = {OURS: inside(guest.client), NATIVE: native}
        if not peer_missing(arguments):
            other = stack.enter_context(peer_guest(cpus=CPUS))
            other.client.wait_ready(READY_SECONDS)
            where[PEER] = inside(other.client)
        actions = {name: lambda run=run: scaling(run, words) for name, run in where.items()}
        found = {name: median(values) for name, values in alternate(arguments.n, actions).items()}
        efficiency = 0.0
        if arguments.engine == "bt":
            run, turns = where[OURS], range(arguments.n)
            once = [cost(run, words, 1) / cost(run, words, CPUS) for _ in turns]
            efficiency = CPUS * CPUS * median(once)
    ours = found[OURS]
    report.rows.append(
        Row("two of one program", ours, "times", found.get(PEER), found[NATIVE], f">= {BAR}",
            ours >= BAR)
    )  # fmt: skip
    if efficiency:
        report.rows.append(Row("the same, of processor time", efficiency, "times"))
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
