"""Threads of our own, in a program that may be anybody's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from barevisor.signals import signal

SYNCHRONOUS = frozenset({
    signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS,
})  # fmt: skip
FOR_THE_PROCESS = frozenset(n for n in signal.valid_signals() if n < signal.SIGRTMIN) - SYNCHRONOUS
"""The real-time signals are not among them: the engines use some."""


class Worker(threading.Thread):
    """A daemon thread that no signal of the process reaches.

    The kernel gives a process's signal to any of its threads that does not block it (signal(7)).
    Python runs handlers in the main thread, and one that waits for a lock learns of a signal only
    when it is interrupted itself: a ^C that a busy vCPU's thread took would stay unheard."""

    def __init__(
        self, target: Callable[..., object], *, name: str, args: Iterable[object] = ()
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)

    def start(self) -> None:
        """As Thread.start."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PROCESS)  # and it inherits that
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
