"""A kernel from the distribution's own package, without root: apt downloads, we unpack.

apt checks the package against the distribution's signed lists, knows the user's mirrors and
proxies, and needs no privilege to download into a folder that we own.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from barevisor.errors import HostError
from barevisor.guest import deb
from barevisor.guest.cache import OFFLINE_HINT, Progress, kernels_path
from barevisor.guest.modules import KEEP, ModuleTree, module_name

PACKAGES = (
    "linux-image-cloud-amd64",  # Debian: small, virtio only
    "linux-image-virtual",  # Ubuntu
    "linux-image-amd64",
    "linux-image-generic",
)
NAME = re.compile(r"linux-(?:image|modules)-(?:unsigned-)?(\d[A-Za-z0-9.+~_-]*)")
PASSES = 4  # dependencies of dependencies; the kept set needs one
STALE = 24 * 3600.0


def fetch_kernel(progress: Progress = lambda done, total: None) -> Path:
    """Fetch, unpack and keep the distribution's newest small kernel; its folder.

    The folder holds `vmlinuz`, `config` and `modules` (as /lib/modules/VERSION, kept modules
    only). It appears whole or not at all. Raises HostError.
    """
    if shutil.which("apt-get") is None:
        raise HostError(
            "no kernel found, and this system has no apt-get to fetch one", "give --kernel PATH"
        )
    kernels = Path(kernels_path())
    try:
        kernels.mkdir(parents=True, exist_ok=True)
        with _locked(kernels) as folder:
            version, packages = resolve()
            target = folder / version
            if not (target / "vmlinuz").exists():
                _fetch_into(target, version, packages, progress)
            return target
    except OSError as e:
        raise HostError(f"cannot keep a kernel in {kernels}: {e}", OFFLINE_HINT) from e


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """One fetch at a time; what an interrupted one left behind goes first."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in folder.glob(".fetch-*"):
            if time.time() - old.stat().st_mtime > STALE:
                shutil.rmtree(old, ignore_errors=True)
        yield folder


def _fetch_into(target: Path, version: str, packages: list[str], progress: Progress) -> None:
    work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=target.parent))
    try:
        files = download(packages, work, progress)
        kernel = work / "kernel"
        unpack(files, version, kernel, progress)
        os.rename(kernel, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# ---- apt ---------------------------------------------------------------------------------


def _apt(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("E: ") if lines else "no message"


def _fields(package: str) -> dict[str, str]:
    """The candidate version's record, or nothing when apt does not know the package."""
    text = _apt("apt-cache", "show", "--no-all-versions", package).stdout
    record = text.split("\n\n")[0]
    return dict(line.split(": ", 1) for line in record.splitlines() if ": " in line)


def _depends(package: str) -> list[str]:
    """Names of the kernel packages that `package` depends on directly."""
    names = re.split(r"[,|]", _fields(package).get("Depends", ""))
    return [name.split()[0] for name in names if name.strip() and NAME.fullmatch(name.split()[0])]


def resolve() -> tuple[str, list[str]]:
    """(kernel version, packages to download). Raises HostError when apt knows no kernel."""
    for attempt in range(2):
        for meta in PACKAGES:
            images = [n for n in _depends(meta) if n.startswith("linux-image-")]
            if images and (match := NAME.fullmatch(images[0])):
                version = match[1]
                modules = [n for n in _depends(images[0]) if n == f"linux-modules-{version}"]
                return version, [images[0], *modules]
        if attempt or os.geteuid() != 0:
            break
        _update()
    raise HostError(
        "no kernel found, and apt knows no kernel package",
        "run `apt-get update` as root, or give --kernel PATH",
    )


def _update() -> None:
    """Empty package lists (a fresh container) are filled once; only root may."""
    done = _apt("apt-get", "-q", "update")
    if done.returncode:
        raise HostError(
            f"no kernel found, and apt-get update failed: {_last_line(done.stderr)}", OFFLINE_HINT
        )


def download(packages: list[str], folder: Path, progress: Progress) -> list[Path]:
    """Download each package into `folder` by apt. Raises HostError, naming apt's reason."""
    total = sum(int(_fields(name).get("Size", "0")) for name in packages)
    reason = _download(packages, folder, total, progress)
    if reason and os.geteuid() == 0:  # old lists name versions that the mirror no longer has
        _update()
        reason = _download(packages, folder, total, progress)
    files = sorted(folder.glob("*.deb"))
    if reason or len(files) < len(packages):
        raise HostError(f"no kernel found, and fetching one failed: {reason}", OFFLINE_HINT)
    return files


def _download(packages: list[str], folder: Path, total: int, progress: Progress) -> str:
    """Run apt-get download; "" or apt's last line of error."""
    read_end, write_end = os.pipe()
    command = ["apt-get", "-q", "-o", f"APT::Status-Fd={write_end}", "download", *packages]
    try:
        child = subprocess.Popen(
            command, cwd=folder, pass_fds=(write_end,), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    with child, open(read_end, encoding="utf-8", errors="replace") as status:
        try:
            for line in status:  # "dlstatus:ITEM:PERCENT:TEXT" (apt, README.progress-reporting)
                kind, _, rest = line.partition(":")
                percent = rest.split(":")[1] if kind == "dlstatus" and ":" in rest else ""
                if percent.replace(".", "", 1).isdigit():
                    progress(int(total * min(float(percent), 100.0) / 100), total)
            _, errors = child.communicate()
        except BaseException:
            child.kill()
            raise
    return _last_line(errors) if child.returncode else ""


# ---- unpacking ---------------------------------------------------------------------------


def unpack(
    files: list[Path],
    version: str,
    folder: Path,
    progress: Progress,
    wanted: frozenset[str] = KEEP,
) -> None:
    """Fill `folder` with the image, its config and the `wanted` modules.

    The kept modules' dependencies are known once they are unpacked, so a package is read again
    when one is missing; KEEP names them in advance for the kernels we know.
    """
    keep = set(wanted)
    choose = partial(_place, version=version, folder=folder, keep=keep)
    for _ in range(PASSES):
        _unpack_once(files, choose, progress)
        if not (folder / "vmlinuz").is_file():
            raise HostError(f"{files[0].name} holds no vmlinuz-{version}")
        absent = _unmet(folder / "modules")
        if not absent - keep:
            return
        keep.update(absent)  # `choose` sees it
    raise HostError(f"the modules of {version} depend on too many others")


def _unpack_once(
    files: list[Path], choose: Callable[[PurePosixPath], Path | None], progress: Progress
) -> None:
    total = sum(file.stat().st_size for file in files)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for file in files:
        deb.extract(file, choose, advance)


def _place(path: PurePosixPath, version: str, folder: Path, keep: set[str]) -> Path | None:
    """Where a file of the package goes; None for what guests do not use."""
    if path.parent == PurePosixPath("/boot"):
        names = {f"vmlinuz-{version}": "vmlinuz", f"config-{version}": "config"}
        return folder / names[path.name] if path.name in names else None
    inside = str(path).removeprefix("/usr")
    root = f"/lib/modules/{version}/"
    if not inside.startswith(root):
        return None
    if inside == root + "modules.builtin":
        return folder / "modules" / "modules.builtin"
    name = module_name(path.name)
    if name is None or not re.fullmatch(r"[A-Za-z0-9._-]+", path.name):
        return None
    return folder / "modules" / "kernel" / path.name if name in keep else None


def _unmet(modules: Path) -> set[str]:
    """Modules that kept ones depend on and that are not there."""
    tree = ModuleTree(modules)
    needed = {need for name in tree.files for need in tree.needs(name)}
    return {name for name in needed if tree.missing(name)}
