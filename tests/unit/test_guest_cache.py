"""The cache folder: what is kept comes back under its own key, whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from barevisor.guest.cache import keep, kept, place, stamp

DAMAGE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda b: b""),
    ("head only", lambda b: b[:16]),
    ("cut", lambda b: b[:-1]),
    ("longer", lambda b: b + b"x"),
    ("another magic", lambda b: b"X" + b[1:]),
    ("a bit of the data", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
    ("length of the key past the end", lambda b: b[:12] + b"\xff\xff\xff\xff" + b[16:]),
    ("length of the key one less", lambda b: b[:12] + bytes([b[12] - 1]) + b[13:]),
]


@pytest.mark.parametrize("key", ["a key", "", "of a path \udcff"], ids=ascii)
def test_it_comes_back(key: str, tmp_path: Path) -> None:
    keep(tmp_path / "x", key, b"data")
    assert kept(tmp_path / "x", key) == b"data"


def test_only_under_its_own_key(tmp_path: Path) -> None:
    assert kept(tmp_path / "x", "one") is None
    keep(tmp_path / "x", "one", b"1")
    assert kept(tmp_path / "x", "two") is None
    assert kept(tmp_path / "x", "on") is None
    keep(tmp_path / "x", "two", b"2")
    assert (kept(tmp_path / "x", "one"), kept(tmp_path / "x", "two")) == (None, b"2")


@pytest.mark.parametrize("damage", [d[1] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_a_damaged_file_is_none(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "x"
    keep(file, "key", b"data")
    file.write_bytes(damage(file.read_bytes()))
    assert kept(file, "key") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    keep(tmp_path / "file" / "x", "key", b"data")
    assert kept(tmp_path / "file" / "x", "key") is None


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Path(place("init", "a")).parent == tmp_path / "barevisor" / "init"
    assert len({place("init", key) for key in ("a", "b", "")}) == 3


def test_a_stamp_is_of_one_version(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"1")
    first = stamp(file)
    assert stamp(file) == first
    file.write_bytes(b"12")
    assert stamp(file) != first
