"""A FUSE client over the fake driver: what Linux's virtio-fs driver sends, without Linux."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from barevisor.devices.virtio.fs import Fs
from barevisor.devices.virtio.fuse import abi
from barevisor.devices.virtio.fuse.abi import Op
from barevisor.testing.driver import FakeDriver

REQUESTS = 1
ALL_FLAGS = (1 << 30) - 1


class FuseError(OSError):
    """The server answered with an error."""


@dataclass(frozen=True)
class Found:
    """fuse_entry_out, the fields that tests ask for."""

    nodeid: int
    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int
    mtime: int
    valid: int

    @property
    def kind(self) -> int:
        return self.mode & 0o170000


def _found(nodeid: int, valid: int, attr: Sequence[int]) -> Found:
    ino, size, _, _, mtime, _, _, _, _, mode, nlink, uid, gid, *_ = attr
    return Found(nodeid, ino, size, mode, nlink, uid, gid, mtime, valid)


class FuseClient:
    """One mounted file system. Errors come back as FuseError with the server's errno."""

    def __init__(self, fs: Fs, *, flags: int = ALL_FLAGS, ram_size: int = 32 << 20) -> None:
        self.fs = fs
        self.driver = FakeDriver(fs, ram_size=ram_size)
        self.driver.start()
        self.uid, self.gid = os.getuid(), os.getgid()
        self._unique = 0
        out = self.call(Op.INIT, 0, abi.INIT_IN.pack(7, 39, 1 << 17, flags) + bytes(48), room=64)
        self.init = abi.INIT_OUT.unpack(out)

    def raw(self, parts: Sequence[bytes], room: Sequence[int]) -> bytes:
        """Send these bytes as a request; returns all that came back."""
        return self.driver.request(REQUESTS, parts, room, indirect=len(parts) + len(room) > 8)

    def call(
        self,
        op: int,
        nodeid: int,
        body: bytes = b"",
        *,
        data: Sequence[bytes] = (),
        room: int = 256,
        pages: Sequence[int] = (),
    ) -> bytes:
        """One request; returns the payload of the reply."""
        self._unique += 1
        size = abi.IN_HEADER.size + len(body) + sum(map(len, data))
        head = abi.IN_HEADER.pack(size, op, self._unique, nodeid, self.uid, self.gid, 1, 0, 0)
        parts = [head, *([body] if body else []), *data]
        answer = self.raw(parts, [abi.OUT_HEADER.size, *(pages or [room])])
        length, error, unique = abi.OUT_HEADER.unpack_from(answer)
        assert (length, unique) == (len(answer), self._unique)
        if error:
            raise FuseError(-error, os.strerror(-error))
        return answer[abi.OUT_HEADER.size :]

    def lookup(self, parent: int, name: str | bytes) -> Found:
        """FUSE_LOOKUP; a negative entry is ENOENT, as the kernel makes it."""
        name = os.fsencode(name)
        return self._entry(self.call(Op.LOOKUP, parent, name + b"\0"))

    def _entry(self, raw: bytes) -> Found:
        nodeid, _, valid, _, _, _, *attr = abi.ENTRY_OUT.unpack_from(raw)
        if not nodeid:
            raise FuseError(errno.ENOENT, "negative entry")
        return _found(nodeid, valid, attr)

    def walk(self, path: str) -> Found:
        """Look up every component from the root on."""
        found = self.getattr(abi.ROOT_ID)
        for part in path.split("/"):
            found = self.lookup(found.nodeid, part)
        return found

    def getattr(self, nodeid: int) -> Found:
        """FUSE_GETATTR."""
        raw = self.call(Op.GETATTR, nodeid, abi.GETATTR_IN.pack(0, 0))
        valid, _, _, *attr = abi.ATTR_OUT.unpack(raw)
        return _found(nodeid, valid, attr)

    def read(self, nodeid: int, size: int, offset: int = 0, fh: int = 0) -> bytes:
        """FUSE_READ into pages, as Linux lays them out."""
        pages = [min(4096, size - at) for at in range(0, size, 4096)] or [0]
        return self.call(Op.READ, nodeid, abi.READ_IN.pack(fh, offset, size), pages=pages)

    def readlink(self, nodeid: int) -> bytes:
        """FUSE_READLINK."""
        return self.call(Op.READLINK, nodeid, room=4096)

    def opendir(self, nodeid: int) -> int:
        """FUSE_OPENDIR; 0 where the server needs none."""
        try:
            return int(
                abi.OPEN_OUT.unpack(self.call(Op.OPENDIR, nodeid, abi.OPEN_IN.pack(0, 0)))[0]
            )
        except FuseError as e:
            if e.errno != errno.ENOSYS:
                raise
            return 0

    def listdir(self, nodeid: int, *, plus: bool = False, size: int = 4096) -> dict[bytes, int]:
        """Names to types (or, `plus`, to nodeids), by as many requests as it takes."""
        out: dict[bytes, int] = {}
        fh, offset = self.opendir(nodeid), 0
        op = Op.READDIRPLUS if plus else Op.READDIR
        while raw := self.call(op, nodeid, abi.READ_IN.pack(fh, offset, size), room=size):
            at = 0
            while at < len(raw):
                entry = abi.ENTRY_OUT.unpack_from(raw, at)[0] if plus else 0
                at += abi.ENTRY_OUT.size if plus else 0
                _, offset, length, kind = abi.DIRENT.unpack_from(raw, at)
                name = raw[at + abi.DIRENT.size : at + abi.DIRENT.size + length]
                assert name not in out
                out[name] = entry if plus else kind
                at += -(-(abi.DIRENT.size + length) // 8) * 8
        if fh:
            self.call(Op.RELEASEDIR, nodeid, abi.RELEASE_IN.pack(fh))
        return out

    def forget(self, nodeid: int, count: int = 1) -> None:
        """FUSE_FORGET: no reply."""
        body = abi.FORGET_IN.pack(count)
        head = abi.IN_HEADER.pack(48, Op.FORGET, 1, nodeid, 0, 0, 0, 0, 0)
        self.driver.request(0, [head, body])

    # ---- the writing half

    def open(self, nodeid: int, flags: int = os.O_RDWR) -> int:
        """FUSE_OPEN: a handle."""
        return int(abi.OPEN_OUT.unpack(self.call(Op.OPEN, nodeid, abi.OPEN_IN.pack(flags, 0)))[0])

    def create(
        self, parent: int, name: str, mode: int = 0o644, flags: int = os.O_RDWR
    ) -> tuple[Found, int]:
        """FUSE_CREATE: the file and a handle."""
        body = abi.CREATE_IN.pack(flags | os.O_CREAT, mode | 0o100000, 0) + name.encode() + b"\0"
        raw = self.call(Op.CREATE, parent, body)
        return self._entry(raw), int(abi.OPEN_OUT.unpack_from(raw, abi.ENTRY_OUT.size)[0])

    def write(self, nodeid: int, fh: int, data: bytes, offset: int = 0) -> int:
        """FUSE_WRITE: bytes written."""
        body = abi.WRITE_IN.pack(fh, offset, len(data), 0)
        pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        return int(abi.WRITE_OUT.unpack(self.call(Op.WRITE, nodeid, body, data=pages, room=8))[0])

    def release(self, nodeid: int, fh: int) -> None:
        """FUSE_RELEASE."""
        self.call(Op.RELEASE, nodeid, abi.RELEASE_IN.pack(fh))

    def mkdir(self, parent: int, name: str, mode: int = 0o755) -> Found:
        """FUSE_MKDIR."""
        return self._entry(
            self.call(Op.MKDIR, parent, abi.MKDIR_IN.pack(mode) + name.encode() + b"\0")
        )

    def mknod(self, parent: int, name: str, mode: int, rdev: int = 0) -> Found:
        """FUSE_MKNOD."""
        body = abi.MKNOD_IN.pack(mode, rdev) + name.encode() + b"\0"
        return self._entry(self.call(Op.MKNOD, parent, body))

    def symlink(self, parent: int, name: str, target: str) -> Found:
        """FUSE_SYMLINK."""
        body = name.encode() + b"\0" + target.encode() + b"\0"
        return self._entry(self.call(Op.SYMLINK, parent, body))

    def link(self, nodeid: int, parent: int, name: str) -> Found:
        """FUSE_LINK."""
        body = abi.LINK_IN.pack(nodeid) + name.encode() + b"\0"
        return self._entry(self.call(Op.LINK, parent, body))

    def remove(self, parent: int, name: str, *, directory: bool = False) -> None:
        """FUSE_UNLINK or FUSE_RMDIR."""
        self.call(Op.RMDIR if directory else Op.UNLINK, parent, name.encode() + b"\0")

    def rename(self, parent: int, name: str, into: int, new: str, flags: int = 0) -> None:
        """FUSE_RENAME, or FUSE_RENAME2 with flags."""
        names = name.encode() + b"\0" + new.encode() + b"\0"
        if flags:
            self.call(Op.RENAME2, parent, abi.RENAME2_IN.pack(into, flags) + names)
        else:
            self.call(Op.RENAME, parent, abi.RENAME_IN.pack(into) + names)

    def setattr(self, nodeid: int, valid: int, **fields: int) -> Found:
        """FUSE_SETATTR with the fields of fuse_setattr_in by name."""
        names = ("fh", "size", "atime", "mtime", "atimensec", "mtimensec", "mode", "uid", "gid")
        body = abi.SETATTR_IN.pack(valid, *(fields.get(name, 0) for name in names))
        valid_for, _, _, *attr = abi.ATTR_OUT.unpack(self.call(Op.SETATTR, nodeid, body))
        return _found(nodeid, valid_for, attr)

    def close(self) -> None:
        """Reset the device and close the tree."""
        self.driver.close()
        self.fs.close()
