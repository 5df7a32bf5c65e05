"""Virtio over PCI, modern only (virtio v1.2, 4.1): where a device's queues meet the guest.

One 16 KiB BAR holds the four structures, a page each, so that a later engine may map the notify
page as doorbells. A second BAR holds the MSI-X table. There is no interrupt pin; the ISR
register works for a driver that polls it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from barevisor.board.msix import MsiX
from barevisor.board.pci import PciFunction
from barevisor.board.ram import GuestRam
from barevisor.devices.virtio.device import Common, VirtioDevice
from barevisor.devices.virtio.queue import Queue
from barevisor.errors import GuestError
from barevisor.records import NamedTuple, Protocol, dataclass

VENDOR, DEVICE_BASE = 0x1AF4, 0x1040  # 4.1.2
CLASSES = {1: 0x020000, 2: 0x018000, 3: 0x078000, 16: 0x038000, 26: 0x018000}
BAR, MSIX_BAR, BAR_SIZE = 0, 1, 0x4000
COMMON_AT, ISR_AT, DEVICE_AT, NOTIFY_AT, PAGE = 0x0000, 0x1000, 0x2000, 0x3000, 0x1000
COMMON_SIZE, NOTIFY_STRIDE = 0x40, 4
VENDOR_CAPABILITY = 0x09
CAP = struct.Struct("<BBBBxxII")  # cap_len, cfg_type, bar, id, offset, length (4.1.4)
COMMON_CFG, NOTIFY_CFG, ISR_CFG, DEVICE_CFG, PCI_CFG = 1, 2, 3, 4, 5

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8  # 2.1, device status
NEEDS_RESET, FAILED = 0x40, 0x80
ISR_QUEUE, ISR_CONFIG = 1, 2  # 4.1.4.5
NO_VECTOR = 0xFFFF
OFFERED = Common.VERSION_1 | Common.INDIRECT_DESC | Common.EVENT_IDX


class Doorbells(Protocol):
    """The part of an engine's VM that turns a guest's store into a call."""

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None: ...
    def remove_doorbell(self, gpa: int) -> None: ...


@dataclass(slots=True)
class QueueSetup:
    """What the driver programs for one queue before it enables it."""

    size: int
    vector: int = NO_VECTOR
    enabled: bool = False
    desc: int = 0
    driver: int = 0
    device: int = 0


class VirtioPci(PciFunction):
    """A PCI function that carries `device`. Its lock is the device's own."""

    def __init__(
        self,
        device: VirtioDevice,
        ram: GuestRam,
        msi: Callable[[int, int], None],
        *,
        doorbells: Doorbells | None = None,
    ) -> None:
        """`msi(address, data)` delivers a message; without `doorbells` a notification is an
        ordinary store to the BAR and the queue is processed on the vCPU's thread."""
        kind = device.DEVICE_ID
        super().__init__(
            VENDOR,
            DEVICE_BASE + kind,
            CLASSES.get(kind, 0xFF0000),
            revision=1,
            subsystem=(VENDOR, 0x40 + kind),
            name=f"virtio-{type(device).__name__.lower()}",
        )
        self.device = device
        self.failure = ""
        """Why DEVICE_NEEDS_RESET was set last; text, as a traceback would hold guest memory."""
        self.offered = int(device.FEATURES | OFFERED)
        self._ram = ram
        self._doorbells = doorbells
        self._rung: int | None = None
        self._registers = registers()
        self._add_capabilities()
        bar = self.add_bar(BAR, BAR_SIZE, self)
        bar.on_move = self._bar_moved
        self.add_msix(MSIX_BAR, MsiX(len(device.QUEUES) + 1, msi))
        device.transport = self
        self._forget()

    def _add_capabilities(self) -> None:
        notify_size = NOTIFY_STRIDE * len(self.device.QUEUES)
        config_size = self.device.config.SIZE
        self._capability(COMMON_CFG, COMMON_AT, COMMON_SIZE)
        self._capability(NOTIFY_CFG, NOTIFY_AT, notify_size, struct.pack("<I", NOTIFY_STRIDE))
        self._capability(ISR_CFG, ISR_AT, 1)
        if config_size:
            self._capability(DEVICE_CFG, DEVICE_AT, config_size)
        at = self._capability(PCI_CFG, 0, 0, bytes(4))
        self.writable[at + 4] = 0xFF
        self.writable[at + 8 : at + 16] = bytes([0xFF] * 8)
        self._window_at = at

    def _capability(self, kind: int, offset: int, length: int, extra: bytes = b"") -> int:
        size = 2 + CAP.size + len(extra)
        body = CAP.pack(size, kind, BAR, 0, offset, length) + extra
        return self.add_capability(VENDOR_CAPABILITY, body)

    def _forget(self) -> None:
        """Everything that a reset clears (2.4)."""
        self.status = self.isr = self.generation = 0
        self.device_feature_select = self.driver_feature_select = self.driver_features = 0
        self.config_vector = NO_VECTOR
        self.queue_select = 0
        size = self.device.QUEUE_SIZE
        self.setups = [QueueSetup(size) for _ in self.device.QUEUES]

    # ---- Transport: what the device calls

    def interrupt(self, queue: int) -> None:
        """Used buffer notification."""
        self.isr |= ISR_QUEUE
        self._send(self.setups[queue].vector)

    def config_changed(self) -> None:
        """Configuration change notification; the generation tells readers to read again."""
        self.generation = self.generation + 1 & 0xFF
        self.isr |= ISR_CONFIG
        self._send(self.config_vector)

    def needs_reset(self, reason: GuestError) -> None:
        """Stop every queue until the driver resets the device."""
        self.failure = str(reason)
        for queue in self.device.queues.values():
            queue.stopped = True
        self.status |= NEEDS_RESET
        if self.status & DRIVER_OK:  # 2.1.2
            self.config_changed()

    def _send(self, vector: int) -> None:
        if vector != NO_VECTOR and self.msix:
            self.msix.notify(vector)

    # ---- life

    def reset(self) -> None:
        """A reset by the machine: the function's and the device's."""
        super().reset()
        self.reset_device()

    def reset_device(self) -> None:
        """The driver wrote 0 to the status."""
        with self.device.lock:
            queues = list(self.device.queues.values())
            self.device.queues.clear()
            self.device.accepted = 0
            self.device.reset()
            for queue in queues:
                queue.close()
            self._forget()

    def set_status(self, value: int) -> None:
        """3.1.1. FEATURES_OK does not stick for features that we did not offer."""
        if value == 0:
            self.reset_device()
            return
        new = (value | self.status) & ~self.status
        if new & FEATURES_OK and not self._features_fit():
            value &= ~FEATURES_OK
        self.status |= value & 0xFF & ~NEEDS_RESET
        if new & DRIVER_OK:
            if not self.status & FEATURES_OK:
                raise GuestError(f"{self.name}: DRIVER_OK before FEATURES_OK")
            self.device.accepted = self.driver_features
            for index in range(len(self.setups)):
                self._start(index)

    def _features_fit(self) -> bool:
        accepted = self.driver_features
        return not accepted & ~self.offered and bool(accepted & Common.VERSION_1)

    def enable_queue(self) -> None:
        """queue_enable = 1 for the selected queue; it goes live with DRIVER_OK."""
        setup = self.selected()
        if setup and not setup.enabled:
            setup.enabled = True
            if self.status & DRIVER_OK:
                self._start(self.queue_select)

    def _start(self, index: int) -> None:
        setup = self.setups[index]
        if not setup.enabled or self.status & NEEDS_RESET:
            return
        if setup.size > self.device.QUEUE_SIZE:
            raise GuestError(f"{self.name}: queue {index} has size {setup.size}")
        self.device.queues[index] = Queue(
            self._ram,
            index,
            setup.size,
            (setup.desc, setup.driver, setup.device),
            indirect=bool(self.driver_features & Common.INDIRECT_DESC),
            event_idx=bool(self.driver_features & Common.EVENT_IDX),
            interrupt=self.interrupt,
        )
        self.device.queue_ready(index)

    def selected(self) -> QueueSetup | None:
        """The queue that queue_select names, if there is one."""
        return self.setups[self.queue_select] if self.queue_select < len(self.setups) else None

    # ---- the BAR

    def bus_read(self, offset: int, size: int) -> int:
        """A load from the BAR."""
        page, at = offset & ~(PAGE - 1), offset & PAGE - 1
        with self.device.lock:
            if page == ISR_AT and at == 0:
                value, self.isr = self.isr, 0
                return value
            if page == DEVICE_AT:
                return int.from_bytes(self.device.config.read(at, size), "little")
            if page == COMMON_AT:
                if size == 8 and at in self._registers and at + 4 in self._registers:
                    return self._read_common(at, 4) | self._read_common(at + 4, 4) << 32
                return self._read_common(at, size)
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """A store to the BAR. The notify page is the hot one."""
        page, at = offset & ~(PAGE - 1), offset & PAGE - 1
        with self.device.lock:
            if page == NOTIFY_AT:
                self.kick(at // NOTIFY_STRIDE)
                return
            try:
                if page == DEVICE_AT:
                    self.device.config_write(at, value.to_bytes(size, "little"))
                elif page == COMMON_AT and size == 8:
                    self._write_common(at, 4, value & 0xFFFF_FFFF)
                    self._write_common(at + 4, 4, value >> 32)
                elif page == COMMON_AT:
                    self._write_common(at, size, value)
            except GuestError as e:
                self.needs_reset(e)

    def kick(self, index: int) -> None:
        """An available buffer notification for queue `index` (4.1.5.2). Any thread."""
        with self.device.lock:
            queue = self.device.queues.get(index)
            if queue is None or queue.stopped:
                return
            try:
                self.device.notify(index)
            except GuestError as e:
                self.needs_reset(e)

    def _read_common(self, at: int, size: int) -> int:
        row = self._registers.get(at)
        return row.read(self) if row and row.width == size else 0  # 4.1.3.1: exact width only

    def _write_common(self, at: int, size: int, value: int) -> None:
        row = self._registers.get(at)
        if row and row.write and row.width == size:
            row.write(self, value)

    def _bar_moved(self, base: int | None) -> None:
        if self._doorbells is None:
            return
        queues = range(len(self.device.QUEUES))
        if self._rung is not None:
            for index in queues:
                self._doorbells.remove_doorbell(self._rung + NOTIFY_AT + index * NOTIFY_STRIDE)
        self._rung = base
        if base is not None:
            for index in queues:
                gpa = base + NOTIFY_AT + index * NOTIFY_STRIDE
                self._doorbells.add_doorbell(gpa, 0, self._ringer(index))

    def _ringer(self, index: int) -> Callable[[int], None]:
        return lambda value: self.kick(index)

    # ---- the configuration window (4.1.4.9), for a driver that cannot map the BAR. Its data is
    # loaded when the driver points it somewhere, as reading it may be no exit (board/pci.py).

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Programming the window loads from the BAR; a write of its data stores there."""
        super().config_write(offset, size, value)
        data_at = self._window_at + 16
        if not self._window_at <= offset <= data_at or (place := self._window()) is None:
            return
        if offset < data_at:
            loaded = self.bus_read(*place)
            self.config[data_at : data_at + 4] = loaded.to_bytes(8, "little")[:4]
        elif size >= place[1]:
            self.bus_write(*place, value & (1 << 8 * place[1]) - 1)

    def _window(self) -> tuple[int, int] | None:
        at = self._window_at
        bar = self.config[at + 4]
        offset, length = struct.unpack_from("<II", self.config, at + 8)
        if bar != BAR or length not in (1, 2, 4) or offset % length or offset + length > BAR_SIZE:
            return None
        return offset, length


# ---- the common configuration structure (4.1.4.3), one row per register


class Register(NamedTuple):
    """`write` is None where the driver may only read."""

    width: int
    read: Callable[[VirtioPci], int]
    write: Callable[[VirtioPci, int], None] | None = None


def _plain(width: int, name: str) -> Register:
    return Register(
        width, lambda t: int(getattr(t, name)), lambda t, value: setattr(t, name, value)
    )


def _queue(width: int, name: str, shift: int = 0) -> Register:
    """A field of the selected queue; 0 without one, and read-only once it is enabled."""
    mask = (1 << 8 * width) - 1

    def read(t: VirtioPci) -> int:
        setup = t.selected()
        return int(getattr(setup, name)) >> shift & mask if setup else 0

    def write(t: VirtioPci, value: int) -> None:
        setup = t.selected()
        if setup and not setup.enabled:
            rest = int(getattr(setup, name)) & ~(mask << shift)
            setattr(setup, name, rest | value << shift)

    return Register(width, read, write)


def _vector(t: VirtioPci, value: int) -> int:
    """4.1.5.1.2: a vector that does not exist reads back as NO_VECTOR."""
    return value if t.msix and value < t.msix.vectors else NO_VECTOR


def _write_driver_features(t: VirtioPci, value: int) -> None:
    if t.driver_feature_select < 2 and not t.status & FEATURES_OK:
        shift = 32 * t.driver_feature_select
        t.driver_features = t.driver_features & ~(0xFFFF_FFFF << shift) | value << shift


def _write_config_vector(t: VirtioPci, value: int) -> None:
    t.config_vector = _vector(t, value)


def _write_queue_vector(t: VirtioPci, value: int) -> None:
    if setup := t.selected():
        setup.vector = _vector(t, value)


def _features(t: VirtioPci, features: int, select: int) -> int:
    return features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0


def registers() -> dict[int, Register]:
    """Offset to register; the 64-bit addresses as two halves, as drivers write them."""
    rows = {
        0x00: _plain(4, "device_feature_select"),
        0x04: Register(4, lambda t: _features(t, t.offered, t.device_feature_select)),
        0x08: _plain(4, "driver_feature_select"),
        0x0C: Register(
            4,
            lambda t: _features(t, t.driver_features, t.driver_feature_select),
            _write_driver_features,
        ),
        0x10: Register(2, lambda t: t.config_vector, _write_config_vector),
        0x12: Register(2, lambda t: len(t.setups)),
        0x14: Register(1, lambda t: t.status, VirtioPci.set_status),
        0x15: Register(1, lambda t: t.generation),
        0x16: _plain(2, "queue_select"),
        0x18: _queue(2, "size"),
        0x1A: Register(2, _queue(2, "vector").read, _write_queue_vector),
        0x1C: Register(
            2, _queue(2, "enabled").read, lambda t, value: t.enable_queue() if value == 1 else None
        ),
        0x1E: Register(2, lambda t: t.queue_select if t.selected() else 0),
    }
    for at, name in ((0x20, "desc"), (0x28, "driver"), (0x30, "device")):
        rows[at], rows[at + 4] = _queue(4, name), _queue(4, name, 32)
    return rows
