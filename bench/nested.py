"""The kvm engine beside QEMU, on the real /dev/kvm of the nest (barevisor.testing.nest).

    python bench/nested.py [-n 5] [--json]

One guest for all: the same stock kernel, command line and initramfs, whose init prints a mark on
the serial port and then runs a loop for each line that it reads. Boot: from the start of the VMM's
process to the mark. Exits: kvm's own counter (debugfs) at that moment. Memory: PSS of the VMM's
process then, without the mapping of guest RAM. Each VMM once a round, in an order that changes; the
first run of each is not counted. Processor time is what this host's processors did for the nest
meanwhile (to 50 ms).

A shared host is fast for some seconds and half as fast for the next. So each round also starts all
VMMs at once and lets them run by turns of a quarter of a second, the others stopped: what counts is
the time of a VMM's own turns. For the loop, of a third of a second by the guest's clock, one guest
of each waits, and they run it by turns, too.

Last, how long ^C and --timeout take to end `bare run` of a command that never ends: from the
signal, or the deadline, to the end of the process, or of its `main`.

The peers are the distribution's builds, and so is Python there, where it has this version (ADR 16).
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from barevisor.boot.initramfs import Initramfs
from barevisor.guest.kernel import find_kernel
from barevisor.testing import nest, nestdisk

OUTER_MIB = 4096
"""So that a huge page is always at hand. With 1.5 GiB a first touch of guest memory waits now and
then, 20 to 160 ms, for the outer kernel to make room for one."""
MEMORY_MIB = 256
COMMAND_LINE = "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable"
UP = re.compile(b"guest-up")
LOOP = 8000
LOOPS = 6
"""For each round of boots."""
INIT = f"""#!/bin/busybox sh
b=/bin/busybox
$b echo {UP.pattern.decode()}
$b mkdir /proc
$b mount -t proc proc /proc
while read line; do
    i=0
    read before rest < /proc/uptime
    while [ $i -lt {LOOP} ]; do i=$((i+1)); done
    read after rest < /proc/uptime
    echo "from $before to $after."
done
"""
TOOK = re.compile(rb"from ([\d.]+) to ([\d.]+)\.\r?\n")
KVM = Path("/sys/kernel/debug/kvm")
LIMIT = 60.0
SETTLE = 0.1
TURN, STOPPED = 0.25, 0.005
"""Seconds of a turn, and until a process that was told to stop has stopped."""
DEADLINE = 12
"""Seconds; a start takes less."""
LIMIT_ALL = 900.0
PEERS = ("microvm", "pc")
BOOT_BAR, PYTHON_BAR, MEMORY_BAR, LOOP_NOISE = 0.95, 0.1, 40.0, 1.1
END_BAR = 1.0
STATS = re.compile(r"(\d+) exits reached Python, [\d.]+% of the (\d+)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One boot: seconds, MiB, and kvm's counters."""

    boot: float
    memory: float
    kvm: dict[str, int]


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


class Guest:
    """A VMM's process and its guest's console."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._input, self._console = self._child.stdin, self._child.stdout.fileno()
        self._seen = b""

    def shows(self, what: re.Pattern[bytes], seconds: float) -> re.Match[bytes] | None:
        """Read the console until it shows `what`; what comes later is looked at next."""
        end = time.monotonic() + seconds
        while (found := what.search(self._seen)) is None:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._console], [], [], left)[0]:
                return None
            data = os.read(self._console, 4096)
            if not data:
                raise SystemExit(f"{self._command}: {self._seen[-2000:]!r} {self.close()[-2000:]}")
            self._seen += data
        self._seen = self._seen[found.end() :]
        return found

    def must_show(self, what: re.Pattern[bytes]) -> re.Match[bytes]:
        """The same, of what has to come."""
        found = self.shows(what, LIMIT)
        if found is None:
            raise SystemExit(f"{self._command} hangs: {self._seen[-2000:]!r}")
        return found

    def loop(self) -> float:
        """Seconds of the guest's clock."""
        self._input.write(b"go\n")
        self._input.flush()
        took = self.must_show(TOOK)
        return float(took[2]) - float(took[1])

    def memory(self) -> float:
        return private_mib(self._child.pid)

    def tell(self, number: int) -> None:
        self._child.send_signal(number)

    def close(self, number: int = signal.SIGINT) -> str:
        """End it; what it wrote to its standard error."""
        self.tell(number)
        try:
            _, errors = self._child.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            _, errors = self._child.communicate()
        return errors.decode()


def boot(command: list[str]) -> Sample:
    """Start a VMM, look at it, end it."""
    nest.send(json.dumps({"name": "begin"}))
    time.sleep(SETTLE)  # it is read every 50 ms
    start = time.monotonic()
    guest = Guest(command)
    guest.must_show(UP)
    took = time.monotonic() - start
    nest.send(json.dumps({"name": "up"}))
    found = Sample(took, guest.memory(), counters())
    guest.close()
    return found


def boots_by_turns(rows: dict[str, list[str]], order: list[str]) -> dict[str, float]:
    """Seconds of each VMM's own turns until its guest is up."""
    took = dict.fromkeys(order, 0.0)
    guests: dict[str, Guest] = {}
    starting = list(order)
    while starting:
        for name in list(starting):
            begun = time.monotonic()
            if name in guests:
                guests[name].tell(signal.SIGCONT)
            else:
                guests[name] = Guest(rows[name])
            up = guests[name].shows(UP, TURN)
            took[name] += time.monotonic() - begun
            if up is None:
                guests[name].tell(signal.SIGSTOP)
                time.sleep(STOPPED)
            else:
                guests[name].close(signal.SIGKILL)
                starting.remove(name)
    return took


def loops(rows: dict[str, list[str]], rounds: int) -> None:
    """One guest of each, by turns."""
    guests = {name: Guest(command) for name, command in rows.items()}
    for guest in guests.values():
        guest.must_show(UP)
        guest.loop()
    for _ in range(rounds):
        for name, guest in guests.items():
            nest.send(json.dumps({"name": f"loop {name}", "boot": guest.loop()}))
    for guest in guests.values():
        guest.close()


def commands(folder: Path) -> dict[str, list[str]]:
    kernel = str(find_kernel().image)
    initrd = folder / "initrd"
    initrd.write_bytes(archive())
    qemu = [nest.QEMU, "-nodefaults", "-no-user-config", "-accel", "kvm", "-cpu", "host", "-m",
            str(MEMORY_MIB), "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel, "-initrd", str(initrd), "-append", COMMAND_LINE]  # fmt: skip
    bare = ["bare", "run", "--engine", "kvm", "--no-root", "--memory", f"{MEMORY_MIB}M",
            "--kernel", kernel, "--initrd", str(initrd), "--", *COMMAND_LINE.split()]  # fmt: skip
    return {
        "bare": bare,
        "microvm": [*qemu, "-M", "microvm,rtc=on"],
        "pc": [*qemu, "-M", "pc"],
    }


def in_python(command: list[str]) -> tuple[int, int]:
    """(exits that reached Python, all that kvm counted) of a guest that is ended at the first
    mark."""
    at = command.index("run") + 1
    stopping = [*command[:at], "--stats", *command[at:]]
    guest = Guest(stopping)
    guest.must_show(UP)
    found = STATS.search(guest.close())
    if found is None:
        raise SystemExit("no statistics")
    return int(found[1]), int(found[2])


def whole_run() -> float:
    """`bare run -- true`, with our own root, init and devices."""
    start = time.monotonic()
    done = subprocess.run(["bare", "run", "--engine", "kvm", "--memory", f"{MEMORY_MIB}M", "--",
                           "true"], check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"bare run: {done.returncode}")
    return time.monotonic() - start


def interrupted() -> float:
    """Seconds from a ^C to the end of `bare run`, whose command is busy."""
    script = "echo up; while :; do :; done"
    words = ["bare", "run", "--engine", "kvm", "--memory", f"{MEMORY_MIB}M", "--"]
    child = subprocess.Popen(
        [*words, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(1)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    code = child.wait(LIMIT)
    if code != 128 + signal.SIGINT:
        raise SystemExit(f"^C: code {code}")
    return time.monotonic() - begun


def overdue() -> float:
    """Seconds from the deadline of a busy command to the end of `main`, which is called here."""
    script = (
        "import sys, time; from barevisor.cli.main import main; import barevisor.cli.session; "
        f"b = time.monotonic(); c = main({['run', '--engine', 'kvm', '--memory', '256M']!r} + "
        f"['--timeout', '{DEADLINE}', '--', 'sh', '-c', 'while :; do :; done']); "
        f"print(c, time.monotonic() - b - {DEADLINE})"
    )
    done = subprocess.run(["python3", "-c", script], capture_output=True, text=True, check=False)
    code, _, seconds = done.stdout.partition(" ")
    if code != "124":
        raise SystemExit(f"--timeout: {done.stdout} {done.stderr}")
    return float(seconds)


def inside(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        rows = commands(Path(temporary))
        for command in rows.values():
            boot(command)  # fills the caches, ours with the unpacked kernel
        whole_run()
        order = list(rows)
        for _ in range(rounds):
            for name in order:
                nest.send(json.dumps({"name": name, **asdict(boot(rows[name]))}))
            for name, took in boots_by_turns(rows, order).items():
                nest.send(json.dumps({"name": f"turns {name}", "boot": took}))
            order.reverse()  # so that none always follows the same other one
        loops(rows, rounds * LOOPS)
        nest.send(json.dumps({"name": "run", "boot": whole_run()}))
        reached, total = in_python(rows["bare"])
        nest.send(json.dumps({"name": "python", "reached": reached, "total": total}))
        for _ in range(rounds):
            nest.send(json.dumps({"name": "^C", "boot": interrupted()}))
            nest.send(json.dumps({"name": "--timeout", "boot": overdue()}))


# ---- outside -----------------------------------------------------------------------------


def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The samples by name."""
    from _common import progress

    found: dict[str, list[dict[str, Any]]] = {}
    command = ["python3", "bench/nested.py", str(rounds)]
    with nest.Nest(
        command, folders=[Path(__file__).parent], timeout=LIMIT_ALL, memory_mib=OUTER_MIB
    ) as outer:
        used = begun = 0.0
        for line in outer.results():
            one = json.loads(line)
            if one["name"] in ("begin", "up"):
                now = outer.processor_seconds()
                used, begun = (0.0, now) if one["name"] == "begin" else (now - begun, begun)
                continue
            one["processor"] = used
            found.setdefault(one["name"], []).append(one)
            if not one["name"].startswith("loop"):
                progress(f"  {one['name']}: {one.get('boot', 0):.2f} s")
        result = outer.finish()
    if result.code != 0 or "--timeout" not in found:
        raise SystemExit(result.output[-3000:])
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> Any:
    from _common import Report, Row, median

    def middle(name: str, value: str) -> float:
        return median([one[value] for one in found[name]])

    def exits(name: str) -> float:
        return median([one["kvm"]["exits"] for one in found[name]])

    def fastest(kind: str) -> float:
        return min(middle(f"{kind}{name}", "boot") for name in PEERS)

    report = Report("The kvm engine in a nest: one kernel, one initramfs, a quiet console")
    ours, theirs = middle("turns bare", "boot"), fastest("turns ")
    report.rows.append(Row("boot to command, by turns", ours, "s", theirs,
                           bar=f"<= {BOOT_BAR} x peer", met=ours <= BOOT_BAR * theirs))  # fmt: skip
    report.rows.append(Row("  one after the other", middle("bare", "boot"), "s", fastest("")))
    used, theirs = middle("bare", "processor"), min(middle(n, "processor") for n in PEERS)
    report.rows.append(Row("  processor time of it", used, "s", theirs))
    fewest = min(exits(name) for name in PEERS)
    report.rows.append(Row("exits in a boot", exits("bare"), "exits", fewest, bar="< peer",
                           met=exits("bare") < fewest))  # fmt: skip
    python = found["python"][0]
    share = python["reached"] / python["total"]
    report.rows.append(Row("  of these in Python", 100 * share, "%", bar=f"< {PYTHON_BAR:.0%}",
                           met=share < PYTHON_BAR))  # fmt: skip
    loop, peer = middle("loop bare", "boot"), fastest("loop ")
    report.rows.append(Row("a loop in the guest", loop, "s", peer, bar="the same",
                           met=loop <= LOOP_NOISE * peer))  # fmt: skip
    memory, peer = middle("bare", "memory"), min(middle(name, "memory") for name in PEERS)
    report.rows.append(Row("own memory", memory, "MiB", peer, bar=f"< {MEMORY_BAR:g} MiB",
                           met=memory < MEMORY_BAR))  # fmt: skip
    for name in ("^C", "--timeout"):
        took = middle(name, "boot")
        report.rows.append(Row(f"{name} to the end", took, "s", bar=f"< {END_BAR:g} s",
                               met=took < END_BAR))  # fmt: skip
    report.rows.append(Row("bare run -- true, all of it", middle("run", "boot"), "s"))
    rest = [f"{name} {middle(name, 'boot'):.2f} s, {exits(name):.0f} exits, "
            f"{middle(name, 'memory'):.1f} MiB" for name in PEERS]  # fmt: skip
    for kind in ("turns ", ""):
        rounds = zip(*([one["boot"] for one in found[kind + n]] for n in ("bare", *PEERS)),
                     strict=True)  # fmt: skip
        shares = ", ".join(f"{share:.2f}" for share in sorted(a / min(b) for a, *b in rounds))
        report.notes.append(f"boot{' by' * bool(kind)} {kind}of each round: {shares}")
    report.notes.append(f"Python in the nest: {nestdisk.python()[0]}")
    report.notes.append(f"peers: qemu-system-x86_64 -accel kvm: {'; '.join(rest)}")
    return report


def main() -> int:
    from _common import options

    arguments = options(str(__doc__), rounds=5).parse_args()
    code: int = table(measure(arguments.n)).show(arguments)
    return code


if __name__ == "__main__":
    if nest.inside():
        inside(int(sys.argv[1]))
    else:
        sys.exit(main())
