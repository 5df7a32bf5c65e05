"""The host's side of the agent: commands in the guest, with streams, signals and exit codes.

`AgentClient.feed` is called by the thread that serves the port and never blocks. Everything
else may be called from any thread. The guest can neither crash it nor make it keep more than
OUTPUT_WINDOW per stream: a broken rule is a GuestError, for this guest alone.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from barevisor.errors import (
    BarevisorError,
    CommandNotExecutable,
    CommandNotFound,
    ConfigError,
    GuestError,
)
from barevisor.guest import protocol
from barevisor.guest.init import wire
from barevisor.guest.protocol import Decoder, Frame, encode
from barevisor.records import NamedTuple
from barevisor.signals import signal

CHUNK = 32 << 10
ERRNO_MAX = 4096  # include/linux/err.h; the guest may send any number


class Hello(NamedTuple):
    """The agent's first words; times are nanoseconds since the guest's kernel started."""

    pid: int
    init_started: int
    agent_ready: int


class GuestReader(io.RawIOBase):
    """A command's stdout or stderr. Reads block; the guest may send OUTPUT_WINDOW ahead."""

    def __init__(self, process: GuestProcess, stream: int) -> None:
        self._process, self._stream = process, stream
        self._data = bytearray()
        self._received = 0
        """Bytes that arrived and that no credit was given back for: never over the window."""
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read_for(len(buffer), None)
        buffer[: len(data)] = data
        return len(data)

    def read_for(self, size: int, timeout: float | None) -> bytes:
        """Up to `size` bytes, b"" at the end. Raises TimeoutError, or what ended the guest."""
        if self.closed:
            raise ValueError("read of a closed stream")
        self._process.until(lambda: bool(self._data) or self.ended, timeout)
        return self.read_now(size) or b""

    def read_own(self, size: int, timeout: float | None = None) -> bytes:
        """As `read_for`, and also b"" once the command has ended and all that it wrote itself
        is read: descendants that hold the stream open are not waited for."""
        process = self._process
        process.until(lambda: bool(self._data) or self.ended or process.drained, timeout)
        return self.read_now(size) or b""

    def read_now(self, size: int) -> bytes | None:
        """What is here, b"" at the end, None when nothing is here yet."""
        with self._process.changed:
            data = bytes(self._data[:size])
            del self._data[:size]
            back = self._received - len(self._data)
            if self.ended or back < wire.OUTPUT_WINDOW // 4:
                back = 0
            self._received -= back
            ended = self.ended and not self._data
        if back:
            self._process.send(wire.CREDIT, self._stream, protocol.NUMBER.pack(back))
        return data if data or ended else None

    def close(self) -> None:
        """The command gets EPIPE from then on, as when a pipe's reader goes."""
        if not self.closed:
            super().close()
            self._process.close_stream(self._stream)

    def take(self, data: bytes) -> None:
        """From the guest, under the process's lock. Raises GuestError."""
        if self.ended:
            raise GuestError("the guest's agent sent output after its end")
        self._received += len(data)
        if self._received > wire.OUTPUT_WINDOW:
            raise GuestError("the guest's agent sent more output than it had credit for")
        if not data:
            self.ended = True
        elif not self.closed:
            self._data += data


class GuestWriter(io.RawIOBase):
    """A command's stdin. Writes block while the command does not read."""

    def __init__(self, process: GuestProcess) -> None:
        self._process = process
        self._credit = wire.STDIN_WINDOW
        self.broken = False

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        return self.write_for(view, None) if len(view) else 0

    def write_for(self, data: bytes | memoryview, timeout: float | None) -> int:
        """Write a first part of `data`; its size. Raises BrokenPipeError, TimeoutError."""
        if self.closed:
            raise ValueError("write to a closed stream")
        self._process.until(lambda: self._credit > 0 or self.broken, timeout)
        return self.write_now(data)

    def write_now(self, data: bytes | memoryview) -> int:
        """Write what there is credit for, perhaps nothing. Raises BrokenPipeError."""
        with self._process.changed:
            if self.broken:
                raise BrokenPipeError(errno.EPIPE, "the command closed its stdin")
            count = min(len(data), self._credit, CHUNK)
            self._credit -= count
        if count:
            self._process.send(wire.DATA, wire.STDIN, bytes(data[:count]))
        return count

    def close(self) -> None:
        """The command reads the end of its stdin."""
        if not self.closed:
            super().close()
            if not self.broken:
                self._process.send(wire.DATA, wire.STDIN)

    def grant(self, count: int) -> None:
        """From the guest, under the process's lock. Raises GuestError."""
        self._credit += count
        if self._credit > wire.STDIN_WINDOW:
            raise GuestError("the guest's agent gave more stdin credit than there is")


class GuestProcess:
    """One command in the guest, in the manner of subprocess.Popen."""

    def __init__(self, client: AgentClient, id: int, argv: Sequence[str | bytes], flags: int):
        self._client, self._id = client, id
        self.argv = list(argv)
        self.changed = threading.Condition()
        self.pid = 0
        self.returncode: int | None = None
        """Exit code, or -N when signal N ended it; None while it runs."""
        self.error: BaseException | None = None
        self.drained = False
        """It ended, and all that it wrote itself has arrived; descendants may write on."""
        self.done = False
        """It ended, and both streams did."""
        self.stdin = None if flags & wire.NO_STDIN else GuestWriter(self)
        self.stdout = GuestReader(self, wire.STDOUT)
        merged = flags & (wire.MERGE | wire.TTY)
        self.stderr = None if merged else GuestReader(self, wire.STDERR)
        self._listeners: list[Callable[[], None]] = []

    # -- waiting --

    def until(self, ready: Callable[[], bool], timeout: float | None) -> None:
        """Block until `ready()`. Raises TimeoutError, or the error that ended the guest."""
        with self.changed:
            if not self.changed.wait_for(lambda: ready() or self.error is not None, timeout):
                raise TimeoutError
            if not ready() and self.error is not None:
                raise self.error

    def add_listener(self, callback: Callable[[], None]) -> None:
        """`callback()` after every change until `done`, from the port's thread.

        It must neither block nor raise. For asyncio: `loop.call_soon_threadsafe(event.set)`.
        """
        self._listeners.append(callback)

    def wait_started(self, timeout: float | None = None) -> int:
        """The pid. Raises CommandNotFound, CommandNotExecutable, ConfigError, TimeoutError."""
        self.until(lambda: self.pid != 0, timeout)
        return self.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Its output may still be on the way. Raises TimeoutError."""
        self.until(lambda: self.returncode is not None, timeout)
        assert self.returncode is not None
        return self.returncode

    def communicate(
        self, input: bytes = b"", timeout: float | None = None, *, to_end: bool = True
    ) -> tuple[bytes, bytes]:
        """Feed stdin, collect stdout and stderr, wait. Raises TimeoutError.

        With `to_end` it waits for the end of both streams, as subprocess does, even when a
        descendant holds them open; without, all that the command itself wrote is enough.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        readers = [r for r in (self.stdout, self.stderr) if r is not None]
        output = {reader: bytearray() for reader in readers}
        left = memoryview(input)
        while True:
            left = self._feed(left)
            moved = False
            for reader in readers:
                while data := reader.read_now(CHUNK):
                    output[reader] += data
                    moved = True
            if not moved and self._finished(readers, to_end):
                break
            if not moved:
                rest = None if deadline is None else max(0.0, deadline - time.monotonic())
                step = partial(self._communicates, bool(left), readers, to_end)
                self.until(step, rest)
        return bytes(output[self.stdout]), bytes(output[self.stderr]) if self.stderr else b""

    def _feed(self, left: memoryview) -> memoryview:
        """Write what may be written; the rest. A command that reads no more gets no more."""
        if self.stdin is None or self.stdin.closed:
            return left[:0]
        try:
            while left and (count := self.stdin.write_now(left)):
                left = left[count:]
        except BrokenPipeError:
            left = left[:0]
        if not left:
            self.stdin.close()
        return left

    def _communicates(self, feeding: bool, readers: list[GuestReader], to_end: bool) -> bool:
        """Something for `communicate` to do, under the lock."""
        if any(reader._data for reader in readers):
            return True
        if feeding and self.stdin and (self.stdin._credit > 0 or self.stdin.broken):
            return True
        return self._finished(readers, to_end)

    def _finished(self, readers: list[GuestReader], to_end: bool) -> bool:
        """All output that `communicate` waits for is in the readers."""
        with self.changed:
            ended = all(reader.ended and not reader._data for reader in readers)
            dry = not to_end and self.drained and not any(reader._data for reader in readers)
            return self.returncode is not None and (ended or dry)

    # -- acting --

    def send(self, kind: int, flags: int = 0, payload: bytes = b"") -> None:
        """A frame for this command, unless it is gone already."""
        if not self.done and self.error is None:
            self._client.send(kind, flags, self._id, payload)

    def send_signal(self, number: int, *, group: bool = True) -> None:
        """To the command's process group, or to the command alone."""
        flags = wire.TO_GROUP if group else 0
        self.send(wire.SIGNAL, flags, protocol.NUMBER.pack(number))

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal's new size."""
        self.send(wire.RESIZE, 0, protocol.WINDOW.pack(rows & 0xFFFF, columns & 0xFFFF))

    def close_stream(self, stream: int) -> None:
        self.send(wire.CLOSE, stream)

    def close(self) -> None:
        """Close all streams; the command goes on unless that ends it."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    # -- from the guest, in the port's thread --

    def handle(self, frame: Frame) -> None:
        """One frame for this command. Raises GuestError when its time is wrong."""
        with self.changed:
            starting = frame.kind in (wire.SPAWNED, wire.SPAWN_FAILED)
            if starting != (self.pid == 0):
                raise GuestError(f"the guest's agent sent frame {frame.kind} out of order")
            match frame.kind:
                case wire.SPAWNED:
                    self.pid = frame.number() or 1
                case wire.SPAWN_FAILED:
                    self.error = spawn_error(self.argv, *protocol.FAILED.unpack(frame.payload))
                    self.done = True
                case wire.DATA:
                    self._reader(frame.flags).take(frame.payload)
                case wire.CREDIT if self.stdin is not None:
                    self.stdin.grant(frame.number())
                case wire.CLOSE if self.stdin is not None:
                    self.stdin.broken = True
                case wire.EXIT if self.returncode is None:
                    self.returncode = exit_code(frame.number())
                case wire.DRAINED if self.returncode is not None and not self.drained:
                    self.drained = True
                case wire.DONE if self.drained:
                    self.done = True
                    for stream in protocol.OUTPUTS:
                        if stream == wire.STDOUT or self.stderr is not None:
                            self._reader(stream).ended = True
                case _:
                    raise GuestError(f"the guest's agent sent frame {frame.kind} out of order")
            self.changed.notify_all()
        self._notify()

    def _reader(self, stream: int) -> GuestReader:
        reader = self.stdout if stream == wire.STDOUT else self.stderr
        if reader is None:
            raise GuestError("the guest's agent sent stderr of a command that has none")
        return reader

    def fail(self, error: BaseException) -> None:
        """The guest is gone: whoever waits gets `error`."""
        with self.changed:
            if self.error is None and not self.done:
                self.error = error
            self.changed.notify_all()
        self._notify()

    def _notify(self) -> None:
        for callback in list(self._listeners):
            callback()


def exit_code(status: int) -> int:
    """A wait status as subprocess shows it. Raises GuestError for what is neither end."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    raise GuestError(f"the guest's agent sent wait status {status:#x}")


def spawn_error(argv: Sequence[str | bytes], number: int, stage: int) -> BarevisorError:
    """Why a command did not start, as shells tell 127 from 126."""
    name = os.fsdecode(argv[0])
    reason = os.strerror(number) if number < ERRNO_MAX else f"error {number}"
    if stage == wire.STAGE_EXEC and number == errno.ENOENT:
        return CommandNotFound(f"{name}: no such command in the guest")
    if stage == wire.STAGE_EXEC:
        return CommandNotExecutable(f"{name}: cannot be executed in the guest: {reason}")
    if stage == wire.STAGE_DIRECTORY:
        return ConfigError(f"{name}: cannot enter its working folder in the guest: {reason}")
    if stage == wire.STAGE_REQUEST and number == errno.EAGAIN:
        return ConfigError(f"{name}: the guest runs {wire.MAX_COMMANDS} commands already")
    return ConfigError(f"{name}: the guest cannot start it: {reason}")


class AgentClient:
    """The agent of one guest. `send` takes whole frames from any thread and must not block."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._sending = threading.Lock()
        self._decoder = Decoder()
        self._processes: dict[int, GuestProcess] = {}
        self._next_id = 1
        self._syncs = 0
        self.changed = threading.Condition()
        self.hello: Hello | None = None
        self.error: BaseException | None = None

    def feed(self, data: bytes) -> None:
        """Bytes from the guest. Raises GuestError, after telling everyone who waits. Once the
        client failed nobody waits any more, and what still comes is dropped."""
        try:
            for frame in self._decoder.feed(data):
                if self.error is None:
                    self._handle(frame)
        except GuestError as e:
            if self.error is not None:
                return
            self.fail(e)
            raise

    def fail(self, error: BaseException) -> None:
        """The guest ended or is no longer trusted: every wait ends with `error`. Idempotent."""
        with self.changed:
            if self.error is None:
                self.error = error
            processes = list(self._processes.values())
            self._processes.clear()
            self.changed.notify_all()
        for process in processes:
            process.fail(error)

    def _handle(self, frame: Frame) -> None:
        with self.changed:
            if (frame.kind == wire.HELLO) != (self.hello is None):
                raise GuestError(f"the guest's agent sent frame {frame.kind} out of order")
            if frame.kind == wire.HELLO:
                version, pid, started, ready = protocol.HELLO.unpack(frame.payload)
                if version != wire.VERSION:
                    raise GuestError(f"the guest's agent speaks version {version}")
                self.hello = Hello(pid, started, ready)
                self.changed.notify_all()
                return
            if frame.kind == wire.SYNC:
                if self._syncs == 0:
                    raise GuestError("the guest's agent answered a sync that nobody asked for")
                self._syncs -= 1
                self.changed.notify_all()
                return
            process = self._processes.get(frame.id)
            if process is None:
                raise GuestError(f"the guest's agent sent a frame for no command ({frame.id})")
        process.handle(frame)
        if process.done:
            with self.changed:
                self._processes.pop(frame.id, None)

    def send(self, kind: int, flags: int = 0, id: int = 0, payload: bytes = b"") -> None:
        """One frame to the guest, whole."""
        with self._sending:
            self._send(encode(kind, flags, id, payload))

    def _until(self, ready: Callable[[], bool], timeout: float | None) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: ready() or self.error is not None, timeout):
                raise TimeoutError
            if not ready() and self.error is not None:
                raise self.error

    def wait_ready(self, timeout: float | None = None) -> Hello:
        """Wait for the agent. Raises TimeoutError, or what ended the guest."""
        self._until(lambda: self.hello is not None, timeout)
        assert self.hello is not None
        return self.hello

    def start(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        tty: bool = False,
        rows: int = 24,
        columns: int = 80,
        merge: bool = False,
        stdin: bool = True,
        uid: int = wire.KEEP_ID,
        gid: int = wire.KEEP_ID,
    ) -> GuestProcess:
        """Ask for a command without waiting for it to start. Raises ConfigError.

        `tty`: a terminal of `rows` by `columns` for all three streams, read as stdout.
        `merge`: stderr goes into stdout. Without `stdin` it is /dev/null. `argv[0]` without a
        slash is searched in PATH of `env`.
        """
        payload = protocol.spawn_request(
            argv, env, cwd, rows=rows, columns=columns, uid=uid, gid=gid
        )
        flags = wire.TTY * tty | wire.MERGE * (merge and not tty)
        flags |= wire.NO_STDIN * (not stdin and not tty)
        with self.changed:
            if self.error is not None:
                raise self.error
            id = self._next_id
            self._next_id = id % 0xFFFFFFFF + 1
            process = GuestProcess(self, id, argv, flags)
            self._processes[id] = process
        self.send(wire.SPAWN, flags, id, payload)
        return process

    def spawn(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        tty: bool = False,
        rows: int = 24,
        columns: int = 80,
        merge: bool = False,
        stdin: bool = True,
        timeout: float | None = None,
    ) -> GuestProcess:
        """Start a command and wait until it runs.

        Raises CommandNotFound (127), CommandNotExecutable (126), ConfigError, TimeoutError.
        """
        process = self.start(
            argv, env=env, cwd=cwd, tty=tty, rows=rows, columns=columns, merge=merge, stdin=stdin
        )
        process.wait_started(timeout)
        return process

    def sync(self, timeout: float | None = None) -> None:
        """Wait until the guest has written its caches back. Raises TimeoutError."""
        with self.changed:
            self._syncs += 1
        self.send(wire.SYNC)
        self._until(lambda: self._syncs == 0, timeout)

    def power_off(self) -> None:
        """Ask the guest to end. It syncs first."""
        self.send(wire.POWEROFF)
