"""Finding the guest's kernel: the user's, the host's newest, a cached one, or a fetched one.

With a kernel on the host or in the cache this touches no network and starts no process.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from barevisor.errors import ConfigError, HostError
from barevisor.guest.cache import OFFLINE_HINT, Progress, kernels_dir, read_cached
from barevisor.guest.modules import Module, forces_signatures, load_modules
from barevisor.records import dataclass

BOOT = Path("/boot")
MODULES = Path("/lib/modules")

HDRS_OFFSET, VERSION_OFFSET = 0x202, 0x20E  # boot.rst: "HdrS", kernel_version
BANNER = re.compile(rb"Linux version (\S{1,200}) ")
SETUP_MAX = 0x10000


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable kernel and where its modules are."""

    version: str
    """As `uname -r` prints it; "" when the image does not tell."""
    image: Path
    """A bzImage or an ELF vmlinux."""
    modules: Path | None
    """Laid out as /lib/modules/VERSION; None when everything needed is built in."""
    source: str
    """"given", "boot", "cache" or "fetched"."""
    config: Path | None = None
    """The build's .config, where there is one."""


def find_kernel(
    image: Path | None = None,
    modules: Path | None = None,
    *,
    fetch: bool = True,
    progress: Progress = lambda done, total: None,
) -> Kernel:
    """The kernel to boot. Raises ConfigError for the user's path, HostError when there is none."""
    if image is not None:
        return _given(image, modules)
    for kernel in list_kernels():
        return kernel
    if not fetch:
        raise HostError("no kernel in /boot and none fetched yet", OFFLINE_HINT)
    return fetched(progress)


def list_kernels() -> list[Kernel]:
    """Every kernel that can be used at once, best first: /boot's, then the cache's."""
    return [*_in_boot(), *_in_cache()]


def fetched(progress: Progress = lambda done, total: None) -> Kernel:
    """Fetch the distribution's kernel now (`bare kernel fetch`). Raises HostError."""
    from barevisor.guest.fetch import fetch_kernel  # archives and processes: not on every start

    return _cached(fetch_kernel(progress), "fetched")


def kernel_modules(
    kernel: Kernel, wanted: tuple[str, ...], optional: tuple[str, ...] = ()
) -> list[Module]:
    """The modules the guest loads, in order, decompressed; [] when all is built in."""
    if kernel.modules is None:
        return []
    strip = kernel.config is not None and not forces_signatures(kernel.config)
    return load_modules(kernel.modules, wanted, optional, strip)


def has_ecam(kernel: Kernel) -> bool:
    """Whether its configuration is known and says that it can reach PCI through memory alone."""
    text = read_cached(kernel.config) if kernel.config is not None else None
    return text is not None and b"\nCONFIG_PCI_MMCONFIG=y" in text


def _given(image: Path, modules: Path | None) -> Kernel:
    try:
        version = image_version(image)
    except OSError as e:
        raise ConfigError(f"cannot read kernel {image}: {e.strerror}") from e
    if modules is not None and not modules.is_dir():
        raise ConfigError(f"no modules folder {modules}")
    known = version and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*", version)
    if modules is None and known:
        places = (image.parent / "modules", MODULES / version)
        modules = next((place for place in places if place.is_dir()), None)
    configs = (image.parent / "config", BOOT / f"config-{version}") if known else ()
    config = next((file for file in configs if file.is_file()), None)
    return Kernel(version, image, modules, "given", config)


def _in_boot() -> list[Kernel]:
    """Readable /boot/vmlinuz-VERSION with their modules, newest first."""
    found = []
    for image in BOOT.glob("vmlinuz-*"):
        version = image.name.removeprefix("vmlinuz-")
        modules = MODULES / version
        if os.access(image, os.R_OK) and modules.is_dir():
            config = BOOT / f"config-{version}"
            found.append(
                Kernel(version, image, modules, "boot", config if config.is_file() else None)
            )
    return sorted(found, key=lambda kernel: version_key(kernel.version), reverse=True)


def _in_cache() -> list[Kernel]:
    found = [_cached(image.parent, "cache") for image in kernels_dir().glob("[!.]*/vmlinuz")]
    return sorted(found, key=lambda kernel: version_key(kernel.version), reverse=True)


def _cached(folder: Path, source: str) -> Kernel:
    config = folder / "config"
    return Kernel(
        folder.name, folder / "vmlinuz", folder / "modules", source,
        config if config.is_file() else None,
    )  # fmt: skip


def version_key(version: str) -> list[tuple[int, str]]:
    """Orders versions as people do: 6.10 after 6.9."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.findall(r"\d+|\D+", version)]


def image_version(image: Path) -> str:
    """The version in a bzImage's header or a vmlinux's banner; "" when it has none.

    Whether the image can boot is for the loader to say. Raises OSError.
    """
    with image.open("rb") as file:
        head = file.read(SETUP_MAX)
        if head[HDRS_OFFSET : HDRS_OFFSET + 4] == b"HdrS":
            at = int.from_bytes(head[VERSION_OFFSET : VERSION_OFFSET + 2], "little")
            text = head[at + 0x200 : at + 0x200 + 256].split(b"\0")[0] if at else b""
            return text.split(b" ")[0].decode("ascii", "replace")
        if head[:4] != b"\x7fELF":
            return ""
        tail = b""
        while chunk := head or file.read(1 << 20):
            head = b""
            if match := BANNER.search(tail + chunk):
                return match[1].decode("ascii", "replace")
            tail = chunk[-256:]
    return ""
