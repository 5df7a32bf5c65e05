"""A guest that writes nonsense into queues, registers and config space, by property.

Nothing may escape from a bus access: a broken rule ends in DEVICE_NEEDS_RESET, and a reset
brings the device back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barevisor.devices.virtio.console import Console
from barevisor.devices.virtio.device import VirtioDevice
from barevisor.devices.virtio.fs import Fs
from barevisor.devices.virtio.queue import DESC
from barevisor.devices.virtio.rng import Rng
from barevisor.testing.driver import ECAM, FakeDriver

DEVICES: list[tuple[str, Callable[[], VirtioDevice]]] = [
    ("rng", Rng),
    ("console", lambda: Console(["a", "b"])),
    ("fs", lambda: Fs("tag", "/usr/share")),
]
EACH = pytest.mark.parametrize(("name", "make"), DEVICES, ids=[row[0] for row in DEVICES])

EDGES = st.sampled_from([0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0xFFFF, 0xFFFF_FFFF])
U16 = st.integers(0, 0xFFFF)
U64 = st.integers(0, (1 << 64) - 1)
ADDRESS = st.integers(0, 0x3000) | st.sampled_from([0x10_0000 - 1, 1 << 32, (1 << 64) - 1]) | U64
LENGTH = st.integers(0, 64) | st.sampled_from([4096, 1 << 20, (1 << 32) - 1])
DESCRIPTOR = st.tuples(ADDRESS, LENGTH, st.integers(0, 8) | U16, st.integers(0, 9) | U16)
RING = st.tuples(
    st.lists(DESCRIPTOR, min_size=1, max_size=8),
    st.lists(st.integers(0, 9) | U16, min_size=1, max_size=8),
    st.integers(0, 9) | U16,
)
WRITES = st.lists(
    st.tuples(st.integers(0, 0x4FFF), st.sampled_from([1, 2, 4, 8]), U64 | EDGES), max_size=40
)
COMMON_WRITES = st.lists(
    st.tuples(st.integers(0, 0x3F), st.sampled_from([1, 2, 4, 8]), U64 | EDGES), max_size=40
)


def recovers(driver: FakeDriver) -> None:
    """After whatever happened, an honest driver can start the device again."""
    driver.function.reset()
    driver.host.assign()
    driver.set_config(0x04, 2, 6)
    driver._probe()
    driver.start()
    assert driver.status == 0x0F
    driver.close()
    if isinstance(driver.device, Fs):
        driver.device.close()


@EACH
@settings(max_examples=60, deadline=None)
@given(ring=RING, queue=st.integers(0, 7))
def test_random_rings(
    name: str,
    make: Callable[[], VirtioDevice],
    ring: tuple[list[tuple[int, int, int, int]], list[int], int],
    queue: int,
) -> None:
    driver = FakeDriver(make(), ram_size=1 << 20)
    driver.start(queue_size=8)
    rows, heads, idx = ring
    place = driver.queues[queue % len(driver.queues)]
    driver.ram.write(place.desc, b"".join(DESC.pack(*row) for row in rows))
    driver.ram.write(place.driver + 4, struct.pack(f"<{len(heads)}H", *heads))
    driver.ram.write(place.driver + 2, struct.pack("<H", idx))
    driver.kick(place.index)
    assert driver.status in (0x0F, 0x4F)
    recovers(driver)


@EACH
@settings(max_examples=60, deadline=None)
@given(writes=WRITES, live=st.booleans())
def test_random_register_writes(
    name: str, make: Callable[[], VirtioDevice], writes: list[tuple[int, int, int]], live: bool
) -> None:
    driver = FakeDriver(make(), ram_size=1 << 20)
    if live:
        driver.start(queue_size=8)
    base = driver.regions[1]
    for offset, size, value in writes:
        driver.memory.write(base + offset, size, value & (1 << 8 * size) - 1)
        driver.memory.read(base + offset, size)
    recovers(driver)


@EACH
@settings(max_examples=60, deadline=None)
@given(writes=COMMON_WRITES)
def test_random_common_configuration(
    name: str, make: Callable[[], VirtioDevice], writes: list[tuple[int, int, int]]
) -> None:
    driver = FakeDriver(make(), ram_size=1 << 20)
    driver.negotiate()
    for offset, size, value in writes:
        driver.set_common(offset, size, value & (1 << 8 * size) - 1)
    driver.set_common(0x14, 1, 0x0F)
    for queue in range(4):
        driver.kick(queue)
    recovers(driver)


@EACH
@settings(max_examples=60, deadline=None)
@given(writes=WRITES)
def test_random_configuration_space(
    name: str, make: Callable[[], VirtioDevice], writes: list[tuple[int, int, int]]
) -> None:
    driver = FakeDriver(make(), ram_size=1 << 20)
    for offset, size, value in writes:
        at = ECAM + (driver.slot << 15) + offset % 0x200
        driver.memory.write(at, size, value & (1 << 8 * size) - 1)
        driver.ports.write(0xCF8, 4, 0x8000_0000 | value & 0xFFFF)
        driver.ports.write(0xCFC + offset % 4, size, value & (1 << 8 * size) - 1)
        driver.memory.read(at, size)
    recovers(driver)
