"""The nest's parts that need no nest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from barevisor.errors import HostError
from barevisor.testing import nest, nestdisk


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nest, "TOOLS", ("sh", "no-such-tool"))
    assert nest.missing() == "no no-such-tool"


def test_a_disk_holds_its_folder(tmp_path: Path) -> None:
    try:
        nestdisk.tool("mke2fs")
        debugfs = nestdisk.tool("debugfs")
    except HostError as e:
        pytest.skip(str(e))
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/file").write_bytes(b"contents")
    image = tmp_path / "disk.img"
    nestdisk.make_disk(image, folder, nestdisk.folder_mib(folder))
    shown = subprocess.run(
        [debugfs, "-R", "cat inner/file", image], capture_output=True, check=True
    )
    assert shown.stdout == b"contents"
    assert not list(tmp_path.glob("*.part"))


def test_a_disk_that_is_too_small_is_one_line(tmp_path: Path) -> None:
    try:
        nestdisk.tool("mke2fs")
    except HostError as e:
        pytest.skip(str(e))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(bytes(range(256)) * (4 << 12))
    with pytest.raises(HostError, match="mke2fs: "):
        nestdisk.make_disk(tmp_path / "disk.img", tmp_path / "folder", 1)


def test_what_the_tests_need_is_found_with_what_it_requires() -> None:
    names = {d.name.lower() for d in nestdisk._distributions()}
    assert {"pytest", "pluggy", "iniconfig"} <= names
