"""Late ports: stores that KVM keeps in a ring instead of exiting (coalesced PIO, api.rst 4.116).

The ring is one page that all vCPUs of a VM map. The kernel fills it; whoever comes out of KVM_RUN
empties it before anything else is done, so that a store is never seen after what follows it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from struct import Struct

from barevisor.cpu.kvm import abi, ioctls

LateWrite = Callable[[int, bytes], None]
PAGE = 4096
ENTRY = Struct("<QII8s")
"""struct kvm_coalesced_mmio: address, length, 1 for a port, data."""
FIRST, LAST = 0, 1
HEAD = 8
TO_PORT = 1 << 1  # KVM_IOEVENTFD_FLAG_PIO
NO_RING = memoryview(bytes(HEAD))
"""Empty, for vCPUs of a KVM that has none."""
ENTRIES = (PAGE - HEAD) // ENTRY.size  # KVM_COALESCED_MMIO_MAX


class LatePorts:
    """All late ports of a VM."""

    def __init__(self, kvm: int, vm: int) -> None:
        """Descriptors of /dev/kvm and of the VM."""
        self._vm = vm
        page = ioctls.capability(kvm, "KVM_CAP_COALESCED_MMIO")
        known = page and ioctls.capability(kvm, "KVM_CAP_COALESCED_PIO")
        self.ring_at = page * PAGE if known else 0
        """Where a vCPU's mapping has the ring; 0: this KVM knows no late ports."""
        self._ports: dict[int, tuple[int, LateWrite]] = {}
        self._joined: set[int] = set()
        self._lock = threading.Lock()
        self._unread = -1

    def add(self, base: int, size: int, on_write: LateWrite) -> None:
        """Stores inside [base, base+size). Raises EngineError when the kernel refuses."""
        if self.ring_at:
            self._ports |= dict.fromkeys(range(base, base + size), (base, on_write))
            if size == 1:
                self._joined.add(base)
            zone = abi.CoalescedZone(addr=base, size=size, pio=1)
            ioctls.REGISTER_COALESCED_MMIO(self._vm, zone)

    def ignore(self, port: int, size: int) -> None:
        """Stores of `size` bytes to `port` go to an eventfd that nobody reads."""
        if self._unread < 0:
            self._unread = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        raw = abi.IoEventFd(addr=port, len=size, fd=self._unread, flags=TO_PORT)
        ioctls.IOEVENTFD(self._vm, raw)

    def close(self) -> None:
        """Idempotent."""
        if self._unread >= 0:
            os.close(self._unread)
            self._unread = -1

    def drain(self, words: memoryview) -> None:
        """Hand on all that waits. `words`: the ring as 32-bit words. Any vCPU's thread: another's
        stores are done, too, when this returns."""
        with self._lock:
            first, last = words[FIRST] % ENTRIES, words[LAST] % ENTRIES
            ring = words.cast("B")
            waiting: list[tuple[int, bytes]] = []
            while first != last:
                port, size, _, data = ENTRY.unpack_from(ring, HEAD + first * ENTRY.size)
                waiting.append((port, data[: min(size, len(data))]))
                first = (first + 1) % ENTRIES
            for port, data in self._together(waiting):
                base, on_write = self._ports[port]
                on_write(port - base, data)
            words[FIRST] = first

    def _together(self, stores: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Neighbours of one port as one, where it is one byte wide."""
        found: list[tuple[int, bytes]] = []
        for port, data in stores:
            if found and found[-1][0] == port and port in self._joined:
                data = found.pop()[1] + data
            found.append((port, data))
        return found
