"""A vCPU's exits for a port or an address, answered by the buses.

A device's GuestError on the way is noted; a read still gets its answer, all ones.
"""

from __future__ import annotations

from collections import deque

from barevisor.board.bus import Bus
from barevisor.cpu.engine import Exit, MmioRead, MmioWrite, PioRead, PioWrite, Vcpu
from barevisor.errors import GuestError

PIECES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
"""An access that an engine cut at a page boundary, as the sizes that a bus knows."""


class Accesses:
    """Of all vCPUs of a machine."""

    def __init__(self) -> None:
        self.ports = Bus("port")
        self.memory = Bus("memory")
        self.guest_errors: deque[str] = deque(maxlen=16)
        """The last rules that the guest broke."""

    def answer(self, vcpu: Vcpu, owed: Exit) -> None:
        """An access; other exits are left."""
        match owed:
            case PioWrite(port, size, data):
                self.write_ports(port, size, data)
            case MmioWrite(gpa, data):
                self.write_memory(gpa, data)
            case PioRead(port, size, count):
                vcpu.complete_read(self.read_ports(port, size, count))
            case MmioRead(gpa, size):
                vcpu.complete_read(self.read_memory(gpa, size))

    def write_ports(self, port: int, size: int, data: bytes) -> None:
        """One item or more, each for itself."""
        for at in range(0, len(data), size):
            try:
                self.ports.write(port, size, int.from_bytes(data[at : at + size], "little"))
            except GuestError as e:
                self.guest_errors.append(str(e))

    def read_ports(self, port: int, size: int, count: int) -> bytes:
        """`count` items."""
        try:
            if count == 1:
                return self.ports.read(port, size).to_bytes(size, "little")
            return b"".join(
                self.ports.read(port, size).to_bytes(size, "little") for _ in range(count)
            )
        except GuestError as e:
            self.guest_errors.append(str(e))
            return b"\xff" * (size * count)

    def write_memory(self, gpa: int, data: bytes) -> None:
        """1 to 8 bytes."""
        try:
            pieces = PIECES.get(len(data))
            if pieces is None:
                self.memory.write(gpa, len(data), int.from_bytes(data, "little"))
                return
            at = 0
            for piece in pieces:
                word = int.from_bytes(data[at : at + piece], "little")
                self.memory.write(gpa + at, piece, word)
                at += piece
        except GuestError as e:
            self.guest_errors.append(str(e))

    def read_memory(self, gpa: int, size: int) -> bytes:
        """1 to 8 bytes."""
        try:
            pieces = PIECES.get(size)
            if pieces is None:
                return self.memory.read(gpa, size).to_bytes(size, "little")
            answer = b""
            for piece in pieces:
                answer += self.memory.read(gpa + len(answer), piece).to_bytes(piece, "little")
            return answer
        except GuestError as e:
            self.guest_errors.append(str(e))
            return b"\xff" * size
