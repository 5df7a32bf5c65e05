"""What `auto` takes, and that it asks /dev/kvm once a boot of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from barevisor import engines
from barevisor.cpu import select
from barevisor.testing.fake_engine import FakeEngine


class Probed(FakeEngine):
    """Counts its probes."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__()
        self.name, self.reason, self.probes = name, reason, 0

    def probe(self) -> str:
        self.probes += 1
        return self.reason


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(engines, "DEVICE", tmp_path / "kvm")
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, kvm: Probed) -> None:
    bt = Probed("bt", "")
    monkeypatch.setattr(select, "_kvm", lambda: kvm)
    monkeypatch.setattr(select, "_bt", lambda: bt)


@pytest.mark.parametrize(("reason", "taken"), [("", "kvm"), ("it fails at xsave", "bt")])
def test_auto_asks_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reason: str, taken: str
) -> None:
    kvm = Probed("kvm", reason)
    use(monkeypatch, kvm)
    for _ in range(3):
        engine, why = engines.choose("auto")
        assert (engine.name, why) == (taken, reason)
    assert kvm.probes == 1
    (folder / "barevisor" / "kvm-probe").write_bytes(b"damaged")
    assert engines.choose("auto")[0].name == taken
    assert kvm.probes == 2


def test_no_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kvm = Probed("kvm", "")
    use(monkeypatch, kvm)
    (folder / "kvm").unlink()
    assert engines.choose("auto")[0].name == "bt"
    assert kvm.probes == 0
