"""The operations that change the host's files: only on a tree that was shared writable.

New files get the owner the guest asked for when we may give it (root), else they are ours. Set-ID
bits on files and device nodes are never created: a guest must not plant a way to root, or to a
disk, among the host's files.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from barevisor.devices.virtio.fuse import abi
from barevisor.devices.virtio.fuse.abi import Op, SetAttr
from barevisor.devices.virtio.fuse.passthrough import (
    DATA_FLAGS,
    DIR_FLAGS,
    HostTree,
    Inode,
    fail,
    fallocate,
    renameat2,
    syncfs,
)
from barevisor.devices.virtio.fuse.server import (
    MAX_IO,
    MAX_OFFSET,
    OPEN_FLAGS,
    Fields,
    Handle,
    Reply,
    Request,
    Row,
    Server,
    kill_suid,
    vectored,
)

FILE_MODE, DIR_MODE = 0o1777, 0o3777
NODES = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)
MAX_COPY = 64 << 20
NO_ID = 0xFFFF_FFFF
FALLOCATE_MODES = 0x7B  # every mode but 4, which was never given out


def _names(server: Server, raw: bytes) -> tuple[bytes, bytes]:
    first, nul, second = raw.partition(b"\0")
    return server.name(first + nul), server.name(second)


def _owner(parent: os.stat_result, request: Request) -> tuple[int, int]:
    """A set-group-ID directory gives its group, which the host's kernel did already."""
    if NO_ID in (request.uid, request.gid):
        raise fail(errno.EINVAL)
    return request.uid, -1 if parent.st_mode & stat.S_ISGID else request.gid


def _give(tree: HostTree, parent: Inode, node: Inode, request: Request, mode: int) -> None:
    """Owner and mode as the guest's kernel computed them; the host's umask does not count."""
    if os.geteuid() == 0:
        uid, gid = _owner(os.fstat(tree.path(parent)), request)
        os.chown(tree.proc_name(node), uid, gid, dir_fd=tree.proc_dir)
    inherited = tree.stat(node).st_mode & stat.S_ISGID
    os.chmod(tree.proc_name(node), mode | inherited, dir_fd=tree.proc_dir)


def _new_entry(server: Server, parent: Inode, name: bytes, request: Request, mode: int) -> bytes:
    node, _ = server.tree.lookup(parent, name)
    try:
        _give(server.tree, parent, node, request, mode)
        return server.entry(node, server.tree.stat(node))
    except OSError:
        server.tree.forget(node.nodeid, 1)
        raise


def create(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_CREATE. O_EXCL first: an existing name may be a FIFO or a device by now."""
    flags, mode, open_flags = fields
    tree, name = server.tree, server.name(request.body[abi.CREATE_IN.size :])
    parent = tree.node(request.nodeid)
    wanted = flags & OPEN_FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | DATA_FLAGS
    try:
        fd = os.open(name, wanted, mode & 0o777, dir_fd=tree.dir_fd(parent))
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        node, _ = tree.lookup(parent, name)
        try:
            opened = server.open_writable(node, flags, open_flags)
            return server.entry(node, tree.stat(node)) + opened
        except OSError:
            tree.forget(node.nodeid, 1)
            raise
    try:
        entry = _new_entry(server, parent, name, request, mode & FILE_MODE)
        return entry + abi.OPEN_OUT.pack(server.new_handle(Handle(fd)), 0)
    except OSError:
        os.close(fd)
        raise


def mknod(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_MKNOD: files, FIFOs and sockets."""
    name = server.name(request.body[abi.MKNOD_IN.size :])
    parent, mode = server.tree.node(request.nodeid), fields[0]
    if stat.S_IFMT(mode) not in NODES:
        raise fail(errno.EPERM)
    kind = stat.S_IFMT(mode)
    os.mknod(name, kind | mode & 0o777, dir_fd=server.tree.dir_fd(parent))
    return _new_entry(server, parent, name, request, mode & FILE_MODE)


def mkdir(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_MKDIR."""
    name = server.name(request.body[abi.MKDIR_IN.size :])
    parent = server.tree.node(request.nodeid)
    os.mkdir(name, fields[0] & 0o777, dir_fd=server.tree.dir_fd(parent))
    return _new_entry(server, parent, name, request, fields[0] & DIR_MODE)


def symlink(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_SYMLINK. The target may be anything: only guests and the host's users follow it."""
    raw, nul, rest = request.body.partition(b"\0")
    name, (target, end, _) = server.name(raw + nul), rest.partition(b"\0")
    if not end or not target:
        raise fail(errno.EINVAL)
    tree, parent = server.tree, server.tree.node(request.nodeid)
    fd = tree.dir_fd(parent)
    os.symlink(target, name, dir_fd=fd)
    if os.geteuid() == 0:
        uid, gid = _owner(os.fstat(fd), request)
        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    return server.entry(*tree.lookup(parent, name))


def link(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_LINK, from the inode itself, not from a name that may lead elsewhere by now."""
    tree, name = server.tree, server.name(request.body[abi.LINK_IN.size :])
    parent, node = tree.node(request.nodeid), tree.node(fields[0])
    if node.kind == stat.S_IFDIR:
        raise fail(errno.EPERM)
    tree.dir_fd(parent)
    source, into = tree.paths(node, parent)
    os.link(str(source), name, src_dir_fd=tree.proc_dir, dst_dir_fd=into, follow_symlinks=True)
    return server.entry(*tree.lookup(parent, name))


def _remove(server: Server, request: Request, directory: bool) -> Reply:
    tree, name = server.tree, server.name(request.body)
    parent = tree.node(request.nodeid)
    tree.dir_fd(parent)
    tree.pin(parent, name)
    try:
        (os.rmdir if directory else os.unlink)(name, dir_fd=tree.path(parent))
    except OSError:
        tree.unpin(parent, name)
        raise
    return b""


def unlink(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_UNLINK."""
    return _remove(server, request, False)


def rmdir(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_RMDIR."""
    return _remove(server, request, True)


def rename(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_RENAME."""
    return _rename(server, request, fields[0], 0, request.body[abi.RENAME_IN.size :])


def rename2(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_RENAME2: no replace, or exchange. A whiteout would be a device node."""
    target, flags = fields
    if flags not in (0, abi.RENAME_NOREPLACE, abi.RENAME_EXCHANGE):
        raise fail(errno.EINVAL)
    return _rename(server, request, target, flags, request.body[abi.RENAME2_IN.size :])


def _rename(server: Server, request: Request, target: int, flags: int, raw: bytes) -> Reply:
    tree, (old, new) = server.tree, _names(server, raw)
    source, into = tree.node(request.nodeid), tree.node(target)
    tree.dir_fd(source)
    tree.dir_fd(into)
    if not flags:
        tree.pin(into, new)
    try:
        renameat2(*_between(tree, source, old, into, new), flags)
    except OSError:
        tree.unpin(into, new)
        raise
    tree.moved(into, new)
    if flags == abi.RENAME_EXCHANGE:
        tree.moved(source, old)
    return b""


def _between(
    tree: HostTree, source: Inode, old: bytes, into: Inode, new: bytes
) -> tuple[int, bytes, int, bytes]:
    old_dir, new_dir = tree.paths(source, into)
    return old_dir, old, new_dir, new


def write(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_WRITE, straight from the guest's pages."""
    number, offset, size, flags = fields
    if size != sum(map(len, request.data)) or size > MAX_IO or offset > MAX_OFFSET - MAX_IO:
        raise fail(errno.EINVAL)
    fd = server.file(number, request.nodeid)
    if flags & abi.WRITE_KILL_SUIDGID:
        kill_suid(fd)
    return abi.WRITE_OUT.pack(vectored(os.pwritev, fd, request.data, offset))


def setattr(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_SETATTR."""
    valid, number, size = fields[0] & 0x9FF, fields[1], fields[2]
    tree, node = server.tree, server.tree.node(request.nodeid)
    mode, uid, gid = fields[7:10]
    if node.hidden:
        raise fail(errno.EACCES)
    if valid & (SetAttr.UID | SetAttr.GID):
        _chown(tree, node, valid, uid, gid)
    if valid & SetAttr.MODE:
        _chmod(tree, node, mode)
    if valid & SetAttr.SIZE:
        handle = server.handles.get(number) if valid & SetAttr.FH else None
        _truncate(tree, node, handle, size, bool(fields[0] & SetAttr.KILL_SUIDGID))
    if valid & (SetAttr.ATIME | SetAttr.MTIME):
        _utime(tree, node, valid, fields)
    return server.attr(node, tree.stat(node))


def _chown(tree: HostTree, node: Inode, valid: int, uid: int, gid: int) -> None:
    uid = uid if valid & SetAttr.UID else -1
    gid = gid if valid & SetAttr.GID else -1
    if NO_ID in (uid, gid):
        raise fail(errno.EINVAL)
    os.chown(tree.proc_name(node), uid, gid, dir_fd=tree.proc_dir)


def _chmod(tree: HostTree, node: Inode, mode: int) -> None:
    if node.kind == stat.S_IFLNK:
        raise fail(errno.EOPNOTSUPP)
    mode &= DIR_MODE if node.kind == stat.S_IFDIR else FILE_MODE
    os.chmod(tree.proc_name(node), mode, dir_fd=tree.proc_dir)


def _truncate(tree: HostTree, node: Inode, handle: Handle | None, size: int, kill: bool) -> None:
    if size > MAX_OFFSET:
        raise fail(errno.EFBIG)
    own = -1 if handle and handle.fd >= 0 else tree.open(node, os.O_WRONLY)
    fd = handle.fd if handle and own < 0 else own
    try:
        if kill:
            kill_suid(fd)
        os.ftruncate(fd, size)
    finally:
        if own >= 0:
            os.close(own)


def _utime(tree: HostTree, node: Inode, valid: int, fields: Fields) -> None:
    """utimensat(2) by the os module sets both, so the one that stays is read first."""
    st, now = tree.stat(node), time.time_ns()
    times = [st.st_atime_ns, st.st_mtime_ns]
    for i, (given, instant) in enumerate(
        ((SetAttr.ATIME, SetAttr.ATIME_NOW), (SetAttr.MTIME, SetAttr.MTIME_NOW))
    ):
        seconds, nanoseconds = fields[3 + i], fields[5 + i]
        if valid & instant:
            times[i] = now
        elif valid & given:
            signed = seconds - (1 << 64) if seconds >> 63 else seconds
            if abs(signed) >= 1 << 33 or nanoseconds >= 1_000_000_000:
                raise fail(errno.EINVAL)
            times[i] = signed * 1_000_000_000 + nanoseconds
    os.utime(tree.proc_name(node), ns=(times[0], times[1]), dir_fd=tree.proc_dir)


def fsync(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_FSYNC."""
    fd = server.file(fields[0], request.nodeid)
    (os.fdatasync if fields[1] & abi.FSYNC_FDATASYNC else os.fsync)(fd)
    return b""


def fsyncdir(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_FSYNCDIR."""
    node = server.tree.node(request.nodeid)
    fd = os.open(".", DIR_FLAGS, dir_fd=server.tree.dir_fd(node))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return b""


def sync(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_SYNCFS: the file system that holds the root."""
    fd = os.open(".", DIR_FLAGS, dir_fd=server.tree.path(server.tree.root))
    try:
        syncfs(fd)
    finally:
        os.close(fd)
    return b""


def allocate(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_FALLOCATE."""
    number, offset, length, mode = fields
    if offset > MAX_OFFSET or length > MAX_OFFSET - offset or mode & ~FALLOCATE_MODES:
        raise fail(errno.EINVAL)
    fallocate(server.file(number, request.nodeid), mode, offset, length)
    return b""


def copy(server: Server, request: Request, fields: Fields) -> Reply:
    """FUSE_COPY_FILE_RANGE; a bounded piece at a time, as a vCPU waits for it."""
    from_number, from_at, to_node, to_number, to_at, length = fields
    if max(from_at, to_at) > MAX_OFFSET - MAX_COPY:
        raise fail(errno.EINVAL)
    source = server.file(from_number, request.nodeid)
    into = server.file(to_number, to_node)
    done = os.copy_file_range(source, into, min(length, MAX_COPY), from_at, to_at)
    return abi.WRITE_OUT.pack(done)


CHANGING: dict[int, Row] = {
    Op.CREATE: Row(create, abi.CREATE_IN, changes=True),
    Op.MKNOD: Row(mknod, abi.MKNOD_IN, changes=True),
    Op.MKDIR: Row(mkdir, abi.MKDIR_IN, changes=True),
    Op.SYMLINK: Row(symlink, changes=True),
    Op.LINK: Row(link, abi.LINK_IN, changes=True),
    Op.UNLINK: Row(unlink, changes=True),
    Op.RMDIR: Row(rmdir, changes=True),
    Op.RENAME: Row(rename, abi.RENAME_IN, changes=True),
    Op.RENAME2: Row(rename2, abi.RENAME2_IN, changes=True),
    Op.WRITE: Row(write, abi.WRITE_IN, changes=True),
    Op.SETATTR: Row(setattr, abi.SETATTR_IN, changes=True),
    Op.FSYNC: Row(fsync, abi.FSYNC_IN, changes=True),
    Op.FSYNCDIR: Row(fsyncdir, abi.FSYNC_IN, changes=True),
    Op.SYNCFS: Row(sync, changes=True),
    Op.FALLOCATE: Row(allocate, abi.FALLOCATE_IN, changes=True),
    Op.COPY_FILE_RANGE: Row(copy, abi.COPY_IN, changes=True),
}
