"""`bare run --no-root`: a bare image with its serial port on stdout."""

from __future__ import annotations

import gc
import os
import sys
import threading
from contextlib import suppress
from types import FrameType

from barevisor.config import ImageConfig
from barevisor.errors import GuestTimeout
from barevisor.image_vm import ImageVm
from barevisor.signals import signal
from barevisor.threads import Worker

CHUNK = 4096


class Output:
    """A descriptor behind a buffer that is flushed at the end of a line, when it is full, and
    by whoever ends the run; at a terminal every byte is shown at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = bytearray()
        self._lock = threading.Lock()
        self._at_once = os.isatty(fd)

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        with self._lock:
            self._kept += data
            if self._at_once or data.endswith(b"\n") or len(self._kept) >= CHUNK:
                self._flush()

    def flush(self) -> None:
        """Raises OSError."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._kept:
            del self._kept[: os.write(self._fd, self._kept)]


def run_image(config: ImageConfig, timeout: float | None) -> int:
    """The image's exit code. Raises BarevisorError."""
    stdout, stderr = Output(1), Output(2)
    interrupted: list[int] = []
    with ImageVm(config, stdout.write, stderr.write) as vm:

        def handler(number: int, frame: FrameType | None) -> None:
            interrupted.append(number)
            # The lock that `stop` takes may be held right here, by the frame beneath.
            Worker(vm.machine.stop, name="stop").start()

        before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            vm.start()
            gc.freeze()
            gc.enable()
            if vm.gdb_address is not None:
                from barevisor.cli.show import show_gdb

                show_gdb(vm.gdb_address, config.gdb)
            Worker(_feed, name="stdin", args=(vm,)).start()
            code = vm.wait(timeout)
            if code is None:
                stdout.flush()
                sys.stderr.write(vm.report() + "\n")
                raise GuestTimeout(f"the image did not end within {timeout:g} s")
        except BrokenPipeError:
            return 128 + signal.SIGPIPE
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            with suppress(OSError):
                stdout.flush()
                stderr.flush()
    if (counted := vm.machine.statistics()) is not None:
        from barevisor.cli import stats

        stats.show(vm.engine_name, counted)
    return 128 + interrupted[0] if interrupted else code


def _feed(vm: ImageVm) -> None:
    """Our stdin to the image's serial port. A port that is full loses bytes, as ports do."""
    with suppress(OSError):
        while data := os.read(0, CHUNK):
            vm.serial.feed(data)
