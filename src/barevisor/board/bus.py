"""Port and memory buses: a guest's access finds its device, or floats.

An access that no device claims reads as all ones and its write is lost, as on a real PC. A
device sees offsets from its own base, ints in the guest's byte order (little), and sizes of 1,
2, 4 or 8 bytes; offset and value are the guest's, so a device trusts neither.
"""

from __future__ import annotations

from bisect import bisect_right

from barevisor.errors import ConfigError
from barevisor.records import NamedTuple, Protocol


class BusDevice(Protocol):
    """What a bus calls. Both run on a vCPU's thread; a device locks what others touch."""

    def bus_read(self, offset: int, size: int) -> int:
        """The value at `offset`, `size` bytes wide; excess bits are dropped by the bus."""

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Store `value` (below 1 << 8*size) at `offset`."""


class Window(NamedTuple):
    """[base, base+size) on a bus belongs to `device`."""

    base: int
    size: int
    device: BusDevice
    name: str


class Bus:
    """An ordered set of windows that do not overlap. Used for ports and for memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        # One tuple, replaced whole: vCPU threads look windows up without a lock.
        self._map: tuple[list[int], list[Window]] = ([], [])

    def add(self, base: int, size: int, device: BusDevice, name: str) -> Window:
        """Raises ConfigError when the window overlaps another."""
        windows = self._map[1]
        for other in windows:
            if base < other.base + other.size and other.base < base + size:
                raise ConfigError(
                    f"{self.name} {base:#x}+{size:#x} ({name}) overlaps "
                    f"{other.base:#x}+{other.size:#x} ({other.name})"
                )
        window = Window(base, size, device, name)
        self._replace([*windows, window])
        return window

    def remove(self, window: Window) -> None:
        """Take a window off the bus (a PCI BAR that moves)."""
        self._replace([w for w in self._map[1] if w is not window])

    def _replace(self, windows: list[Window]) -> None:
        windows.sort(key=lambda w: w.base)
        self._map = ([w.base for w in windows], windows)

    def find(self, address: int) -> Window | None:
        """The window that holds `address`."""
        bases, windows = self._map
        at = bisect_right(bases, address) - 1
        if at < 0 or address - windows[at].base >= windows[at].size:
            return None
        return windows[at]

    def read(self, address: int, size: int) -> int:
        """All ones where nothing answers."""
        mask = (1 << 8 * size) - 1
        window = self.find(address)
        if window is None:
            return mask
        return window.device.bus_read(address - window.base, size) & mask

    def write(self, address: int, size: int, value: int) -> None:
        """Lost where nothing answers."""
        window = self.find(address)
        if window is not None:
            window.device.bus_write(address - window.base, size, value)
