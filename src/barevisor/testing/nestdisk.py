"""The disks of the nest (see nest.py): what of this host's software the outer guest gets.

Everything comes from what is installed here: Python with the packages that Barevisor and its tests
need, busybox, and QEMU from its Debian package as the peer. Nothing needs root: ext4 images are
filled by mke2fs -d.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path
from py_compile import PycInvalidationMode

from barevisor.errors import HostError

SKIPPED = {"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages",
           "__pycache__", "turtledemo", "pydoc_data", "config-3.11-x86_64-linux-gnu"}  # fmt: skip
PACKAGES = ("lz4", "zstandard", "pytest", "pytest-timeout")
"""With what they require themselves."""
QEMU_DATA = ("/usr/share/qemu", "/usr/share/seabios")
QEMU_FILES = re.compile(
    r"(bios-256k|bios|bios-microvm|kvmvapic|linuxboot_dma|linuxboot|pvh|vgabios-stdvga)\.bin"
    r"|qboot\.rom"
)
FOLDERS = ("proc", "sys", "dev", "run", "tmp", "work", "cache", "bin", "etc", "root", "mnt",
           "usr/bin")  # fmt: skip
DISTRIBUTIONS_PYTHON = Path(f"/usr/bin/python3.{sys.version_info.minor}")
WHOLE = "import asyncio, ctypes, lzma, sqlite3, ssl, sysconfig, unittest, zlib; "
"""The distribution packs parts of the standard library apart."""
SITE = "/usr/lib/nest"
"""Where the outer guest has the packages."""
SLACK_MIB = 48


def tool(name: str) -> str:
    """A program's path; those of administrators too. Raises HostError."""
    places = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    path = shutil.which(name, path=places)
    if path is None:
        raise HostError(f"no {name}", "run ./setup --tests")
    return path


def make_disk(image: Path, folder: Path | None, mib: int) -> None:
    """An ext4 image with the contents of `folder`, all owned by root. Raises HostError."""
    temporary = image.with_name(image.name + ".part")
    with temporary.open("wb") as file:
        file.truncate(mib << 20)
    words = [tool("mke2fs"), "-q", "-t", "ext4", "-E", "root_owner=0:0", "-m", "0", "-F"]
    words += ["-d", str(folder)] if folder is not None else []
    done = subprocess.run([*words, temporary], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"mke2fs: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    temporary.replace(image)


def folder_mib(folder: Path) -> int:
    """What a disk for `folder` needs, in MiB: file data in 4 KiB blocks, and metadata."""
    used = 0
    for root, folders, files in os.walk(folder):
        used += 4096 * len(folders)
        used += sum((os.lstat(Path(root, f)).st_size + 8191) // 4096 * 4096 for f in files)
    return (used >> 20) + SLACK_MIB


# ---- the root ----------------------------------------------------------------------------


def root_disk(cache: Path) -> Path:
    """The outer guest's root, made once for this Python, these packages and this QEMU."""
    image = cache / f"root-{_root_key()}.img"
    if not image.exists():
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            _fill_root(Path(temporary))
            make_disk(image, Path(temporary), folder_mib(Path(temporary)))
        for old in cache.glob("root-*.img"):
            if old != image:
                old.unlink(missing_ok=True)
    return image


def _root_key() -> str:
    parts = [Path(__file__).read_bytes(), sys.version.encode()]
    parts += [f"{d.name} {d.version}".encode() for d in _distributions()]
    for path in (*python(), tool("qemu-system-x86_64"), tool("busybox")):
        status = Path(path).stat()
        parts.append(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def python() -> tuple[Path, Path]:
    """The interpreter that the nest gets, and its library.

    The distribution's, as of all else that is compared there, when it is of this version and
    whole; else the one that runs this. One that somebody built without profile-guided
    optimization, as pyenv does by default, takes twice as long for a start under emulation."""
    script = WHOLE + "print(sysconfig.get_path('stdlib'))"
    try:
        library = subprocess.run(
            [DISTRIBUTIONS_PYTHON, "-I", "-S", "-c", script],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        base = {"installed_base": sys.base_prefix}
        return Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib", vars=base))
    return DISTRIBUTIONS_PYTHON, Path(library)


def _fill_root(root: Path) -> None:
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    shutil.copy(tool("busybox"), root / "bin/busybox")
    for name in _applets():
        (root / "bin" / name).symlink_to("busybox")
    interpreter, library = python()
    _copy_tree(library, root / library.relative_to("/"))
    _copy_packages(root / SITE.lstrip("/"))
    _compile(root / str(library).lstrip("/"), root, "/")
    _compile(root / SITE.lstrip("/"), root, "/")
    qemu = Path(tool("qemu-system-x86_64"))
    _copy_files(root, [interpreter, qemu, *library.rglob("*.so"), *(root / SITE[1:]).rglob("*.so")])
    (root / "usr/bin/python3").symlink_to(interpreter)
    if not (root / "usr/bin/qemu-system-x86_64").exists():
        (root / "usr/bin/qemu-system-x86_64").symlink_to(qemu)
    for folder in QEMU_DATA:
        for path in sorted(Path(folder).glob("*")):
            if QEMU_FILES.fullmatch(path.name):
                target = root / str(path).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def _applets() -> list[str]:
    listed = subprocess.run([tool("busybox"), "--list"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name != "busybox"]


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, symlinks=False, dirs_exist_ok=True,
        ignore=lambda folder, names: [n for n in names if n in SKIPPED or n.endswith(".a")],
    )  # fmt: skip


def _copy_files(root: Path, binaries: list[Path]) -> None:
    """Programs, and every library that they and their like name; what lies in `root` stays."""
    outside = [path for path in binaries if not path.is_relative_to(root)]
    for path in {*outside[:2], *_libraries(binaries)}:
        target = root / str(path).lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def _libraries(binaries: list[Path]) -> set[Path]:
    shown = subprocess.run(
        ["ldd", *map(str, binaries)], check=False, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout  # fmt: skip
    return {Path(p) for p in re.findall(r"(/\S+) \(0x", shown)}


def _distributions() -> list[importlib.metadata.Distribution]:
    """PACKAGES and what they require, each once, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(PACKAGES)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # required on another system only
        for requirement in found[name].requires or ():
            words, _, marker = requirement.partition(";")
            if "extra" not in marker:
                waiting.append(re.split(r"[^A-Za-z0-9._-]", words.strip())[0])
    return [found[name] for name in sorted(found)]


def _copy_packages(target: Path) -> None:
    for distribution in _distributions():
        for file in distribution.files or ():
            if ".." in file.parts or "__pycache__" in file.parts:
                continue  # scripts; bytecode is made anew
            place = target / Path(*file.parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(distribution.locate_file(file)), place)


# ---- a job -------------------------------------------------------------------------------


def job_disk(image: Path, package: Path, folders: Iterable[Path], files: dict[str, bytes]) -> None:
    """A disk with the compiled `package` of Barevisor under src/, `folders` and `files`."""
    with tempfile.TemporaryDirectory(dir=image.parent) as temporary:
        root = Path(temporary)
        copies = [(package, root / "src/barevisor"), *((f, root / f.name) for f in folders)]
        for source, target in copies:
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.o", "*.html")
            )
        _compile(root, root, "/work")
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        make_disk(image, root, folder_mib(root))


def _compile(folder: Path, strip: Path, prepend: str) -> None:
    """Bytecode by hash, unchecked: a disk's times of modification need not be the files'."""
    compileall.compile_dir(
        folder, stripdir=str(strip), prependdir=prepend, quiet=2,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip
