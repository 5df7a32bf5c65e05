"""Kernel modules for the guest: which, in what order, decompressed, without signatures.

Only what the guest needs to reach its root file system and the host: each module costs start
time. The result is cached as one file, so a later start reads it in a millisecond.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from barevisor.errors import HostError
from barevisor.guest.cache import keep, kept, place, read_cached, stamp
from barevisor.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from barevisor.boot.files import StrPath

BASE = ("virtio_pci", "virtio_console")
"""What every guest needs: the bus, then the agent's port (it comes up while the rest loads)."""
SHARES = ("virtiofs",)
OVERLAY = ("overlay",)
OPTIONAL = ("virtio_rng",)
"""Loaded when the kernel has it, in silence skipped when it does not."""
KEEP = frozenset(
    {*BASE, *SHARES, *OVERLAY, *OPTIONAL, "virtio", "virtio_ring", "virtio_pci_modern_dev"}
    | {"virtio_pci_legacy_dev", "fuse", "virtio_blk", "virtio_net", "net_failover", "failover"}
    | {"vsock", "vmw_vsock_virtio_transport", "vmw_vsock_virtio_transport_common"}
    | {"virtio_balloon", "virtio_mem", "virtio_mmio"}
)
"""What a fetched kernel keeps of its modules, beside their dependencies."""

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
MODULE_CAP = 64 << 20
SIGNATURE_MAGIC = b"~Module signature appended~\n"  # include/linux/module_signature.h, 6.1
SIGNATURE_INFO = struct.Struct(">8xI")  # struct module_signature: its last field is sig_len
FORMAT = 2  # of what is cached
ENTRY = struct.Struct("<64sQ")
"""Of the cached list: a module's name and size."""

ELF64_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
ELF64_SECTION = struct.Struct("<IIQQQQIIQQ")
MAX_SECTIONS = 4096


class Module(NamedTuple):
    """One module, ready for the kernel to load."""

    name: str
    data: bytes


def module_name(path: str) -> str | None:
    """`kernel/fs/fuse/fuse.ko.xz` -> `fuse`, or None when it is not a module's file."""
    base = path.rsplit("/", 1)[-1]
    for suffix in SUFFIXES:
        if base.endswith(suffix):
            return base.removesuffix(suffix).replace("-", "_")
    return None


def decompress(path: StrPath) -> bytes:
    """The module's ELF bytes. Raises HostError on a broken or oversized file."""
    import lzma
    import zlib

    with open(path, "rb") as file:
        raw = file.read()
    name = os.fspath(path)
    try:
        if name.endswith(".xz"):
            unpacker = lzma.LZMADecompressor()
            data = unpacker.decompress(raw, MODULE_CAP)
            whole = unpacker.eof
        elif name.endswith(".zst"):
            data, whole = _unzstd(raw), True
        elif name.endswith(".gz"):
            inflate = zlib.decompressobj(31)
            data = inflate.decompress(raw, MODULE_CAP)
            whole = inflate.eof
        else:
            data, whole = raw, True
    except (lzma.LZMAError, zlib.error) as e:
        raise HostError(f"broken kernel module {path}: {e}") from e
    if not whole or data[:4] != b"\x7fELF":
        raise HostError(f"broken kernel module {path}: truncated, too large or not ELF")
    return data


def _unzstd(raw: bytes) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().stream_reader(raw).read(MODULE_CAP)
    except zstandard.ZstdError as e:
        raise HostError(f"broken zstd kernel module: {e}") from e


def modinfo(data: bytes) -> dict[str, str]:
    """The module's `.modinfo` section as key -> first value (ELF64 little-endian).

    Raises HostError when section headers point outside the file.
    """
    try:
        header = ELF64_HEADER.unpack_from(data)
        at, size, count, names = header[6], header[11], header[12], header[13]
        if size != ELF64_SECTION.size or count > MAX_SECTIONS or names >= count:
            raise HostError("kernel module with bad section headers")
        sections = [ELF64_SECTION.unpack_from(data, at + i * size) for i in range(count)]
    except (struct.error, OverflowError) as e:
        raise HostError("kernel module: truncated ELF") from e
    strings = data[sections[names][4] :][: sections[names][5]]
    for section in sections:
        if strings[section[0] :].startswith(b".modinfo\0"):
            pairs = data[section[4] :][: section[5]].split(b"\0")
            found: dict[str, str] = {}
            for pair in pairs:
                key, _, value = pair.decode("utf-8", "replace").partition("=")
                found.setdefault(key, value)
            return found
    raise HostError("kernel module without .modinfo")


def depends(data: bytes) -> list[str]:
    """The names of the modules that this one needs, from its own `depends=`."""
    names = modinfo(data).get("depends", "").split(",")
    return [name.replace("-", "_") for name in names if name]


def strip_signature(data: bytes) -> bytes:
    """Without the appended signature, which a kernel that does not force them need not check.

    On Debian's 6.1 cloud kernel that is 168 of the 213 million instructions between /init and
    the agent (QEMU -icount). The kernel notes it as taint flag E.
    """
    if not data.endswith(SIGNATURE_MAGIC):
        return data
    end = len(data) - len(SIGNATURE_MAGIC) - SIGNATURE_INFO.size
    if end < 0:
        return data
    (length,) = SIGNATURE_INFO.unpack_from(data, end)
    return data[: end - length] if 0 < length <= end else data


class ModuleTree:
    """A folder laid out as /lib/modules/VERSION."""

    def __init__(self, root: StrPath) -> None:
        self.root = root
        self.files: dict[str, str] = {}
        self.builtin: frozenset[str] | None = None
        self._listed: dict[str, list[str]] = {}
        self._read_builtin()
        if not self._read_dep():
            self._walk()

    def _read_builtin(self) -> None:
        lines = read_cached(os.path.join(self.root, "modules.builtin"))
        if lines is not None:
            names = (module_name(line) for line in lines.decode("utf-8", "replace").split())
            self.builtin = frozenset(name for name in names if name)

    def _read_dep(self) -> bool:
        """modules.dep(5): `path: path path...`, each relative to the folder."""
        text = read_cached(os.path.join(self.root, "modules.dep"))
        for line in (text or b"").decode("utf-8", "replace").splitlines():
            path, _, needs = line.partition(":")
            name = module_name(path)
            if name is not None and ".." not in path.split("/"):
                self.files[name] = os.path.join(self.root, path.lstrip("/"))
                self._listed[name] = [n for p in needs.split() if (n := module_name(p))]
        return bool(self.files)

    def _walk(self) -> None:
        for folder, _, files in os.walk(self.root):
            for file in files:
                if name := module_name(file):
                    self.files[name] = os.path.join(folder, file)

    def needs(self, name: str) -> list[str]:
        """The direct dependencies of `name` (modules.dep gives all of them at once)."""
        if name in self._listed:
            return self._listed[name]
        return depends(decompress(self.files[name]))

    def missing(self, name: str) -> bool:
        """Neither a file nor built in. Without modules.builtin, no file means built in."""
        return name not in self.files and self.builtin is not None and name not in self.builtin

    def order(self, wanted: Iterable[str]) -> list[str]:
        """`wanted` and all they need, each after its dependencies, without the built-in ones.

        Raises HostError when one is missing or they need each other in a circle.
        """
        done: list[str] = []
        active: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            if name in active:
                raise HostError(f"kernel modules need each other: {' '.join([*active, name])}")
            if self.missing(name):
                raise HostError(
                    f"the kernel has no module {name} ({self.root})",
                    "use a kernel with virtio, virtiofs and overlay: bare kernel fetch",
                )
            if name not in self.files:
                return
            active.append(name)
            for need in self.needs(name):
                visit(need)
            active.pop()
            done.append(name)

        for name in wanted:
            visit(name)
        return done


def forces_signatures(config: StrPath) -> bool:
    """CONFIG_MODULE_SIG_FORCE of a kernel's config file; an unreadable one says yes."""
    text = read_cached(config)
    return text is None or b"\nCONFIG_MODULE_SIG_FORCE=y" in text


def load_modules(
    root: StrPath, wanted: Iterable[str], optional: Iterable[str] = (), strip: bool = False
) -> list[Module]:
    """The modules to load, in order. `strip` drops signatures. Cached; raises HostError."""
    names = [*wanted, *(f"?{name}" for name in optional)]
    key = _key(root, names, strip)
    found = kept(place("modules", key), key)
    if found is not None:
        return _unpack(found)
    tree = ModuleTree(root)
    extra = [name for name in optional if name in tree.files]
    modules = []
    for name in tree.order([*wanted, *extra]):
        data = decompress(tree.files[name])
        modules.append(Module(name, strip_signature(data) if strip else data))
    keep(place("modules", key), key, _pack(modules))
    return modules


def _key(root: StrPath, names: list[str], strip: bool) -> str:
    stamps = []
    for file in (root, os.path.join(root, "modules.dep"), os.path.join(root, "modules.builtin")):
        try:
            stamps.append(stamp(file))
        except OSError:
            stamps.append("")
    return repr([FORMAT, str(root), names, strip, stamps])


def _pack(modules: list[Module]) -> bytes:
    """How many, then each one's entry, then each one's data."""
    entries = [ENTRY.pack(module.name.encode(), len(module.data)) for module in modules]
    return b"".join([struct.pack("<I", len(modules)), *entries, *(m.data for m in modules)])


def _unpack(blob: bytes) -> list[Module]:
    """What `_pack` wrote."""
    (count,) = struct.unpack_from("<I", blob)
    at = 4 + count * ENTRY.size
    modules = []
    for name, size in ENTRY.iter_unpack(blob[4:at]):
        modules.append(Module(name.rstrip(b"\0").decode(), blob[at : at + size]))
        at += size
    return modules
