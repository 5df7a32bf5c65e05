"""A file's bytes, mapped read-only."""

from __future__ import annotations

import mmap
import os

from barevisor.errors import ConfigError

StrPath = str | os.PathLike[str]


def map_file(path: StrPath, hint: str = "") -> memoryview:
    """Raises ConfigError: it cannot be opened, is no file, or is empty."""
    try:
        with open(path, "rb") as f:
            if not os.fstat(f.fileno()).st_size:
                raise ConfigError(f"{path}: empty file", hint)
            return memoryview(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE))
    except (OSError, ValueError) as e:
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e)
        raise ConfigError(f"{path}: {reason}", hint) from e
