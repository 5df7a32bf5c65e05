"""The caller's terminal in raw mode, and always back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ESCAPE = b"\x1d"
"""^]: three in a row end the guest."""
ESCAPES = 3


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Every key goes to the guest, ^C too."""
    import termios  # only when there is a terminal
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal itself may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def window_size(*fds: int) -> tuple[int, int]:
    """Rows and columns of the first of `fds` that is a terminal; 24 by 80 when none is."""
    for fd in fds:
        with suppress(OSError):
            size = os.get_terminal_size(fd)
            if size.lines and size.columns:
                return size.lines, size.columns
    return 24, 80


class EscapeWatch:
    """Counts escapes in what was typed."""

    def __init__(self) -> None:
        self._seen = 0

    def typed(self, data: bytes) -> bool:
        """The third in a row is here."""
        for i in range(len(data)):
            self._seen = self._seen + 1 if data[i : i + 1] == ESCAPE else 0
            if self._seen == ESCAPES:
                return True
        return False
