"""The console's ports, by a driver that behaves as Linux's does."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import pytest

from barevisor.devices.virtio.console import CONTROL, CONTROL_RX, CONTROL_TX, Console, Event, Port
from barevisor.devices.virtio.device import Common
from barevisor.testing.driver import FakeDriver

AGENT = 1


class Guest:
    """Opens ports as drivers/char/virtio_console.c does."""

    def __init__(self) -> None:
        self.console = Console(["barevisor.agent", "barevisor.out"], cols=132, rows=43)
        self.port = self.console.port("barevisor.agent")
        self.out: list[bytes] = []
        self.port.on_data = self.out.append
        self.driver = FakeDriver(self.console)

    def boot(self) -> None:
        self.driver.start()
        for _ in range(32):
            self.driver.add(CONTROL_RX, [], [64])
        self.control(0, Event.DEVICE_READY, 1)

    def control(self, index: int, event: int, value: int) -> None:
        self.driver.request(CONTROL_TX, [CONTROL.pack(index, event, value)])

    def heard(self) -> list[tuple[int, int, int, bytes]]:
        rows = [used.data for used in self.driver.collect(CONTROL_RX)]
        return [(*CONTROL.unpack(row[:8]), row[8:]) for row in rows]

    def open(self, port: Port) -> None:
        self.control(port.index, Event.PORT_READY, 1)
        self.control(port.index, Event.PORT_OPEN, 1)

    def give(self, port: Port, *sizes: int) -> None:
        for size in sizes:
            self.driver.add(port.rx, [], [size])
        self.driver.kick(port.rx)

    def received(self, port: Port) -> list[bytes]:
        return [used.data for used in self.driver.collect(port.rx)]


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    guest.boot()
    yield guest
    guest.driver.close()


def test_config(guest: Guest) -> None:
    assert [guest.driver.device_config(at, size) for at, size in [(0, 2), (2, 2), (4, 4)]] == [
        132,
        43,
        3,
    ]
    assert (guest.port.rx, guest.port.tx) == (4, 5)


def test_ports_are_announced_and_named(guest: Guest) -> None:
    assert guest.heard() == [(i, Event.PORT_ADD, 1, b"") for i in range(3)]
    guest.control(0, Event.PORT_READY, 1)
    assert guest.heard() == [
        (0, Event.CONSOLE_PORT, 1, b""),
        (0, Event.RESIZE, 1, struct.pack("<HH", 132, 43)),
        (0, Event.PORT_OPEN, 1, b""),
    ]
    guest.control(AGENT, Event.PORT_READY, 1)
    assert guest.heard() == [
        (AGENT, Event.PORT_NAME, 1, b"barevisor.agent"),
        (AGENT, Event.PORT_OPEN, 1, b""),
    ]


def test_output(guest: Guest) -> None:
    guest.open(guest.port)
    guest.driver.request(guest.port.tx, [b"hello ", b"world"])
    assert guest.out == [b"hello world"]


def test_input_waits_for_open_and_for_buffers(guest: Guest) -> None:
    assert guest.port.send(b"early bird") == 10
    guest.give(guest.port, 4)
    assert guest.received(guest.port) == []
    guest.open(guest.port)
    assert guest.received(guest.port) == [b"earl"]
    assert guest.port.send(b"!") == 7
    writable: list[int] = []
    guest.port.on_writable = lambda: writable.append(1)
    guest.give(guest.port, 2, 64)
    assert guest.received(guest.port) == [b"y ", b"bird!"]
    assert writable == [1]
    assert guest.port.send(b"") == 0


def test_pause_leaves_output_in_the_queue(guest: Guest) -> None:
    guest.open(guest.port)
    for i in range(5):
        guest.driver.add(guest.port.tx, [b"%d" % i])
    guest.port.on_data = lambda data: (guest.out.append(data), guest.port.pause())[0]
    guest.driver.kick(guest.port.tx)
    assert guest.out == [b"0"]
    guest.port.resume()
    assert guest.out == [b"0", b"1"]
    guest.port.on_data = guest.out.append
    guest.port.resume()
    assert b"".join(guest.out) == b"01234"


def test_end_comes_after_the_data(guest: Guest) -> None:
    guest.open(guest.port)
    guest.heard()
    guest.port.send(b"last")
    guest.port.end()
    assert guest.heard() == []
    guest.give(guest.port, 16)
    assert guest.received(guest.port) == [b"last"]
    assert guest.heard() == [(AGENT, Event.PORT_OPEN, 0, b"")]


def test_open_and_close_events(guest: Guest) -> None:
    events: list[str] = []
    guest.port.on_open = lambda: events.append("open")
    guest.port.on_close = lambda: events.append("close")
    guest.open(guest.port)
    guest.control(AGENT, Event.PORT_OPEN, 1)
    guest.control(AGENT, Event.PORT_OPEN, 0)
    guest.control(AGENT, Event.PORT_OPEN, 1)
    guest.driver.set_common(0x14, 1, 0)
    assert events == ["open", "close", "open", "close"]


def test_resize(guest: Guest) -> None:
    guest.open(guest.console.ports[0])
    guest.heard()
    guest.console.resize(100, 30)
    assert guest.heard() == [(0, Event.RESIZE, 1, struct.pack("<HH", 100, 30))]
    assert guest.driver.device_config(0, 4) == 30 << 16 | 100


def test_without_multiport_the_console_just_works() -> None:
    guest = Guest()
    guest.driver.start(int(Common.VERSION_1))
    console = guest.console.ports[0]
    console.on_data = guest.out.append
    console.send(b"in")
    guest.give(console, 8)
    guest.driver.request(1, [b"out"])
    assert (guest.received(console), guest.out) == ([b"in"], [b"out"])
    guest.driver.close()


HOSTILE = [
    ("short message", CONTROL_TX, b"1234567"),
    ("port that is not there", CONTROL_TX, CONTROL.pack(3, Event.PORT_OPEN, 1)),
    ("port 4294967295", CONTROL_TX, CONTROL.pack(0xFFFFFFFF, Event.PORT_READY, 1)),
]


@pytest.mark.parametrize(("name", "queue", "data"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_hostile_messages_need_reset(guest: Guest, name: str, queue: int, data: bytes) -> None:
    guest.driver.add(queue, [data])
    guest.driver.kick(queue)
    assert guest.driver.needs_reset


def test_messages_that_nobody_takes_are_bounded(guest: Guest) -> None:
    for _ in range(10_000):
        guest.driver.add(CONTROL_TX, [CONTROL.pack(0, Event.DEVICE_READY, 1)])
        guest.driver.kick(CONTROL_TX)
        if guest.driver.needs_reset:
            return
        guest.driver.collect(CONTROL_TX)
    pytest.fail("the backlog of control messages has no bound")


def test_unknown_events_are_ignored(guest: Guest) -> None:
    guest.heard()
    guest.control(AGENT, 77, 1)
    guest.control(AGENT, Event.PORT_READY, 0)
    assert guest.heard() == []
    assert not guest.driver.needs_reset


def test_sending_from_many_threads_loses_nothing(guest: Guest) -> None:
    guest.open(guest.port)
    threads = [
        threading.Thread(target=lambda: [guest.port.send(b"x" * 7) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    total = 0
    while total < 4 * 50 * 7:
        guest.give(guest.port, 64, 64)
        total += sum(map(len, guest.received(guest.port)))
        if not any(t.is_alive() for t in threads) and not guest.port.backlog and total < 1400:
            total += sum(map(len, guest.received(guest.port)))
            break
    for thread in threads:
        thread.join()
    assert total == 1400
