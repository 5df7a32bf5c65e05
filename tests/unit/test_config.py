"""What users write, and what it becomes."""

from pathlib import Path

import pytest

from barevisor.config import (
    MIB,
    Share,
    VmConfig,
    parse_environment,
    parse_memory,
)
from barevisor.errors import ConfigError
from barevisor.guest.cmdline import ALWAYS, kernel_command_line

SIZES = [
    ("512M", 512 * MIB), ("512", 512 * MIB), ("2G", 2 << 30), ("65536K", 64 * MIB),
    ("512MiB", 512 * MIB), ("512mb", 512 * MIB), (" 1g ", 1 << 30), (64 * MIB, 64 * MIB),
    (64 * MIB + 1, 64 * MIB + 4096),
]  # fmt: skip


@pytest.mark.parametrize(("text", "size"), SIZES, ids=[str(row[0]) for row in SIZES])
def test_memory(text: str | int, size: int) -> None:
    assert parse_memory(text) == size


BAD_SIZES = ["", "M", "5Q", "1.5G", "-1G", "512 M M", "0", "99999999999999999999999G", "300G", "٣G"]


@pytest.mark.parametrize("text", BAD_SIZES)
def test_bad_memory(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_memory(text)


def test_share(tmp_path: Path) -> None:
    assert Share.parse(f"{tmp_path}:/mnt") == Share(tmp_path, "/mnt", False)
    assert Share.parse(f"{tmp_path}:/mnt:ro") == Share(tmp_path, "/mnt", True)


@pytest.mark.parametrize("text", ["", "x", "/:", ":/x", "/:x", "/:/", "/:/a/../b", "/:/a:rx",
                                  "/:/a:ro:ro", "/no/such:/a", "/etc/passwd:/a"])  # fmt: skip
def test_bad_share(text: str) -> None:
    with pytest.raises(ConfigError):
        Share.parse(text)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "1")
    assert parse_environment(["A=b=c", "MINE", "NOT_SET_HERE", "E="]) == {
        "A": "b=c", "MINE": "1", "E": "",
    }  # fmt: skip
    with pytest.raises(ConfigError):
        parse_environment(["=x"])


BAD = [
    ("memory too small", {"memory": 32 * MIB}),
    ("no cpus", {"cpus": 0}),
    ("too many cpus", {"cpus": 256}),
    ("engine", {"engine": "tcg"}),
    ("root is not there", {"root": "/no/such"}),
    ("root is a file", {"root": "/etc/passwd"}),
    ("rw is not there", {"rw": (Path("/no/such"),)}),
    ("rw without root", {"root": "none", "rw": (Path("/tmp"),)}),
]


@pytest.mark.parametrize(("name", "fields"), BAD, ids=[row[0] for row in BAD])
def test_bad_config(name: str, fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        VmConfig(**fields)  # type: ignore[arg-type]


def test_places(tmp_path: Path) -> None:
    inner = tmp_path / "work"
    inner.mkdir()
    config = VmConfig(root=str(tmp_path), rw=(inner,))
    assert config.all_shares() == (Share(inner, "/work"),)
    assert not config.root_writable
    assert VmConfig(root=str(tmp_path), rw=(tmp_path,)).root_writable
    assert VmConfig(rw=(inner,)).all_shares() == (Share(inner, str(inner)),)


def test_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert VmConfig().default_cwd() == str(tmp_path)
    assert VmConfig(root=str(tmp_path.parent)).default_cwd() == "/"
    assert VmConfig(root="none").default_cwd() == "/"
    monkeypatch.chdir("/proc")
    assert VmConfig().default_cwd() == "/"


def test_default_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PATH", "/opt/bin:/bin")
    env = VmConfig().default_env()
    assert env["PATH"] == "/opt/bin:/bin"
    assert "SECRET" not in env
    assert VmConfig(root="none").default_env()["PATH"].startswith("/usr/local")


def test_every_kernel_parameter_has_a_reason() -> None:
    assert all(name and len(reason) > 5 for name, reason in ALWAYS)
    line = kernel_command_line(append="a=1  b")
    assert line.endswith(" a=1 b")
    assert line.startswith("quiet ")
    assert len(line) < 1500
    assert "tracer_init_tracefs" in line
    assert "tracer_init_tracefs" not in kernel_command_line(append="initcall_blacklist=none")
    assert "ignore_loglevel" in kernel_command_line(verbose=True)
    assert "pci=noearly" in kernel_command_line(ecam=True)
    assert "pci=" not in line
