"""The plan of a start and the archive around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from barevisor.errors import ConfigError
from barevisor.guest import initrd
from barevisor.guest.initrd import Setup, Share
from barevisor.guest.kernel import Kernel


def text(setup: Setup, modules: int = 0) -> list[str]:
    return [row.encode().decode().replace("\0", " ").strip() for row in initrd.plan(setup, modules)]


def test_overlay() -> None:
    rows = text(Setup(), modules=2)
    assert rows[:7] == [
        "K /m/00.ko",
        "K /m/01.ko",
        "M root /lower virtiofs 1",
        "M tmpfs /upper tmpfs 0 mode=0755",
        "D /upper/data",
        "D /upper/work",
        "M overlay /newroot overlay 0 lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work",
    ]
    assert "M proc /newroot/proc proc 14" in rows
    assert rows[-3:] == ["R /newroot", "H barevisor", "?L"]
    assert not any("/newroot/tmp" in row for row in rows)


ROOTS = [("rw", "M root /newroot virtiofs 0"), ("ro", "M root /newroot virtiofs 1")]


@pytest.mark.parametrize(("root", "first"), ROOTS)
def test_plain_roots(root: initrd.Root, first: str) -> None:
    rows = text(Setup(root))
    assert rows[0] == first
    assert any("M tmpfs /newroot/tmp tmpfs" in row for row in rows) == (root == "ro")


def test_no_root() -> None:
    rows = text(Setup("none"))
    assert not any(row.startswith("R") or "virtiofs" in row for row in rows)
    assert "M proc /proc proc 14" in rows


def test_shares() -> None:
    rows = text(Setup(shares=(Share("/data/in put"), Share("//srv/./", read_only=True))))
    at = rows.index("?D /newroot/data")
    assert rows[at : at + 3] == [
        "?D /newroot/data",
        "?D /newroot/data/in put",
        "M share0 /newroot/data/in put virtiofs 0",
    ]
    assert "M share1 /newroot/srv/. virtiofs 1" in rows


BAD = {
    "relative share": Setup(shares=(Share("data"),)),
    "share of the root": Setup(shares=(Share("/"),)),
    "share above": Setup(shares=(Share("/a/../../b"),)),
    "NUL in a share": Setup(shares=(Share("/a\0M"),)),
    "empty host name": Setup(hostname=""),
    "long host name": Setup(hostname="x" * 65),
    "unknown root": Setup(root="disk"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("setup", BAD.values(), ids=BAD)
def test_bad_setups(setup: Setup) -> None:
    with pytest.raises(ConfigError):
        initrd.plan(setup, 0)


WANTED = [
    (Setup(), ("virtio_pci", "virtio_console", "virtiofs", "overlay")),
    (Setup("rw"), ("virtio_pci", "virtio_console", "virtiofs")),
    (Setup("none"), ("virtio_pci", "virtio_console")),
    (Setup("none", (Share("/a"),)), ("virtio_pci", "virtio_console", "virtiofs")),
]


@pytest.mark.parametrize(("setup", "modules"), WANTED)
def test_wanted_modules(setup: Setup, modules: tuple[str, ...]) -> None:
    assert initrd.wanted_modules(setup) == modules


def test_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel = Kernel("6.1", tmp_path / "vmlinuz", None, "given")
    archive = initrd.build_initrd(kernel, Setup("none"), {"/bin/tool": b"tool"})
    for name in (b"init\0", b"plan\0", b"bin/tool\0", b"newroot\0"):
        assert name in archive
    assert initrd.init_program() in archive


def test_init_is_compiled_once_and_a_damaged_copy_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = initrd.init_program.__wrapped__()
    (kept,) = (tmp_path / "barevisor/init").iterdir()
    assert initrd.init_program.__wrapped__() == compiled
    kept.write_bytes(kept.read_bytes()[:-1] + b"X")
    assert initrd.init_program.__wrapped__() == compiled
    assert kept.read_bytes().endswith(compiled)
