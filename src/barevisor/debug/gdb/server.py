"""The sockets and the thread of a gdb server: one client at a time, on this machine only unless
told otherwise. A client may hang, lie or vanish; the guest does not notice."""

from __future__ import annotations

import os
import queue
import select
import selectors
import socket
import stat
from contextlib import suppress

from barevisor.config import GdbListen
from barevisor.debug.gdb.packets import Framer, Packet, ProtocolError, encode
from barevisor.debug.gdb.session import Session
from barevisor.debug.target import Ended, Event, Stopped, Target
from barevisor.errors import HostError
from barevisor.threads import Worker

BACKLOG = 16
"""Clients that may wait to be looked at; more than one is turned away then."""
SEND_SECONDS = 10.0
"""A client that does not read for so long is gone."""
JOIN_SECONDS = 5.0
RECEIVE = 1 << 16
QUEUED_MAX = 64
"""Packets that may wait for the target to stop; a client of the protocol sends none."""


class GdbServer:
    """Serves a target until `close`. The target is stopped by the client's first packet."""

    def __init__(self, target: Target, where: GdbListen) -> None:
        """Listens; `address` then says where. Raises HostError."""
        self._target = target
        self._listener = _listen(where)
        self.address = _name(self._listener)
        self._path = where.path
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._client: Client | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = Worker(self._serve, name="gdb")
        target.listen(self._notify)

    def start(self) -> None:
        """Serve on a thread of its own."""
        self._thread.start()

    def _notify(self, event: Event) -> None:
        self._events.put(event)
        self._poke()

    def _poke(self) -> None:
        with suppress(OSError):  # closed meanwhile
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Hang up and free everything. Idempotent; the machine is still there."""
        if self._closing:
            return
        self._closing = True
        self._poke()
        if self._thread.ident is not None:
            self._thread.join(JOIN_SECONDS)
            client = self._client
            if self._thread.is_alive() and client is not None:
                client.shut()  # it may be sending to one who does not read
                self._thread.join(JOIN_SECONDS)
        self._selector.close()
        self._listener.close()
        os.close(self._wake)
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)

    # ---- the thread ----

    def _serve(self) -> None:
        try:
            while not self._closing:
                for key, _ in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj == self._wake:
                        with suppress(BlockingIOError):
                            os.eventfd_read(self._wake)
                    elif self._client is not None:
                        self._receive(self._client)
                self._happened()
        finally:
            self._drop()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        before = self._client
        if before is not None and before.hung_up():
            while self._client is before:
                self._receive(before)  # what it still said, up to its end
        if self._client is not None:
            connection.close()  # one at a time: they would fight over the guest
            return
        self._client = Client(connection, self._target)
        self._selector.register(connection, selectors.EVENT_READ)

    def _drop(self) -> None:
        """The client is gone. A guest that it left stopped stays so, for the next one."""
        client, self._client = self._client, None
        if client is not None:
            self._selector.unregister(client.connection)
            client.close()

    def _receive(self, client: Client) -> None:
        try:
            if not client.receive():
                self._drop()
        except (OSError, ProtocolError):
            self._drop()

    def _happened(self) -> None:
        """Tell the client what the target did."""
        events: list[Event] = []
        with suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        client = self._client
        if client is None or client.session is None:
            if any(isinstance(e, Stopped) for e in events):
                self._target.detach()  # nobody is there to look at it
            return
        try:
            client.happened(events)
        except (OSError, ProtocolError):
            self._drop()
            return
        if client.session.ended or any(isinstance(e, Ended) for e in events):
            self._drop()


class Client:
    """One connection. Its session begins, and the target stops, with the first packet: whoever
    only connects and leaves has changed nothing."""

    def __init__(self, connection: socket.socket, target: Target) -> None:
        connection.settimeout(SEND_SECONDS)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.session: Session | None = None
        self._target = target
        self._framer = Framer()
        self._waiting: list[bytes] = []
        self._sent = b""

    def hung_up(self) -> bool:
        """Whether the other end sends no more; what it sent may still wait to be read."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def receive(self) -> bool:
        """Read and answer; False: it is over. Raises OSError, ProtocolError."""
        data = self.connection.recv(RECEIVE)
        for token in self._framer.feed(data):
            match token:
                case Packet(text, sound):
                    self._packet(text, sound)
                case "interrupt":
                    if self.session is not None:
                        self.session.interrupt()
                case "nack":
                    self.connection.sendall(self._sent)
            if self.session is not None and self.session.ended:
                return False
        return bool(data)

    def _packet(self, text: bytes, sound: bool) -> None:
        if self.session is None:
            if not self._target.stop():
                raise ProtocolError("the machine is ending")
            self.session = Session(self._target)
        if not self.session.no_ack:
            self.connection.sendall(b"+" if sound else b"-")
            if not sound:
                return
        if self.session.running:
            if len(self._waiting) == QUEUED_MAX:
                raise ProtocolError("packets while the target runs")
            self._waiting.append(text)
            return
        self._answer(self.session, text)

    def _answer(self, session: Session, text: bytes) -> None:
        reply = session.handle(text)
        if reply is not None:
            self._send(reply)

    def _send(self, text: bytes) -> None:
        self._sent = encode(text)
        self.connection.sendall(self._sent)

    def happened(self, events: list[Event]) -> None:
        """Send the stop reply, then answer what waited for it. Raises OSError."""
        if self.session is None:
            return
        reply = self.session.events(events)
        if reply is not None:
            self._send(reply)
        while self._waiting and not self.session.running and not self.session.ended:
            self._answer(self.session, self._waiting.pop(0))

    def shut(self) -> None:
        """End a send that does not end. Any thread."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up; a session that did not end itself leaves no breakpoints behind."""
        self.connection.close()
        if self.session is not None and not self.session.ended:
            self.session.abandon()


def _listen(where: GdbListen) -> socket.socket:
    try:
        if where.path is not None:
            return _listen_unix(where.path)
        family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((where.host, where.port))
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
        return made
    except OSError as e:
        hint = "choose another place, or :0 for any free port"
        raise HostError(f"--gdb {where}: {e.strerror}", hint) from e


def _listen_unix(path: str) -> socket.socket:
    """Only this user may connect. A socket that a dead process left is replaced."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and _is_dead(path):
                os.unlink(path)
        mask = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(mask)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _is_dead(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _name(listener: socket.socket) -> str:
    """As gdb's `target remote` wants it."""
    name = listener.getsockname()
    if isinstance(name, str):
        return name
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
