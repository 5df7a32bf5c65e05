"""Power off and reset: the ACPI sleep registers, port 0xCF9, and the keyboard controller's pulse.

Each calls `end(kind, detail)`, which is Machine.end; the guest that asked never sees an answer.
"""

from __future__ import annotations

from collections.abc import Callable

from barevisor.board import map as board_map
from barevisor.board.bus import Bus

SLEEP_TYPE_S5 = 5
SLEEP_ENABLE = 0x20
RESET_VALUE = 0x06
"""To 0xCF9: reset the CPU (bit 2) and the system (bit 1); Intel ICH, Reset Control Register."""
RESET_CPU = 0x04

RESET_STUB = bytes.fromhex("baf90c b002 ee b006 ee ec f4 ebfd")
"""mov dx, 0xcf9; mov al, 2; out dx, al; mov al, 6; out dx, al; in al, dx; hlt; jmp to the hlt.

The code at RESET_VECTOR. Linux 6.1 without EFI and with hardware-reduced ACPI resets by jumping
there (arch/x86/kernel/reboot.c: BOOT_EFI, which does nothing, is followed by BOOT_BIOS)."""

End = Callable[[str, str], None]


class SleepRegisters:
    """Sleep control and sleep status, a byte each (ACPI 6.5, 4.8.3.7)."""

    def __init__(self, end: End) -> None:
        self._end = end

    def bus_read(self, offset: int, size: int) -> int:
        """Nothing is pending, and nothing woke us."""
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """SLP_TYPx is bits 2..4, SLP_EN bit 5."""
        if offset == 0 and value & SLEEP_ENABLE and value >> 2 & 7 == SLEEP_TYPE_S5:
            self._end("poweroff", "ACPI power off")


class ResetControl:
    """Port 0xCF9. `write` serves a PCI host too, whose 0xCF8 window covers the port."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._value = 0

    def bus_read(self, offset: int, size: int) -> int:
        """What was written last."""
        return self._value

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """As `write`."""
        self.write(value)

    def write(self, value: int) -> None:
        """Bit 2 resets as it goes from 0 to 1."""
        rising = value & RESET_CPU and not self._value & RESET_CPU
        self._value = value & 0x0E
        if rising:
            self._end("reset", f"port {board_map.PORT_RESET:#x}")


def attach(ports: Bus, end: End) -> ResetControl:
    """The sleep registers on their ports. The caller gives the ResetControl's `write` to the
    PCI host (`on_reset`) or, where there is none, puts it on PORT_RESET itself."""
    ports.add(board_map.PORT_SLEEP, 2, SleepRegisters(end), "acpi sleep")
    return ResetControl(end)
