"""Kernel modules: order by modules.dep or by each module's own list, packed, built in, broken."""

import gzip
import lzma
import struct
from pathlib import Path

import pytest
import zstandard

from barevisor.errors import HostError
from barevisor.guest import modules
from barevisor.guest.modules import ELF64_HEADER, ELF64_SECTION, ModuleTree


def fake_module(*needs: str, **info: str) -> bytes:
    """An ELF64 file with a .modinfo section and nothing else of use."""
    pairs = {"license": "GPL", "depends": ",".join(needs), **info}
    text = b"".join(f"{key}={value}\0".encode() for key, value in pairs.items())
    names = b"\0.modinfo\0.shstrtab\0"
    at = ELF64_HEADER.size
    body = text + names
    table = at + len(body)
    header = ELF64_HEADER.pack(
        b"\x7fELF\2\1\1" + bytes(9), 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2
    )
    sections = ELF64_SECTION.pack(*[0] * 10)
    sections += ELF64_SECTION.pack(1, 1, 2, 0, at, len(text), 0, 0, 1, 0)
    sections += ELF64_SECTION.pack(10, 3, 0, 0, at + len(text), len(names), 0, 0, 1, 0)
    return header + body + sections


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "modules"
    (root / "kernel/fs").mkdir(parents=True)
    (root / "kernel/fs/fuse.ko").write_bytes(fake_module())
    (root / "kernel/fs/virtiofs.ko.xz").write_bytes(
        lzma.compress(fake_module("fuse", "virtio", "virtio-ring"))
    )
    (root / "kernel/virtio-ring.ko.gz").write_bytes(gzip.compress(fake_module("virtio")))
    (root / "kernel/virtio.ko.zst").write_bytes(zstandard.ZstdCompressor().compress(fake_module()))
    (root / "modules.builtin").write_text("kernel/fs/overlayfs/overlay.ko\n")
    return root


def test_order_from_the_modules_themselves(tree: Path) -> None:
    order = ModuleTree(tree).order(["virtiofs", "overlay", "fuse"])
    assert order == ["fuse", "virtio", "virtio_ring", "virtiofs"]


def test_order_from_modules_dep(tree: Path) -> None:
    (tree / "modules.dep").write_text(
        "kernel/fs/fuse.ko:\n"
        "kernel/fs/virtiofs.ko.xz: kernel/virtio-ring.ko.gz kernel/virtio.ko.zst "
        "kernel/fs/fuse.ko\n"
        "kernel/virtio-ring.ko.gz: kernel/virtio.ko.zst\n"
        "kernel/virtio.ko.zst:\n"
        "../../../etc/evil.ko:\n"
    )
    index = ModuleTree(tree)
    assert index.order(["virtiofs"]) == ["virtio", "virtio_ring", "fuse", "virtiofs"]
    assert "evil" not in index.files


def test_all_are_decompressed_and_cached(tree: Path) -> None:
    first = modules.load_modules(tree, ("virtiofs",), ("virtio_rng",))
    assert [module.name for module in first] == ["fuse", "virtio", "virtio_ring", "virtiofs"]
    assert all(module.data.startswith(b"\x7fELF") for module in first)
    (tree / "kernel/fs/fuse.ko").unlink()
    assert modules.load_modules(tree, ("virtiofs",), ("virtio_rng",)) == first


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"junk", lambda b: b"{}\n" + b])
def test_a_damaged_cache_is_made_again(tree: Path, tmp_path: Path, damage: object) -> None:
    first = modules.load_modules(tree, ("virtiofs",))
    (cached,) = (tmp_path / "cache/barevisor/modules").iterdir()
    cached.write_bytes(damage(cached.read_bytes()))  # type: ignore[operator]
    assert modules.load_modules(tree, ("virtiofs",)) == first


def test_missing_module(tree: Path) -> None:
    with pytest.raises(HostError, match="no module virtio_pci"):
        ModuleTree(tree).order(["virtio_pci"])


def test_without_a_list_of_built_ins_no_file_means_built_in(tree: Path) -> None:
    (tree / "modules.builtin").unlink()
    assert ModuleTree(tree).order(["virtio_pci"]) == []


def test_circle(tree: Path) -> None:
    (tree / "kernel/fs/fuse.ko").write_bytes(fake_module("virtiofs"))
    with pytest.raises(HostError, match="need each other"):
        ModuleTree(tree).order(["virtiofs"])


GOOD = fake_module()
BROKEN = [
    ("empty", b""),
    ("magic only", b"\x7fELF"),
    ("cut header", GOOD[:40]),
    ("sections past the end", GOOD[:-64]),
    ("no modinfo", GOOD.replace(b".modinfo", b".modinfx")),
    ("names index", GOOD[:62] + b"\xff\xff" + GOOD[64:]),
    ("section count", GOOD[:60] + b"\xff\xff" + GOOD[62:]),
    ("section size", GOOD[:58] + b"\1\0" + GOOD[60:]),
    ("offset of 2**63", GOOD[:40] + struct.pack("<Q", 2**63) + GOOD[48:]),
]


@pytest.mark.parametrize("data", [case[1] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_modinfo(data: bytes) -> None:
    with pytest.raises(HostError, match="kernel module"):
        modules.modinfo(data)


@pytest.mark.parametrize("name", ["a.ko.xz", "a.ko.gz", "a.ko.zst", "a.ko"])
def test_broken_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xfd7zXZ\0 no module at all")
    with pytest.raises(HostError, match="broken"):
        modules.decompress(tmp_path / name)


def test_signature_goes_only_when_it_is_one() -> None:
    info = modules.SIGNATURE_INFO.pack(100)
    signed = GOOD + bytes(100) + info + modules.SIGNATURE_MAGIC
    assert modules.strip_signature(signed) == GOOD
    assert modules.strip_signature(GOOD) == GOOD
    lying = GOOD + modules.SIGNATURE_INFO.pack(1 << 30) + modules.SIGNATURE_MAGIC
    assert modules.strip_signature(lying) == lying
