"""The PCI transport: discovery, negotiation, queues, interrupts and reset, by a fake driver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from barevisor.devices.virtio.device import Common, ConfigSpace, Le, VirtioDevice
from barevisor.devices.virtio.pci import VirtioPci
from barevisor.devices.virtio.rng import Rng
from barevisor.errors import GuestError
from barevisor.testing.driver import MSI_ADDRESS, FakeDriver


class EchoConfig(ConfigSpace):
    SIZE = 8
    wide = Le(4, at=0)
    byte = Le(1, at=4)


class Echo(VirtioDevice):
    """Returns what it reads, reversed."""

    DEVICE_ID = 42
    QUEUES = ("one", "two")
    QUEUE_SIZE = 16
    FEATURES = 1 << 5 | 1 << 40

    def __init__(self) -> None:
        super().__init__()
        self.config = EchoConfig(wide=0x11223344, byte=0x55)
        self.log: list[str] = []

    def queue_ready(self, index: int) -> None:
        self.log.append(f"ready {index}")

    def reset(self) -> None:
        self.log.append("reset")

    def config_write(self, offset: int, data: bytes) -> None:
        self.log.append(f"config {offset} {data.hex()}")

    def notify(self, index: int) -> None:
        queue = self.queues[index]
        while (chain := queue.pop()) is not None:
            queue.push(chain, chain.write(chain.read(100)[::-1]))
        queue.signal()


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    driver = FakeDriver(Echo())
    yield driver
    driver.close()


def test_discovery(driver: FakeDriver) -> None:
    assert driver.config(0) == 0x106A_1AF4
    assert driver.config(8, 1) == 1  # revision: modern
    assert sorted(driver.regions) == [1, 2, 3, 4, 5]
    assert driver.common(0x12, 2) == 2
    assert driver.device_config(0, 4) == 0x11223344
    assert driver.device_config(4, 1) == 0x55


def test_features_in_two_words(driver: FakeDriver) -> None:
    driver.start()
    offered = Echo.FEATURES | Common.VERSION_1 | Common.INDIRECT_DESC | Common.EVENT_IDX
    assert driver.features == driver.device.accepted == offered
    driver.set_common(0x00, 4, 7)
    assert driver.common(0x04, 4) == 0


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event index"])
def test_a_request_and_its_interrupt(driver: FakeDriver, indirect: bool, event_idx: bool) -> None:
    mask = Common.EVENT_IDX if not event_idx else 0
    driver.start(~int(mask) & (1 << 64) - 1)
    for i in range(100):
        answer = driver.request(i % 2, [b"ab", b"cd%d" % i], [3, 3], indirect=indirect)
        assert answer == (b"abcd%d" % i)[::-1][:6]
    assert driver.messages == [(MSI_ADDRESS, i % 2 + 1) for i in range(100)]
    assert driver.memory.read(driver.regions[3], 1) == 1
    assert driver.memory.read(driver.regions[3], 1) == 0  # reading clears it


def test_a_notification_before_driver_ok_does_nothing(driver: FakeDriver) -> None:
    driver.negotiate()
    driver.setup_queue(0)
    driver.add(0, [b"early"], [5])
    driver.kick(0)
    assert driver.collect(0) == []
    driver.set_common(0x14, 1, 0x0F)
    driver.kick(0)
    assert [used.data for used in driver.collect(0)] == [b"ylrae"]


REFUSED = [
    ("nothing", 0),
    ("no VERSION_1", 1 << 5),
    ("never offered", Common.VERSION_1 | 1 << 7),
]


@pytest.mark.parametrize(("name", "features"), REFUSED, ids=[r[0] for r in REFUSED])
def test_features_ok_does_not_stick(driver: FakeDriver, name: str, features: int) -> None:
    for word in range(2):
        driver.set_common(0x08, 4, word)
        driver.set_common(0x0C, 4, int(features) >> 32 * word & 0xFFFF_FFFF)
    driver.set_common(0x14, 1, 0x0B)
    assert driver.status == 0x03
    driver.set_common(0x14, 1, 0x07)
    assert driver.needs_reset


def test_reset_forgets_everything(driver: FakeDriver) -> None:
    driver.start(queue_size=4)
    driver.request(0, [b"x"], [1])
    driver.set_common(0x14, 1, 0)
    assert driver.status == 0
    assert driver.device.queues == {}
    assert (driver.common(0x18, 2), driver.common(0x1C, 2), driver.common(0x1A, 2)) == (
        16,
        0,
        0xFFFF,
    )
    assert isinstance(driver.device, Echo)
    assert driver.device.log[-1] == "reset"
    driver.start()
    assert driver.request(1, [b"again"], [5]) == b"niaga"


def test_a_broken_rule_needs_reset_and_says_so(driver: FakeDriver) -> None:
    driver.start()
    queue = driver.queues[0]
    driver.expose(queue, 99)
    driver.kick(0)
    assert driver.needs_reset
    assert "descriptor 99" in driver.function.failure
    assert driver.messages[-1] == (MSI_ADDRESS, 0)
    assert driver.memory.read(driver.regions[3], 1) & 2
    driver.add(1, [b"dead"], [4])
    driver.kick(1)
    assert driver.collect(1) == []
    driver.start()
    assert driver.request(0, [b"alive"], [5]) == b"evila"


def test_a_bad_queue_needs_reset(driver: FakeDriver) -> None:
    driver.negotiate()
    driver.setup_queue(0, 32)  # twice what the device offers
    driver.set_common(0x14, 1, 0x0F)
    assert driver.needs_reset


def test_vectors_that_do_not_exist_read_back_as_none(driver: FakeDriver) -> None:
    driver.set_common(0x10, 2, 3)
    assert driver.common(0x10, 2) == 0xFFFF
    driver.set_common(0x10, 2, 2)
    assert driver.common(0x10, 2) == 2


def test_only_the_exact_width_is_served(driver: FakeDriver) -> None:
    assert driver.common(0x12, 1) == 0
    driver.set_common(0x14, 2, 0x0101)
    assert driver.status == 0
    driver.set_common(0x20, 8, 0x1234_5678_9ABC_DEF0)
    assert driver.common(0x20, 8) == 0x1234_5678_9ABC_DEF0
    assert driver.common(0x24, 4) == 0x1234_5678


def test_config_writes_reach_the_device(driver: FakeDriver) -> None:
    driver.memory.write(driver.regions[4] + 4, 2, 0xBEEF)
    assert isinstance(driver.device, Echo)
    assert driver.device.log == ["config 4 efbe"]
    generation = driver.common(0x15, 1)
    with driver.device.entered():
        driver.device.transport.config_changed()
    assert driver.common(0x15, 1) == generation + 1


def test_a_hosts_guest_error_becomes_needs_reset(driver: FakeDriver) -> None:
    driver.start()
    with driver.device.entered():
        raise GuestError("found by a host thread")
    assert driver.needs_reset


def test_the_configuration_window(driver: FakeDriver) -> None:
    at = driver.function._window_at
    driver.set_config(at + 4, 1, 0)
    driver.set_config(at + 8, 4, 0x2000)
    driver.set_config(at + 12, 4, 4)
    assert driver.config(at + 16) == 0x11223344
    driver.set_config(at + 8, 4, 0x0000)
    driver.set_config(at + 16, 4, 1)
    driver.set_config(at + 8, 4, 0x0004)
    assert driver.config(at + 16) == driver.common(0x04, 4)
    driver.set_config(at + 12, 4, 3)
    driver.config(at + 16)


class Bells:
    """An engine's doorbells, by address."""

    def __init__(self) -> None:
        self.rows: dict[int, object] = {}

    def add_doorbell(self, gpa: int, size: int, on_write: object) -> None:
        self.rows[gpa] = on_write

    def remove_doorbell(self, gpa: int) -> None:
        del self.rows[gpa]


def test_doorbells_follow_the_bar() -> None:
    driver = FakeDriver(Rng())
    bells = Bells()
    function = VirtioPci(Rng(), driver.ram, lambda a, d: None, doorbells=bells)
    driver.host.add(function)
    driver.host.assign()
    function.config_write(0x04, 2, 2)
    (old,) = bells.rows
    function.config_write(0x10, 4, 0xD000_0000)
    assert list(bells.rows) == [0xD000_3000]
    assert old != 0xD000_3000
    function.reset()
    assert bells.rows == {}
    driver.close()


def test_rng_fills_what_it_is_given_up_to_its_cap() -> None:
    driver = FakeDriver(Rng())
    driver.start()
    first, second = driver.request(0, [], [64]), driver.request(0, [], [32, 32])
    assert len(first) == len(second) == 64
    assert first != second
    assert len(driver.request(0, [], [1 << 20])) == 64 << 10
    driver.close()


def test_a_field_needs_its_feature() -> None:
    class Some(ConfigSpace):
        SIZE = 4
        word = Le(4, at=0, needs=1 << 3)

    with pytest.raises(ValueError, match="not offered"):
        Some(0, word=1)
    assert Some(1 << 3, word=1).read(0, 4) == b"\1\0\0\0"


@pytest.mark.parametrize(("offset", "size"), [(7, 4), (8, 8), (1 << 40, 4), (-1, 1), (0, 3)])
def test_a_hostile_config_read_gets_zeros(offset: int, size: int) -> None:
    assert EchoConfig(wide=1).read(offset, size) == bytes(size)
