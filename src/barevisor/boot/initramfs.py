"""cpio archives in the "newc" format.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
The same entries give the same bytes: no times, no owners, inode numbers in order. Archives
may be joined (`b"".join`), and a later entry of the same name wins.
"""

from __future__ import annotations

import stat

from barevisor.errors import ConfigError

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
BLOCK = 512


class Initramfs:
    """Collects entries; `build` gives the archive. Missing parent folders are made (0755)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._folders: set[str] = set()
        self._inode = 0

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A directory; again is no error."""
        path = _relative(path)
        if path and path not in self._folders:
            self._parents(path)
            self._folders.add(path)
            self._entry(path, stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A regular file."""
        self._parents(_relative(path))
        self._entry(_relative(path), stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._parents(_relative(path))
        self._entry(_relative(path), stat.S_IFLNK | 0o777, _encode(target))

    def node(self, path: str, mode: int, major: int, minor: int) -> None:
        """A device; `mode` has its type (stat.S_IFCHR or S_IFBLK)."""
        self._parents(_relative(path))
        self._entry(_relative(path), mode, device=(major, minor))

    def build(self) -> bytes:
        """The archive, padded to a block as cpio does."""
        data = b"".join([*self._parts, _entry(0, TRAILER, 0, b"", (0, 0))])
        return data + bytes(-len(data) % BLOCK)

    def _parents(self, path: str) -> None:
        if "/" in path:
            self.folder(path.rpartition("/")[0])

    def _entry(
        self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        self._parts.append(_entry(self._inode, path, mode, data, device))


def _relative(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _entry(inode: int, path: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    """Header of 13 eight-digit fields, name, data, each padded to four bytes."""
    name = _encode(path) + b"\0"
    if len(data) >= 1 << 32:
        raise ConfigError(f"{path}: too large for an initramfs")
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
    head = MAGIC + b"".join(b"%08X" % f for f in fields) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
