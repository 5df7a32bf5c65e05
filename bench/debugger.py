"""What a debugger costs the bt engine.

    python bench/debugger.py [-n 5] [--json | --markdown]

One guest runs a shell's loop again and again, measured in processor time: with no debugger, with
gdb's server attached and breakpoints or a watchpoint set that are never hit, and after it has
detached. Breakpoints are at addresses that the loop never runs, with the offsets in a page that
its code has. Steps: packets of `vCont;s` with their replies, over a socket.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _common import Report, Row, median, options, progress

from barevisor import Vm
from barevisor.testing.gdb_client import GdbClient

ROUNDS = 20_000
LOOP = ["sh", "-c", f"i=0; while [ $i -lt {ROUNDS} ]; do i=$((i+1)); done"]
ELSEWHERE = 0x7FFF_0000_0000
STEPS = 500


def speed(vm: Vm) -> float:
    """Rounds of the loop in a second of this process."""
    began = time.process_time()
    vm.run(LOOP, timeout=300)
    return ROUNDS / (time.process_time() - began)


def stopped(client: GdbClient, *commands: bytes) -> None:
    """Stop the guest, send these, and let it go on."""
    client.interrupt()
    for command in commands:
        reply = client.ask(command)
        if reply != b"OK":
            raise SystemExit(f"{command!r}: {reply!r}")
    client.send(b"vCont;c")


def steps(client: GdbClient) -> float:
    """Single steps a second."""
    client.interrupt()
    began = time.perf_counter()
    for _ in range(STEPS):
        client.ask(b"vCont;s:1")
    rate = STEPS / (time.perf_counter() - began)
    client.send(b"vCont;c")
    return rate


def attached(vm: Vm, report: Report, rounds: Callable[[str], float]) -> None:
    """The rows with a client."""
    assert vm.gdb_address is not None
    client = GdbClient(vm.gdb_address)
    client.send(b"vCont;c")
    rounds("attached, nothing set")
    ten = [b"Z0,%x,1" % (ELSEWHERE + 401 * n) for n in range(10)]
    stopped(client, *ten)
    rounds("10 breakpoints, never hit")
    stopped(client, *(b"z" + one[1:] for one in ten), b"Z2,%x,8" % ELSEWHERE)
    rounds("a watchpoint, never hit")
    report.rows.append(Row("single steps through the server", steps(client), "steps/s"))
    client.interrupt()
    client.ask(b"D")
    client.close()


def main() -> int:
    arguments = options(__doc__).parse_args()
    report = Report("A debugger on bt (rounds of a shell's loop a second of processor time)")

    def rounds(vm: Vm, name: str) -> float:
        progress(name)
        speed(vm)
        value = median([speed(vm) for _ in range(arguments.n)])
        report.rows.append(Row(name, value, "rounds/s"))
        return value

    with tempfile.TemporaryDirectory() as folder:
        gdb = f"unix:{Path(folder) / 'gdb'},nowait"
        with Vm(engine="bt", gdb=gdb) as vm:
            before = rounds(vm, "no debugger")
            attached(vm, report, lambda name: rounds(vm, name))
            after = rounds(vm, "after it detached")
    report.rows.append(Row("after / before", after / before, ""))
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
