"""One `bare run` of a Linux guest: three streams, signals, a deadline, an exit code.

The main thread only waits, so that signals reach it at once: for the end, for a signal, for the
deadline. A thread boots the guest, starts the command and waits for it; a thread a stream moves
bytes. Everything that happens comes to the main thread through one queue, whose put is safe in a
signal handler.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from barevisor.cli import bootlog, terminal
from barevisor.cli.progress import FetchProgress
from barevisor.config import HOST, VmConfig
from barevisor.errors import BarevisorError, GuestCrash, GuestTimeout
from barevisor.guest.agent import CHUNK, GuestReader, GuestWriter
from barevisor.process import Process
from barevisor.records import NamedTuple
from barevisor.signals import signal
from barevisor.threads import Worker
from barevisor.vm import Vm

ALIVE_SECONDS = 0.6
"""A guest that runs answers in a few milliseconds; ^C and deadlines wait no longer for it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
STDIN, STDOUT, STDERR = 0, 1, 2


class _Signal(NamedTuple):
    """The event of a signal; an int is that of an exit code."""

    number: int


class Session:
    """See the module."""

    def __init__(
        self,
        config: VmConfig,
        command: tuple[str, ...],
        *,
        env: dict[str, str],
        cwd: str | None,
        timeout: float | None,
        tty: bool,
        boot_log: bool,
    ) -> None:
        at_terminal = os.isatty(STDIN)
        self._tty = tty or (not command and at_terminal)
        self._raw = self._tty and at_terminal
        self._command = command or (_shell(config),)
        self._env, self._cwd = env, cwd
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._boot_log = boot_log
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._process: Process | None = None
        self._interrupts = 0
        self._progress = FetchProgress()
        echo = bootlog.echo if boot_log else None
        self._vm = Vm(config=config, on_console=echo, progress=self._progress)

    def run(self) -> int:
        """The command's exit code. Raises BarevisorError."""
        vm = self._vm
        try:
            with self._progress:
                vm.boot()
            gc.freeze()
            gc.enable()
            if vm.gdb_address is not None:
                from barevisor.cli.show import show_gdb

                show_gdb(vm.gdb_address, vm.config.gdb)
            with ExitStack() as stack:
                stack.enter_context(self._signals())
                if self._raw:
                    stack.enter_context(terminal.raw_mode(STDIN))
                Worker(self._serve, name="command").start()
                code = self._await()
        except BaseException:
            vm.stop(sync=False)
            raise
        vm.phases.mark("done")
        vm.stop()
        if self._boot_log and vm.hello is not None:  # it may have ended before it was up
            bootlog.show(vm)
        if (counted := vm.statistics()) is not None:
            from barevisor.cli import stats

            stats.show(vm.engine_name, counted)
        return code

    # ---- the main thread -----------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals become events."""

        def handler(number: int, frame: FrameType | None) -> None:
            self._events.put(_Signal(number))

        wanted = [*SIGNALS, *([signal.SIGWINCH] if self._tty else [])]
        before = {number: signal.signal(number, handler) for number in wanted}
        # A job in the background that reads its terminal sees the end of it, and is not stopped.
        before[signal.SIGTTIN] = signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def _await(self) -> int:
        """Handle events until one is the end."""
        while True:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            try:
                event = self._events.get(timeout=None if left is None else max(left, 0.0))
            except queue.Empty:
                raise self._timed_out() from None
            match event:
                case _Signal(number):
                    if (code := self._signalled(number)) is not None:
                        return code
                case int():
                    return event
                case BaseException():
                    raise event

    def _signalled(self, number: int) -> int | None:
        """The first goes to the command, if there is one and the guest lives; else it is the
        end of the guest."""
        if number == signal.SIGWINCH:
            if self._process is not None:
                self._process.resize(*terminal.window_size(STDIN, STDOUT))
            return None
        self._interrupts += 1
        if self._interrupts > 1 or self._process is None:
            return 128 + number
        self._process.send_signal(number)
        if self._vm.gdb_address is None:  # a guest that a debugger stopped is alive enough
            Worker(self._check_alive, name="alive", args=(number,)).start()
        return None

    def _check_alive(self, number: int) -> None:
        if not self._alive():
            error = GuestCrash("the guest does not respond", "", self._vm.report())
            error.exit_code = 128 + number
            self._events.put(error)

    def _alive(self) -> bool:
        """The guest answers. Not for the thread that serves it."""
        try:
            self._vm.ping(ALIVE_SECONDS)
        except TimeoutError:
            return False
        except BarevisorError:
            return True  # it ended meanwhile, and that is told elsewhere
        return True

    def _timed_out(self) -> BarevisorError:
        """With the guest's state when it is the guest that hangs."""
        assert self._timeout is not None
        if self._process is None:
            what = "the guest did not start"
        else:
            what = f"{self._command[0]} did not end"
        error = GuestTimeout(f"{what} within {self._timeout:g} s")
        if self._process is None or not self._alive():
            sys.stderr.write(self._vm.report() + "\n")
        return error

    # ---- the thread of the command -------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._events.put(self._run_command())
        except BaseException as e:  # noqa: BLE001 - the main thread raises it again
            self._events.put(e)

    def _run_command(self) -> int:
        vm = self._vm
        vm.wait_ready()
        rows, columns = terminal.window_size(STDIN, STDOUT, STDERR)
        process = vm.popen(
            self._command, env=self._env, cwd=self._cwd, tty=self._tty, rows=rows, columns=columns
        )
        self._process = process
        vm.phases.mark("command")
        guest = process.guest
        pumps = [self._pump(lambda: _outward(guest.stdout, STDOUT))]
        if guest.stderr is not None:
            stderr = guest.stderr
            pumps.append(self._pump(lambda: _outward(stderr, STDERR)))
        if guest.stdin is not None:
            stdin = guest.stdin
            self._pump(lambda: self._inward(stdin))
        for pump in pumps:
            pump.join()
        code = process.wait()
        return code if code >= 0 else 128 - code

    def _pump(self, work: Callable[[], None]) -> Worker:
        def guarded() -> None:
            try:
                work()
            except BarevisorError:
                return  # the guest's end; who waits for the command tells it
            except BaseException as e:  # noqa: BLE001 - the main thread raises it again
                self._events.put(e)

        thread = Worker(guarded, name="stream")
        thread.start()
        return thread

    def _inward(self, writer: GuestWriter) -> None:
        """Our stdin to the command's, to its end."""
        watch = terminal.EscapeWatch() if self._raw else None
        with suppress(BrokenPipeError):  # the command reads no more
            while data := _read(STDIN):
                if watch is not None and watch.typed(data):
                    self._events.put(128 + signal.SIGKILL)
                    return
                view = memoryview(data)
                while view:
                    view = view[writer.write_for(view, None) :]
            writer.close()


def _shell(config: VmConfig) -> str:
    shell = os.environ.get("SHELL", "")
    mine = config.root == HOST and os.path.isabs(shell) and os.access(shell, os.X_OK)
    return shell if mine else "/bin/sh"


def _read(fd: int) -> bytes:
    """b"" at the end, for a descriptor that is closed, and for a lost terminal."""
    try:
        return os.read(fd, CHUNK)
    except OSError:
        return b""


def _outward(reader: GuestReader, fd: int) -> None:
    """The command's output to ours. When nobody reads ours, the command learns it."""
    while data := reader.read_own(CHUNK):
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except BrokenPipeError:
            reader.close()
            return
