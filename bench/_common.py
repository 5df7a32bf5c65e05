"""What the benchmarks share: options, timing, the two guests that are compared, the table.

Both guests boot the same kernel with the same modules, initramfs program and command line, and
are driven by the same agent: ours on our devices, the peer on QEMU's TCG and its virtiofsd.
Comparisons take turns within one run, and every figure is a median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from barevisor.assembly import LinuxGuest, Phases, linux_guest
from barevisor.config import DEFAULT_PATH, VmConfig
from barevisor.cpu.engine import Engine
from barevisor.cpu.select import select
from barevisor.errors import BarevisorError, HostError
from barevisor.guest import initrd
from barevisor.guest.agent import AgentClient
from barevisor.guest.cmdline import kernel_command_line
from barevisor.guest.kernel import Kernel, find_kernel
from barevisor.testing import qemu

READY_SECONDS = 300.0
RUN_SECONDS = 3600.0
BT_MODE = "BAREVISOR_BT"
"""The environment variable that selects how bt executes; the VMs made here read it."""
ENVIRONMENT = {"PATH": DEFAULT_PATH, "HOME": "/root", "LANG": "C.UTF-8"}


# ---- options -----------------------------------------------------------------------------


def options(doc: str, rounds: int = 5) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=rounds, metavar="ROUNDS", help="median of so many")
    parser.add_argument("--json", action="store_true", help="the same on stdout as JSON")
    parser.add_argument("--markdown", action="store_true", help="the same as SPECIFICATION.md's")
    parser.add_argument("--engine", default="bt", choices=("bt", "kvm"))
    parser.add_argument("--no-peer", action="store_true", help="measure Barevisor alone")
    return parser


# ---- results -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, beside the peer's and against its bar. `ratio` is ours / peer's, `to_native`
    is ours / native."""

    name: str
    ours: float
    unit: str
    peer: float | None = None
    native: float | None = None
    bar: str = ""
    met: bool | None = None
    ratio: float | None = field(init=False, default=None)
    to_native: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.peer:
            object.__setattr__(self, "ratio", self.ours / self.peer)
        if self.native:
            object.__setattr__(self, "to_native", self.ours / self.native)


@dataclass(slots=True)
class Report:
    """What a benchmark found."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)

    def show(self, arguments: argparse.Namespace) -> int:
        """Print it in the form asked for; 1 when a bar was missed."""
        self.machine = machine_facts()
        if arguments.json:
            print(json.dumps(asdict(self), indent=1))
        else:
            print(self.markdown() if arguments.markdown else self.text())
        return 1 if any(row.met is False for row in self.rows) else 0

    def text(self) -> str:
        """Aligned for a terminal."""
        head, *rows = self._cells()
        sizes = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        columns = list(zip(head, sizes, strict=True))
        lines = [
            "  ".join(_aligned(row[i], name, size) for i, (name, size) in enumerate(columns))
            for row in (head, *rows)
        ]
        return "\n".join([self.title, *(line.rstrip() for line in lines), *self._tail()])

    def markdown(self) -> str:
        """A table as SPECIFICATION.md has them."""
        head, *rows = self._cells()
        rule = "|".join("---:" if name in NUMBERS else "---" for name in head)
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        table = ["| " + " | ".join(head) + " |", f"|{rule}|", *lines]
        return "\n".join([self.title, "", *table, "", *self._tail()])

    def _cells(self) -> list[list[str]]:
        """The head and the rows, without the columns that are empty."""
        head = ["", *NUMBERS, "unit", "bar", "verdict"]
        verdicts = {None: "", True: "met", False: "MISSED"}
        cells = [head] + [
            [r.name, number(r.ours), number(r.peer), number(r.ratio), number(r.native),
             number(r.to_native), r.unit, r.bar, verdicts[r.met]]
            for r in self.rows
        ]  # fmt: skip
        used = [i for i in range(len(head)) if any(row[i] for row in cells[1:])]
        return [[row[i] for i in used] for row in cells]

    def _tail(self) -> list[str]:
        return self.notes + [f"{name}: {value}" for name, value in self.machine.items()]


NUMBERS = ("ours", "peer", "ours/peer", "native", "ours/native")


def _aligned(text: str, column: str, width: int) -> str:
    return text.rjust(width) if column in NUMBERS else text.ljust(width)


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine_facts() -> dict[str, str]:
    """What a reader needs to know of the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cpu = next(names, platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    facts = {
        "machine": f"{cpu}, {os.cpu_count()} CPUs, {memory} GiB, load {load}",
        "host": f"Linux {platform.release()}, Python {platform.python_version()}",
        "commit": _first_line(["git", "-C", str(Path(__file__).parent), "describe", "--always",
                               "--dirty"]),
    }  # fmt: skip
    if not qemu.missing():
        facts["peer"] = _first_line([qemu.QEMU, "--version"])
    if mode := os.environ.get(BT_MODE):
        facts["bt"] = f"{BT_MODE}={mode}"
    return facts


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown"])[0]


def progress(text: str) -> None:
    """On stderr, where it disturbs neither table nor JSON."""
    print(text, file=sys.stderr, flush=True)


# ---- timing ------------------------------------------------------------------------------


def median(values: list[float]) -> float:
    return statistics.median(values)


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values)


def alternate(rounds: int, actions: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each action once a round, in turn, so that a change of load hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds):
        for name, action in actions.items():
            found[name].append(action())
            progress(f"  {turn + 1}/{rounds} {name}: {found[name][-1]:.3f}")
    return found


def process_seconds(command: list[str], *, code: int = 0) -> float:
    """From the start of a process to its end. Raises SystemExit when it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = time.perf_counter() - start
    if done.returncode != code:
        text = done.stderr.decode(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{text}")
    return took


def bare(*words: str) -> list[str]:
    """The `bare` command of the Python that runs this."""
    script = Path(sys.executable).with_name("bare")
    first = [str(script)] if script.exists() else [sys.executable, "-c", BARE]
    return [*first, *words]


BARE = "import sys; from barevisor.cli.main import main; sys.exit(main())"


# ---- the guests --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """A command in a guest. `seconds` are from the request to its end, on the host's clock."""

    seconds: float
    stdout: bytes
    stderr: bytes
    code: int


def guest_run(client: AgentClient, argv: list[str], stdin: bytes = b"", cwd: str = "/") -> Done:
    """Run a command by the agent. Raises what ended the guest."""
    start = time.perf_counter()
    process = client.start(argv, env=ENVIRONMENT, cwd=cwd)
    out, err = process.communicate(stdin, RUN_SECONDS)
    return Done(time.perf_counter() - start, out, err, process.wait(RUN_SECONDS))


def checked(done: Done) -> Done:
    """Raises SystemExit unless the command succeeded."""
    if done.code:
        raise SystemExit(f"exit code {done.code}\n{done.stderr.decode(errors='replace')[-2000:]}")
    return done


def kernel() -> Kernel:
    """The one that both guests boot."""
    return find_kernel()


@contextmanager
def our_guest(
    engine: str | Engine = "bt",
    prepare: Callable[[LinuxGuest], None] = lambda guest: None,
    config: VmConfig | None = None,
) -> Iterator[LinuxGuest]:
    """A booted guest of ours on the host's root. `prepare` sees it before the first
    instruction."""
    console = bytearray()
    chosen = select(engine)[0] if isinstance(engine, str) else engine
    guest = linux_guest(
        config or VmConfig(), chosen, console.extend, Phases(), lambda done, total: None
    )
    watcher = threading.Thread(target=_watch, args=(guest, console), name="bench-watch")
    try:
        prepare(guest)
        guest.machine.start()
        watcher.start()
        guest.client.wait_ready(READY_SECONDS)
        yield guest
    finally:
        guest.close()
        if watcher.ident is not None:
            watcher.join()


def _watch(guest: LinuxGuest, console: bytearray) -> None:
    """Whoever waits for a guest that died hears why."""
    try:
        outcome = guest.machine.wait()
    except BaseException as e:  # noqa: BLE001 - raised where the guest is waited for
        guest.client.fail(e if isinstance(e, BarevisorError) else HostError(repr(e)))
        return
    assert outcome is not None
    tail = console[-2000:].decode(errors="replace")
    guest.client.fail(HostError(f"the guest ended: {outcome.kind} {outcome.detail}\n{tail}"))


@contextmanager
def peer_guest(
    machine: str = "q35", memory_mib: int = 512, cpus: int = 1
) -> Iterator[qemu.QemuGuest]:
    """The same on QEMU, just launched: `client.wait_ready` waits for its agent."""
    chosen = kernel()
    image = initrd.build_initrd(chosen, initrd.Setup("overlay"))
    with tempfile.TemporaryDirectory() as folder, qemu.QemuGuest(
        Path(folder), chosen.image, image, {initrd.ROOT_TAG: "/"},
        command_line=kernel_command_line(), machine=machine, memory_mib=memory_mib,
        options=("-smp", str(cpus)),
    ) as guest:  # fmt: skip
        yield guest


def peer_missing(arguments: argparse.Namespace) -> str:
    """ "" when there is a peer to compare with; else why not, which is said on stderr."""
    reason = "not asked for" if arguments.no_peer else qemu.missing()
    if reason:
        progress(f"no peer: {reason}")
    return reason
