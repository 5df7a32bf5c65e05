"""`--boot-log`: the guest's kernel messages as they come, and where the time went."""

from __future__ import annotations

import os
import sys
import time

from barevisor.vm import Vm

NANO = 1e-9


def echo(line: str) -> None:
    """A line of the guest's console. The user's terminal may be in raw mode."""
    sys.stderr.write(f"[guest] {line}\r\n" if os.isatty(2) else f"[guest] {line}\n")


def show(vm: Vm) -> None:
    """A table of phases on stderr."""
    for name, seconds in rows(vm):
        sys.stderr.write(f"[boot] {name:<34} {seconds * 1000:9.1f} ms\n")


def rows(vm: Vm) -> list[tuple[str, float]]:
    """(phase, seconds). The kernel's part ends where /init says that it began."""
    at = vm.phases.at
    begun = process_started()
    hello = vm.hello
    assert hello is not None
    init = (hello.agent_ready - hello.init_started) * NANO
    return [
        ("host: python and command line", at["begin"] - begun),
        ("host: kernel and initramfs", at["kernel"] - at["begin"]),
        ("host: machine and devices", at["machine"] - at["kernel"]),
        ("host: loading guest memory", at["start"] - at["machine"]),
        ("process start to first instruction", at["start"] - begun),
        ("guest: kernel to init", at["ready"] - at["start"] - init),
        ("guest: init to agent ready", init),
        ("guest: starting the command", at["command"] - at["ready"]),
        ("guest: command", at["done"] - at["command"]),
        ("host: ending the guest", time.monotonic() - at["done"]),
        ("total", time.monotonic() - begun),
    ]


def process_started() -> float:
    """When this process began, on the monotonic clock; to 10 ms (proc(5), stat field 22)."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return ticks - time.clock_gettime(time.CLOCK_BOOTTIME) + time.monotonic()
