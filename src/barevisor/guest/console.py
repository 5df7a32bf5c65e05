"""The last lines of a guest's console, for the user of a guest that died."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

LINES = 60
LINE_MAX = 500

_SHOWN = bytes(b if 32 <= b < 127 or b == 9 else ord("?") for b in range(256))


class ConsoleLog:
    """Fed by the thread that serves the port; read by any.

    The guest writes what it likes, so lines are few and short, and what reaches the user's
    terminal holds no control characters. `echo` gets the lines as they end.
    """

    def __init__(self, echo: Callable[[str], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._open = bytearray()
        self._echo = echo

    def feed(self, data: bytes) -> None:
        """Bytes from the guest."""
        ended = []
        with self._lock:
            self._open += data.replace(b"\r", b"")
            while (at := self._open.find(b"\n")) >= 0 or len(self._open) > LINE_MAX:
                at = min(at if at >= 0 else LINE_MAX, LINE_MAX)
                ended.append(_text(self._open[:at]))
                del self._open[: at + (self._open[at : at + 1] == b"\n")]
            self._lines.extend(ended)
        if self._echo is not None:
            for line in ended:
                self._echo(line)

    def lines(self) -> list[str]:
        """The last lines, the unfinished one too."""
        with self._lock:
            return [*self._lines, *([_text(self._open)] if self._open else [])]

    def find(self, needle: str) -> str:
        """The last line with `needle`, from there on; "" when there is none."""
        return next((x[x.index(needle) :] for x in reversed(self.lines()) if needle in x), "")


def _text(line: bytes | bytearray) -> str:
    return line.translate(_SHOWN).decode("ascii")
