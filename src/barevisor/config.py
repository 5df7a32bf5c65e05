"""What a VM is made of, as frozen dataclasses, and the readers of what users write.

A config is checked when it is made: a wrong flag, path or size is a ConfigError before anything
starts. Paths are resolved here, once; nothing below looks at the caller's working folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from barevisor.errors import ConfigError
from barevisor.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from barevisor.boot.files import StrPath

MIB = 1 << 20
UNITS = {"": MIB, "K": 1 << 10, "M": MIB, "G": 1 << 30, "T": 1 << 40}
MEMORY_MIN, MEMORY_MAX = 64 * MIB, 252 << 30
"""A stock kernel with its initramfs needs the first; board/map.py has room for the second."""
IMAGE_MEMORY_MIN = MIB
CPUS_MAX = 255
ENGINES = ("auto", "kvm", "bt")
HOST, NONE = "host", "none"
LOCALHOST = "127.0.0.1"
TRACES = ("exits", "blocks")
GUEST_ONLY = ("/proc", "/sys", "/dev", "/run")
"""The guest mounts its own file systems there, so a host's folder beneath is not visible."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT_VARIABLES = ("TERM", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "COLORTERM")
"""Of the caller's environment; on the host's own root PATH, HOME and SHELL are kept too."""


def parse_memory(text: str | int) -> int:
    """Bytes of "512M", "2G", "65536K"; a bare number is MiB, an int is bytes.

    Rounded up to whole pages. Raises ConfigError."""
    if isinstance(text, int):
        size = text
    else:
        word = text.strip().upper().removesuffix("IB").removesuffix("B")
        digits = word.rstrip("KMGT")
        if not digits.isascii() or not digits.isdigit() or word[len(digits) :] not in UNITS:
            raise ConfigError(f"bad memory size {text!r}", "a number with K, M or G, as in 512M")
        size = int(digits[:20]) * UNITS[word[len(digits) :]]
    size = (size + 4095) & ~4095
    if not IMAGE_MEMORY_MIN <= size <= MEMORY_MAX:
        raise ConfigError(f"memory of {text} is out of range", "from 64M to 252G")
    return size


def parse_environment(pairs: Iterable[str]) -> dict[str, str]:
    """ "K=V" strings; a "K" alone is taken from the caller's environment. Raises ConfigError."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or "\0" in pair:
            raise ConfigError(f"bad environment variable {pair!r}", "give NAME=VALUE")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def as_path(path: StrPath) -> Path:
    """A Path. Its import is a sixth of a Linux guest's start, and most starts need none."""
    from pathlib import Path

    return Path(path)


def _folder(path: StrPath, what: str) -> Path:
    """The folder, resolved. Raises ConfigError."""
    try:
        real = as_path(path).resolve(strict=True)
        if not real.is_dir():
            raise ConfigError(f"{what} {path}: not a folder")
        os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise ConfigError(f"{what} {path}: {reason}") from e
    return real


@dataclass(frozen=True, slots=True)
class Share:
    """A folder of the host's, mounted in the guest."""

    source: Path
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", _folder(self.source, "share"))
        parts = self.target.split("/")
        if not self.target.startswith("/") or ".." in parts or not any(parts):
            raise ConfigError(
                f"share {self.source}: {self.target!r} is no place in the guest",
                "give HOST:GUEST[:ro] with an absolute path for GUEST",
            )

    @classmethod
    def parse(cls, text: str) -> Share:
        """HOST:GUEST[:ro|:rw]. Raises ConfigError."""
        words = text.split(":")
        mode = words.pop() if len(words) == 3 else "rw"
        if len(words) != 2 or not all(words) or mode not in ("ro", "rw"):
            raise ConfigError(f"bad share {text!r}", "give HOST:GUEST or HOST:GUEST:ro")
        return cls(as_path(words[0]), words[1], mode == "ro")


@dataclass(frozen=True, slots=True)
class GdbListen:
    """Where a server for gdb listens: a TCP port, or a socket in the file system (`path`).

    `wait`: the guest does not begin before a client lets it. Whoever can connect controls the
    guest, and reads all that it can read."""

    host: str = LOCALHOST
    port: int = 0
    path: str | None = None
    wait: bool = True

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> GdbListen:
        """[HOST]:PORT or unix:PATH, and ",nowait". Raises ConfigError."""
        where, comma, option = text.rpartition(",")
        if not comma:
            where, option = text, "wait"
        if option not in ("wait", "nowait"):
            raise ConfigError(f"bad gdb address {text!r}", "only ,nowait may follow the address")
        wait = option == "wait"
        if where.startswith("unix:") and where[5:]:
            return cls(path=where[5:], wait=wait)
        host, colon, port = where.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
            raise ConfigError(
                f"bad gdb address {text!r}", "give :PORT, HOST:PORT or unix:PATH; :0 finds a port"
            )
        return cls(host=host.strip("[]") or LOCALHOST, port=int(port[:6]), wait=wait)


@dataclass(frozen=True, slots=True)
class Trace:
    """What is written, line by line: "exits" or "blocks". `file`: None is stderr."""

    kind: str
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.kind not in TRACES:
            raise ConfigError(f"no trace of {self.kind!r}", f"one of {', '.join(TRACES)}")

    @classmethod
    def parse(cls, text: str) -> Trace:
        """KIND[:FILE]. Raises ConfigError."""
        kind, _, file = text.partition(":")
        return cls(kind, as_path(file) if file else None)


CPU_MODELS = ("host", "common", "x86-64-v2", "x86-64-v3")


@dataclass(frozen=True, slots=True)
class VmConfig:
    """A Linux guest.

    `root`: "host" (this machine's file system under a throw-away overlay), a folder (the same),
    or "none" (only the initramfs). `rw`: folders of the host's that the guest may write, at
    the same path in the guest; below a root folder, at their place in it; the root folder
    itself makes the whole root writable. `append`: more kernel parameters.
    """

    memory: int = 512 * MIB
    cpus: int = 1
    engine: str = "auto"
    kernel: Path | None = None
    modules: Path | None = None
    root: str = HOST
    rw: tuple[Path, ...] = ()
    shares: tuple[Share, ...] = ()
    append: str = ""
    verbose: bool = False
    """All kernel messages come to the console."""
    fetch: bool = True
    """Fetch a kernel when none is here."""
    stats: bool = False
    """Count and time exits."""
    cpu: str = "host"
    """What the guest's CPUs are: "host", "common" (what both engines have here, for a guest that
    shall move between them), or a name of cpu.x86.cpuid.NAMED."""
    gdb: GdbListen | None = None
    trace: Trace | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "memory", parse_memory(self.memory))
        if self.memory < MEMORY_MIN:
            raise ConfigError(
                f"memory of {self.memory // MIB} MiB is too small for Linux", "from 64M to 252G"
            )
        check_machine(self.cpus, self.engine)
        if self.cpu not in CPU_MODELS:
            raise ConfigError(f"unknown CPU model {self.cpu!r}", f"one of {', '.join(CPU_MODELS)}")
        for name in ("kernel", "modules"):
            if (path := getattr(self, name)) is not None:
                set_field(self, name, as_path(path))
        if self.root not in (HOST, NONE):
            set_field(self, "root", str(_folder(self.root, "root")))
        rw = tuple(_folder(path, "writable folder") for path in self.rw)
        set_field(self, "rw", rw)
        for path in rw:
            if not os.access(path, os.W_OK):
                raise ConfigError(f"writable folder {path}: you may not write there yourself")
        if self.root == NONE and rw:
            raise ConfigError("a guest without a root has no place for a writable folder",
                              "use --share HOST:GUEST")  # fmt: skip

    @property
    def root_path(self) -> str | None:
        """What the guest's root shows of the host, or None."""
        if self.root == NONE:
            return None
        return "/" if self.root == HOST else self.root

    @property
    def root_folder(self) -> Path | None:
        """The same."""
        return None if self.root_path is None else as_path(self.root_path)

    @property
    def root_writable(self) -> bool:
        """The guest writes to the root folder itself."""
        return bool(self.rw) and self.root_folder in self.rw

    def all_shares(self) -> tuple[Share, ...]:
        """The shares, `rw` among them."""
        root = self.root_folder if self.rw else None
        mine = [Share(p, self.place(p)) for p in self.rw if root is not None and p != root]
        return (*mine, *self.shares)

    def place(self, path: Path) -> str:
        """Where a host's path is in the guest, when it is there."""
        root = self.root_folder or as_path("/")
        return "/" + str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    def default_cwd(self) -> str:
        """The caller's folder, where the guest has it; else "/"."""
        try:
            here = os.getcwd()
        except OSError:
            return "/"
        if self.rw and any(as_path(here).is_relative_to(share) for share in self.rw):
            return self.place(as_path(here))
        hidden = any(f"{here}/".startswith(f"{place}/") for place in GUEST_ONLY)
        return "/" if self.root != HOST or hidden else here

    def default_env(self) -> dict[str, str]:
        """What a command gets unless it is told otherwise."""
        mine = self.root == HOST
        env = {
            "PATH": os.environ.get("PATH", DEFAULT_PATH) if mine else DEFAULT_PATH,
            "HOME": os.environ.get("HOME", "/root") if mine else "/root",
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": os.environ.get("SHELL", "/bin/sh") if mine else "/bin/sh",
        }
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return {"TERM": "dumb", "LANG": "C.UTF-8", **env, **kept}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """A bare image: a multiboot, PVH or Linux kernel with nothing of ours inside.

    `arguments` follow the image's name in its command line. `initrd` is the one module.
    """

    kernel: StrPath
    arguments: tuple[str, ...] = ()
    initrd: StrPath | None = None
    memory: int = 512 * MIB
    cpus: int = 1
    engine: str = "auto"
    testdev: bool = False
    debugcon: bool = False
    stats: bool = False
    gdb: GdbListen | None = None
    trace: Trace | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", parse_memory(self.memory))
        check_machine(self.cpus, self.engine)


def check_machine(cpus: int, engine: str) -> None:
    """Raises ConfigError."""
    if not 1 <= cpus <= CPUS_MAX:
        raise ConfigError(f"a machine cannot have {cpus} CPUs", f"from 1 to {CPUS_MAX}")
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}", f"one of {', '.join(ENGINES)}")
