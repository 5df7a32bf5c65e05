"""Host files in the guest: names and bytes, beside QEMU with virtiofsd, and the host itself.

    python bench/fs.py [-n 5] [--megabytes 200] [--json]

Each round boots both guests anew, so that the first pass finds nothing in the guest's caches; the
second pass is the same again. The host's page cache is warm for all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from _common import (
    ENVIRONMENT,
    READY_SECONDS,
    Report,
    Row,
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

TREES = ("/usr/share/doc",)
FOLDERS = ("/usr/lib", "/usr/share", "/usr/bin")

Times = dict[str, float]
Outputs = dict[str, bytes]


def files(megabytes: int) -> list[str]:
    """Readable files of the host's, so many MB in all, in the order of their names."""
    found, left = [], megabytes * 1_000_000
    for path, size in _walk():
        if size <= left:
            found.append(path)
            left -= size
        if left < 10_000:
            break
    return found


def _walk() -> Iterator[tuple[str, int]]:
    for top in FOLDERS:
        for folder, names, leaves in os.walk(top):
            names.sort()
            for name in sorted(leaves):
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield str(path), path.stat().st_size


def tasks(megabytes: int) -> dict[str, tuple[list[str], bytes]]:
    """Command and stdin of each task."""
    names = "\0".join(files(megabytes)).encode()
    trees = {f"find {tree} | wc -l": tree for tree in TREES if Path(tree).is_dir()}
    found = {name: (["sh", "-c", f"find {tree} | wc -l"], b"") for name, tree in trees.items()}
    return {**found, f"md5sum of {megabytes} MB": (["xargs", "-0", "md5sum"], names)}


def in_guest(
    client: AgentClient, work: dict[str, tuple[list[str], bytes]]
) -> tuple[Times, Outputs]:
    times, outputs = {}, {}
    for turn in ("", ", again"):
        for name, (words, stdin) in work.items():
            done = checked(guest_run(client, words, stdin))
            times[name + turn], outputs[name + turn] = done.seconds, done.stdout
    return times, outputs


def on_host(work: dict[str, tuple[list[str], bytes]]) -> tuple[Times, Outputs]:
    times, outputs = {}, {}
    for turn in ("", ", again"):
        for name, (words, stdin) in work.items():
            start = time.perf_counter()
            done = subprocess.run(
                words, input=stdin, env=ENVIRONMENT, capture_output=True, check=True
            )
            times[name + turn] = time.perf_counter() - start
            outputs[name + turn] = done.stdout
    return times, outputs


def one_round(
    engine: str, peer: bool, work: dict[str, tuple[list[str], bytes]]
) -> dict[str, Times]:
    """Seconds by place and task. Raises SystemExit when a guest saw other bytes."""
    times, outputs = {}, {}
    times["native"], outputs["native"] = on_host(work)
    with our_guest(engine) as guest:
        times["bare"], outputs["bare"] = in_guest(guest.client, work)
    if peer:
        with peer_guest() as other:
            other.client.wait_ready(READY_SECONDS)
            times["qemu"], outputs["qemu"] = in_guest(other.client, work)
    for place, printed in outputs.items():
        wrong = [name for name in printed if printed[name] != outputs["native"][name]]
        if wrong:
            raise SystemExit(f"{place} saw something else than the host: {wrong}")
    return times


def main() -> int:
    parser = options(str(__doc__))
    parser.add_argument("--megabytes", type=int, default=200)
    arguments = parser.parse_args()
    work = tasks(arguments.megabytes)
    peer = not peer_missing(arguments)
    found = []
    for turn in range(arguments.n):
        found.append(one_round(arguments.engine, peer, work))
        progress(f"  {turn + 1}/{arguments.n} {found[-1]['bare']}")
    report = Report("host files in the guest, beside QEMU's TCG with virtiofsd (cache=auto)")
    for name in found[0]["bare"]:
        places = {place: median([times[place][name] for times in found]) for place in found[0]}
        report.rows.append(
            Row(name, places["bare"], "s", places.get("qemu"), places["native"])
        )  # fmt: skip
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
