"""Which engine a guest gets, with engines that only answer the probe."""

from __future__ import annotations

import pytest

from barevisor import engines
from barevisor.errors import EngineError


class Answer:
    """An engine as far as the choice of one goes."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason

    def probe(self) -> str:
        return self.reason


def offer(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def select(name: str) -> tuple[Answer, str]:
        return Answer(name, reason if name == "kvm" else ""), ""

    monkeypatch.setattr(engines.select, "select", select)


def test_kvm_by_name_is_refused_for_linux_when_its_probe_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(monkeypatch, "it fails at xsave")
    with pytest.raises(EngineError, match="it fails at xsave") as caught:
        engines.for_linux("kvm")
    assert "--engine bt" in caught.value.hint
    assert engines.choose("kvm")[0].name == "kvm"  # a bare image may try


def test_a_sound_kvm_is_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "")
    assert engines.for_linux("kvm")[0].name == "kvm"


def test_bt_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "irrelevant")
    assert engines.for_linux("bt")[0].name == "bt"
