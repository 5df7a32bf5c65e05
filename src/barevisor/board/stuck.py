"""A machine whose CPUs all sleep for good, on an engine that does not say so.

With the interrupt controllers in the kernel, KVM_RUN does not return from HLT, also not when
interrupts are off and nothing can end it. So `Machine.wait` looks once a second: threads that used
no processor time at all since the last look are asked for their CPU's state, once for each such
sleep, which an idle guest does not notice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Thread

from barevisor.cpu.engine import CpuState

LOOK_SECONDS = 1.0
INTERRUPTS_ON = 1 << 9


class Sleepers:
    """Which vCPU threads slept through, from one look to the next."""

    def __init__(self) -> None:
        self._used: list[float] = []
        self._asked = False

    def doubtful(self, threads: Sequence[Thread]) -> bool:
        """Nobody has run since the last look, and nobody was asked in this sleep."""
        used = [_used(thread) for thread in threads]
        asleep = bool(used) and used == self._used
        self._used = used
        if not asleep:
            self._asked = False
            return False
        return not self._asked

    def asked(self, threads: Sequence[Thread]) -> None:
        """The vCPUs were asked, which used a little time of each."""
        self._asked = True
        self._used = [_used(thread) for thread in threads]


def _used(thread: Thread) -> float:
    """Processor seconds of a thread; -1 once it is gone."""
    if thread.ident is None or not thread.is_alive():
        return -1.0
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    except OSError:
        return -1.0


def for_good(state: CpuState) -> bool:
    """Nothing but an NMI that nobody sends, or a reset, ends this CPU's sleep."""
    if state.mp_state == "init":
        return True
    interrupts = state.regs.rflags & INTERRUPTS_ON
    return state.mp_state == "halted" and not interrupts and not state.events.nmi_pending
