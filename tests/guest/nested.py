"""A stock /dev/kvm where there is none: a Debian kernel in QEMU's TCG, which emulates AMD SVM.

    python tests/guest/nested.py -- python3 -m pytest -q tests/kvm

runs a command in an outer guest that has this repository, this Python with pytest, and the
/dev/kvm of kvm-amd. Needs qemu-system-x86, busybox-static, e2fsprogs and, once, apt's network. The
kernel package and the root disk are cached in $XDG_CACHE_HOME/barevisor/nested.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MODULES = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
    "virtio_blk", "crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4", "irqbypass",
    "kvm", "kvm-amd",
)  # fmt: skip
"""In load order; one that the kernel has built in is not there and not needed."""
VARIABLE = "BAREVISOR_NESTED"
"""Set in the outer guest: a test that TCG itself cannot carry is skipped there."""
MARK = "nested: exit "
SKIPPED = {"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages",
           "__pycache__", "turtledemo", "pydoc_data"}  # fmt: skip
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pytest_timeout.py",
            "pytest_timeout-*", "pytest-*", "pygments", "lz4", "zstandard", "hypothesis",
            "sortedcontainers", "attr", "attrs", "py.py")  # fmt: skip
TOOLS = ("qemu-system-x86_64", "busybox", "mke2fs", "dpkg-deb")

INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for m in {" ".join(MODULES)}; do
  o=; [ $m = kvm-amd ] && o="npt=1 nested=0"
  [ -e /modules/$m.ko ] && /bin/busybox insmod /modules/$m.ko $o
done
/bin/busybox mount -t ext4 -o ro /dev/vda /root
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/work
/bin/busybox mount -t tmpfs tmpfs /root/tmp
for d in proc sys dev; do /bin/busybox mount -o bind /$d /root/$d; done
/bin/busybox chroot /root /bin/busybox sh /work/job
/bin/busybox echo "{MARK}$?"
/bin/busybox poweroff -f
"""


@dataclass(frozen=True)
class Result:
    """`code` is the command's exit code; None when the outer guest did not get that far."""

    code: int | None
    output: str
    seconds: float


def missing() -> str:
    """ "" when this can run here, else the tool that is missing."""
    return ", ".join(t for t in TOOLS if not shutil.which(t))


def cache() -> Path:
    """Created when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "barevisor" / "nested"
    path.mkdir(parents=True, exist_ok=True)
    return path


def kernel() -> Path:
    """The unpacked linux-image-cloud-amd64 of this distribution, downloaded once."""
    tree = cache() / "kernel"
    if tree.exists():
        return tree
    shown = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], check=True, text=True,
        stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    found = re.search(r"Depends: (linux-image-\S+)", shown)
    if not found:
        raise RuntimeError("apt knows no linux-image-cloud-amd64")
    with tempfile.TemporaryDirectory(dir=cache()) as temp:
        subprocess.run(["apt-get", "-q", "download", found[1]], check=True, cwd=temp)
        deb = next(Path(temp).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb, Path(temp) / "tree"], check=True)
        (Path(temp) / "tree").rename(tree)
    return tree


# ---- the initramfs ----


def _cpio_entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """newc (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    raw = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs() -> bytes:
    """busybox, the modules and INIT."""
    busybox = shutil.which("busybox")
    modules = {p.stem: p for p in kernel().rglob("*.ko")}
    parts = [_cpio_entry(d, 0o040755) for d in ("bin", "modules")]
    parts.append(_cpio_entry("bin/busybox", 0o100755, Path(busybox or "").read_bytes()))
    for name in MODULES:
        path = modules.get(name) or modules.get(name.replace("-", "_"))
        if path:
            parts.append(_cpio_entry(f"modules/{name}.ko", 0o100644, path.read_bytes()))
    parts.append(_cpio_entry("init", 0o100755, INIT.encode()))
    return b"".join([*parts, _cpio_entry("TRAILER!!!", 0)])


# ---- disks ----


def _libraries(binaries: list[Path]) -> set[Path]:
    shown = subprocess.run(
        ["ldd", *map(str, binaries)], check=False, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout  # fmt: skip
    return {Path(p) for p in re.findall(r"(/\S+) \(0x", shown)}


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, symlinks=False, dirs_exist_ok=True,
        ignore=lambda folder, names: [
            n for n in names if n in SKIPPED or n.startswith("config-3") or n.endswith(".a")
        ],
    )  # fmt: skip


def _disk(path: Path, folder: Path, mib: int) -> None:
    with path.open("wb") as f:
        f.truncate(mib << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, "-F", path], check=True)


def root_disk() -> Path:
    """This Python with its libraries, the test packages and busybox; made once."""
    disk = cache() / f"root-{sys.version_info.major}.{sys.version_info.minor}.img"
    if disk.exists():
        return disk
    library = Path(sysconfig.get_path("stdlib"))
    with tempfile.TemporaryDirectory(dir=cache()) as temp:
        root = Path(temp)
        for name in ("proc", "sys", "dev", "tmp", "work", "bin", "usr/bin", "pypi"):
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
        python = Path(sys.executable).resolve()
        _copy_tree(library, root / library.relative_to("/"))
        binaries = [python, *library.rglob("*.so")]
        for path in {python, *_libraries(binaries)}:
            target = root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        (root / "usr/bin/python3").symlink_to(python)
        site = Path(sysconfig.get_path("purelib"))
        for pattern in PACKAGES:
            for path in site.glob(pattern):
                _copy_tree(path, root / "pypi" / path.name) if path.is_dir() else shutil.copy(
                    path, root / "pypi"
                )
        made = cache() / "root.part"
        _disk(made, root, 400)
        made.rename(disk)
    return disk


def job_disk(path: Path, command: list[str]) -> None:
    """The repository's sources and tests, and the command."""
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        for name in ("src", "tests", "bench"):
            if (REPO / name).exists():
                shutil.copytree(
                    REPO / name, root / name,
                    ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.o"),
                )  # fmt: skip
        shutil.copy(REPO / "pyproject.toml", root)
        job = root / "job"
        job.write_text(
            "cd /work; export PATH=/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1"
            f" PYTHONPATH=/work/src:/pypi {VARIABLE}=1\nexec {shlex.join(command)}\n"
        )
        job.chmod(stat.S_IRWXU)
        _disk(path, root, 64)


# ---- the run ----


def run(command: list[str], timeout: float = 300, memory: str = "1024") -> Result:
    """Run `command` in the repository inside the outer guest; stdout and stderr are one."""
    tree, root = kernel(), root_disk()
    with tempfile.TemporaryDirectory() as temp:
        initrd, job = Path(temp) / "initrd", Path(temp) / "job.img"
        initrd.write_bytes(initramfs())
        job_disk(job, command)
        drives = [
            part
            for disk in (root, job)
            for part in ("-drive", f"file={disk},if=virtio,format=raw,readonly=on")
        ]
        qemu = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35",
            "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-m", memory, "-smp", "1",
            "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", next((tree / "boot").glob("vmlinuz-*")), "-initrd", initrd, *drives,
            "-append", "console=ttyS0 panic=-1 quiet tsc=reliable",
        ]  # fmt: skip
        started = time.monotonic()
        try:
            done = subprocess.run(
                qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=timeout, check=False,
            )  # fmt: skip
            raw = done.stdout
        except subprocess.TimeoutExpired as e:
            raw = e.stdout or b""
    text = raw.decode(errors="replace").replace("\r\n", "\n")
    found = re.search(rf"^{MARK}(\d+)$", text, re.MULTILINE)
    output = text[: found.start()] if found else text
    return Result(int(found[1]) if found else None, output, time.monotonic() - started)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="run a command beside a stock /dev/kvm")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    result = run(arguments.command, arguments.timeout)
    sys.stdout.write(result.output)
    sys.stderr.write(f"{result.seconds:.1f} s, exit {result.code}\n")
    return 250 if result.code is None else result.code


if __name__ == "__main__":
    sys.exit(main())
