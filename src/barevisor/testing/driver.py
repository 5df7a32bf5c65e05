"""A fake virtio driver: the guest's half, so that a device can be driven with no guest.

It finds the device as Linux does, by capabilities in configuration space reached through ECAM,
negotiates, lays rings out in guest RAM, and adds, kicks and collects. What it writes to memory
is plain bytes, so a hostile test may overwrite any of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from barevisor.board.bus import Bus
from barevisor.board.pci import PciHost
from barevisor.board.ram import GuestRam
from barevisor.devices.virtio.device import VirtioDevice
from barevisor.devices.virtio.pci import VirtioPci
from barevisor.devices.virtio.queue import DESC, INDIRECT, NEXT, USED, WRITE

ECAM = 0xE000_0000
ALL_FEATURES = (1 << 64) - 1
MSI_ADDRESS = 0xFEE0_0000


@dataclass
class Used:
    """One buffer that came back: what the device says it wrote, and the writable bytes."""

    head: int
    written: int
    data: bytes


@dataclass
class DriverQueue:
    """The driver's view of one queue, in guest RAM."""

    index: int
    size: int
    desc: int
    driver: int
    device: int
    free: list[int] = field(default_factory=list)
    avail_idx: int = 0
    used_idx: int = 0
    pending: dict[int, tuple[list[int], list[tuple[int, int]]]] = field(default_factory=dict)
    """head to (descriptors, writable buffers)."""


class FakeDriver:
    """Drives one device through the PCI transport. `messages` collects MSI-X (address, data)."""

    def __init__(self, device: VirtioDevice, *, ram_size: int = 16 << 20) -> None:
        self.device = device
        self.ram = GuestRam([(0, ram_size)])
        self.ports, self.memory = Bus("ports"), Bus("memory")
        self.messages: list[tuple[int, int]] = []
        self.host = PciHost(self.ports, self.memory, self._msi)
        self.function = VirtioPci(device, self.ram, self._msi)
        self.slot = self.host.add(self.function)
        self.host.assign()
        self.queues: dict[int, DriverQueue] = {}
        self.features = 0
        self.regions: dict[int, int] = {}
        self._rings = 0x1000
        self._heap = self._heap_start = ram_size // 4
        self._probe()

    def _msi(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    # ---- configuration space

    def config(self, offset: int, size: int = 4) -> int:
        """Read the function's configuration space through ECAM."""
        return self.memory.read(ECAM + (self.slot << 15) + offset, size)

    def set_config(self, offset: int, size: int, value: int) -> None:
        """Write the function's configuration space through ECAM."""
        self.memory.write(ECAM + (self.slot << 15) + offset, size, value)

    def _probe(self) -> None:
        """Map the BARs, find the structures (4.1.4), switch MSI-X on, one vector per queue."""
        self.set_config(0x04, 2, 0x0006)
        at = self.config(0x34, 1)
        while at:
            if self.config(at, 1) == 0x09:
                kind, bar = self.config(at + 3, 1), self.config(at + 4, 1)
                base = self.config(0x10 + 4 * bar) & ~0xF
                self.regions[kind] = base + self.config(at + 8)
                if kind == 2:
                    self._stride = self.config(at + 16)
            elif self.config(at, 1) == 0x11:
                self._enable_msix(at)
            at = self.config(at + 1, 1)

    def _enable_msix(self, at: int) -> None:
        control, table = self.config(at + 2, 2), self.config(at + 4)
        base = self.config(0x10 + 4 * (table & 7)) & ~0xF
        self.set_config(at + 2, 2, control | 0x8000)
        for vector in range((control & 0x7FF) + 1):
            entry = base + (table & ~7) + 16 * vector
            self.memory.write(entry, 8, MSI_ADDRESS)
            self.memory.write(entry + 8, 8, vector)  # data = vector, unmasked

    def common(self, offset: int, size: int) -> int:
        """Read a register of the common configuration structure."""
        return self.memory.read(self.regions[1] + offset, size)

    def set_common(self, offset: int, size: int, value: int) -> None:
        """Write a register of the common configuration structure."""
        self.memory.write(self.regions[1] + offset, size, value)

    def device_config(self, offset: int, size: int) -> int:
        """Read the device's own config space."""
        return self.memory.read(self.regions[4] + offset, size)

    @property
    def status(self) -> int:
        """The device status register."""
        return self.common(0x14, 1)

    @property
    def needs_reset(self) -> bool:
        """Whether the device gave up on us."""
        return bool(self.status & 0x40)

    # ---- initialization (3.1.1)

    def start(self, features: int = ALL_FEATURES, *, queue_size: int | None = None) -> None:
        """Reset, negotiate `features` out of what is offered, set every queue up, go live."""
        self.negotiate(features)
        for index in range(self.common(0x12, 2)):
            self.setup_queue(index, queue_size)
        self.set_common(0x14, 1, 0x0F)

    def negotiate(self, features: int = ALL_FEATURES) -> None:
        """Up to FEATURES_OK."""
        self.set_common(0x14, 1, 0)
        self.queues.clear()
        self._rings, self._heap = 0x1000, self._heap_start
        self.set_common(0x14, 1, 0x03)
        offered = 0
        for word in range(2):
            self.set_common(0x00, 4, word)
            offered |= self.common(0x04, 4) << 32 * word
        self.features = offered & features
        for word in range(2):
            self.set_common(0x08, 4, word)
            self.set_common(0x0C, 4, self.features >> 32 * word & 0xFFFF_FFFF)
        self.set_common(0x10, 2, 0)
        self.set_common(0x14, 1, 0x0B)

    def setup_queue(self, index: int, size: int | None = None) -> DriverQueue:
        """Lay one queue out and enable it; its vector is `index` + 1."""
        self.set_common(0x16, 2, index)
        size = size or self.common(0x18, 2)
        desc = -(-self._rings // 16) * 16
        driver = desc + 16 * size
        device = -(-(driver + 6 + 2 * size) // 4) * 4
        self._rings = device + 6 + 8 * size
        self.ram.write(desc, bytes(self._rings - desc))
        self.set_common(0x18, 2, size)
        self.set_common(0x1A, 2, index + 1)
        for at, gpa in ((0x20, desc), (0x28, driver), (0x30, device)):
            self.set_common(at, 4, gpa & 0xFFFF_FFFF)
            self.set_common(at + 4, 4, gpa >> 32)
        self.set_common(0x1C, 2, 1)
        queue = DriverQueue(index, size, desc, driver, device, list(range(size))[::-1])
        self.queues[index] = queue
        return queue

    # ---- buffers

    def allocate(self, size: int) -> int:
        """Guest memory for a buffer; all of it is free again once no buffer is pending."""
        if not any(queue.pending for queue in self.queues.values()):
            self._heap = self._heap_start
        at = self._heap
        self._heap += -(-max(size, 1) // 16) * 16
        if self._heap > self.ram.size:
            raise MemoryError("the fake driver's RAM is full")
        return at

    def add(
        self,
        index: int,
        readable: Sequence[bytes] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
    ) -> int:
        """Make one buffer available: bytes to read, sizes to fill. Returns its head."""
        queue = self.queues[index]
        rows: list[tuple[int, int, int]] = []
        for data in readable:
            gpa = self.allocate(len(data)) if not rows else self._more(len(data))
            self.ram.write(gpa, data)
            rows.append((gpa, len(data), 0))
        for size in writable:
            gpa = self.allocate(size) if not rows else self._more(size)
            rows.append((gpa, size, WRITE))
        heads = self._chain(queue, rows, indirect)
        queue.pending[heads[0]] = (heads, [(g, s) for g, s, flags in rows if flags])
        self.expose(queue, heads[0])
        return heads[0]

    def _more(self, size: int) -> int:
        at = self._heap
        self._heap += -(-max(size, 1) // 16) * 16
        return at

    def _chain(
        self, queue: DriverQueue, rows: list[tuple[int, int, int]], indirect: bool
    ) -> list[int]:
        if indirect:
            table = self._more(16 * len(rows))
            links = [(i, table + 16 * i) for i in range(len(rows))]
            heads = [queue.free.pop()]
            self.ram.write(
                queue.desc + 16 * heads[0], DESC.pack(table, 16 * len(rows), INDIRECT, 0)
            )
        else:
            heads = [queue.free.pop() for _ in rows]
            links = [(i, queue.desc + 16 * i) for i in heads]
        for at, (gpa, size, flags) in enumerate(rows):
            last = at == len(rows) - 1
            following = 0 if last else links[at + 1][0]
            flags |= 0 if last else NEXT
            self.ram.write(links[at][1], DESC.pack(gpa, size, flags, following))
        return heads

    def expose(self, queue: DriverQueue, head: int) -> None:
        """Put `head` into the available ring."""
        slot = queue.avail_idx % queue.size
        self.ram.write(queue.driver + 4 + 2 * slot, struct.pack("<H", head))
        queue.avail_idx = queue.avail_idx + 1 & 0xFFFF
        self.ram.write(queue.driver + 2, struct.pack("<H", queue.avail_idx))

    def kick(self, index: int) -> None:
        """Notify the device of queue `index`, whatever it asked for."""
        self.memory.write(self.regions[2] + index * self._stride, 2, index)

    def collect(self, index: int) -> list[Used]:
        """Every buffer that came back since the last call; asks to hear of the next."""
        queue = self.queues[index]
        out = []
        idx = int.from_bytes(self.ram.read(queue.device + 2, 2), "little")
        while queue.used_idx != idx:
            slot = queue.used_idx % queue.size
            head, written = USED.unpack(self.ram.read(queue.device + 4 + 8 * slot, 8))
            heads, places = queue.pending.pop(head)
            queue.free += heads
            data = b"".join(self.ram.read(gpa, size) for gpa, size in places)
            out.append(Used(head, written, data[:written]))
            queue.used_idx = queue.used_idx + 1 & 0xFFFF
        self.ram.write(queue.driver + 4 + 2 * queue.size, struct.pack("<H", queue.used_idx))
        return out

    def request(
        self,
        index: int,
        readable: Sequence[bytes],
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
    ) -> bytes:
        """Add one buffer, kick, and return what the device wrote into it."""
        head = self.add(index, readable, writable, indirect=indirect)
        self.kick(index)
        for used in self.collect(index):
            if used.head == head:
                return used.data
        raise AssertionError(f"queue {index}: the device kept buffer {head}")

    def close(self) -> None:
        """Reset the device and free the RAM."""
        self.function.reset()
        self.ram.close()
