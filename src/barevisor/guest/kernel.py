"""Finding the guest's kernel: the user's, the host's newest, a cached one, or a fetched one.

With a kernel on the host or in the cache this touches no network and starts no process.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import groupby

from barevisor.errors import ConfigError, HostError
from barevisor.guest.cache import OFFLINE_HINT, Progress, kernels_path, read_cached
from barevisor.guest.modules import Module, forces_signatures, load_modules
from barevisor.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from barevisor.boot.files import StrPath

BOOT = "/boot"
MODULES = "/lib/modules"

HDRS_OFFSET, VERSION_OFFSET = 0x202, 0x20E  # boot.rst: "HdrS", kernel_version
BANNER = rb"Linux version (\S{1,200}) "
SETUP_MAX = 0x10000


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable kernel and where its modules are."""

    version: str
    """As `uname -r` prints it; "" when the image does not tell."""
    image: StrPath
    """A bzImage or an ELF vmlinux."""
    modules: StrPath | None
    """Laid out as /lib/modules/VERSION; None when everything needed is built in."""
    source: str
    """"given", "boot", "cache" or "fetched"."""
    config: StrPath | None = None
    """The build's .config, where there is one."""


def find_kernel(
    image: StrPath | None = None,
    modules: StrPath | None = None,
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

    return _cached(os.fspath(fetch_kernel(progress)), "fetched")


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


def _given(image: StrPath, modules: StrPath | None) -> Kernel:
    import re  # most starts find their kernel themselves

    try:
        version = image_version(image)
    except OSError as e:
        raise ConfigError(f"cannot read kernel {image}: {e.strerror}") from e
    if modules is not None and not os.path.isdir(modules):
        raise ConfigError(f"no modules folder {modules}")
    known = version and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*", version)
    folder = os.path.dirname(image)
    if modules is None and known:
        places = (os.path.join(folder, "modules"), os.path.join(MODULES, version))
        modules = next((place for place in places if os.path.isdir(place)), None)
    configs = (os.path.join(folder, "config"), os.path.join(BOOT, f"config-{version}"))
    config = next((file for file in configs if known and os.path.isfile(file)), None)
    return Kernel(version, image, modules, "given", config)


def _in_boot() -> list[Kernel]:
    """Readable /boot/vmlinuz-VERSION with their modules, newest first."""
    found = []
    for name in _names(BOOT):
        version = name.removeprefix("vmlinuz-")
        image, modules = os.path.join(BOOT, name), os.path.join(MODULES, version)
        if name != version and os.access(image, os.R_OK) and os.path.isdir(modules):
            config = _file(BOOT, f"config-{version}")
            found.append(Kernel(version, image, modules, "boot", config))
    return sorted(found, key=lambda kernel: version_key(kernel.version), reverse=True)


def _in_cache() -> list[Kernel]:
    kernels = kernels_path()
    folders = [os.path.join(kernels, name) for name in _names(kernels) if name[0] != "."]
    found = [
        _cached(folder, "cache")
        for folder in folders
        if os.path.exists(os.path.join(folder, "vmlinuz"))
    ]
    return sorted(found, key=lambda kernel: version_key(kernel.version), reverse=True)


def _cached(folder: str, source: str) -> Kernel:
    image, modules = os.path.join(folder, "vmlinuz"), os.path.join(folder, "modules")
    return Kernel(os.path.basename(folder), image, modules, source, _file(folder, "config"))


def _names(folder: StrPath) -> list[str]:
    """What is in a folder; [] when it cannot be read."""
    with suppress(OSError):
        return os.listdir(folder)
    return []


def _file(folder: StrPath, name: str) -> str | None:
    path = os.path.join(folder, name)
    return path if os.path.isfile(path) else None


def version_key(version: str) -> list[tuple[int, str]]:
    """Orders versions as people do: 6.10 after 6.9."""
    parts = ((number, "".join(part)) for number, part in groupby(version, str.isdecimal))
    return [(int(part), "") if number else (-1, part) for number, part in parts]


def image_version(image: StrPath) -> str:
    """The version in a bzImage's header or a vmlinux's banner; "" when it has none.

    Whether the image can boot is for the loader to say. Raises OSError.
    """
    with open(image, "rb") as file:
        head = file.read(SETUP_MAX)
        if head[HDRS_OFFSET : HDRS_OFFSET + 4] == b"HdrS":
            at = int.from_bytes(head[VERSION_OFFSET : VERSION_OFFSET + 2], "little")
            text = head[at + 0x200 : at + 0x200 + 256].split(b"\0")[0] if at else b""
            return text.split(b" ")[0].decode("ascii", "replace")
        if head[:4] != b"\x7fELF":
            return ""
        import re

        tail = b""
        while chunk := head or file.read(1 << 20):
            head = b""
            if match := re.search(BANNER, tail + chunk):
                return match[1].decode("ascii", "replace")
            tail = chunk[-256:]
    return ""
