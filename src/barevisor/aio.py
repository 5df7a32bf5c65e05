"""Waiting for a thread from asyncio, with a thread of its own for each call.

asyncio's own pool has a handful of threads, and commands in a guest may run for hours.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def _nothing() -> None:
    """The call is let to finish."""


async def in_thread(call: Callable[[], T], on_cancel: Callable[[], None] = _nothing) -> T:
    """What `call()` returns or raises. When the task is cancelled, `on_cancel()` makes the call
    end soon, and its thread is waited for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    results: list[T] = []
    errors: list[BaseException] = []

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def work() -> None:
        try:
            results.append(call())
        except BaseException as e:  # noqa: BLE001 - raised again in the task
            errors.append(e)
        loop.call_soon_threadsafe(finish)

    # Not a Worker: programs that the call starts would inherit its blocked signals.
    thread = threading.Thread(target=work, name="vm-call", daemon=True)
    thread.start()
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        on_cancel()
        await asyncio.shield(done)
        raise
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
