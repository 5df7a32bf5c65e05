"""The ring of late ports, filled as a kernel would."""

from __future__ import annotations

from functools import partial

import pytest

from barevisor.cpu.kvm import ioctls, late

WRAP = late.ENTRIES - 2


class Ring:
    """A page, and the ports that it was handed on to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
        monkeypatch.setattr(ioctls, "capability", lambda kvm, name: 2)
        monkeypatch.setattr(ioctls, "REGISTER_COALESCED_MMIO", lambda vm, zone: 0)
        self.words = memoryview(bytearray(late.PAGE)).cast("I")
        self.words[late.FIRST] = self.words[late.LAST] = first
        self.ports = late.LatePorts(3, 4)
        self.seen: list[tuple[int, bytes]] = []
        for base, size in ((0x70, 1), (0x3F8, 1), (0xCF8, 4)):
            self.ports.add(base, size, partial(self.take, base))

    def take(self, base: int, offset: int, data: bytes) -> None:
        self.seen.append((base + offset, data))

    def store(self, port: int, value: int) -> None:
        at = self.words[late.LAST]
        entry = late.ENTRY.pack(port, 1, 1, bytes((value,)))
        start = late.HEAD + at * late.ENTRY.size
        self.words.cast("B")[start : start + len(entry)] = entry
        self.words[late.LAST] = (at + 1) % late.ENTRIES


@pytest.mark.parametrize("first", [0, WRAP], ids=["at the start", "around the end"])
def test_stores_come_in_order_and_joined(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    ring = Ring(monkeypatch, first)
    for port, value in ((0x3F8, 1), (0x3F8, 2), (0x70, 3), (0x3F8, 4)):
        ring.store(port, value)
    ring.ports.drain(ring.words)
    assert ring.seen == [(0x3F8, b"\1\2"), (0x70, b"\3"), (0x3F8, b"\4")]
    assert ring.words[late.FIRST] == ring.words[late.LAST] == (first + 4) % late.ENTRIES
    ring.ports.drain(ring.words)
    assert len(ring.seen) == 3


def test_stores_to_a_window_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(monkeypatch, 0)
    for port in (0xCF8, 0xCF8, 0xCFB):
        ring.store(port, 5)
    ring.ports.drain(ring.words)
    assert ring.seen == [(0xCF8, b"\5"), (0xCF8, b"\5"), (0xCFB, b"\5")]


def test_a_full_ring_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(monkeypatch, 7)
    for value in range(late.ENTRIES - 1):
        ring.store(0x70, value)
    ring.ports.drain(ring.words)
    assert ring.seen == [(0x70, bytes(range(late.ENTRIES - 1)))]


def test_a_kvm_without_them_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(ioctls, "capability", lambda kvm, name: name == "KVM_CAP_COALESCED_MMIO")
    monkeypatch.setattr(ioctls, "REGISTER_COALESCED_MMIO", lambda vm, zone: asked.append(zone))
    ports = late.LatePorts(3, 4)
    ports.add(0x70, 1, lambda at, data: None)
    assert (ports.ring_at, asked) == (0, [])
