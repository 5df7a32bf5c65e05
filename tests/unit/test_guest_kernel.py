"""Which kernel is taken, without network or privilege: the system around it is made up."""

from pathlib import Path, PurePosixPath

import pytest

from barevisor.errors import ConfigError, HostError
from barevisor.guest import fetch, kernel


@pytest.fixture(autouse=True)
def empty_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel, "BOOT", tmp_path / "boot")
    monkeypatch.setattr(kernel, "MODULES", tmp_path / "lib/modules")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def bzimage(version: str) -> bytes:
    head = bytearray(0x400)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x100).to_bytes(2, "little")
    text = f"{version} (someone@somewhere) #1\0".encode()
    head[0x300 : 0x300 + len(text)] = text
    return bytes(head)


def put(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_newest_in_boot_with_modules(tmp_path: Path) -> None:
    for version in ("6.9.1-amd64", "6.10.0-amd64", "6.2.0-amd64"):
        put(tmp_path / "boot" / f"vmlinuz-{version}")
        put(tmp_path / "lib/modules" / version / "modules.builtin")
    put(tmp_path / "boot/vmlinuz-7.0.0-nomodules")
    put(tmp_path / "boot/config-6.10.0-amd64")
    found = kernel.find_kernel()
    assert (found.version, found.source) == ("6.10.0-amd64", "boot")
    assert found.config == str(tmp_path / "boot/config-6.10.0-amd64")


def test_a_cached_one_needs_no_process(tmp_path: Path) -> None:
    put(tmp_path / "cache/barevisor/kernels/6.1.0/vmlinuz")
    put(tmp_path / "cache/barevisor/kernels/.fetch-x/vmlinuz")
    found = kernel.find_kernel()
    assert (found.version, found.source) == ("6.1.0", "cache")
    assert [k.version for k in kernel.list_kernels()] == ["6.1.0"]


def test_no_kernel_and_no_way_to_fetch() -> None:
    with pytest.raises(HostError, match=r"no apt-get") as caught:
        kernel.find_kernel()
    assert "--kernel" in caught.value.hint
    with pytest.raises(HostError, match="none fetched"):
        kernel.find_kernel(fetch=False)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_dir = tmp_path / "bin"
    show = "Package: x\\nSize: 10\\nDepends: linux-image-6.1.0-9-cloud-amd64 (= 6.1)\\n"
    for name, body in {
        "apt-cache": f"printf '{show}'",
        "apt-get": "echo 'E: Could not resolve host' >&2; exit 100",
    }.items():
        put(bin_dir / name, f"#!/bin/sh\n{body}\n".encode()).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:/usr/bin:/bin")
    monkeypatch.setattr(fetch.os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="Could not resolve host") as caught:
        kernel.find_kernel()
    assert caught.value.hint
    assert [p.name for p in (tmp_path / "cache/barevisor/kernels").iterdir()] == [".lock"]


def test_the_users_own(tmp_path: Path) -> None:
    image = put(tmp_path / "bz", bzimage("6.6.1-mine"))
    assert kernel.find_kernel(image) == kernel.Kernel("6.6.1-mine", image, None, "given")
    put(tmp_path / "lib/modules/6.6.1-mine/modules.dep")
    assert kernel.find_kernel(image).modules == str(tmp_path / "lib/modules/6.6.1-mine")
    with pytest.raises(ConfigError, match="no modules folder"):
        kernel.find_kernel(image, tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot read kernel"):
        kernel.find_kernel(tmp_path / "none")


VERSIONS = [
    ("bzImage", bzimage("6.1.0-x"), "6.1.0-x"),
    ("vmlinux", b"\x7fELF" + bytes(0x1FFFF8) + b"Linux version 6.2.3 (a@b)", "6.2.3"),
    ("vmlinux without", b"\x7fELF" + bytes(100), ""),
    ("neither", b"MZ" + bytes(100), ""),
    ("empty", b"", ""),
    ("bzImage cut", bzimage("6.1.0-x")[:0x210], ""),
]


@pytest.mark.parametrize(
    ("data", "version"), [c[1:] for c in VERSIONS], ids=[c[0] for c in VERSIONS]
)
def test_image_version(data: bytes, version: str, tmp_path: Path) -> None:
    assert kernel.image_version(put(tmp_path / "k", data)) == version


PLACES = [
    ("/boot/vmlinuz-6.1", "vmlinuz"),
    ("/boot/config-6.1", "config"),
    ("/boot/System.map-6.1", None),
    ("/lib/modules/6.1/kernel/fs/fuse/fuse.ko", "modules/kernel/fuse.ko"),
    ("/usr/lib/modules/6.1/kernel/fs/fuse/fuse.ko.xz", "modules/kernel/fuse.ko.xz"),
    ("/lib/modules/6.1/modules.builtin", "modules/modules.builtin"),
    ("/lib/modules/6.1/kernel/net/other.ko", None),
    ("/lib/modules/6.2/kernel/fs/fuse/fuse.ko", None),
    ("/usr/share/doc/x", None),
]


@pytest.mark.parametrize(("path", "place"), PLACES)
def test_what_a_fetched_kernel_keeps(path: str, place: str | None) -> None:
    got = fetch._place(PurePosixPath(path), "6.1", Path("/k"), {"fuse"})
    assert got == (Path("/k") / place if place else None)
