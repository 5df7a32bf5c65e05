"""From `bare run -- true` to its exit, against QEMU's TCG with the same kernel and command.

    python bench/boot.py [-n 5] [--json]

Ours: from the start of the `bare` process to its exit. Peer: from the start of QEMU, with its
initramfs built and virtiofsd listening beforehand, to the end of the command in the guest; its
own end is not counted. The phases are of further runs, by the Vm's marks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial

from _common import (
    READY_SECONDS,
    Report,
    Row,
    alternate,
    bare,
    checked,
    guest_run,
    median,
    options,
    peer_guest,
    peer_missing,
    process_seconds,
)

BAR = 0.75
MACHINES = ("q35", "pc")

CHILD = """
import json, sys, time
from barevisor import Vm
vm = Vm(engine=sys.argv[1])
with vm:
    hello = vm.wait_ready()
    done = vm.run(["true"])
    ended = time.monotonic()
    counter = vm.instructions()
print(json.dumps({"at": vm.phases.at, "ended": ended, "closed": time.monotonic(),
                  "init": (hello.agent_ready - hello.init_started) * 1e-9,
                  "instructions": counter, "code": done.returncode}))
"""


def ours(engine: str) -> float:
    return process_seconds(bare("run", "--engine", engine, "--", "true"))


def peer(machine: str) -> float:
    with peer_guest(machine) as guest:
        guest.client.wait_ready(READY_SECONDS)
        checked(guest_run(guest.client, ["true"]))
        return time.monotonic() - guest.launched


def phases(engine: str) -> dict[str, float]:
    """Seconds of each step of one start by the API; "instructions" is a count."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", CHILD, engine], stdout=subprocess.PIPE, check=True)
    ended = time.monotonic()
    found = json.loads(done.stdout)
    at, init = found["at"], found["init"]
    return {
        "python and imports": at["begin"] - begun,
        "kernel, modules, initramfs": at["kernel"] - at["begin"],
        "machine and devices": at["machine"] - at["kernel"],
        "loading the guest": at["start"] - at["machine"],
        "kernel to init": at["ready"] - at["start"] - init,
        "init to agent": init,
        "command": found["ended"] - at["ready"],
        "ending the guest": found["closed"] - found["ended"],
        "python's end": ended - found["closed"],
        "total by the API": ended - begun,
        "instructions": found["instructions"],
    }


def faster_machine(rounds: int) -> tuple[str, list[float]]:
    """QEMU's board that starts faster here."""
    found = alternate(rounds, {name: partial(peer, name) for name in MACHINES})
    best = min(MACHINES, key=lambda name: median(found[name]))
    return best, found[best]


def main() -> int:
    parser = options(str(__doc__))
    parser.add_argument("--machine", help=f"QEMU's; by default the faster of {MACHINES}")
    arguments = parser.parse_args()
    actions = {"bare": lambda: ours(arguments.engine)}
    report = Report("bare run -- true, process start to exit")
    if not peer_missing(arguments):
        machine = arguments.machine or faster_machine(1)[0]
        actions["qemu"] = lambda: peer(machine)
        report.notes.append(f"peer: qemu-system-x86_64 -M {machine},accel=tcg -cpu max, virtiofsd")
    found = alternate(arguments.n, actions)
    theirs = median(found["qemu"]) if "qemu" in found else None
    total = median(found["bare"])
    met = None if theirs is None else total <= BAR * theirs
    report.rows.append(Row("run true", total, "s", theirs, bar=f"<= {BAR} x peer", met=met))
    steps = [phases(arguments.engine) for _ in range(min(3, arguments.n))]
    for name in steps[0]:
        value = median([step[name] for step in steps])
        unit = "s"
        if name == "instructions":
            value, unit = value / 1e6, "million"
        report.rows.append(Row(f"  {name}", value, unit))
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
