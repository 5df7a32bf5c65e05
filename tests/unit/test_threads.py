"""Signals of the process are the main thread's, whatever else runs."""

from __future__ import annotations

import signal

import pytest

from barevisor.threads import FOR_THE_PROCESS, Worker


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH, signal.SIGALRM],
    ids=lambda n: n.name,
)
def test_a_worker_takes_no_signal_of_the_process(number: signal.Signals) -> None:
    blocked = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    seen: list[set[int]] = []
    worker = Worker(lambda: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())), name="w")
    worker.start()
    worker.join()
    assert number in seen[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked, "the starter's own"


def test_faults_and_the_engines_signals_stay_open() -> None:
    open_ones = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGRTMIN + 3}
    assert not open_ones & FOR_THE_PROCESS
