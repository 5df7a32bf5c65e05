"""The guest's initramfs: /init, the modules to load and the plan that /init follows.

The plan is where policy is: which file systems are mounted where. Its rows are carried out by
guest/init/boot.py in order. The archive is not compressed: unpacking costs the guest time.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from barevisor.boot.initramfs import Initramfs
from barevisor.errors import ConfigError
from barevisor.guest.cache import keep, kept, place, stamp
from barevisor.guest.init import wire
from barevisor.guest.kernel import Kernel, kernel_modules
from barevisor.guest.modules import BASE, OPTIONAL, OVERLAY, SHARES, Module
from barevisor.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal

    Root = Literal["overlay", "ro", "rw", "none"]

INIT_FOLDER = os.path.join(os.path.dirname(__file__), "init")
ROOT_TAG = "root"
SHARE_TAG = "share{}"
HOSTNAME_MAX = 64

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
LOWER, UPPER, ROOT = "/lower", "/upper", "/newroot"


class Share(NamedTuple):
    """A virtio-fs device mounted somewhere in the guest."""

    target: str
    """An absolute path in the guest; made when missing."""
    read_only: bool = False


class Setup(NamedTuple):
    """What /init is to make of the guest.

    `root`: the virtio-fs device tagged "root" under a throw-away overlay, as it is read-only or
    writable, or "none" for the initramfs itself. `shares` are tagged "share0", "share1", ...
    """

    root: Root = "overlay"
    shares: tuple[Share, ...] = ()
    hostname: str = "barevisor"


class Row(NamedTuple):
    """One row of the plan. A failed optional row is ignored; a failed row ends the guest."""

    letter: int
    operands: tuple[str, ...]
    optional: bool = False

    def encode(self) -> bytes:
        mark = chr(wire.PLAN_OPTIONAL) if self.optional else ""
        words = (mark + chr(self.letter), *(self.operands or ("",)))
        return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def _mount(
    source: str, target: str, kind: str, flags: int = 0, data: str = "", *, optional: bool = False
) -> Row:
    return Row(wire.PLAN_MOUNT, (source, target, kind, str(flags), data), optional)


def _folder(path: str, *, optional: bool = False) -> Row:
    return Row(wire.PLAN_DIRECTORY, (path,), optional)


def module_path(index: int) -> str:
    """Where the archive has the module that is loaded as number `index`."""
    return f"/m/{index:02}.ko"


def plan(setup: Setup, modules: int) -> list[Row]:
    """The rows for `setup`, after loading that many modules. Raises ConfigError."""
    name = setup.hostname
    if not name or len(name.encode()) > HOSTNAME_MAX or "\0" in name:
        raise ConfigError(f"bad host name {name!r}")
    base = "" if setup.root == "none" else ROOT
    rows = [Row(wire.PLAN_MODULE, (module_path(i),)) for i in range(modules)]
    rows += _root_rows(setup.root)
    rows += _system_rows(base, setup.root)
    for index, share in enumerate(setup.shares):
        rows += _share_rows(base, index, share)
    if base:
        rows.append(Row(wire.PLAN_ROOT, (base,)))
    rows.append(Row(wire.PLAN_HOSTNAME, (name,)))
    rows.append(Row(wire.PLAN_LOOPBACK, (), optional=True))
    return rows


def _root_rows(root: Root) -> list[Row]:
    match root:
        case "none":
            return []
        case "ro":
            return [_mount(ROOT_TAG, ROOT, "virtiofs", MS_RDONLY)]
        case "rw":
            return [_mount(ROOT_TAG, ROOT, "virtiofs")]
        case "overlay":
            layers = f"lowerdir={LOWER},upperdir={UPPER}/data,workdir={UPPER}/work"
            return [
                _mount(ROOT_TAG, LOWER, "virtiofs", MS_RDONLY),
                _mount("tmpfs", UPPER, "tmpfs", 0, "mode=0755"),
                _folder(f"{UPPER}/data"),
                _folder(f"{UPPER}/work"),
                _mount("overlay", ROOT, "overlay", 0, layers),
            ]
    raise ConfigError(f"unknown kind of root {root!r}")


def _system_rows(base: str, root: Root) -> list[Row]:
    """What every Linux system has mounted. /tmp of an overlay or a writable root is its own."""
    rows = [_folder(f"{base}/{name}", optional=True) for name in ("proc", "sys", "dev", "run")]
    rows += [
        _mount("proc", f"{base}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC),
        _mount("sysfs", f"{base}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC),
        _mount("devtmpfs", f"{base}/dev", "devtmpfs", MS_NOSUID, "mode=0755"),
        _folder(f"{base}/dev/pts"),
        _mount(
            "devpts", f"{base}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
            "gid=5,mode=620,ptmxmode=666",
        ),
        _folder(f"{base}/dev/shm"),
        _mount("tmpfs", f"{base}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
        _mount("tmpfs", f"{base}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"),
    ]  # fmt: skip
    links = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
    for name, descriptor in links.items():
        target = f"/proc/self/fd{descriptor}"
        rows.append(Row(wire.PLAN_SYMLINK, (target, f"{base}/dev/{name}")))
    if root in ("ro", "none"):
        rows.append(_folder(f"{base}/tmp", optional=True))
        rows.append(_mount("tmpfs", f"{base}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
    return rows


def _share_rows(base: str, index: int, share: Share) -> list[Row]:
    parts = [part for part in share.target.split("/") if part]
    if not share.target.startswith("/") or ".." in parts or "\0" in share.target or not parts:
        raise ConfigError(f"a share needs an absolute path in the guest, not {share.target!r}")
    rows = [
        _folder(base + "/" + "/".join(parts[:depth]), optional=True)
        for depth in range(1, len(parts) + 1)
    ]
    target = base + "/" + "/".join(parts)
    flags = MS_RDONLY if share.read_only else 0
    return [*rows, _mount(SHARE_TAG.format(index), target, "virtiofs", flags)]


def wanted_modules(setup: Setup) -> tuple[str, ...]:
    """The modules that `setup` cannot do without."""
    wanted: tuple[str, ...] = BASE
    if setup.root != "none" or setup.shares:
        wanted += SHARES
    return wanted + OVERLAY if setup.root == "overlay" else wanted


def build_initrd(kernel: Kernel, setup: Setup, files: Mapping[str, bytes] | None = None) -> bytes:
    """The archive for this kernel. `files` are added, executable.

    Raises ConfigError, and HostError when the kernel lacks a module.
    """
    modules = kernel_modules(kernel, wanted_modules(setup), OPTIONAL)
    return _archive(setup, modules, files or {})


def _archive(setup: Setup, modules: list[Module], files: Mapping[str, bytes]) -> bytes:
    rows = b"".join(row.encode() for row in plan(setup, len(modules)))
    if len(rows) >= wire.PLAN_SIZE:
        raise ConfigError("too many shares for one guest")
    archive = Initramfs()
    archive.file("/init", init_program(), 0o755)
    archive.file("/plan", rows)
    for folder in (LOWER, UPPER, ROOT, "/dev", "/proc"):
        archive.folder(folder)
    for index, module in enumerate(modules):
        archive.file(module_path(index), module.data)
    for path, data in files.items():
        archive.file(path, data, 0o755)
    return archive.build()


@functools.cache
def init_program() -> bytes:
    """/init as an ELF program, compiled from guest/init once per version and then cached."""
    names = sorted(name for name in os.listdir(INIT_FOLDER) if name.endswith(".py"))
    sources = [
        os.path.join(os.path.dirname(__file__), "compiler.py"),
        *(os.path.join(INIT_FOLDER, name) for name in names),
    ]
    key = " ".join(f"{source} {stamp(source)}" for source in sources)
    found = kept(place("init", key), key)
    if found is not None:
        return found
    from pathlib import Path  # only when its output is not there

    from barevisor.guest.compiler import compile_program

    program = compile_program(Path(INIT_FOLDER, "main.py"))
    keep(place("init", key), key, program)
    return program
