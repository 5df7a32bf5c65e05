"""The nest: a stock Debian guest with a real /dev/kvm, on a machine without one.

QEMU's TCG emulates AMD SVM with nested paging, so a Debian kernel in it loads kvm-amd. Barevisor
is put into that outer guest, and its kvm engine runs there as it would on bare metal; only slow.
Everything is made of Debian's packages and kept in `$XDG_CACHE_HOME/barevisor/nested`; nothing
needs root. Programs in the nest print on the console, and send results by `send`.

    python -m barevisor.testing.nest -- bare run -- uname -a
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import barevisor
from barevisor.boot.initramfs import Initramfs
from barevisor.errors import HostError
from barevisor.guest import fetch
from barevisor.guest.cache import cache_dir
from barevisor.guest.modules import load_modules
from barevisor.testing import nestdisk

QEMU = "qemu-system-x86_64"
TOOLS = (QEMU, "busybox", "mke2fs", "apt-get")
OUTER = (
    "virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay", "fuse", "irqbypass", "kvm_amd",
)  # fmt: skip
"""Modules that the outer guest loads, with their dependencies; built-in ones are skipped."""
OPTIONS = {"kvm_amd": "npt=1 nested=0"}
ACCELERATOR = "tcg,thread=multi,tb-size=512"
CPU = "EPYC,+svm,+npt"
COMMAND_LINE = (
    "console=ttyS0 panic=-1 quiet tsc=reliable mitigations=off nowatchdog audit=0 "
    "lsm=capability cryptomgr.notests random.trust_cpu=on"
)
MEMORY_MIB = 1536
CACHE_MIB = 512
MARK = "nest: exit "
VARIABLE = "BAREVISOR_NEST"
"""Set in the nest, to the path that results are written to."""
RESULTS = "/dev/ttyS1"
BARE = b"#!/usr/bin/python3\nimport sys\nfrom barevisor.cli.main import main\nsys.exit(main())\n"
POLL = 0.05

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /root
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
{insmods}
$b mount -t ext4 -o ro /dev/vda /root || echo "nest: no root disk"
$b mount -t ext4 -o noatime /dev/vdb /root/work || echo "nest: no job disk"
$b mount -t ext4 -o noatime /dev/vdc /root/cache || echo "nest: no cache disk"
$b mount -t tmpfs tmpfs /root/tmp
$b mount -t tmpfs tmpfs /root/run
for d in proc sys dev; do $b mount -o bind /$d /root/$d; done
$b mkdir -p /root/dev/shm /root/dev/pts
$b mount -t tmpfs tmpfs /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
$b mount -t debugfs debugfs /root/sys/kernel/debug
$b stty -F {results} raw -echo
$b chroot /root /bin/busybox sh /work/job
code=$?
$b umount /root/work /root/cache
$b sync
$b echo "{mark}$code"
$b poweroff -f
"""


def missing() -> str:
    """ "" when a nest can be made here, else what it lacks, in one line."""
    try:
        for name in TOOLS:
            nestdisk.tool(name)
    except HostError as e:
        return str(e)
    return ""


def inside() -> bool:
    """Whether this process runs in a nest."""
    return VARIABLE in os.environ


def send(line: str) -> None:
    """Give one line of results to whoever started the nest."""
    with open(os.environ[VARIABLE], "ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


# ---- the outer kernel --------------------------------------------------------------------


def cache() -> Path:
    """Created when missing."""
    path = cache_dir() / "nested"
    path.mkdir(parents=True, exist_ok=True)
    return path


def outer_kernel() -> Path:
    """A folder with `vmlinuz`, `config` and `modules` of the distribution's kernel, fetched once
    by apt. Raises HostError."""
    for known in sorted(cache().glob("kernel-*")):
        return known
    version, packages = fetch.resolve()
    with tempfile.TemporaryDirectory(dir=cache()) as temporary:
        work = Path(temporary)
        files = fetch.download(packages, work, lambda done, total: None)
        fetch.unpack(files, version, work / "kernel", lambda done, total: None, frozenset(OUTER))
        target = cache() / f"kernel-{version}"
        (work / "kernel").rename(target)
    return target


def initramfs(kernel: Path) -> bytes:
    """busybox, the modules and INIT."""
    archive = Initramfs()
    archive.file("/bin/busybox", Path(nestdisk.tool("busybox")).read_bytes(), 0o755)
    insmods = []
    for module in load_modules(kernel / "modules", OUTER, strip=True):
        archive.file(f"/modules/{module.name}.ko", module.data)
        insmods.append(f"$b insmod /modules/{module.name}.ko {OPTIONS.get(module.name, '')}")
    init = INIT.format(insmods="\n".join(insmods), results=RESULTS, mark=MARK)
    archive.file("/init", init.encode(), 0o755)
    return archive.build()


# ---- a run -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """`code` is the command's exit code; None when the outer guest did not get that far. `end`
    says how long the nest lived and how QEMU ended."""

    code: int | None
    output: str
    seconds: float
    end: str


class Nest:
    """A nest that runs one command. One at a time on a machine: others wait for it.

    `folders` are put into /work beside src/, where the compiled package is; `files` too, by name.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folders: Iterable[Path] = (),
        files: dict[str, bytes] | None = None,
        timeout: float = 600,
        memory_mib: int = MEMORY_MIB,
    ) -> None:
        """Raises HostError."""
        if reason := missing():
            raise HostError(f"a nest needs more: {reason}", "run ./setup --tests")
        self._stack = ExitStack()
        try:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self._lock()
            kernel, root = outer_kernel(), nestdisk.root_disk(cache())
            disks = [root, self._job(command, folders, files or {}), self._cache_disk(kernel)]
            (self._folder / "initrd").write_bytes(initramfs(kernel))
            self._started = time.monotonic()
            self._deadline = self._started + timeout
            self._process = self._spawn(kernel, disks, memory_mib)
        except BaseException:
            self._stack.close()
            raise

    def _lock(self) -> None:
        lock = self._stack.enter_context((cache() / ".lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)

    def _cache_disk(self, kernel: Path) -> Path:
        """The inner Barevisor's own cache folder, with the kernel that it boots. It is kept: what
        it unpacks and compiles would take minutes in each nest."""
        disk = cache() / f"cache-{kernel.name}.img"
        if not disk.exists():
            inner = fetch.fetch_kernel()
            with tempfile.TemporaryDirectory(dir=cache()) as temporary:
                target = Path(temporary) / "barevisor/kernels" / inner.name
                shutil.copytree(inner, target)
                nestdisk.make_disk(disk, Path(temporary), CACHE_MIB)
        return disk

    def _job(
        self, command: Sequence[str], folders: Iterable[Path], files: dict[str, bytes]
    ) -> Path:
        image = self._folder / "job.img"
        package = Path(barevisor.__file__).parent
        files = dict(files)
        for program in (cache_dir() / "init").glob("*"):
            files[f"init/{program.name}"] = program.read_bytes()
        lines = [
            "cd /work", "mkdir -p /cache/barevisor/init",
            "cp -n init/* /cache/barevisor/init/ 2>/dev/null",
            "chmod 755 bin/bare", "export PATH=/work/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8",
            "export XDG_CACHE_HOME=/cache",
            "export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/work/src:" + nestdisk.SITE,
            f"export {VARIABLE}={RESULTS}", f"exec {shlex.join(command)}",
        ]  # fmt: skip
        files["bin/bare"] = BARE  # as an installer makes it of [project.scripts]
        files["job"] = "\n".join([*lines, ""]).encode()
        nestdisk.job_disk(image, package, folders, files)
        return image

    def _spawn(self, kernel: Path, disks: list[Path], memory_mib: int) -> subprocess.Popen[bytes]:
        words = [
            QEMU, "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", ACCELERATOR,
            "-cpu", CPU, "-m", str(memory_mib), "-smp", "1", "-display", "none", "-no-reboot",
            "-serial", f"file:{self._folder}/console", "-serial", f"file:{self._folder}/results",
            "-kernel", str(kernel / "vmlinuz"), "-initrd", f"{self._folder}/initrd",
            "-append", COMMAND_LINE,
        ]  # fmt: skip
        for disk, mode in zip(disks, ("on", "off", "off"), strict=True):
            words += ["-drive", f"file={disk},if=virtio,format=raw,readonly={mode}"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _text(self, name: str) -> str:
        path = self._folder / name
        if not path.exists():
            return ""
        return path.read_bytes().decode(errors="replace").replace("\r\n", "\n")

    def processor_seconds(self) -> float:
        """What the nest has used of this host's processors, in steps of 10 ms (proc(5), stat)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def results(self) -> Iterator[str]:
        """Lines that the command sends, as they come, until the nest ends or its time is up."""
        seen = 0
        while True:
            ended = self._process.poll() is not None or time.monotonic() > self._deadline
            lines = self._text("results").split("\n")[:-1]
            yield from lines[seen:]
            seen = len(lines)
            if ended:
                return
            time.sleep(POLL)

    def finish(self) -> Result:
        """Wait for the end; the console's output up to it. After its time the nest is killed."""
        try:
            status = self._process.wait(max(0.0, self._deadline - time.monotonic()))
            end = f"QEMU's exit status {status}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            end = "its time was up"
        text = self._text("console")
        found = re.search(rf"^{MARK}(\d+)$", text, re.MULTILINE)
        output = text[: found.start()] if found else text
        code = int(found[1]) if found else None
        if code is None and self._process.stderr is not None:
            output += self._process.stderr.read().decode(errors="replace")
        seconds = time.monotonic() - self._started
        return Result(code, output, seconds, f"{end}, after {seconds:.0f} s")

    def close(self) -> None:
        """Kill what still runs, and remove its files. Idempotent."""
        self._stack.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Nest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()


def main(arguments: list[str] | None = None) -> int:
    """The command line: run a command in the nest, its output and results on stdout."""
    parser = argparse.ArgumentParser(description="run a command beside a stock /dev/kvm")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--folder", type=Path, action="append", default=[])
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    with Nest(given.command, folders=given.folder, timeout=given.timeout) as nest:
        for line in nest.results():
            sys.stdout.write(line + "\n")
        result = nest.finish()
    sys.stdout.write(result.output)
    sys.stderr.write(f"nest: {result.seconds:.1f} s, exit {result.code}\n")
    return 250 if result.code is None else result.code


if __name__ == "__main__":
    sys.exit(main())
