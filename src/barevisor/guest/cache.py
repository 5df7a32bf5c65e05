"""The user's cache folder, and writes to it that are whole or absent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, while fetching and unpacking."""

OFFLINE_HINT = "give --kernel PATH, or run `bare kernel fetch` once with a network"


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/barevisor`, by default `~/.cache/barevisor`. It need not exist yet.

    A relative XDG_CACHE_HOME is ignored (XDG Base Directory Specification, 0.8, "Basics").
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return base / "barevisor"


def kernels_dir() -> Path:
    """Where fetched kernels are kept, one folder per version."""
    return cache_dir() / "kernels"


def write_atomic(path: Path, data: bytes) -> None:
    """Make `path` hold `data`; a reader sees the old file or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_cached(path: Path) -> bytes | None:
    """The file's bytes, or None when it is absent or unreadable: a cache is only a help."""
    try:
        return path.read_bytes()
    except OSError:
        return None
