"""Debian packages: built ones are read back, broken ones are refused in one line."""

import gzip
import io
import lzma
import tarfile
from pathlib import Path, PurePosixPath

import pytest
import zstandard

from barevisor.errors import HostError
from barevisor.guest import deb

FILES = {"./boot/vmlinuz-1": b"image" * 1000, "./lib/modules/1/kernel/a.ko": b"module"}
PACKERS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("./boot/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return out.getvalue()


def member(name: str, data: bytes, size: int | None = None) -> bytes:
    shown = len(data) if size is None else size
    header = f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{shown:<10}`\n".encode()
    return header + data + b"\n" * (len(data) & 1)


def package(suffix: str = ".xz", data: bytes | None = None, size: int | None = None) -> bytes:
    packed = PACKERS[suffix](tar(FILES)) if data is None else data
    head = member("debian-binary", b"2.0\n") + member("control.tar.xz", b"odd")
    return deb.AR_MAGIC + head + member(f"data.tar{suffix}", packed, size)


def unpack(raw: bytes, folder: Path) -> dict[str, bytes]:
    path = folder / "a.deb"
    path.write_bytes(raw)
    out = folder / "out"

    def choose(name: PurePosixPath) -> Path | None:
        return out / name.name if name.parts[1] in ("boot", "lib") else None

    deb.extract(path, choose)
    return {file.name: file.read_bytes() for file in out.iterdir()} if out.exists() else {}


@pytest.mark.parametrize("suffix", PACKERS, ids=lambda suffix: suffix or "plain")
def test_unpacks_regular_files(suffix: str, tmp_path: Path) -> None:
    assert unpack(package(suffix), tmp_path) == {"vmlinuz-1": b"image" * 1000, "a.ko": b"module"}


def test_progress_counts_the_compressed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(package())
    counts: list[int] = []
    deb.extract(path, lambda name: None, counts.append)
    assert sum(counts) == len(lzma.compress(tar(FILES)))


BROKEN = [
    ("empty", b"", "no ar magic"),
    ("not an archive", b"\x7fELF" + bytes(100), "no ar magic"),
    ("header cut", deb.AR_MAGIC + b"debian-binary   ", "truncated"),
    ("no end mark", package().replace(b"`\n", b"xx"), "bad ar header"),
    ("size of letters", package().replace(b"4         `", b"four      `"), "larger than"),
    ("size past the file", package(size=10**9), "larger than the file"),
    ("size negative", package(size=-1), "larger than the file"),
    ("data cut", package(data=lzma.compress(tar(FILES))[:60]), "broken Debian package"),
    ("data is noise", package(data=b"noise" * 50), "broken Debian package"),
    ("zstd is noise", package(".zst", b"noise" * 50), "broken Debian package"),
    ("gzip is noise", package(".gz", b"noise" * 50), "broken Debian package"),
    ("tar is noise", package("", b"noise" * 500), "broken Debian package"),
    ("no data", deb.AR_MAGIC + member("debian-binary", b"2.0\n"), "no data.tar"),
    ("endless members", deb.AR_MAGIC + member("x", b"") * 10000, "no data.tar"),
    ("unknown compression", package().replace(b"data.tar.xz ", b"data.tar.lz9"), "unknown comp"),
]


@pytest.mark.parametrize(("raw", "message"), [c[1:] for c in BROKEN], ids=[c[0] for c in BROKEN])
def test_broken_packages(raw: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=message):
        unpack(raw, tmp_path)


def test_names_from_the_archive_are_no_paths(tmp_path: Path) -> None:
    seen: list[str] = []

    def choose(name: PurePosixPath) -> None:
        seen.append(str(name))

    path = tmp_path / "a.deb"
    hostile = {"../../etc/passwd": b"x", "/abs": b"x", "./ok": b"x"}
    path.write_bytes(package("", tar(hostile)))
    deb.extract(path, choose)
    assert all(name.startswith("/") for name in seen)
    assert not (tmp_path.parent / "etc").exists()
