"""A directory of the host, as inodes that a guest may name: nothing above it can be reached.

Every step goes from a directory's descriptor by one name (never "..", no slash, no NUL) with
O_NOFOLLOW: symbolic links are handed to the guest, never followed here, so no race with a
rename or a swapped link can leave the tree. What a name led to is compared with the inode that
the guest knows; a difference is ESTALE. A file is opened for data only through the descriptor
(O_PATH) that was just checked to be a regular file, so no FIFO, socket or device is ever opened.

Inodes hold no descriptor until one is needed; descriptors are capped and reopened by name.
Not thread-safe: the device's lock covers it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
from collections import OrderedDict

from barevisor.devices.virtio.fuse.abi import ROOT_ID
from barevisor.errors import ConfigError, HostError
from barevisor.records import NamedTuple

MAX_INODES = 1 << 20
MAX_DEPTH = 4096  # a chain of parents; a host that moves directories about could make a ring
NAME_MAX = 255
PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DATA_FLAGS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

# Kernel interfaces, not files: a guest sees the empty mount point (f_type, statfs(2)).
PSEUDO = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x1CD1,  # devpts
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x6165676C,  # pstore
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0x958458F6,  # hugetlbfs
        0x19800202,  # mqueue
        0x65735543,  # fusectl
        0xDE5E81E4,  # efivarfs
        0x42494E4D,  # binfmt_misc
        0xF97CFF8C,  # selinuxfs
        0x43415D53,  # smackfs
        0x0187,  # autofs
        0x67596969,  # rpc_pipefs
        0x6E736673,  # nsfs
        0x6E667364,  # nfsd
        0x6C6F6F70,  # binderfs
        0x07655821,  # resctrl
    }
)

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def f_type(fd: int) -> int:
    """statfs.f_type, its first word on x86-64; the os module does not tell."""
    buffer = (ctypes.c_ulong * 32)()
    _check(_libc.fstatfs(fd, buffer))
    return int(buffer[0])


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    _check(_libc.renameat2(old_dir, old, new_dir, new, flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which os.posix_fallocate cannot express."""
    _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    _check(_libc.syncfs(fd))


def fail(code: int) -> OSError:
    """The error to raise for the guest."""
    return OSError(code, os.strerror(code))


class Inode:
    """A file that the guest knows by `nodeid`, and one name that led to it. Each look-up makes one,
    so it is no record (barevisor.records)."""

    __slots__ = (
        "dev", "fd", "hidden", "key", "kind", "lookups", "name", "nodeid", "parent", "pinned",
    )  # fmt: skip

    def __init__(
        self, nodeid: int, key: int, parent: Inode | None, name: bytes, kind: int, dev: int,
        lookups: int = 0, fd: int = -1,
    ) -> None:  # fmt: skip
        """`key`: device and inode number on the host, see HostTree.key; `kind`: the type bits of
        st_mode; `fd`: an O_PATH descriptor, or -1."""
        self.nodeid, self.key, self.parent, self.name = nodeid, key, parent, name
        self.kind, self.dev, self.lookups, self.fd = kind, dev, lookups, fd
        self.pinned = False
        """The name is gone: `fd` cannot be reopened and is not evicted."""
        self.hidden = False
        """The root of a pseudo file system: an empty directory."""


class Entry(NamedTuple):
    """One name of a directory as READDIR tells it."""

    name: bytes
    ino: int
    kind: int


class HostTree:
    """Everything beneath one directory of the host."""

    def __init__(self, root: str | os.PathLike[str], *, writable: bool = False) -> None:
        """Raises ConfigError when `root` is not a directory that can be opened."""
        self.writable = writable
        try:
            fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise ConfigError(f"share {os.fspath(root)!r}: {e.strerror}") from e
        try:
            # JUSTIFICATION: reopens the files behind our own O_PATH descriptors, by number.
            self._proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            os.close(fd)
            raise HostError(f"/proc/self/fd: {e.strerror}", "mount /proc") from e
        self._euid = os.geteuid()
        self._host_dev = os.stat("/dev").st_dev  # devtmpfs has the f_type of tmpfs
        self._devices: dict[int, int] = {}
        at = os.fstat(fd)
        self.root = Inode(ROOT_ID, self.key(at), None, b"", stat.S_IFDIR, at.st_dev, 1, fd)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.max_paths = max(16, min(4096, soft // 4))
        self.max_readers = max(16, min(1024, soft // 8))
        self.max_handles = max(16, min(65536, soft // 4))
        self._nodes: dict[int, Inode] = {ROOT_ID: self.root}
        self._keys: dict[int, Inode] = {self.root.key: self.root}
        self._paths: OrderedDict[Inode, None] = OrderedDict()
        self._readers: OrderedDict[Inode, int] = OrderedDict()
        self._pins = 0
        self._next = ROOT_ID + 1

    # ---- inodes

    def key(self, st: os.stat_result) -> int:
        """One number for device and inode: ours for the device, the host's for the inode."""
        index = self._devices.setdefault(st.st_dev, len(self._devices))
        return index << 64 | st.st_ino

    def ino(self, key: int) -> int:
        """The inode number that the guest sees: mounts beneath the root must not collide."""
        return (key ^ key >> 64 << 48) & 0xFFFF_FFFF_FFFF_FFFF

    def node(self, nodeid: int) -> Inode:
        """Raises ESTALE for a number that we did not give out or that was forgotten."""
        node = self._nodes.get(nodeid)
        if node is None:
            raise fail(errno.ESTALE)
        return node

    def __len__(self) -> int:
        return len(self._nodes)

    def stat_name(self, parent: Inode, name: bytes) -> os.stat_result:
        """The attributes behind `name`; a symbolic link's own. Raises ENOENT."""
        if parent.hidden:
            raise fail(errno.ENOENT)
        return os.stat(name, dir_fd=self.path(parent), follow_symlinks=False)

    def lookup(self, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result]:
        """The inode behind `name`, with one more reference from the guest."""
        st = self.stat_name(parent, name)
        key = self.key(st)
        node = self._keys.get(key)
        if node is None or not self._same(node, parent, name, st):
            node = self._new(parent, name, st, key)
        elif not node.pinned and node is not self.root:
            node.parent, node.name = parent, name
        node.lookups += 1
        return node, st

    def _same(self, node: Inode, parent: Inode, name: bytes, st: os.stat_result) -> bool:
        """Whether `node` is the file found. Without a descriptor held, an inode number alone
        may be a deleted file's, used again, whose pages the guest still caches; a bind mount
        shows one directory twice, which the guest's kernel would take for a move."""
        if node.kind != stat.S_IFMT(st.st_mode):
            return False
        if node.kind != stat.S_IFDIR and st.st_nlink > 1:
            return True
        up = node.parent
        return node.name == name and up is not None and up.key == parent.key

    def _new(self, parent: Inode, name: bytes, st: os.stat_result, key: int) -> Inode:
        if len(self._nodes) >= MAX_INODES:
            raise fail(errno.ENFILE)
        node = Inode(self._next, key, parent, name, stat.S_IFMT(st.st_mode), st.st_dev)
        if st.st_dev != parent.dev and node.kind == stat.S_IFDIR:
            node.hidden = self._is_pseudo(node)
        self._next += 1
        self._nodes[node.nodeid] = self._keys[key] = node
        return node

    def _is_pseudo(self, node: Inode) -> bool:
        return node.dev == self._host_dev or f_type(self.path(node)) in PSEUDO

    def forget(self, nodeid: int, count: int) -> None:
        """The guest dropped `count` references; at none the inode is gone."""
        node = self._nodes.get(nodeid)
        if node is None or node is self.root:
            return
        node.lookups -= count
        if node.lookups <= 0:
            self._drop(node)

    def _drop(self, node: Inode) -> None:
        del self._nodes[node.nodeid]
        if self._keys.get(node.key) is node:
            del self._keys[node.key]
        reader = self._readers.pop(node, -1)
        if reader >= 0:
            os.close(reader)
        self._paths.pop(node, None)
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = -1
        if node.pinned:
            self._pins -= 1

    def clear(self) -> None:
        """Forget everything except the root: the guest's side was unmounted or reset."""
        for node in list(self._nodes.values()):
            if node is not self.root:
                self._drop(node)
        for node in self._paths:  # parents that were forgotten before their children
            os.close(node.fd)
            node.fd = -1
        self._paths.clear()

    def close(self) -> None:
        """Close every descriptor. Idempotent."""
        self.clear()
        if self.root.fd >= 0:
            os.close(self.root.fd)
            os.close(self._proc)
            self.root.fd = self._proc = -1

    # ---- descriptors

    def path(self, node: Inode) -> int:
        """An O_PATH descriptor of `node`, good until the next call. Raises ESTALE."""
        if node.fd < 0:
            node.fd = self._open_path(node)
            self._paths[node] = None
            if len(self._paths) > self.max_paths:
                old, _ = self._paths.popitem(last=False)
                os.close(old.fd)
                old.fd = -1
        elif node in self._paths:
            self._paths.move_to_end(node)
        return node.fd

    def paths(self, one: Inode, other: Inode) -> tuple[int, int]:
        """Both at once: opening the second does not evict the first."""
        self.path(one)
        second = self.path(other)
        return self.path(one), second

    def _open_path(self, node: Inode) -> int:
        """Walk down from the nearest ancestor that is open, one name at a time."""
        steps: list[Inode] = []
        at: Inode | None = node
        while at is not None and at.fd < 0:
            steps.append(at)
            at = at.parent
            if len(steps) > MAX_DEPTH:
                raise fail(errno.ESTALE)
        if at is None:
            raise fail(errno.ESTALE)
        fd, ours = at.fd, False
        for step in reversed(steps):
            below = self._open_step(fd, step)
            if ours:
                os.close(fd)
            if below < 0:
                raise fail(errno.ESTALE)
            fd, ours = below, True
        return fd

    def _open_step(self, parent_fd: int, node: Inode) -> int:
        """-1 when the name is gone or leads to another file now."""
        try:
            fd = os.open(node.name, PATH_FLAGS, dir_fd=parent_fd)
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return -1
        if self.key(os.fstat(fd)) != node.key:
            os.close(fd)
            return -1
        return fd

    def proc_name(self, node: Inode) -> str:
        """The name under `proc_dir` that leads to `node` itself, whatever its names do."""
        return str(self.path(node))

    @property
    def proc_dir(self) -> int:
        """dir_fd for `proc_name`."""
        return self._proc

    def open(self, node: Inode, flags: int) -> int:
        """A descriptor for data; the caller owns it. Regular files only."""
        if node.kind != stat.S_IFREG:
            raise fail(errno.EISDIR if node.kind == stat.S_IFDIR else errno.EPERM)
        fd = node.fd if node.fd >= 0 else self._open_path(node)
        try:
            if not stat.S_ISREG((st := os.fstat(fd)).st_mode):
                raise fail(errno.ESTALE)
            # Reading leaves no trace on the host where we may ask for that (open(2)).
            quiet = os.O_NOATIME if self._euid in (0, st.st_uid) and not self.writable else 0
            try:
                return os.open(str(fd), DATA_FLAGS | flags | quiet, dir_fd=self._proc)
            except PermissionError:
                if not quiet:
                    raise
                return os.open(str(fd), DATA_FLAGS | flags, dir_fd=self._proc)
        finally:
            if fd != node.fd:
                os.close(fd)

    def reader(self, node: Inode) -> int:
        """A cached descriptor for reading, for a guest that does not open (7.23)."""
        fd = self._readers.get(node, -1)
        if fd >= 0:
            self._readers.move_to_end(node)
            return fd
        fd = self._readers[node] = self.open(node, os.O_RDONLY)
        if len(self._readers) > self.max_readers:
            os.close(self._readers.popitem(last=False)[1])
        return fd

    def stat(self, node: Inode) -> os.stat_result:
        """Current attributes. Raises ESTALE when the name leads elsewhere now."""
        if node.fd >= 0:
            return os.fstat(node.fd)
        if node.parent is None:
            raise fail(errno.ESTALE)
        try:
            st = os.stat(node.name, dir_fd=self.path(node.parent), follow_symlinks=False)
        except FileNotFoundError:
            raise fail(errno.ESTALE) from None
        if self.key(st) != node.key:
            raise fail(errno.ESTALE)
        return st

    def readlink(self, node: Inode) -> bytes:
        """The target, for the guest to resolve."""
        if node.kind != stat.S_IFLNK:
            raise fail(errno.EINVAL)
        # readlinkat(2) with an empty name reads the link behind an O_PATH descriptor.
        return os.readlink(b"", dir_fd=self.path(node))

    def entries(self, node: Inode) -> list[Entry]:
        """A snapshot of a directory, "." and ".." included."""
        if node.kind != stat.S_IFDIR:
            raise fail(errno.ENOTDIR)
        up = node.parent or node
        out = [
            Entry(b".", self.ino(node.key), stat.S_IFDIR),
            Entry(b"..", self.ino(up.key), stat.S_IFDIR),
        ]
        if node.hidden:
            return out
        base = node.key >> 64 << 64
        fd = os.open(".", DIR_FLAGS, dir_fd=self.path(node))
        try:
            with os.scandir(fd) as rows:
                for row in rows:
                    ino = self.ino(base | row.inode())
                    out.append(Entry(os.fsencode(row.name), ino, _kind(row)))
        finally:
            os.close(fd)
        return out

    # ---- what changes names

    def dir_fd(self, node: Inode) -> int:
        """A directory's descriptor, to change what is in it."""
        if node.kind != stat.S_IFDIR:
            raise fail(errno.ENOTDIR)
        if node.hidden:
            raise fail(errno.EACCES)
        return self.path(node)

    def moved(self, parent: Inode, name: bytes) -> None:
        """`name` was renamed to here: its inode, if the guest knows it, follows."""
        node = self._keys.get(self.key(self.stat_name(parent, name)))
        if node is not None and not node.pinned and node is not self.root:
            node.parent, node.name = parent, name

    def pin(self, parent: Inode, name: bytes) -> None:
        """`name` is about to go: keep a descriptor of its inode, if the guest knows it by it."""
        try:
            node = self._keys.get(self.key(self.stat_name(parent, name)))
        except FileNotFoundError:
            return
        known = node is not None and node.parent is parent and node.name == name
        if node is None or not known or node.pinned or self._pins >= self.max_paths:
            return
        self.path(node)
        del self._paths[node]
        node.pinned = True
        self._pins += 1

    def unpin(self, parent: Inode, name: bytes) -> None:
        """The name did not go after all."""
        try:
            node = self._keys.get(self.key(self.stat_name(parent, name)))
        except FileNotFoundError:
            return
        if node is not None and node.pinned:
            node.pinned = False
            node.parent, node.name = parent, name
            self._paths[node] = None
            self._pins -= 1


def _kind(row: os.DirEntry[str]) -> int:
    """Type bits, without a stat where the directory tells."""
    if row.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if row.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFLNK if row.is_symlink() else 0
