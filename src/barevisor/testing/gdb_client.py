"""A client of gdb's remote protocol, for tests where there is no gdb."""

from __future__ import annotations

import socket

from barevisor.debug.gdb.packets import Framer, Packet, encode
from barevisor.debug.gdb.registers import REGISTERS

SECONDS = 60.0


class GdbClient:
    """Talks to a GdbServer at `HOST:PORT` or a path, without acknowledgements."""

    def __init__(self, address: str) -> None:
        host, colon, port = address.rpartition(":")
        if colon:
            self._socket = socket.create_connection((host, int(port)), SECONDS)
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(SECONDS)
            self._socket.connect(address)
        self._framer = Framer()
        self._packets: list[bytes] = []
        self.ask(b"qSupported:swbreak+;hwbreak+")
        self.ask(b"QStartNoAckMode")

    def send(self, text: bytes) -> None:
        """A packet."""
        self._socket.sendall(encode(text))

    def reply(self) -> bytes:
        """The next packet; b"" once the server hung up."""
        while not self._packets:
            data = self._socket.recv(1 << 16)
            if not data:
                return b""
            self._packets += [t.text for t in self._framer.feed(data) if isinstance(t, Packet)]
        return self._packets.pop(0)

    def ask(self, text: bytes) -> bytes:
        """A packet's reply."""
        self.send(text)
        return self.reply()

    def interrupt(self) -> bytes:
        """The stop reply to ^C."""
        self._socket.sendall(b"\x03")
        return self.reply()

    def register(self, name: str) -> int:
        """Its value, on the selected CPU."""
        index = next(n for n, r in enumerate(REGISTERS) if r.name == name)
        return int.from_bytes(bytes.fromhex(self.ask(b"p%x" % index).decode()), "little")

    def memory(self, address: int, size: int) -> bytes:
        """Memory at a linear address; fewer bytes where it ends."""
        reply = self.ask(b"m%x,%x" % (address, size))
        return b"" if reply.startswith(b"E") else bytes.fromhex(reply.decode())

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
