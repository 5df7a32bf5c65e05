"""A bare image's run: serial out, an exit code back.

The image is someone's own kernel or test program. Nothing of ours is inside, so all that it can
tell us is bytes on a serial port and how it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from barevisor.board.machine import Outcome
from barevisor.config import ImageConfig
from barevisor.devices.serial import Serial
from barevisor.engines import choose
from barevisor.errors import GuestCrash
from barevisor.pc import bare_image

ENDS = {
    "triple-fault": "the image died of a triple fault",
    "reset": "the image reset the machine",
    "internal-error": "the engine gave up",
    "crash": "the image crashed",
    "halted": "the image halted with interrupts off",
    "poweroff": "the image powered off without telling its exit code",
}


class ImageVm:
    """One machine with one image. `serial(bytes)` and `debug(bytes)` get what it prints, on a
    vCPU's thread; an OSError of theirs ends the machine."""

    def __init__(
        self,
        config: ImageConfig,
        serial: Callable[[bytes], None],
        debug: Callable[[bytes], None],
    ) -> None:
        """Raises ConfigError, HostError, EngineError."""
        self.config = config
        self._broken: OSError | None = None
        engine, self.engine_reason = choose(config.engine)
        self.engine_name = engine.name
        self._closing = threading.Lock()
        self.machine, self.serial = bare_image(
            config, engine, self._guarded(serial), self._guarded(debug)
        )
        self.gdb_address: str | None = None
        if config.gdb is not None or config.trace is not None:
            self._attach()

    def _attach(self) -> None:
        from barevisor.debug.attach import attach

        try:
            self.gdb_address = attach(self.machine, self.config.gdb, self.config.trace)
        except BaseException:
            self.machine.close()
            raise

    def _guarded(self, output: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            try:
                output(data)
            except OSError as e:
                self._broken = self._broken or e
                self.machine.stop(f"output: {e.strerror}")

        return write

    def start(self) -> None:
        """Run it."""
        gdb = self.config.gdb
        self.machine.start(paused=gdb is not None and gdb.wait)

    def input(self) -> Serial:
        """The serial port; feed it what the image shall read."""
        return self.serial

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, or None after `timeout` seconds. Raises GuestCrash, or the OSError of
        an output that broke.

        A test device's exit code; 0 for a power off and for a halt for good, which is how small
        images end, and for `machine.stop`. With test devices only the debug exit counts: every
        other end is an error."""
        outcome = self.machine.wait(timeout)
        if outcome is None:
            return None
        if self._broken is not None:
            raise self._broken
        if outcome.kind == "exit":
            return outcome.code
        if outcome.kind == "stopped":
            return 0
        if outcome.kind in ("poweroff", "halted") and not self.config.testdev:
            return 0
        raise self._crash(outcome)

    def _crash(self, outcome: Outcome) -> GuestCrash:
        what = ENDS.get(outcome.kind, f"the image ended: {outcome.kind}")
        return GuestCrash(f"{what}: {outcome.detail}", "", self.machine.report())

    def report(self) -> str:
        """Every vCPU's state."""
        return self.machine.report()

    def close(self) -> None:
        """Stop and free everything. Idempotent."""
        with self._closing:
            self.machine.close()

    def __enter__(self) -> ImageVm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
