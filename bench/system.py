"""What keeps a guest's kernel busy, beside QEMU's TCG and the host.

    python bench/system.py [-n 5] [--only pipe,gcc] [--scale 1.0] [--tree /usr/share]
                           [--c-file FILE] [--json | --markdown]

guest_system.c makes processes, calls, page faults and context switches; gcc compiles --c-file;
find walks --tree and tar reads a smaller one. Each is timed by its own clock, after a run that is
not counted: names and files are in the guests' caches as far as they keep them. Both guests have
this host's files, over virtio-fs. BAREVISOR_BT selects how bt executes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _common import Report, Row, options, peer_missing
from _places import FOLDER, OURS, PEER, Task, chosen, compiled, mean_ratio, measure, places

COUNTS = {
    "fork_exec": ("fork, exec and exit", 400),
    "getppid": ("getppid", 500_000),
    "pipe": ("pipe ping-pong of two processes", 30_000),
    "faults": ("page faults on fresh memory", 60_000),
    "switch": ("context switches by futex", 30_000),
}
"""What guest_system.c does, and how often at a scale of 1."""
TAR_TREES = ("/usr/share/perl", "/usr/lib/python3", "/usr/include")
EACH_BAR, MEAN_BAR = 1.0, 0.5


def all_tasks(runner: str, scale: float, tree: str, source: Path) -> list[Task]:
    """Times of commands depend on the places' files, so only those of one's own must agree."""
    found = []
    for name, (what, count) in COUNTS.items():
        times = max(1, round(count * scale))
        found.append(Task(f"{times} x {what}", [runner, name, str(times)]))
    packed = next((t for t in TAR_TREES if Path(t).is_dir()), "/etc")
    commands = {
        f"gcc -O2 of {source.name}": f"gcc -O2 -w -c -o /var/tmp/bench.o {source.resolve()}",
        f"find {tree}": f"find {tree} -xdev",
        f"tar of {packed}": f"tar cf - {packed} 2>/dev/null",
    }
    for name, command in commands.items():
        found.append(Task(name, [runner, "run", "sh", "-c", command], same=False))
    return found


def summary(tasks: Sequence[Task]) -> list[Row]:
    mean = mean_ratio(tasks, OURS, PEER)
    if mean is None:
        return []
    return [Row("geometric mean: ours / peer", mean, "times", bar=f"<= {MEAN_BAR}",
                met=mean <= MEAN_BAR)]  # fmt: skip


def main() -> int:
    parser = options(str(__doc__))
    parser.add_argument("--only", default="", help="tasks with one of these words in their name")
    parser.add_argument("--scale", type=float, default=1.0, help="of the counts")
    parser.add_argument("--tree", default="/usr/share", help="what find walks")
    parser.add_argument("--c-file", type=Path, default=FOLDER / "guest_programs.c")
    arguments = parser.parse_args()
    peer = not peer_missing(arguments)
    report = Report("system-heavy work, beside QEMU's TCG and the host (lower is better)")
    with tempfile.TemporaryDirectory() as folder:
        runner = str(compiled(Path(folder), "guest_system.c"))
        tasks = all_tasks(runner, arguments.scale, arguments.tree, arguments.c_file)
        tasks = chosen(tasks, arguments.only)
        with places(arguments.engine, peer) as where:
            measure(tasks, where, arguments.n, warm=True)
    report.rows = [*summary(tasks), *(task.row(EACH_BAR) for task in tasks)]
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
