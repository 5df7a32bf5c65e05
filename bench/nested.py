"""The kvm engine beside QEMU, on the real /dev/kvm of the nest (barevisor.testing.nest).

    python bench/nested.py [-n 3] [--json]

One guest for all: the same stock kernel, command line and initramfs, whose init prints a mark on
the serial port, runs a loop between two more marks, and waits. Boot: from the start of the VMM's
process to the first mark. Exits: kvm's own counter (debugfs) at that moment. Memory: PSS of the
VMM's process at that moment without the mapping of guest RAM. In turn, each VMM once a round.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from barevisor.boot.initramfs import Initramfs
from barevisor.guest.kernel import find_kernel
from barevisor.testing import nest

MEMORY_MIB = 256
COMMAND_LINE = "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable"
UP, LOOP, DONE = b"guest-up", b"loop-begin", b"loop-end"
LOOPS = 30000
INIT = f"""#!/bin/busybox sh
b=/bin/busybox
$b echo {UP.decode()}
$b echo {LOOP.decode()}
i=0
while [ $i -lt {LOOPS} ]; do i=$((i+1)); done
$b echo {DONE.decode()}
$b sleep 1000
"""
KVM = Path("/sys/kernel/debug/kvm")
LIMIT = 60.0
BOOT_BAR, PYTHON_BAR, MEMORY_BAR = 0.95, 0.1, 40.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One boot. `kvm` are kvm's counters, `exits` what --stats of ours counts."""

    boot: float
    loop: float
    memory: float
    kvm: dict[str, int]
    stats: str = ""


# ---- in the nest -------------------------------------------------------------------------


def archive() -> bytes:
    made = Initramfs()
    made.file("/bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    made.node("/dev/console", 0o020600, 5, 1)
    made.file("/init", INIT.encode(), 0o755)
    return made.build()


def counters() -> dict[str, int]:
    """kvm's statistics over all VMs that live."""
    return {file.name: int(file.read_text()) for file in KVM.iterdir() if file.is_file()}


def private_mib(pid: int) -> float:
    """PSS without the mappings of guest RAM, which are the largest."""
    total, skip = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            low, _, high = words[0].partition("-")
            skip = int(high, 16) - int(low, 16) >= MEMORY_MIB << 19
        elif words[0] == "Pss:" and not skip:
            total += int(words[1])
    return total / 1024


def sample(command: list[str]) -> Sample:
    """Start a VMM, wait for the marks, look at it, end it."""
    start = time.monotonic()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    at: dict[bytes, float] = {}
    kvm: dict[str, int] = {}
    seen = b""
    memory = 0.0
    while DONE not in at:
        data = os.read(child.stdout.fileno(), 4096)
        now = time.monotonic()
        if not data or now - start > LIMIT:
            child.kill()
            raise SystemExit(f"{command}: {seen[-2000:]!r} {child.stderr.read()[-2000:]!r}")
        seen += data
        for mark in (UP, LOOP, DONE):
            if mark in seen and mark not in at:
                at[mark] = now
                if mark == UP:
                    kvm = counters()
                elif mark == DONE:
                    memory = private_mib(child.pid)
    child.send_signal(signal.SIGINT)
    try:
        _, errors = child.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        _, errors = child.communicate()
    return Sample(at[UP] - start, at[DONE] - at[LOOP], memory, kvm, errors.decode())


def commands(folder: Path) -> dict[str, list[str]]:
    kernel = str(find_kernel().image)
    initrd = folder / "initrd"
    initrd.write_bytes(archive())
    qemu = [nest.QEMU, "-nodefaults", "-no-user-config", "-accel", "kvm", "-cpu", "host", "-m",
            str(MEMORY_MIB), "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel, "-initrd", str(initrd), "-append", COMMAND_LINE]  # fmt: skip
    bare = ["bare", "run", "--engine", "kvm", "--no-root",
            "--memory", f"{MEMORY_MIB}M", "--kernel", kernel, "--initrd", str(initrd),
            "--", *COMMAND_LINE.split()]  # fmt: skip
    return {
        "bare": bare,
        "microvm": [*qemu, "-M", "microvm,rtc=on"],
        "pc": [*qemu, "-M", "pc"],
    }


def inside(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        rows = commands(Path(temporary))
        sample(rows["bare"])  # fills the cache with the unpacked kernel
        for _ in range(rounds):
            for name, command in rows.items():
                found = sample(command)
                nest.send(json.dumps({"name": name, **asdict(found)}))


if __name__ == "__main__":
    if nest.inside():
        inside(int(sys.argv[1]))
