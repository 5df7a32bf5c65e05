"""Vm: a Linux guest that runs commands. What users and the command line call.

    with Vm(memory="512M") as vm:
        done = vm.run(["uname", "-r"])

The guest boots when the Vm is entered (or at the first command) and ends with it. Methods may
be called from any thread; commands run side by side. When the guest dies, whoever waits gets
a GuestCrash with the vCPU's state and the last console lines.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType

from barevisor.assembly import LinuxGuest, Phases, linux_guest
from barevisor.board.machine import Outcome
from barevisor.config import GdbListen, Share, Trace, VmConfig, as_path, parse_memory
from barevisor.cpu.engine import Engine
from barevisor.engines import for_linux
from barevisor.errors import BarevisorError, GuestCrash, GuestError, GuestTimeout
from barevisor.guest.console import ConsoleLog
from barevisor.process import Argv, CompletedProcess, Process
from barevisor.records import TYPE_CHECKING
from barevisor.threads import Worker

if TYPE_CHECKING:
    from barevisor.board.stats import Report as Statistics
    from barevisor.guest.agent import AgentClient, Hello
    from barevisor.guest.cache import Progress

BOOT_SECONDS = 120.0
SYNC_SECONDS = 10.0
KILL_SECONDS = 5.0
JOIN_SECONDS = 20.0
PANIC, INIT = "Kernel panic - not syncing: ", "barevisor-init: "


def _ignore(done: int, total: int) -> None:
    """No progress is shown."""


class Vm:
    """One Linux guest."""

    def __init__(
        self,
        *,
        memory: str | int = "512M",
        cpus: int = 1,
        engine: str = "auto",
        kernel: str | os.PathLike[str] | None = None,
        modules: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] = "host",
        rw: Iterable[str | os.PathLike[str]] = (),
        shares: Iterable[str | Share] = (),
        append: str = "",
        cpu: str = "host",
        gdb: str | GdbListen | None = None,
        trace: str | Trace | None = None,
        config: VmConfig | None = None,
        on_console: Callable[[str], None] | None = None,
        progress: Progress = _ignore,
    ) -> None:
        """See VmConfig for the fields; `config` replaces them all. `memory`: "512M" or bytes;
        `shares`: "HOST:GUEST[:ro]"; `gdb`: ":1234", see GdbListen.parse and `gdb_address`;
        `trace`: "exits:FILE", see Trace.parse. `on_console` gets each line of the guest's
        console, `progress` the bytes of a kernel that must be fetched. Raises ConfigError."""
        self.config = config or VmConfig(
            memory=parse_memory(memory),
            cpus=cpus,
            engine=engine,
            kernel=as_path(kernel) if kernel is not None else None,
            modules=as_path(modules) if modules is not None else None,
            root=os.fspath(root),
            rw=tuple(as_path(path) for path in rw),
            shares=tuple(s if isinstance(s, Share) else Share.parse(s) for s in shares),
            append=append,
            cpu=cpu,
            gdb=GdbListen.parse(gdb) if isinstance(gdb, str) else gdb,
            trace=Trace.parse(trace) if isinstance(trace, str) else trace,
        )
        self.phases = Phases()
        self.hello: Hello | None = None
        """What the agent said first, once the guest is up."""
        self.engine_name = ""
        self.engine_reason = ""
        self.gdb_address: str | None = None
        """Where gdb can attach, from `boot` on, if it was asked for."""
        self._progress = progress
        self._console = ConsoleLog(on_console)
        self._lock = threading.RLock()
        self._guest: LinuxGuest | None = None
        self._watcher: threading.Thread | None = None
        self._state = "new"
        self._error: BaseException | None = None

    # ---- life ----------------------------------------------------------------------------

    def boot(self) -> None:
        """Put the guest together and let it run, without waiting for it. Once."""
        with self._lock:
            if self._state != "new":
                raise RuntimeError(f"this Vm cannot boot: it is {self._state}")
            self._state = "running"
            self.phases.mark("begin")
            engine, self.engine_reason = for_linux(self.config.engine)
            self.engine_name = engine.name
            self._guest = self._assemble(engine)
            gdb = self.config.gdb
            if gdb is not None or self.config.trace is not None:
                self._attach()
            self._watcher = Worker(self._watch, name="vm-watch")
            self.phases.mark("start")
            self._guest.machine.start(paused=gdb is not None and gdb.wait)
            self._watcher.start()

    def _attach(self) -> None:
        from barevisor.debug.attach import attach

        assert self._guest is not None
        machine = self._guest.machine
        self.gdb_address = attach(machine, self.config.gdb, self.config.trace)

    def _assemble(self, engine: Engine) -> LinuxGuest:
        return linux_guest(self.config, engine, self._console.feed, self.phases, self._progress)

    def start(self, timeout: float | None = BOOT_SECONDS) -> Vm:
        """Boot unless it is up, and wait until the guest takes commands. Raises what
        went wrong: ConfigError, HostError, EngineError, GuestTimeout, GuestCrash."""
        if self.config.gdb is not None and timeout == BOOT_SECONDS:
            timeout = None  # a guest in a debugger has all the time that its user takes
        try:
            with self._lock:
                if self._state == "new":
                    self.boot()
            self.wait_ready(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self, timeout: float | None = None) -> Hello:
        """The agent's first words. Raises GuestTimeout, or what ended the guest."""
        try:
            hello = self._client().wait_ready(timeout)
        except TimeoutError:
            raise self._not_ready(timeout) from None
        if self.hello is None:
            self.hello = hello
            self.phases.mark("ready")
        return hello

    def _not_ready(self, timeout: float | None) -> GuestTimeout:
        hint = "see where it stops with --boot-log, or give it more time"
        return GuestTimeout(f"the guest did not start within {timeout:g} s", hint)

    def stop(self, *, sync: bool = True) -> None:
        """End the guest and free everything; whatever still runs in it gets an error. What it
        wrote to writable folders is written back first, unless `sync` is False. Idempotent."""
        with self._lock:
            guest, state = self._guest, self._state
            self._state = "stopped"
        if guest is None or state == "stopped":
            return
        if sync and state == "running" and self._writes():
            with suppress(BarevisorError, TimeoutError):
                guest.client.sync(SYNC_SECONDS)
        guest.client.fail(BarevisorError("the VM was stopped"))
        guest.close()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(JOIN_SECONDS)

    def _writes(self) -> bool:
        """The guest can write to the host."""
        shares = self.config.all_shares()
        return self.config.root_writable or any(not share.read_only for share in shares)

    def __enter__(self) -> Vm:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.stop()

    # ---- commands ------------------------------------------------------------------------

    def popen(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = True,
        merge: bool = False,
        tty: bool = False,
        rows: int = 24,
        columns: int = 80,
        timeout: float | None = None,
    ) -> Process:
        """Start a command and return once it runs.

        `env` is added to the default environment. `cwd`: by default the caller's folder where
        the guest has it, else "/". `merge`: stderr goes where stdout goes; `tty`: a terminal
        for all three. Raises CommandNotFound, CommandNotExecutable, ConfigError, GuestTimeout,
        GuestCrash."""
        if isinstance(argv, (str, bytes)):
            raise TypeError("argv is a sequence of words, not one string")
        self.start()
        folder = self.config.default_cwd() if cwd is None else cwd
        try:
            process = self._client().spawn(
                argv, env={**self.config.default_env(), **(env or {})}, cwd=folder, tty=tty,
                rows=rows, columns=columns, merge=merge, stdin=stdin, timeout=timeout,
            )  # fmt: skip
        except TimeoutError:
            raise GuestTimeout(
                f"the guest did not start the command within {timeout:g} s"
            ) from None
        return Process(process)

    def run(
        self,
        argv: Argv,
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check: bool = False,
    ) -> CompletedProcess:
        """Run a command to its end, as subprocess.run(capture_output=True) does. Without
        `input` its stdin is empty. Raises GuestTimeout (the command is killed) and what popen
        raises; with `check` subprocess.CalledProcessError."""
        process = self.popen(argv, env=env, cwd=cwd, stdin=input is not None)
        return _finish(process, input, timeout, check)

    async def arun(
        self,
        argv: Argv,
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check: bool = False,
    ) -> CompletedProcess:
        """As `run`, for asyncio. Cancelling it kills the command."""
        from barevisor.aio import in_thread

        process = await in_thread(
            lambda: self.popen(argv, env=env, cwd=cwd, stdin=input is not None)
        )
        return await in_thread(lambda: _finish(process, input, timeout, check), process.kill)

    def move(self, engine: str) -> None:
        """Let the running guest go on on another engine, "kvm" or "bt": its memory, devices and
        commands stay. The guest must have been started with `cpu="common"` or a named model.
        Raises EngineError, naming what it was told of and would not find; it then goes on here."""
        with self._lock:
            guest = self._guest
            if guest is None or self._state != "running":
                raise BarevisorError("only a running VM can move")
            if engine == self.engine_name:
                return
            other, _ = for_linux(engine)
            guest.machine.move(other)
            self.engine_name = other.name

    # ---- what happened -------------------------------------------------------------------

    def console_tail(self) -> list[str]:
        """The last lines that the guest's console printed."""
        return self._console.lines()

    def ping(self, timeout: float) -> None:
        """Return once the guest's agent answers. Raises TimeoutError, or what ended the guest."""
        self._client().sync(timeout)

    def instructions(self) -> int:
        """Guest instructions counted so far (Vcpu.instructions): translated code is not counted."""
        guest = self._guest
        return 0 if guest is None else sum(v.instructions() for v in guest.machine.vcpus)

    def statistics(self) -> Statistics | None:
        """What was counted, once the VM is stopped; None unless `config.stats`."""
        return None if self._guest is None else self._guest.machine.statistics()

    def report(self) -> str:
        """Every vCPU's state and the last console lines, as text; "" before the boot."""
        guest = self._guest
        if guest is None:
            return ""
        lines = self.console_tail()
        tail = ["Last console lines:", *("  " + line for line in lines)] if lines else []
        return "\n".join([guest.machine.report(), *tail])

    def _client(self) -> AgentClient:
        with self._lock:
            guest = self._guest
            if self._state == "stopped" or guest is None:
                raise BarevisorError(
                    "the VM was stopped" if self._state == "stopped" else "the VM did not boot"
                )
            return guest.client

    def _watch(self) -> None:
        """Wait for the machine's end; tell everyone who waits for the guest."""
        guest = self._guest
        assert guest is not None
        try:
            outcome = guest.machine.wait()
            assert outcome is not None
            with self._lock:
                if self._state != "running":
                    return
                self._state = "ended"
            self._error = self._crash(outcome)
        except BaseException as e:  # noqa: BLE001 - raised again where the guest is waited for
            self._error = e
        guest.client.fail(self._error)

    def _crash(self, outcome: Outcome) -> BarevisorError:
        if failed := self._console.find(INIT):
            hint = "see the whole start with --boot-log"
            return GuestError(f"the guest could not start: {failed.removeprefix(INIT)}", hint)
        panic = self._console.find(PANIC).removeprefix(PANIC)
        messages = {
            "poweroff": "the guest powered off",
            "reset": f"the guest's kernel panicked: {panic}" if panic else "the guest reset itself",
            "triple-fault": f"the guest died of a triple fault ({outcome.detail})",
            "halted": f"the guest stopped for good: {outcome.detail}",
            "internal-error": f"the {self.engine_name} engine gave up: {outcome.detail}",
        }
        message = messages.get(outcome.kind, f"the guest ended: {outcome.kind} {outcome.detail}")
        return GuestCrash(message, report=self.report())


def _finish(
    process: Process, input: bytes | None, timeout: float | None, check: bool
) -> CompletedProcess:
    try:
        out, err = process.communicate(input, timeout)
        code = process.wait(timeout)
    except BaseException:
        process.kill()
        with suppress(BarevisorError):
            process.wait(KILL_SECONDS)
        process.close()
        raise
    done = CompletedProcess(process.args, code, out, err)
    if check:
        done.check_returncode()
    return done
