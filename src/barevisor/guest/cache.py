"""The user's cache folder, and writes to it that are whole or absent."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress

TYPE_CHECKING = False  # see records.py
if TYPE_CHECKING:
    from pathlib import Path

    from barevisor.boot.files import StrPath

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, while fetching and unpacking."""

KEPT = struct.Struct("<8sII")
"""Head of a kept file: magic, CRC-32 of all that follows it, length of the key."""
KEPT_MAGIC, KEPT_CRC_FROM = b"BAREKEP1", 12

OFFLINE_HINT = "give --kernel PATH, or run `bare kernel fetch` once with a network"


def cache_path() -> str:
    """`$XDG_CACHE_HOME/barevisor`, by default `~/.cache/barevisor`. It need not exist yet.

    A relative XDG_CACHE_HOME is ignored (XDG Base Directory Specification, 0.8, "Basics").
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = given if given.startswith("/") else os.path.expanduser("~/.cache")
    return os.path.join(base, "barevisor")


def cache_dir() -> Path:
    """`cache_path`, for those who go on from there."""
    from pathlib import Path  # a start from what is kept needs none

    return Path(cache_path())


def kernels_path() -> str:
    """Where fetched kernels are kept, one folder per version."""
    return os.path.join(cache_path(), "kernels")


def write_atomic(path: StrPath, data: bytes) -> None:
    """Make `path` hold `data`; a reader sees the old file or the new one. Raises OSError."""
    from pathlib import Path

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_cached(path: StrPath) -> bytes | None:
    """The file's bytes, or None when it is absent or unreadable: a cache is only a help."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


# ---- results that are kept -----------------------------------------------------------------


def stamp(path: StrPath) -> str:
    """Names this version of a file without reading it. Raises OSError."""
    st = os.stat(path)
    return f"{st.st_dev}:{st.st_ino}:{st.st_size}:{st.st_mtime_ns}:{st.st_ctime_ns}"


def place(kind: str, key: str) -> str:
    """Where a result of that kind and key is kept. Keys that meet there replace each other."""
    return os.path.join(cache_path(), kind, f"{zlib.crc32(_bytes(key)):08x}")


def keep(path: StrPath, key: str, data: bytes) -> None:
    """For `kept`. A cache that cannot be written costs time only."""
    name = _bytes(key)
    body = struct.pack("<I", len(name)) + name + data
    with suppress(OSError):
        write_atomic(path, struct.pack("<8sI", KEPT_MAGIC, zlib.crc32(body)) + body)


def kept(path: StrPath, key: str) -> bytes | None:
    """What was kept there under exactly this key; None for anything else, or when damaged."""
    blob = read_cached(path)
    if blob is None or len(blob) < KEPT.size:
        return None
    magic, crc, length = KEPT.unpack_from(blob)
    end = KEPT.size + length
    if magic != KEPT_MAGIC or blob[KEPT.size : end] != _bytes(key):
        return None
    return blob[end:] if zlib.crc32(memoryview(blob)[KEPT_CRC_FROM:]) == crc else None


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
