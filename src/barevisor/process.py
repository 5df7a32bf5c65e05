"""A command in the guest, in the manner of subprocess.Popen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from types import TracebackType

from barevisor.errors import GuestTimeout
from barevisor.guest.agent import CHUNK, GuestProcess, GuestReader
from barevisor.records import dataclass
from barevisor.signals import signal

Argv = Sequence[str | bytes]


@dataclass(frozen=True, slots=True)
class CompletedProcess:
    """What a command did. `returncode` is -N when signal N ended it."""

    args: list[str | bytes]
    returncode: int
    stdout: bytes
    stderr: bytes

    def check_returncode(self) -> None:
        """Raise subprocess.CalledProcessError unless it is 0."""
        if self.returncode:
            from subprocess import CalledProcessError

            raise CalledProcessError(self.returncode, self.args, self.stdout, self.stderr)


class _Raw(io.RawIOBase):
    """A guest's stream beneath a BufferedReader whose buffer can be emptied without waiting."""

    def __init__(self, reader: GuestReader) -> None:
        self._reader = reader
        self.waiting = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        if not self.waiting:
            return None
        data = self._reader.read_for(len(buffer), None)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._reader.close()


class Process:
    """A command that runs in the guest. Streams are buffered files of bytes; None where the
    command was started without them."""

    def __init__(self, process: GuestProcess) -> None:
        self._process = process
        self.args = process.argv
        self.stdin: io.BufferedWriter | None = None
        if process.stdin is not None:
            raw: io.RawIOBase = process.stdin
            self.stdin = io.BufferedWriter(raw, CHUNK)
        self._raw = [_Raw(r) for r in (process.stdout, process.stderr) if r is not None]
        files = [io.BufferedReader(raw, CHUNK) for raw in self._raw]
        self.stdout = files[0]
        self.stderr = files[1] if len(files) > 1 else None

    @property
    def pid(self) -> int:
        """In the guest."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; -N when signal N ended it."""
        return self._process.returncode

    @property
    def guest(self) -> GuestProcess:
        """The agent's view: streams without buffers, and a call at every change."""
        return self._process

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises GuestTimeout, or what ended the guest."""
        try:
            return self._process.wait(timeout)
        except TimeoutError:
            raise self._late(timeout) from None

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Feed stdin, collect both streams to their end, wait. Raises GuestTimeout."""
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.flush()
        kept = [self._buffered(i) for i in range(len(self._raw))]
        try:
            out, err = self._process.communicate(input or b"", timeout)
        except TimeoutError:
            raise self._late(timeout) from None
        return kept[0] + out, (kept[1] if len(kept) > 1 else b"") + err

    def _buffered(self, index: int) -> bytes:
        """What a reader has read ahead."""
        file = self.stdout if index == 0 else self.stderr
        if file is None or file.closed:
            return b""
        raw = self._raw[index]
        raw.waiting = False
        try:
            return file.read1(CHUNK) if file.peek(1) else b""
        finally:
            raw.waiting = True

    def _late(self, timeout: float | None) -> GuestTimeout:
        name = self.args[0]
        text = name if isinstance(name, str) else name.decode("utf-8", "replace")
        return GuestTimeout(f"{text} did not end within {timeout:g} s")

    def send_signal(self, number: int) -> None:
        """To the command and those of its process group."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal's new size."""
        self._process.resize(rows, columns)

    def close(self) -> None:
        """Close all streams; the command goes on unless that ends it."""
        for raw in self._raw:
            raw.waiting = True
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None and not file.closed:
                try:
                    file.close()
                except BrokenPipeError:
                    continue  # the command closed its stdin first, as a pipe's reader may
        self._process.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()
        if kind is not None:
            self.kill()
            return
        self.wait()
