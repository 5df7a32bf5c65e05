"""FUSE protocol 7.31 to 7.36: requests, flags and structs as rows.

Source: Linux include/uapi/linux/fuse.h. Each struct states its size, and import checks it. The
constants are no Enum: each start would make one of every row (ADR 14).
"""

from __future__ import annotations

import struct

MAJOR, MINOR, OLDEST_MINOR = 7, 36, 31
ROOT_ID = 1


class Op:
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2  # no reply
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36  # no reply
    DESTROY = 38
    BATCH_FORGET = 42  # no reply
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50


class Init:
    """FUSE_INIT flags that this server knows."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    HANDLE_KILLPRIV_V2 = 1 << 28


class SetAttr:
    """FATTR_*: which fields of SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


GETATTR_FH = 1
OPEN_KILL_SUIDGID = 1
WRITE_KILL_SUIDGID = 4
FSYNC_FDATASYNC = 1
FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR = 1 << 1, 1 << 3
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def _sized(fmt: str, size: int) -> struct.Struct:
    row = struct.Struct("<" + fmt)
    if row.size != size:
        raise TypeError(f"{fmt!r} is {row.size} bytes, the ABI says {size}")
    return row


# ino size blocks atime mtime ctime, nsecs, mode nlink uid gid rdev ...
_ATTR = "QQQQQQ" + "III" + "IIIIIII"
IN_HEADER = _sized("IIQQIIIHH", 40)  # len opcode unique nodeid uid gid pid extlen padding
OUT_HEADER = _sized("IiQ", 16)  # len error unique
ENTRY_OUT = _sized("QQQQII" + _ATTR, 128)  # nodeid generation entry_valid attr_valid nsecs attr
ATTR_OUT = _sized("QII" + _ATTR, 104)  # attr_valid attr_valid_nsec dummy attr
INIT_IN = _sized("IIII", 16)  # major minor max_readahead flags (7.36 appends flags2)
INIT_OUT = _sized("IIIIHHIIHHII24x", 64)
# major minor max_readahead flags max_background congestion max_write time_gran max_pages
# map_alignment flags2 max_stack_depth
FORGET_IN = _sized("Q", 8)
FORGET_ONE = _sized("QQ", 16)  # nodeid nlookup
BATCH_FORGET_IN = _sized("I4x", 8)
GETATTR_IN = _sized("I4xQ", 16)  # flags fh
SETATTR_IN = _sized("I4xQQ8xQQ8xII4xI4xII4x", 88)
# valid fh size atime mtime atimensec mtimensec mode uid gid
MKNOD_IN = _sized("II4x4x", 16)  # mode rdev
MKDIR_IN = _sized("I4x", 8)  # mode
RENAME_IN = _sized("Q", 8)
RENAME2_IN = _sized("QI4x", 16)  # newdir flags
LINK_IN = _sized("Q", 8)
OPEN_IN = _sized("II", 8)  # flags open_flags
OPEN_OUT = _sized("QI4x", 16)  # fh open_flags
CREATE_IN = _sized("II4xI", 16)  # flags mode open_flags
RELEASE_IN = _sized("Q16x", 24)  # fh
READ_IN = _sized("QQI20x", 40)  # fh offset size
WRITE_IN = _sized("QQII16x", 40)  # fh offset size write_flags
WRITE_OUT = _sized("I4x", 8)
STATFS_OUT = _sized("QQQQQIII28x", 80)  # blocks bfree bavail files ffree bsize namelen frsize
FSYNC_IN = _sized("QI4x", 16)  # fh flags
XATTR_IN = _sized("I4x", 8)  # size
XATTR_OUT = _sized("I4x", 8)
FALLOCATE_IN = _sized("QQQI4x", 32)  # fh offset length mode
LSEEK_IN = _sized("QQI4x", 24)  # fh offset whence
LSEEK_OUT = _sized("Q", 8)
COPY_IN = _sized("QQQQQQ8x", 56)  # fh_in off_in nodeid_out fh_out off_out len
DIRENT = _sized("QQII", 24)  # ino off namelen type, then the name, padded to 8 bytes
