"""Reading a Debian package without dpkg: an ar archive that holds one compressed tar.

The archive is checked by apt against the distribution's signature before it comes here, and is
read as hostile all the same: sizes are bounded by the file, names never become paths.
Formats: deb(5), ar(5).
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import zstandard

from barevisor.errors import HostError

AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60  # name 16, mtime 12, uid 6, gid 6, mode 8, size 10, end 2
AR_MEMBERS = 16  # a package has three, a few more when signed
FILE_CAP = 512 << 20  # no kernel image or module is larger


class _Slice(io.RawIOBase):
    """A read-only window on `size` bytes of `file`, which must not be used meanwhile."""

    def __init__(self, file: BinaryIO, size: int, progress: Callable[[int], None]) -> None:
        self._file, self._left, self._progress = file, size, progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: self._left]
        data = self._file.read(len(view))
        view[: len(data)] = data
        self._left -= len(data)
        self._progress(len(data))
        return len(data)


def _members(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """Walk the archive: (name, size) with `file` at the member's first byte."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise HostError("not a Debian package: no ar magic")
    for _ in range(AR_MEMBERS):
        header = file.read(AR_HEADER)
        if not header:
            return
        if len(header) < AR_HEADER or header[58:60] != b"`\n":
            raise HostError("broken Debian package: truncated or bad ar header")
        digits = header[48:58].strip()
        start = file.tell()
        if not digits.isdigit() or int(digits) > size - start:
            raise HostError("broken Debian package: a member is larger than the file")
        yield header[:16].decode("latin-1").rstrip().rstrip("/"), int(digits)
        file.seek(start + int(digits) + (int(digits) & 1))


def _decompressor(name: str, raw: _Slice) -> IO[bytes]:
    file = cast(IO[bytes], raw)  # all of them need read() only
    match suffix := name.removeprefix("data.tar"):
        case ".xz":
            return cast(IO[bytes], lzma.LZMAFile(file))
        case ".zst":
            return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(file))
        case ".gz":
            return cast(IO[bytes], gzip.GzipFile(fileobj=file))
        case "":
            return file
    raise HostError(f"Debian package with unknown compression {suffix}")


@contextmanager
def open_data(
    path: Path, progress: Callable[[int], None] = lambda count: None
) -> Iterator[tarfile.TarFile]:
    """The package's file tree as a streamed tar. `progress` gets counts of compressed bytes.

    Raises HostError when the package is truncated, lies about sizes or is not one.
    """
    broken = (
        tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError,
        zstandard.ZstdError,
    )  # fmt: skip
    with path.open("rb") as file:
        for name, size in _members(file, path.stat().st_size):
            if not name.startswith("data.tar"):
                continue
            raw = _Slice(file, size, progress)
            try:
                with (
                    _decompressor(name, raw) as stream,
                    tarfile.open(fileobj=stream, mode="r|") as tar,
                ):
                    yield tar
            except broken as e:
                raise HostError(f"broken Debian package {path.name}: {e}") from e
            return
    raise HostError(f"broken Debian package {path.name}: it holds no data.tar")


def extract(
    path: Path,
    choose: Callable[[PurePosixPath], Path | None],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Write each regular file for which `choose(path in the package)` gives a place.

    `choose` makes the destination itself, so no name from the archive reaches the file system.
    """
    with open_data(path, progress) as tar:
        for member in tar:
            if not member.isreg():
                continue
            target = choose(PurePosixPath("/", member.name.removeprefix(".")))
            if target is None:
                continue
            if member.size > FILE_CAP:
                raise HostError(f"broken Debian package {path.name}: {member.name} is too large")
            source = tar.extractfile(member)
            if source is None:
                raise HostError(f"broken Debian package {path.name}: {member.name} has no data")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                while chunk := source.read(1 << 20):
                    out.write(chunk)
