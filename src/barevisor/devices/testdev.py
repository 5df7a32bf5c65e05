"""The devices that bare test images expect of QEMU: debug exit, fw_cfg, pc-testdev.

Sources: QEMU docs/specs/fw_cfg (selector, data and keys); isa-debug-exit and pc-testdev have
no specification but their use by the public KVM unit tests. `attach` puts all of them on a machine.
"""

from __future__ import annotations

from collections.abc import Callable

from barevisor.board import map as board_map
from barevisor.board.bus import Bus
from barevisor.board.irq import IrqSource
from barevisor.board.ram import PAGE, GuestRam
from barevisor.errors import GuestError

FW_CFG_SIGNATURE, FW_CFG_ID, FW_CFG_RAM_SIZE = 0x00, 0x01, 0x03
FW_CFG_NB_CPUS, FW_CFG_MAX_CPUS, FW_CFG_FILE_DIR = 0x05, 0x0F, 0x19
ID_TRADITIONAL = 1
"""The selector and data registers are there; the DMA interface is not."""


class DebugExit:
    """A store ends the machine; the process exits with (value << 1) | 1, so never with 0."""

    def __init__(self, end: Callable[[str, str, int], None]) -> None:
        self._end = end

    def bus_read(self, offset: int, size: int) -> int:
        """Nothing to read."""
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Kind "exit"; a process can only report the low 8 bits."""
        self._end("exit", f"debug exit with {value:#x}", (value << 1 | 1) & 0xFF)


class FwCfg:
    """Selector (16 bits, offset 0) and data (8 bits, offset 1); data past an item's end is 0."""

    def __init__(self, cpus: int, ram_size: int) -> None:
        self._items = {
            FW_CFG_SIGNATURE: b"QEMU",
            FW_CFG_ID: ID_TRADITIONAL.to_bytes(4, "little"),
            FW_CFG_RAM_SIZE: ram_size.to_bytes(8, "little"),
            FW_CFG_NB_CPUS: cpus.to_bytes(2, "little"),
            FW_CFG_MAX_CPUS: cpus.to_bytes(2, "little"),
            FW_CFG_FILE_DIR: bytes(4),  # big-endian count: no files
        }
        self._item = self._items[FW_CFG_SIGNATURE]
        self._at = 0

    def bus_read(self, offset: int, size: int) -> int:
        """The next byte of the item; the selector itself is write-only."""
        if offset != 1:
            return 0
        at, self._at = self._at, self._at + 1
        return self._item[at] if at < len(self._item) else 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Select an item and start it over; an unknown one is empty. Data is read-only."""
        if offset == 0:
            self._item = self._items.get(value & 0x3FFF, b"")
            self._at = 0


class Latch:
    """Four bytes that read back, at any width and offset, seen at two port ranges."""

    def __init__(self) -> None:
        self._bytes = bytearray(4)

    def bus_read(self, offset: int, size: int) -> int:
        """The bytes from `offset` on."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Bytes past the fourth are lost."""
        room = min(size, 4 - offset)
        self._bytes[offset : offset + room] = value.to_bytes(size, "little")[:room]


class FlushPage:
    """A 32-bit store names a page of RAM that the engine must forget and find again."""

    def __init__(self, ram: GuestRam) -> None:
        self._ram = ram

    def bus_read(self, offset: int, size: int) -> int:
        """Nothing to read."""
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """A page that is not RAM raises GuestError, which the machine notes."""
        if offset or size != 4:
            raise GuestError(f"test device: flush store of {size} bytes at {offset}")
        page = value & ~(PAGE - 1)
        self._ram.host(page, PAGE)
        self._ram.written(page, PAGE)


class IrqPorts:
    """A byte stored to port n drives interrupt line n: 0 releases, anything else asserts."""

    def __init__(self, irq: Callable[[int], IrqSource]) -> None:
        self._sources = [irq(gsi) for gsi in range(board_map.GSI_COUNT)]

    def bus_read(self, offset: int, size: int) -> int:
        """Nothing to read."""
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Offsets are below GSI_COUNT by the window's size."""
        self._sources[offset].set(bool(value & 0xFF))


class MmioMemory:
    """64 KiB that behave as memory and are reached through exits, access by access."""

    def __init__(self) -> None:
        self._bytes = bytearray(board_map.TESTDEV_MMIO_SIZE)

    def bus_read(self, offset: int, size: int) -> int:
        """The bytes at `offset`; past the end there are none."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Bytes past the end are lost."""
        room = min(size, len(self._bytes) - offset)
        self._bytes[offset : offset + room] = value.to_bytes(size, "little")[:room]


def attach(
    ports: Bus,
    memory: Bus,
    ram: GuestRam,
    *,
    cpus: int,
    irq: Callable[[int], IrqSource],
    end: Callable[[str, str, int], None],
    debugcon: bool = False,
) -> None:
    """All of them; `irq` and `end` are the machine's. `debugcon`: port 0xE9, which is a byte of
    the second latch, is the debug console's."""
    latch = Latch()
    ports.add(board_map.PORT_TEST_LATCH, 4, latch, "test latch")
    ports.add(board_map.PORT_TEST_FLUSH, 4, FlushPage(ram), "test flush")
    size = board_map.PORT_DEBUGCON - board_map.PORT_TEST_LATCH_BYTES if debugcon else 4
    ports.add(board_map.PORT_TEST_LATCH_BYTES, size, latch, "test latch bytes")
    ports.add(board_map.PORT_TEST_EXIT, 4, DebugExit(end), "debug exit")
    ports.add(board_map.PORT_FW_CFG, 2, FwCfg(cpus, ram.size), "fw_cfg")
    ports.add(board_map.PORT_TEST_IRQ, board_map.GSI_COUNT, IrqPorts(irq), "test irq")
    memory.add(board_map.TESTDEV_MMIO, board_map.TESTDEV_MMIO_SIZE, MmioMemory(), "test memory")
