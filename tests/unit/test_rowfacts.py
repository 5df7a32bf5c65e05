"""The decoder's arrays, as the build kept them: those of the rows, or not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from barevisor.cpu.bt import rowfacts

DAMAGE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda b: b""),
    ("head only", lambda b: b[:8]),
    ("of other rows", lambda b: bytes([b[0] ^ 1]) + b[1:]),
    ("cut", lambda b: b[:-1]),
    ("one bit", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
]


def test_the_build_kept_them() -> None:
    assert rowfacts.kept() == rowfacts.made()


@pytest.mark.parametrize("damage", [d[1] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_a_damaged_file_is_not_used(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfacts, "KEPT", str(tmp_path / "tables.bin"))
    assert rowfacts.kept() is None
    rowfacts.keep()
    data = (tmp_path / "tables.bin").read_bytes()
    assert rowfacts.kept() == data[8:]
    (tmp_path / "tables.bin").write_bytes(damage(data))
    assert rowfacts.kept() is None


def test_it_is_of_these_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = tmp_path / "instructions.py"
    isa = tmp_path / "isa"
    isa.mkdir()
    parser.write_text("A = 1")
    (isa / "base.py").write_text("B = 1")
    monkeypatch.setattr("barevisor.cpu.x86.instructions.__file__", str(parser))
    before = rowfacts.key()
    assert rowfacts.key() == before
    (isa / "base.py").write_text("B = 2")
    assert rowfacts.key() != before
    assert rowfacts.kept() is None
