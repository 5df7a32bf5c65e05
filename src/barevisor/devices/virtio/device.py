"""What every virtio device is made of: features, queues and a config space, as in the spec.

A device sees queues, views of guest memory and its config space, never the transport, so the
same class runs in the VMM or in a process of its own. It writes: DEVICE_ID, QUEUES, FEATURES, a
ConfigSpace, and `notify`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from barevisor.devices.virtio.queue import Queue
from barevisor.errors import GuestError
from barevisor.records import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import ClassVar


class Common:
    """Reserved feature bits (virtio v1.2, 6)."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32


class Le:
    """A little-endian field `width` bytes wide, `at` an offset taken from the spec."""

    def __init__(self, width: int, at: int, needs: int = 0) -> None:
        self.width, self.at, self.needs = width, at, needs

    def __get__(self, space: ConfigSpace, owner: type[ConfigSpace]) -> int:
        return int.from_bytes(space.raw[self.at : self.at + self.width], "little")

    def __set__(self, space: ConfigSpace, value: int) -> None:
        space.raw[self.at : self.at + self.width] = value.to_bytes(self.width, "little")


class ConfigSpace:
    """A device's config space (2.5); checks its layout when the class is defined."""

    SIZE: ClassVar[int] = 0
    FIELDS: ClassVar[dict[str, Le]] = {}

    def __init_subclass__(cls) -> None:
        cls.FIELDS = {name: f for name, f in vars(cls).items() if isinstance(f, Le)}
        end = 0
        for name, field in cls.FIELDS.items():
            if field.at < end:
                raise TypeError(f"{cls.__name__}.{name} overlaps the field before it")
            end = field.at + field.width
        if end > cls.SIZE:
            raise TypeError(f"{cls.__name__} ends at {end:#x}, past SIZE {cls.SIZE:#x}")

    def __init__(self, offered: int = 0, **values: int) -> None:
        self.raw = bytearray(self.SIZE)
        for name, value in values.items():
            field = self.FIELDS[name]
            if field.needs and not field.needs & offered:
                raise ValueError(f"{name} is set, but feature {field.needs:#x} is not offered")
            field.__set__(self, value)

    def read(self, offset: int, size: int) -> bytes:
        """What the guest sees; offset and size are the guest's, so nothing is trusted."""
        if not (0 <= offset <= self.SIZE and size in (1, 2, 4, 8)):
            return bytes(max(0, min(size, 8)))
        return bytes(self.raw[offset : offset + size]).ljust(size, b"\0")


class Transport(Protocol):
    """What carries a device to the driver. Any thread may call; the device's lock is held."""

    def interrupt(self, queue: int) -> None:
        """Used buffer notification for `queue` (2.3)."""

    def config_changed(self) -> None:
        """Configuration change notification."""

    def needs_reset(self, reason: GuestError) -> None:
        """The driver broke the rules: DEVICE_NEEDS_RESET, queues stop (2.1.2)."""


class _Detached:
    def interrupt(self, queue: int) -> None:
        """Nobody listens."""

    def config_changed(self) -> None:
        """Nobody listens."""

    def needs_reset(self, reason: GuestError) -> None:
        raise reason


class VirtioDevice:
    """Base of every device. All hooks below run with `lock` held."""

    DEVICE_ID: ClassVar[int]
    QUEUES: tuple[str, ...]
    QUEUE_SIZE: ClassVar[int] = 256
    FEATURES: int = 0
    config: ConfigSpace = ConfigSpace()

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.transport: Transport = _Detached()
        self.queues: dict[int, Queue] = {}
        """The live queues by index; empty before DRIVER_OK and after a reset."""
        self.accepted = 0
        """Feature bits in use, once negotiated."""

    def queue_ready(self, index: int) -> None:
        """`queues[index]` went live."""

    def notify(self, index: int) -> None:
        """The driver made buffers available in the live queue `index`. May raise GuestError."""
        raise NotImplementedError

    def config_write(self, offset: int, data: bytes) -> None:
        """The driver stored into the config space; most devices have nothing to write."""

    def reset(self) -> None:
        """The driver (or the machine) reset the device; `queues` is already empty."""

    def stop(self) -> None:
        """The machine is stopping: no queue yields another buffer. Any thread, no lock."""
        for queue in list(self.queues.values()):
            queue.stopped = True

    @contextmanager
    def entered(self) -> Iterator[None]:
        """How a host thread comes in: the lock, and the guest's errors sent where they belong."""
        with self.lock:
            try:
                yield
            except GuestError as e:
                self.transport.needs_reset(e)
