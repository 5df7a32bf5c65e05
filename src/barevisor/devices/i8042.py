"""The part of an 8042 keyboard controller that PC software uses to reset (IBM PC/AT, port 0x64).

There is no keyboard: the FADT says so, and the status reads "nothing to read, ready for
commands". Without this device the ports would read all ones, and software that waits for the
input buffer to empty before it pulses the reset line would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable

OUTPUT_FULL, SYSTEM_FLAG = 0x01, 0x04
SELF_TEST, READ_OUTPUT_PORT, WRITE_OUTPUT_PORT, PULSE, PULSE_RESET = 0xAA, 0xD0, 0xD1, 0xF0, 0x01
SELF_TEST_PASSED = 0x55
A20_OPEN, NO_RESET = 0x02, 0x01


class I8042:
    """Ports 0x60 (offset 0) and 0x64 (offset 4)."""

    def __init__(self, end: Callable[[str, str], None]) -> None:
        self._end = end
        self._answer: int | None = None
        self._output_port_next = False

    def bus_read(self, offset: int, size: int) -> int:
        """Data or status."""
        if offset == 4:
            return SYSTEM_FLAG | (OUTPUT_FULL if self._answer is not None else 0)
        if offset == 0:
            answer, self._answer = self._answer, None
            return answer or 0
        return 0xFF

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Commands at offset 4; of the rest only the output port matters."""
        value &= 0xFF
        if offset == 4:
            self._command(value)
        elif offset == 0 and self._output_port_next:
            self._output_port_next = False
            if not value & NO_RESET:
                self._end("reset", "keyboard controller")

    def _command(self, value: int) -> None:
        self._output_port_next = value == WRITE_OUTPUT_PORT
        if value == SELF_TEST:
            self._answer = SELF_TEST_PASSED
        elif value == READ_OUTPUT_PORT:
            self._answer = A20_OPEN | NO_RESET
        elif value >= PULSE and not value & PULSE_RESET:
            self._end("reset", "keyboard controller")
