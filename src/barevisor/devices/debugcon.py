"""The debug console: every byte stored to port 0xE9 is output (Bochs; QEMU isa-debugcon)."""

from __future__ import annotations

from collections.abc import Callable

PRESENT = 0xE9
"""What the port reads as, so that a guest can tell that it is there."""


class DebugConsole:
    """One port. `output(bytes)` runs on the vCPU's thread."""

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output

    def bus_read(self, offset: int, size: int) -> int:
        """The presence value."""
        return PRESENT

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """The low byte is output."""
        self._output(bytes((value & 0xFF,)))
