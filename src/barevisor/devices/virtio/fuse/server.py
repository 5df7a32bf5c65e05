"""The FUSE server: one request in, one reply out, on views of guest memory.

A row for each operation: its handler and the struct it begins with. Handlers raise OSError,
which becomes the reply's error; what the guest sent is checked before any of it is used. What
changes files is in changes.py and is refused with EROFS on a read-only tree.

A read-only tree is stateless: OPEN and OPENDIR answer ENOSYS, after which Linux sends neither
(FUSE_NO_OPEN_SUPPORT), and READ finds its file by nodeid.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from struct import Struct

from barevisor.devices.virtio.fuse import abi
from barevisor.devices.virtio.fuse.abi import Init, Op
from barevisor.devices.virtio.fuse.passthrough import NAME_MAX, Entry, HostTree, Inode, fail
from barevisor.errors import GuestError
from barevisor.records import NamedTuple, Protocol, dataclass

MAX_PAGES = 256
MAX_IO = MAX_PAGES * 4096
MAX_BODY = 256 << 10  # arguments other than WRITE's data; the longest is a BATCH_FORGET
MAX_OFFSET = (1 << 63) - 1
IOV_MAX = 1024
SNAPSHOTS = 64
IN_SIZE, OUT_SIZE = abi.IN_HEADER.size, abi.OUT_HEADER.size
_UNPACK_IN, _PACK_OUT = abi.IN_HEADER.unpack, abi.OUT_HEADER.pack
_WRITE = Op.WRITE
NO_NODE = bytes(abi.ENTRY_OUT.size)
WANTED = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.BIG_WRITES
    | Init.AUTO_INVAL_DATA
    | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO
    | Init.ASYNC_DIO
    | Init.NO_OPEN_SUPPORT
    | Init.PARALLEL_DIROPS
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.NO_OPENDIR_SUPPORT
    | Init.HANDLE_KILLPRIV_V2
)


class Buffers(Protocol):
    """A request's memory; a queue's chain."""

    readable: list[memoryview]
    writable: list[memoryview]
    size: int
    """Bytes in `readable`."""
    room: int
    """Bytes in `writable`."""


class Request(NamedTuple):
    """One request, its fixed part copied out of guest memory."""

    nodeid: int
    uid: int
    gid: int
    body: bytes
    """What follows the header; for WRITE its struct only."""
    data: list[memoryview]
    """WRITE's bytes, still in guest memory."""
    out: list[memoryview]
    room: int
    """Bytes that the reply may have after its header."""


Fields = tuple[int, ...]
Reply = bytes | int
"""The payload, or how many bytes of it are already in place."""


@dataclass(slots=True)
class Handle:
    """An open file (`fd`) or directory (`entries`) of a writable tree."""

    fd: int = -1
    entries: list[Entry] | None = None


class Server:
    """Serves one HostTree. Not thread-safe: the device's lock covers it."""

    def __init__(
        self, tree: HostTree, operations: Mapping[int, Row], *, cache: float, xattr: bool = False
    ) -> None:
        """`cache`: seconds for which the guest may trust names and attributes."""
        self.tree = tree
        self._operations = operations
        self.xattr = xattr
        self.valid = (int(cache), int(cache % 1 * 1e9))
        self.handles: dict[int, Handle] = {}
        self.flags = 0
        self._negative = cache >= 60
        self._next_handle = 1
        self._snapshots: OrderedDict[int, list[Entry]] = OrderedDict()

    def reset(self) -> None:
        """The guest is gone: forget its inodes, close its files."""
        for handle in self.handles.values():
            if handle.fd >= 0:
                os.close(handle.fd)
        self.handles.clear()
        self._snapshots.clear()
        self.tree.clear()

    def handle(self, chain: Buffers) -> int:
        """Serve one request; returns the bytes stored in its writable part. Raises GuestError
        when there is no request to answer."""
        head = _copy(chain.readable, IN_SIZE)
        if len(head) < IN_SIZE:
            raise GuestError(f"virtio-fs: a request of {len(head)} bytes")
        length, opcode, unique, nodeid, uid, gid, _, _, _ = _UNPACK_IN(head)
        row = self._operations.get(opcode, UNKNOWN)
        room = chain.room - OUT_SIZE
        payload: Reply = b""
        error = 0
        try:
            if length != chain.size:
                raise fail(errno.EINVAL)
            fields = row.fields
            body, data = _split(chain.readable, fields.size if opcode == _WRITE else -1)
            if len(body) < fields.size:
                raise fail(errno.EINVAL)
            if row.changes and not self.tree.writable:
                raise fail(errno.EROFS)
            request = Request(nodeid, uid, gid, body, data, chain.writable, room)
            payload = row.handler(self, request, fields.unpack_from(body))
            if payload.__class__ is bytes and len(payload) > room:
                raise fail(errno.ERANGE if room >= 0 else errno.EIO)
        except OSError as e:
            payload, error = b"", -(e.errno or errno.EIO)
        if row.silent:
            return 0
        if room < 0:
            raise GuestError("virtio-fs: no room for a reply's header")
        return _reply(chain.writable, error, unique, payload)

    # ---- what handlers share

    def name(self, raw: bytes) -> bytes:
        """A single component, or the error that Linux gives for it."""
        name, nul, _ = raw.partition(b"\0")
        if not nul or not name or b"/" in name or name in (b".", b".."):
            raise fail(errno.EINVAL)
        if len(name) > NAME_MAX:
            raise fail(errno.ENAMETOOLONG)
        return name

    def attributes(self, node: Inode, st: os.stat_result) -> Fields:
        """The fields of fuse_attr."""
        atime, mtime, ctime = int(st[7]), int(st[8]), int(st[9])
        return (
            self.tree.ino(node.key),
            st.st_size,
            st.st_blocks,
            atime & 0xFFFF_FFFF_FFFF_FFFF,
            mtime & 0xFFFF_FFFF_FFFF_FFFF,
            ctime & 0xFFFF_FFFF_FFFF_FFFF,
            st.st_atime_ns % 1_000_000_000,
            st.st_mtime_ns % 1_000_000_000,
            st.st_ctime_ns % 1_000_000_000,
            st.st_mode,
            st.st_nlink & 0xFFFF_FFFF,
            st.st_uid,
            st.st_gid,
            st.st_rdev & 0xFFFF_FFFF,
            st.st_blksize & 0xFFFF_FFFF,
            0,
        )

    def entry(self, node: Inode, st: os.stat_result) -> bytes:
        """fuse_entry_out."""
        seconds, nanoseconds = self.valid
        return abi.ENTRY_OUT.pack(
            node.nodeid,
            0,
            seconds,
            seconds,
            nanoseconds,
            nanoseconds,
            *self.attributes(node, st),
        )

    def attr(self, node: Inode, st: os.stat_result) -> bytes:
        """fuse_attr_out."""
        return abi.ATTR_OUT.pack(*self.valid, 0, *self.attributes(node, st))

    def new_handle(self, handle: Handle) -> int:
        """A number for `handle`; the caller keeps `fd` when this raises ENFILE."""
        if len(self.handles) >= self.tree.max_handles:
            raise fail(errno.ENFILE)
        number = self._next_handle
        self._next_handle += 1
        self.handles[number] = handle
        return number

    def file(self, number: int, nodeid: int) -> int:
        """The descriptor of handle `number`, or a cached reader of the inode without one."""
        if not number and not self.tree.writable:
            return self.tree.reader(self.tree.node(nodeid))
        handle = self.handles.get(number)
        if handle is None or handle.fd < 0:
            raise fail(errno.EBADF)
        return handle.fd

    def snapshot(self, number: int, nodeid: int, offset: int) -> list[Entry]:
        """A directory's entries, read anew at offset 0."""
        handle = self.handles.get(number)
        kept = handle.entries if handle else self._snapshots.get(nodeid)
        if offset and kept is not None:
            return kept
        entries = self.tree.entries(self.tree.node(nodeid))
        if handle:
            handle.entries = entries
        else:
            self._snapshots[nodeid] = entries
            if len(self._snapshots) > SNAPSHOTS:
                self._snapshots.popitem(last=False)
        return entries

    # ---- operations

    def init(self, request: Request, fields: Fields) -> Reply:
        """FUSE_INIT: the answer has the flags of both."""
        major, minor, readahead, flags = fields
        if major != abi.MAJOR or minor < abi.OLDEST_MINOR:
            raise fail(errno.EPROTO)
        self.reset()
        self.flags = WANTED & flags
        return abi.INIT_OUT.pack(
            abi.MAJOR, abi.MINOR, readahead, self.flags, 64, 48, MAX_IO, 1, MAX_PAGES, 0, 0, 0
        )

    def destroy(self, request: Request, fields: Fields) -> Reply:
        """FUSE_DESTROY: the file system was unmounted."""
        self.reset()
        return b""

    def lookup(self, request: Request, fields: Fields) -> Reply:
        """FUSE_LOOKUP; a name that is not there may be remembered too (nodeid 0)."""
        name = self.name(request.body)
        try:
            return self.entry(*self.tree.lookup(self.tree.node(request.nodeid), name))
        except FileNotFoundError:
            if not self._negative:
                raise
            return abi.ENTRY_OUT.pack(0, 0, self.valid[0], *bytes(19))

    def forget(self, request: Request, fields: Fields) -> Reply:
        """FUSE_FORGET."""
        self._forget(request.nodeid, fields[0])
        return b""

    def batch_forget(self, request: Request, fields: Fields) -> Reply:
        """FUSE_BATCH_FORGET; the count is the guest's, the body's length bounds it."""
        one, at = abi.FORGET_ONE, abi.BATCH_FORGET_IN.size
        for i in range(min(fields[0], (len(request.body) - at) // one.size)):
            self._forget(*one.unpack_from(request.body, at + i * one.size))
        return b""

    def _forget(self, nodeid: int, count: int) -> None:
        self.tree.forget(nodeid, count)
        self._snapshots.pop(nodeid, None)

    def getattr(self, request: Request, fields: Fields) -> Reply:
        """FUSE_GETATTR."""
        flags, number = fields
        node = self.tree.node(request.nodeid)
        handle = self.handles.get(number) if flags & abi.GETATTR_FH else None
        st = os.fstat(handle.fd) if handle and handle.fd >= 0 else self.tree.stat(node)
        return self.attr(node, st)

    def readlink(self, request: Request, fields: Fields) -> Reply:
        """FUSE_READLINK."""
        return self.tree.readlink(self.tree.node(request.nodeid))

    def open(self, request: Request, fields: Fields) -> Reply:
        """FUSE_OPEN; see the top of the file for a read-only tree."""
        flags, open_flags = fields
        node = self.tree.node(request.nodeid)
        if self.tree.writable:
            return self.open_writable(node, flags, open_flags)
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise fail(errno.EROFS)
        if self.flags & Init.NO_OPEN_SUPPORT:
            raise fail(errno.ENOSYS)
        return abi.OPEN_OUT.pack(0, abi.FOPEN_KEEP_CACHE)

    def open_writable(self, node: Inode, flags: int, open_flags: int) -> bytes:
        """A handle of its own for each open of a writable tree."""
        fd = self.tree.open(node, flags & OPEN_FLAGS)
        try:
            if flags & os.O_TRUNC and open_flags & abi.OPEN_KILL_SUIDGID:
                kill_suid(fd)
            return abi.OPEN_OUT.pack(self.new_handle(Handle(fd)), 0)
        except OSError:
            os.close(fd)
            raise

    def opendir(self, request: Request, fields: Fields) -> Reply:
        """FUSE_OPENDIR."""
        if self.tree.writable:
            self.tree.node(request.nodeid)
            return abi.OPEN_OUT.pack(self.new_handle(Handle()), 0)
        if self.flags & Init.NO_OPENDIR_SUPPORT:
            raise fail(errno.ENOSYS)
        return abi.OPEN_OUT.pack(0, abi.FOPEN_KEEP_CACHE | abi.FOPEN_CACHE_DIR)

    def release(self, request: Request, fields: Fields) -> Reply:
        """FUSE_RELEASE and FUSE_RELEASEDIR."""
        handle = self.handles.pop(fields[0], None)
        if handle and handle.fd >= 0:
            os.close(handle.fd)
        return b""

    def read(self, request: Request, fields: Fields) -> Reply:
        """FUSE_READ, straight into the guest's pages."""
        number, offset, size = fields
        if offset > MAX_OFFSET - MAX_IO:
            raise fail(errno.EINVAL)
        fd = self.file(number, request.nodeid)
        views = _skip(request.out, OUT_SIZE, min(size, request.room, MAX_IO))
        return vectored(os.preadv, fd, views, offset)

    def readdir(self, request: Request, fields: Fields) -> Reply:
        """FUSE_READDIR. The offset is an index into the snapshot."""
        number, offset, size = fields
        entries = self.snapshot(number, request.nodeid, offset)
        out, left = bytearray(), min(size, request.room)
        for index in range(offset, len(entries)):
            record = _dirent(entries[index], index + 1)
            if len(out) + len(record) > left:
                break
            out += record
        return bytes(out)

    def readdirplus(self, request: Request, fields: Fields) -> Reply:
        """FUSE_READDIRPLUS: each entry is a LOOKUP too, and counts as one."""
        number, offset, size = fields
        node = self.tree.node(request.nodeid)
        entries = self.snapshot(number, request.nodeid, offset)
        out, left = bytearray(), min(size, request.room)
        for index in range(offset, len(entries)):
            entry = entries[index]
            record = _dirent(entry, index + 1)
            if len(out) + len(NO_NODE) + len(record) > left:
                break
            out += NO_NODE if entry.name in (b".", b"..") else self._plus(node, entry.name)
            out += record
        return bytes(out)

    def _plus(self, node: Inode, name: bytes) -> bytes:
        try:
            return self.entry(*self.tree.lookup(node, name))
        except OSError:  # it went in between, or cannot be read: the guest looks it up itself
            return NO_NODE

    def statfs(self, request: Request, fields: Fields) -> Reply:
        """FUSE_STATFS."""
        vfs = os.fstatvfs(self.tree.path(self.tree.node(request.nodeid)))
        return abi.STATFS_OUT.pack(
            vfs.f_blocks,
            vfs.f_bfree,
            vfs.f_bavail,
            vfs.f_files,
            vfs.f_ffree,
            vfs.f_bsize,
            vfs.f_namemax,
            vfs.f_frsize,
        )

    def lseek(self, request: Request, fields: Fields) -> Reply:
        """FUSE_LSEEK: SEEK_DATA and SEEK_HOLE; the kernel does the others itself."""
        number, offset, whence = fields
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE) or offset > MAX_OFFSET:
            raise fail(errno.EINVAL)
        fd = self.file(number, request.nodeid)
        return abi.LSEEK_OUT.pack(os.lseek(fd, offset, whence))

    def getxattr(self, request: Request, fields: Fields) -> Reply:
        """FUSE_GETXATTR. ENOSYS, when not served, is remembered by the guest."""
        if not self.xattr:
            raise fail(errno.ENOSYS)
        name = self.name(request.body[abi.XATTR_IN.size :])
        if not name.startswith(XATTR_NAMES):
            raise fail(errno.EOPNOTSUPP)
        path = f"/proc/self/fd/{self.tree.path(self.tree.node(request.nodeid))}"
        return _sized_reply(os.getxattr(path, name), fields[0])

    def listxattr(self, request: Request, fields: Fields) -> Reply:
        """FUSE_LISTXATTR."""
        if not self.xattr:
            raise fail(errno.ENOSYS)
        path = f"/proc/self/fd/{self.tree.path(self.tree.node(request.nodeid))}"
        names = [os.fsencode(name) + b"\0" for name in os.listxattr(path)]
        return _sized_reply(b"".join(n for n in names if n.startswith(XATTR_NAMES)), fields[0])

    def unknown(self, request: Request, fields: Fields) -> Reply:
        """An operation that is not served."""
        raise fail(errno.ENOSYS)

    def nothing(self, request: Request, fields: Fields) -> Reply:
        """An operation that has nothing to do."""
        return b""


XATTR_NAMES = (b"user.", b"security.capability")
OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC


def kill_suid(fd: int) -> None:
    """Clear the set-ID bits, as Linux does for a writer without CAP_FSETID."""
    mode = os.fstat(fd).st_mode
    gone = 0o4000 | (0o2000 if mode & 0o010 else 0)
    if mode & gone:
        os.fchmod(fd, mode & 0o7777 & ~gone)


def _copy(views: list[memoryview], size: int) -> bytes:
    """The first `size` bytes, in one copy; the guest may change them meanwhile."""
    if views and len(views[0]) >= size:
        return views[0].tobytes() if len(views[0]) == size else views[0][:size].tobytes()
    out = bytearray()
    for view in views:
        out += view[: size - len(out)]
    return bytes(out)


def _split(views: list[memoryview], fixed: int) -> tuple[bytes, list[memoryview]]:
    """A copy of the arguments (`fixed` bytes of them) and views of the data after them."""
    if len(views) == 1 and len(views[0]) == IN_SIZE:
        return b"", []
    # Linux gives the header a descriptor of its own; any other framing is served too.
    rest = views[1:] if len(views[0]) == IN_SIZE else _skip(views, IN_SIZE, 1 << 32)
    if fixed >= 0:
        return _copy(rest, fixed), _skip(rest, fixed, 1 << 32)
    if len(rest) == 1 and len(rest[0]) <= MAX_BODY:
        return rest[0].tobytes(), []
    if sum(map(len, rest)) > MAX_BODY:
        raise fail(errno.E2BIG)
    return b"".join(rest), []


def _skip(views: list[memoryview], skip: int, size: int) -> list[memoryview]:
    """`size` bytes of `views` from byte `skip` on."""
    out: list[memoryview] = []
    for view in views:
        if skip >= len(view):
            skip -= len(view)
            continue
        if skip or len(view) - skip > size:
            view = view[skip : skip + size]
            skip = 0
        if not size:
            break
        out.append(view)
        size -= len(view)
    return out


def vectored(
    call: Callable[[int, list[memoryview], int], int], fd: int, views: list[memoryview], offset: int
) -> int:
    """preadv or pwritev over any number of views; stops at a short transfer."""
    total = 0
    for at in range(0, len(views), IOV_MAX):
        part = views[at : at + IOV_MAX]
        done = call(fd, part, offset + total)
        total += done
        if done < sum(map(len, part)):
            break
    return total


def _reply(views: list[memoryview], error: int, unique: int, payload: Reply) -> int:
    """Scatter header and payload; returns the bytes of both."""
    if isinstance(payload, int):
        total, data = OUT_SIZE + payload, b""
    else:
        total, data = OUT_SIZE + len(payload), payload
    head = _PACK_OUT(total, error, unique)
    if len(views[0]) == OUT_SIZE:  # as Linux lays it out
        views[0][:] = head
        at = 1
    else:
        data, at = head + data, 0
    for view in views[at:] if data else ():
        part = data[: len(view)]
        view[: len(part)] = part
        data = data[len(part) :]
        if not data:
            break
    return total


def _dirent(entry: Entry, offset: int) -> bytes:
    """One fuse_dirent with its padding; the type is the mode's upper bits."""
    name = entry.name
    record = abi.DIRENT.pack(entry.ino, offset, len(name), entry.kind >> 12) + name
    return record + bytes(-len(record) % 8)


def _sized_reply(value: bytes, size: int) -> bytes:
    """Size 0 asks how long the value is."""
    if size == 0:
        return abi.XATTR_OUT.pack(len(value))
    if len(value) > size:
        raise fail(errno.ERANGE)
    return value


# ---- the table

NO_FIELDS = Struct("")


class Row(NamedTuple):
    """One operation. `changes`: refused on a read-only tree. `silent`: never answered."""

    handler: Callable[[Server, Request, Fields], Reply]
    fields: Struct = NO_FIELDS
    changes: bool = False
    silent: bool = False


UNKNOWN = Row(Server.unknown)
READING: dict[int, Row] = {
    Op.INIT: Row(Server.init, abi.INIT_IN),
    Op.DESTROY: Row(Server.destroy),
    Op.LOOKUP: Row(Server.lookup),
    Op.FORGET: Row(Server.forget, abi.FORGET_IN, silent=True),
    Op.BATCH_FORGET: Row(Server.batch_forget, abi.BATCH_FORGET_IN, silent=True),
    Op.INTERRUPT: Row(Server.nothing, silent=True),
    Op.GETATTR: Row(Server.getattr, abi.GETATTR_IN),
    Op.READLINK: Row(Server.readlink),
    Op.OPEN: Row(Server.open, abi.OPEN_IN),
    Op.OPENDIR: Row(Server.opendir, abi.OPEN_IN),
    Op.READ: Row(Server.read, abi.READ_IN),
    Op.READDIR: Row(Server.readdir, abi.READ_IN),
    Op.READDIRPLUS: Row(Server.readdirplus, abi.READ_IN),
    Op.RELEASE: Row(Server.release, abi.RELEASE_IN),
    Op.RELEASEDIR: Row(Server.release, abi.RELEASE_IN),
    Op.STATFS: Row(Server.statfs),
    Op.LSEEK: Row(Server.lseek, abi.LSEEK_IN),
    Op.GETXATTR: Row(Server.getxattr, abi.XATTR_IN),
    Op.LISTXATTR: Row(Server.listxattr, abi.XATTR_IN),
}
