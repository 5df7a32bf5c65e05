"""Interrupt lines: several sources share one line, and the line is their OR."""

from __future__ import annotations

import threading
from collections.abc import Callable


class IrqLine:
    """One of the machine's lines. `drive(level)` reaches the interrupt controllers."""

    def __init__(self, drive: Callable[[bool], None]) -> None:
        self._drive = drive
        self._lock = threading.Lock()
        self._asserted = 0

    def source(self) -> IrqSource:
        """A new source, not asserted."""
        return IrqSource(self)

    def _change(self, source: IrqSource, level: bool) -> None:
        # The lock is held while driving: two sources must not overtake one another.
        with self._lock:
            if source.level == level:
                return
            source.level = level
            self._asserted += 1 if level else -1
            if self._asserted == (1 if level else 0):
                self._drive(level)


class IrqSource:
    """One device's end of a line. Any thread."""

    def __init__(self, line: IrqLine) -> None:
        self._line = line
        self.level = False

    def set(self, level: bool) -> None:
        """Assert or release; repeating the level costs nothing."""
        if level != self.level:
            self._line._change(self, level)
