"""Console device with several ports (virtio v1.2, 5.3).

Port 0 is the guest's hvc console. The others are named byte pipes: the guest finds them by
/sys/class/virtio-ports/*/name. Each port gives flow control both ways: `send` reports what the
guest has not taken yet, and `pause` leaves the guest's output in its own queue.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence

from barevisor.devices.virtio.device import ConfigSpace, Le, VirtioDevice
from barevisor.errors import GuestError

CONTROL_RX, CONTROL_TX = 2, 3
CONTROL = struct.Struct("<IHH")  # struct virtio_console_control: id, event, value (5.3.6.2)
MAX_BUFFER = 16 << 20  # no driver sends more in one chain; copying it is what costs us
MAX_CONTROL = 256  # messages that the guest leaves untaken, for each port


class Feature:
    """5.3.3."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1


class Event:
    """5.3.6.2, events of a control message."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


class ConsoleConfig(ConfigSpace):
    """5.3.4, struct virtio_console_config."""

    SIZE = 12
    cols = Le(2, at=0, needs=Feature.SIZE)
    rows = Le(2, at=2, needs=Feature.SIZE)
    max_nr_ports = Le(4, at=4, needs=Feature.MULTIPORT)
    emerg_wr = Le(4, at=8)


def _nothing(*args: object) -> None:
    """The default of every callback."""


class Port:
    """The host's end of one port. Methods may be called from any thread.

    Callbacks run on whichever thread made them happen, with the device locked: they must not
    wait for another thread, and may call this class.
    """

    def __init__(self, console: Console, index: int, name: str) -> None:
        self.index, self.name = index, name
        self.rx, self.tx = (0, 1) if index == 0 else (2 * index + 2, 2 * index + 3)
        self.guest_open = False
        self.paused = False
        self.on_data: Callable[[bytes], None] = _nothing
        self.on_open: Callable[[], None] = _nothing
        self.on_close: Callable[[], None] = _nothing
        self.on_writable: Callable[[], None] = _nothing
        """The guest took everything that `send` had left queued."""
        self.backlog = bytearray()
        self.ending = False
        self._console = console

    def send(self, data: bytes) -> int:
        """Queue bytes for the guest; returns how many it has not taken yet.

        Nothing is refused: a caller that sees the number grow waits for `on_writable`. Bytes
        sent before the guest first opens the port are kept for it.
        """
        with self._console.entered():
            self.backlog += data
            self._console.feed(self)
            return len(self.backlog)

    def end(self) -> None:
        """End of file for the guest, once its buffers took what is queued.

        Linux blocks whoever writes to a port that its host left, so end only a port that the
        guest reads from (drivers/char/virtio_console.c, will_write_block).
        """
        with self._console.entered():
            self.ending = True
            self._console.feed(self)

    def pause(self) -> None:
        """Take no more output from the guest; its writers block when their queue is full."""
        self.paused = True

    def resume(self) -> None:
        """Go on after `pause`; what waited comes now, on this thread."""
        with self._console.entered():
            self.paused = False
            self._console.drain(self)


class Console(VirtioDevice):
    """Port 0 is the console; `names` adds one port each."""

    DEVICE_ID = 3
    QUEUE_SIZE = 128
    FEATURES = Feature.SIZE | Feature.MULTIPORT
    config: ConsoleConfig

    def __init__(self, names: Sequence[str] = (), *, cols: int = 80, rows: int = 25) -> None:
        super().__init__()
        self.ports = [Port(self, i, name) for i, name in enumerate(["", *names])]
        pairs = len(self.ports) + 1
        self.QUEUES = tuple(f"{way}{i}" for i in range(pairs) for way in ("receive", "transmit"))
        self.config = ConsoleConfig(
            self.FEATURES, cols=cols, rows=rows, max_nr_ports=len(self.ports)
        )
        self._messages: deque[bytes] = deque()
        self._by_queue = {q: port for port in self.ports for q in (port.rx, port.tx)}

    def port(self, name: str) -> Port:
        """The port called `name`; "" is the console. KeyError when there is none."""
        return {port.name: port for port in self.ports}[name]

    def resize(self, cols: int, rows: int) -> None:
        """Tell the guest the new size of the console."""
        with self.entered():
            self.config.cols, self.config.rows = cols, rows
            self.transport.config_changed()
            if self.accepted & Feature.MULTIPORT and self.ports[0].guest_open:
                self._send_size()

    # ---- from the transport

    def queue_ready(self, index: int) -> None:
        # Without control messages there is no way to say "open" (5.3.6), so it is.
        if not self.accepted & Feature.MULTIPORT and index == 0:
            self._set_open(self.ports[0], True)

    def notify(self, index: int) -> None:
        if index == CONTROL_RX:
            self._flush_control()
        elif index == CONTROL_TX:
            self._read_control()
        elif (port := self._by_queue[index]).tx == index:
            self.drain(port)
        else:
            self.feed(port)

    def reset(self) -> None:
        self._messages.clear()
        for port in self.ports:
            self._set_open(port, False)

    # ---- data

    def feed(self, port: Port) -> None:
        """Move `port`'s backlog into the guest's buffers. The lock is held."""
        queue = self.queues.get(port.rx)
        if queue is None or not port.guest_open:
            return
        waited = bool(port.backlog)
        while port.backlog and (chain := queue.pop()) is not None:
            written = chain.write(bytes(port.backlog[: chain.room]))
            del port.backlog[:written]
            queue.push(chain, written)
        queue.signal()
        if port.backlog:
            return
        if waited:
            port.on_writable()
        if port.ending:
            self._send_control(port.index, Event.PORT_OPEN, 0)

    def drain(self, port: Port) -> None:
        """Hand the guest's output to the host. The lock is held."""
        queue = self.queues.get(port.tx)
        if queue is None:
            return
        while not port.paused and (chain := queue.pop()) is not None:
            if sum(map(len, chain.readable)) > MAX_BUFFER:
                raise GuestError(f"console: a buffer over {MAX_BUFFER >> 20} MiB on {port.name!r}")
            data = chain.read(MAX_BUFFER)
            queue.push(chain, 0)
            port.on_data(data)
        queue.signal()

    # ---- control messages

    def _read_control(self) -> None:
        queue = self.queues[CONTROL_TX]
        while (chain := queue.pop()) is not None:
            data = chain.read(CONTROL.size)
            queue.push(chain, 0)
            if len(data) < CONTROL.size:
                raise GuestError(f"console: a control message of {len(data)} bytes")
            self._control(*CONTROL.unpack(data))
        queue.signal()

    def _control(self, index: int, event: int, value: int) -> None:
        if event == Event.DEVICE_READY:
            for port in self.ports if value else ():
                self._send_control(port.index, Event.PORT_ADD, 1)
            return
        if index >= len(self.ports):
            raise GuestError(f"console: control message for port {index}")
        port = self.ports[index]
        if event == Event.PORT_READY and value:
            if index == 0:
                self._send_control(0, Event.CONSOLE_PORT, 1)
                self._send_size()
            else:
                self._send_control(index, Event.PORT_NAME, 1, port.name.encode())
            self._send_control(index, Event.PORT_OPEN, int(not port.ending or bool(port.backlog)))
        elif event == Event.PORT_OPEN:
            self._set_open(port, bool(value))
            self.feed(port)

    def _set_open(self, port: Port, is_open: bool) -> None:
        if port.guest_open != is_open:
            port.guest_open = is_open
            (port.on_open if is_open else port.on_close)()

    def _send_size(self) -> None:
        # Columns first, as the spec says. Linux had rows first until "virtio_console: fix order
        # of fields cols and rows", which not every release has; who must be sure of the size
        # sets it with TIOCSWINSZ from inside the guest.
        size = struct.pack("<HH", self.config.cols, self.config.rows)
        self._send_control(0, Event.RESIZE, 1, size)

    def _send_control(self, port: int, event: int, value: int, extra: bytes = b"") -> None:
        if not self.accepted & Feature.MULTIPORT:
            return
        if len(self._messages) >= MAX_CONTROL * len(self.ports):
            raise GuestError("console: the driver asks and takes no control messages")
        self._messages.append(CONTROL.pack(port, event, value) + extra)
        self._flush_control()

    def _flush_control(self) -> None:
        queue = self.queues.get(CONTROL_RX)
        if queue is None:
            return
        while self._messages and (chain := queue.pop()) is not None:
            queue.push(chain, chain.write(self._messages.popleft()))
        queue.signal()
