"""PCI: one bus, reached by ports 0xCF8/0xCFC and through ECAM; functions, BARs, capabilities.

PCI Local Bus Specification 3.0, chapter 6 (configuration space) and 3.2.2.3.2 (configuration
mechanism #1); PCI Express Base Specification, 7.2.2 (ECAM). Base addresses are assigned by
`PciHost.assign`, so that a kernel booted without firmware finds them programmed; the guest may
move them inside the host's windows. A BAR placed anywhere else, or over another, answers
nothing: the guest can hide its own devices and cannot cover RAM or interrupt controllers.

Where the machine lends memory for ECAM, configuration space lies in it: the guest then reads it
without an exit (a start makes some 700 such reads), and only its stores come here.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from barevisor.board.bus import Bus, BusDevice, Window
from barevisor.board.map import PORT_PCI_ADDRESS
from barevisor.board.msix import CAPABILITY_ID as MSIX_ID
from barevisor.board.msix import CONTROL_AT, MsiX
from barevisor.errors import ConfigError
from barevisor.records import dataclass

CONFIG_SIZE = 4096
ECAM_BUS_SIZE = 1 << 20
SLOTS = 32

# Header type 0 (6.1), and what of it the guest may write.
VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
BAR0, SUBSYSTEM_VENDOR, SUBSYSTEM, CAPABILITIES = 0x10, 0x2C, 0x2E, 0x34
BARS = 6
FIRST_CAPABILITY = 0x40
MEMORY_ENABLE, MASTER_ENABLE = 0x0002, 0x0004
HAS_CAPABILITIES = 0x0010
WRITABLE = {
    0x04: b"\x06\x04",  # command: memory space, bus master, INTx disable
    0x0C: b"\xff\xff",  # cache line size, latency timer
    0x3C: b"\xff",  # interrupt line
}
BAR_64, BAR_PREFETCH = 0x4, 0x8


@dataclass(slots=True)
class Bar:
    """One memory base address register (two when `wide`) and what answers behind it."""

    index: int
    size: int
    device: BusDevice
    wide: bool
    name: str
    window: Window | None = None
    on_move: Callable[[int | None], None] = lambda base: None
    """Called with the new base, or None, when the guest maps, moves or unmaps the BAR."""


class PciFunction:
    """A function's configuration space: bytes, and a mask of the bits the guest may write."""

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        *,
        revision: int = 0,
        subsystem: tuple[int, int] = (0, 0),
        name: str = "pci",
    ) -> None:
        """`class_code` is 24 bits: class, subclass, interface."""
        self.name = name
        self.config: bytearray | memoryview = bytearray(CONFIG_SIZE)
        self.writable = bytearray(CONFIG_SIZE)
        self.bars: list[Bar] = []
        self.msix: MsiX | None = None
        self._msix_at = 0
        self._last_capability = CAPABILITIES
        self._free = FIRST_CAPABILITY
        self._host: PciHost | None = None
        struct.pack_into("<HH", self.config, VENDOR, vendor, device)
        struct.pack_into("<I", self.config, REVISION, class_code << 8 | revision)
        struct.pack_into("<HH", self.config, SUBSYSTEM_VENDOR, *subsystem)
        for at, mask in WRITABLE.items():
            self.writable[at : at + len(mask)] = mask

    def add_bar(self, index: int, size: int, device: BusDevice, *, wide: bool = False) -> Bar:
        """A memory BAR of `size` bytes: a power of two, at least 4 KiB."""
        last = index + wide
        taken = {i for b in self.bars for i in (b.index, b.index + b.wide)}
        if size < 0x1000 or size & (size - 1) or last >= BARS or {index, last} & taken:
            raise ConfigError(f"{self.name}: BAR {index} of {size:#x} bytes cannot be")
        bar = Bar(index, size, device, wide, f"{self.name} bar{index}")
        at = BAR0 + 4 * index
        mask = ~(size - 1) & (1 << 64) - 1
        width = 8 if wide else 4
        self.writable[at : at + width] = mask.to_bytes(8, "little")[:width]
        self.config[at] = BAR_64 if wide else 0
        self.bars.append(bar)
        return bar

    def add_capability(self, identity: int, body: bytes) -> int:
        """Append to the list (6.7); returns the offset of its first byte."""
        at = self._free
        self._free += -(-(2 + len(body)) // 4) * 4
        if self._free > 0x100:
            raise ConfigError(f"{self.name}: capabilities do not fit")
        self.config[self._last_capability] = at
        self.config[at : at + 2 + len(body)] = bytes((identity, 0)) + body
        self.config[STATUS] |= HAS_CAPABILITIES
        self._last_capability = at + 1
        return at

    def add_msix(self, bar: int, msix: MsiX) -> None:
        """Give the function MSI-X, with its table in `bar`."""
        self.msix = msix
        self.add_bar(bar, msix.bar_size, msix)
        self._msix_at = self.add_capability(MSIX_ID, msix.capability(bar)) + CONTROL_AT
        self.writable[self._msix_at + 1] = 0xC0

    def attach(self, host: PciHost, space: memoryview | None) -> None:
        """The host took the function in; its configuration space moves to `space`."""
        self._host = host
        if space is not None:
            space[:] = self.config
            self.config = space

    def base(self, bar: Bar) -> int:
        """The address in the register, whether decoded or not."""
        at = BAR0 + 4 * bar.index
        raw = int.from_bytes(self.config[at : at + (8 if bar.wide else 4)], "little")
        return raw & ~0xF

    def place(self, bar: Bar, base: int) -> None:
        """Program the register from the host's side; decoding stays as it is."""
        at, width = BAR0 + 4 * bar.index, 8 if bar.wide else 4
        flags = self.config[at] & 0xF
        self.config[at : at + width] = (base | flags).to_bytes(width, "little")
        self._remap()

    def config_read(self, offset: int, size: int) -> int:
        """`size` bytes at `offset`; the host bounds both."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Changes writable bits only; moves BARs and tells MSI-X."""
        for i in range(size):
            at, byte, mask = offset + i, value >> 8 * i & 0xFF, self.writable[offset + i]
            self.config[at] = self.config[at] & ~mask | byte & mask
        if offset < BAR0 + 4 * BARS and offset + size > COMMAND:
            self._remap()
        if self.msix and offset < self._msix_at + 2 and offset + size > self._msix_at:
            self.msix.set_control(self.config_read(self._msix_at, 2))

    def reset(self) -> None:
        """As after a bus reset, except that base addresses stay where the host put them."""
        self.config[COMMAND : COMMAND + 2] = bytes(2)
        self._remap()
        if self.msix:
            self.config[self._msix_at + 1] &= 0x3F
            self.msix.reset()

    def _remap(self) -> None:
        if self._host is None:
            return
        enabled = self.config[COMMAND] & MEMORY_ENABLE
        for bar in self.bars:
            self._host.map_bar(bar, self.base(bar) if enabled else None)


class PciHost:
    """Bus 0: routes configuration accesses and puts BARs on the memory bus."""

    def __init__(
        self,
        ports: Bus,
        memory: Bus,
        msi: Callable[[int, int], None],
        *,
        mmio: tuple[int, int] = (0xC000_0000, 0x2000_0000),
        mmio64: tuple[int, int] = (0, 0),
        ecam: int = 0xE000_0000,
        ecam_memory: memoryview | None = None,
        legacy: bool = True,
    ) -> None:
        """`mmio`, `mmio64`: (base, size) windows for BARs; `msi(address, data)` delivers.
        `ecam_memory`: what the guest sees at `ecam`, read-only to it. `legacy`: there are ports
        0xCF8 to 0xCFF, which a kernel prefers to ECAM if it finds them."""
        self.msi = msi
        self.functions: dict[int, PciFunction] = {}
        self.on_reset: Callable[[int], None] = lambda value: None
        """Byte stores to port 0xCF9, the reset control register that lies inside 0xCF8."""
        self._memory = memory
        self._windows = (mmio, mmio64)
        self._space = ecam_memory
        if ecam_memory is not None:
            ecam_memory[:] = b"\xff" * ECAM_BUS_SIZE  # where there is no function
        self._lock = threading.RLock()
        self.add(PciFunction(0x1B36, 0x0008, 0x060000, name="host bridge"))
        self.ports = _Mechanism1(self)
        if legacy:
            ports.add(PORT_PCI_ADDRESS, 8, self.ports, "pci config")
        memory.add(ecam, ECAM_BUS_SIZE, _Ecam(self), "pci ecam")

    def add(self, function: PciFunction) -> int:
        """Put `function` in the next free slot; returns its device number."""
        slot = len(self.functions)
        if slot >= SLOTS:
            raise ConfigError(f"{function.name}: all {SLOTS} PCI slots are taken")
        self.functions[slot << 3] = function
        at = (slot << 3) * CONFIG_SIZE
        function.attach(self, None if self._space is None else self._space[at : at + CONFIG_SIZE])
        return slot

    def assign(self) -> None:
        """Give every BAR an address, largest first so that all are aligned without holes."""
        (low, _), (high, high_size) = self._windows
        bars = [(f, bar) for f in self.functions.values() for bar in f.bars]
        for function, bar in sorted(bars, key=lambda row: -row[1].size):
            if bar.wide and high_size:
                base = high = -(-high // bar.size) * bar.size
                high = base + bar.size
            else:
                base = low = -(-low // bar.size) * bar.size
                low = base + bar.size
            if not self._holds(base, bar.size):
                raise ConfigError(f"{bar.name}: no room of {bar.size:#x} bytes for it")
            function.place(bar, base)

    def reset(self) -> None:
        """Reset every function: devices let go of guest memory. No vCPU may be running."""
        for function in self.functions.values():
            function.reset()

    def _holds(self, base: int, size: int) -> bool:
        return any(at <= base and base + size <= at + room for at, room in self._windows)

    def map_bar(self, bar: Bar, base: int | None) -> None:
        """Move `bar` to `base` on the memory bus, or take it off."""
        if base is not None and not self._holds(base, bar.size):
            base = None
        if (bar.window.base if bar.window else None) == base:
            return
        if bar.window:
            self._memory.remove(bar.window)
            bar.window = None
        if base is not None:
            try:
                bar.window = self._memory.add(base, bar.size, bar.device, bar.name)
            except ConfigError:  # the guest laid it over another BAR: nothing answers there
                base = None
        bar.on_move(base)

    def config_read(self, devfn: int, register: int, size: int) -> int:
        """All ones where there is no function, as a master abort reads."""
        function = self.functions.get(devfn)
        if function is None or register + size > CONFIG_SIZE:
            return (1 << 8 * size) - 1
        with self._lock:
            return function.config_read(register, size)

    def config_write(self, devfn: int, register: int, size: int, value: int) -> None:
        """Lost where there is no function."""
        function = self.functions.get(devfn)
        if function is not None and register + size <= CONFIG_SIZE:
            with self._lock:
                function.config_write(register, size, value)


class _Mechanism1:
    """Ports 0xCF8 (address, 32-bit accesses only) and 0xCFC..0xCFF (data)."""

    def __init__(self, host: PciHost) -> None:
        self._host = host
        self._address = 0

    def _target(self, offset: int, size: int) -> tuple[int, int] | None:
        enabled, bus = self._address >> 31, self._address >> 16 & 0xFF
        if not enabled or bus or offset < 4 or offset + size > 8:
            return None
        return self._address >> 8 & 0xFF, (self._address & 0xFC) + offset - 4

    def late_write(self, offset: int, data: bytes) -> None:
        """A store to the address, which an engine kept back."""
        self.bus_write(offset, len(data), int.from_bytes(data, "little"))

    def bus_read(self, offset: int, size: int) -> int:
        if offset == 0 and size == 4:
            return self._address
        target = self._target(offset, size)
        return self._host.config_read(*target, size) if target else (1 << 8 * size) - 1

    def bus_write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 4:
            self._address = value & 0x80FF_FFFC
        elif offset == 1 and size == 1:
            self._host.on_reset(value)
        elif target := self._target(offset, size):
            self._host.config_write(*target, size, value)


class _Ecam:
    """Memory-mapped configuration space: 4 KiB for each function of bus 0."""

    def __init__(self, host: PciHost) -> None:
        self._host = host

    def bus_read(self, offset: int, size: int) -> int:
        return self._host.config_read(offset >> 12, offset & 0xFFF, size)

    def bus_write(self, offset: int, size: int, value: int) -> None:
        self._host.config_write(offset >> 12, offset & 0xFFF, size, value)
