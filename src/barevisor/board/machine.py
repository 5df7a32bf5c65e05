"""A machine: an engine's CPUs, RAM, two buses, and the loop that joins them.

One thread a vCPU. A vCPU's thread answers its own exits, so devices run on vCPU threads and lock
what they share. The machine ends once, with the first Outcome; whoever causes it (a device on
a vCPU's thread, or any other thread) only states it and kicks the vCPUs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from functools import partial

from barevisor.board import map as board_map
from barevisor.board import stuck
from barevisor.board.access import Accesses
from barevisor.board.irq import IrqLine, IrqSource
from barevisor.board.wiring import Wiring
from barevisor.cpu.engine import (
    CpuState,
    DebugStop,
    Engine,
    EngineVm,
    Exit,
    Halted,
    InternalError,
    Interrupted,
    MachineSpec,
    MmioRead,
    MmioWrite,
    PioRead,
    PioWrite,
    Shutdown,
    SystemEvent,
    Vcpu,
)
from barevisor.errors import EngineError, GuestError
from barevisor.records import TYPE_CHECKING, NamedTuple, Protocol
from barevisor.threads import Worker

if TYPE_CHECKING:
    from barevisor.board.stats import Report, Stats

STACK_SIZE = 64 << 20
"""Of a vCPU's thread: virtual memory only, and compiled engines recurse on the guest's say."""
ALL_HALTED = "every vCPU halted with interrupts off"
MAX_OWED = 1000
"""Exits that one instruction may still make before its CPU can move: more than any makes."""
KICK_TIMEOUT = 10.0
"""Seconds for a kicked vCPU to come out of `run`; more is a bug of the engine's."""

_EVENTS = {"shutdown": "poweroff", "reset": "reset", "crash": "crash"}


class Outcome(NamedTuple):
    """Why the machine ended.

    kind: "poweroff", "reset", "triple-fault", "internal-error", "halted", "crash", "stopped"
    or "exit" (a test device's, with `code`). `vcpu` ended it (0 when none did), `state` is its.
    """

    kind: str
    detail: str = ""
    code: int = 0
    vcpu: int = 0
    state: CpuState | None = None


class Debugger(Protocol):
    """Who `Machine.debugger` is. Both are called on a vCPU's thread: only note it."""

    def stopped(self, vcpu: int, why: Exit) -> None:
        """A DebugStop, or an exit that will end the machine once it is resumed. The machine is
        about to pause: `pause` returns when it has."""

    def ended(self, outcome: Outcome) -> None:
        """No vCPU runs any more."""


class Machine:
    """RAM, buses, vCPUs and interrupt lines of one VM. Add devices, set vCPU 0's state, start."""

    def __init__(
        self, engine: Engine, spec: MachineSpec, memory_bytes: int, *, stats: Stats | None = None
    ) -> None:
        """With `stats` all is counted. Raises ConfigError (memory size), HostError (no memory) or
        EngineError."""
        self.spec = spec
        self.memory_bytes = memory_bytes
        self._accesses = accesses = Accesses()
        self.ports, self.memory = accesses.ports, accesses.memory
        self.guest_errors = accesses.guest_errors
        """The last rules that the guest broke on an access of its own."""
        self.on_close: list[Callable[[], None]] = []
        """Called by `close` once no vCPU runs, while RAM is still there: devices let go of it."""
        self.debugger: Debugger | None = None
        self._threads: list[threading.Thread] = []
        self._cond = threading.Condition()
        self._want = "run"
        self._parked: set[int] = set()
        self._held: frozenset[int] = frozenset()
        self._gone = 0
        self._halted: set[int] = set()
        self._asked: set[int] | None = None
        self._forever: set[int] = set()
        self._dormant: set[int] = set()
        self._outcome: Outcome | None = None
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._closed = False
        # Held while a thread looks at what `close` frees, and by it.
        self._freeing = threading.Lock()
        # Held while an interrupt is on its way into the engine, and while the engine is changed.
        self._gate = threading.Lock()
        self._stats = stats
        self._report: Report | None = None
        self._observe: Callable[[EngineVm, list[Vcpu]], list[Vcpu]] | None = None
        self._send_msi = self._deliver
        if stats is not None:
            self._send_msi = stats.timed("message-signalled interrupt", self._deliver)
        self._wiring = wiring = Wiring(board_map.ram_ranges(memory_bytes), file=engine.file_memory)
        try:
            self.vm = engine.create_vm(spec)
        except BaseException:
            wiring.ram.close()
            raise
        try:
            wiring.place_memory(self.vm)
            self.ram = wiring.ram
            self.ram.on_write = self.vm.memory_written
            self.vcpus: list[Vcpu] = self._make_vcpus(self.vm)
        except BaseException:
            self.vm.close()
            wiring.ram.close()
            raise
        self._lines = [IrqLine(partial(self._drive, gsi)) for gsi in range(board_map.GSI_COUNT)]

    def add_readonly(self, gpa: int, size: int) -> memoryview:
        """Memory that the guest reads without an exit, and whose stores come to the memory bus.
        Before `start`; both are whole pages. It lasts as long as the machine."""
        return self._wiring.add_readonly(self.vm, gpa, size)

    def _make_vcpus(self, vm: EngineVm) -> list[Vcpu]:
        made = [vm.create_vcpu(i) for i in range(self.spec.cpus)]
        if self._stats is not None:
            made = [self._stats.vcpu(v) for v in made]
        return made if self._observe is None else self._observe(vm, made)

    def observe(self, observe: Callable[[EngineVm, list[Vcpu]], list[Vcpu]]) -> None:
        """Before `start`: `observe` is given the VM and its vCPUs, those of another engine after a
        move too, and returns what the machine shall run in their place. Raises EngineError."""
        self.vcpus = observe(self.vm, self.vcpus)
        self._observe = observe

    # ---- what devices use ----------------------------------------------------------------

    def irq(self, gsi: int) -> IrqSource:
        """A new source on line `gsi` (0..23); sources of one line are ORed."""
        return self._lines[gsi].source()

    def msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt. Any thread."""
        self._send_msi(address, data)

    def _deliver(self, address: int, data: int) -> None:
        with self._gate:
            self.vm.signal_msi(address, data)

    def _drive(self, gsi: int, level: bool) -> None:
        with self._gate:
            self.vm.irq_line(gsi, level)

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        """See EngineVm.add_doorbell."""
        if self._stats is not None:
            on_write = self._stats.timed("doorbell", on_write, gpa)
        self._wiring.add_doorbell(self.vm, gpa, size, on_write)

    def add_late_ports(self, base: int, size: int, on_write: Callable[[int, bytes], None]) -> None:
        """See EngineVm.add_late_ports; the device there takes such stores as well."""
        if self._stats is not None:
            on_write = self._stats.timed("port write, late", on_write, base)
        self._wiring.add_late_ports(self.vm, base, size, on_write)

    def ignore_port(self, port: int, size: int) -> None:
        """See EngineVm.ignore_port."""
        self._wiring.ignore_port(self.vm, port, size)

    def remove_doorbell(self, gpa: int) -> None:
        """See EngineVm.remove_doorbell."""
        self._wiring.remove_doorbell(self.vm, gpa)

    def end(self, kind: str, detail: str = "", code: int = 0) -> None:
        """State the outcome (the first one stands) and send every vCPU home. Any thread."""
        with self._cond:
            if self._outcome is None:
                self._outcome = Outcome(kind, detail, code, self._here())
            self._want = "stop"
            self._cond.notify_all()
        for vcpu in self.vcpus:
            vcpu.kick()

    @property
    def ending(self) -> bool:
        """Whether an outcome is stated: a device that keeps a vCPU's thread gives it back."""
        return self._outcome is not None

    def _here(self) -> int:
        """The vCPU on whose thread we are, or 0."""
        me = threading.current_thread()
        return next((i for i, t in enumerate(self._threads) if t is me), 0)

    # ---- what the VM uses ----------------------------------------------------------------

    def start(self, *, paused: bool = False) -> None:
        """Run every vCPU on a thread of its own; `paused`: not before `resume`. Once."""
        if self._threads:
            raise RuntimeError("the machine was started before")
        with self._cond:
            if paused and self._want == "run":
                self._want = "pause"
        self._threads = [Worker(self._thread, name=f"vcpu{v.index}", args=(v,)) for v in self.vcpus]
        before = threading.stack_size(STACK_SIZE)
        try:
            for thread in self._threads:
                thread.start()
        finally:
            threading.stack_size(before)

    def stop(self, reason: str = "stopped") -> None:
        """End the machine from outside; `wait` then returns kind "stopped". Any thread."""
        self.end("stopped", reason)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """The outcome with the vCPU's state (without it once all is freed), or None after
        `timeout` seconds.

        Re-raises an exception that a device or an engine raised (a bug of ours)."""
        if not self._threads:
            raise RuntimeError("the machine was not started")
        if not self._wait_ended(timeout):
            return None
        for thread in self._threads:
            thread.join(KICK_TIMEOUT)
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} does not stop")
        if self._failure is not None:
            raise self._failure
        with self._freeing:
            outcome = self._outcome
            if outcome is None:
                raise RuntimeError("the machine ended without an outcome")
            if outcome.state is None and not self._closed:
                state = self.vcpus[outcome.vcpu].get_state()
                self._outcome = outcome = outcome._replace(state=state)
            return outcome

    def _wait_ended(self, timeout: float | None) -> bool:
        """As Event.wait, with a look at sleeping CPUs now and then (board/stuck.py)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        sleepers = stuck.Sleepers()
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            look = stuck.LOOK_SECONDS
            if self._ended.wait(look if left is None else min(left, look)):
                return True
            if left is not None and left <= look:
                return False
            if self._want == "run" and not self.debugger and sleepers.doubtful(self._threads):
                self._ask()
                sleepers.asked(self._threads)

    def _ask(self) -> None:
        """Every vCPU looks whether it sleeps for good; when all do, that is the end."""
        with self._cond:
            self._asked, self._forever = set(), set()
        for vcpu in self.vcpus:
            vcpu.kick()
        with self._cond:
            self._cond.wait_for(
                lambda: self._want != "run" or len(self._asked or ()) == len(self.vcpus),
                stuck.LOOK_SECONDS,
            )
            self._asked = None

    def _look(self, vcpu: Vcpu) -> None:
        """On a vCPU's thread: the answer to `_ask`."""
        forever = stuck.for_good(vcpu.get_state())
        with self._cond:
            if self._asked is None:
                return
            self._asked.add(vcpu.index)
            if forever:
                self._forever.add(vcpu.index)
            self._cond.notify_all()
            if len(self._forever) < len(self.vcpus):
                return
        self.end("halted", ALL_HALTED)

    def pause(self) -> bool:
        """Return once no vCPU executes; False: the machine is ending, and some may. Once it has
        paused none executes before `resume`, whatever else happens. Not from a vCPU's thread."""
        with self._cond:
            if self._want == "stop" or not self._threads:
                return False
            self._want = "pause"
        for vcpu in self.vcpus:
            vcpu.kick()
        with self._cond:
            quiet = self._cond.wait_for(
                lambda: self._want == "stop" or len(self._parked) == len(self.vcpus), KICK_TIMEOUT
            )
            if not quiet:
                raise RuntimeError("a kicked vCPU does not pause")
            return self._want == "pause"

    def resume(self, hold: Collection[int] = ()) -> None:
        """Let paused vCPUs go on, but those in `hold`: these wait for a later `resume`."""
        with self._cond:
            if self._want == "pause":
                self._held = frozenset(hold)
                self._want = "run"
                self._cond.notify_all()

    # ---- another engine ------------------------------------------------------------------

    def move(self, engine: Engine) -> None:
        """Let the guest go on on another engine, from the instruction at which it is. It finds its
        memory, devices and pending interrupts as they were; its clocks go on where they stood.

        Raises EngineError, and the guest goes on as before, when the other engine cannot give
        what the guest was told of (`cpu.portable`). Not from a vCPU's thread."""
        self.pause()
        try:
            if self._want != "pause" or self._halted or self.debugger is not None:
                raise EngineError("a machine moves while it runs, and without a debugger")
            states = [self._settled(vcpu) for vcpu in self.vcpus]
            with self._gate:
                old, self.vm = self.vm, self._copy_to(engine, states)
                old.close()
            self._wiring.ring_all()  # one that rang in the old engine may not have been heard
        finally:
            self.resume()

    def _settled(self, vcpu: Vcpu) -> CpuState:
        """The state of a paused vCPU that owes no exit. What it still owes is answered."""
        for _ in range(MAX_OWED):
            vcpu.get_state()
            vcpu.kick()
            match vcpu.run():
                case Interrupted():
                    return vcpu.get_state()
                case PioRead() | PioWrite() | MmioRead() | MmioWrite() as owed:
                    self._accesses.answer(vcpu, owed)
                case other:
                    raise EngineError(f"a vCPU that cannot move: {type(other).__name__.lower()}")
        raise EngineError(f"vCPU {vcpu.index} does not come to rest")

    def _copy_to(self, engine: Engine, states: list[CpuState]) -> EngineVm:
        """A VM on `engine` that continues; `self.vcpus` are its own then. Raises EngineError."""
        vm = engine.create_vm(self.spec)
        try:
            self._wiring.map_memory(vm)
            vcpus = self._make_vcpus(vm)
            vm.set_state(self.vm.get_state())
            for vcpu, state in zip(vcpus, states, strict=True):
                vcpu.set_state(state)
            self._wiring.connect(vm)
        except BaseException:
            vm.close()
            raise
        self.vcpus, self.ram.on_write = vcpus, vm.memory_written
        return vm

    def report(self) -> str:
        """Every vCPU's registers and the code it stands at, as text; pauses a running machine."""
        from barevisor.board.report import cpu_report

        paused = self._want == "run" and bool(self._threads)
        if paused:
            self.pause()
        for thread in self._threads:
            if self._want == "stop":
                thread.join(KICK_TIMEOUT)
        try:
            with self._freeing:
                open_cpus = [] if self._closed else self.vcpus
                parts = [cpu_report(v, self.ram) for v in open_cpus]
        finally:
            if paused:
                self.resume()
        parts += [f"guest error: {e}" for e in self.guest_errors]
        return "\n".join(parts)

    def statistics(self) -> Report | None:
        """What was counted, once no vCPU runs any more; None unless asked for at the start."""
        if self._report is None and self._stats is not None and not self._closed:
            self._report = self._stats.report(self.ports, self.memory, self.vm.counters())
        return self._report

    def close(self) -> None:
        """Stop, join and free everything. Idempotent; not from a vCPU's thread."""
        self.join()
        with self._freeing:
            if self._closed:
                return
            self.statistics()
            self._closed = True
            for let_go in self.on_close:
                let_go()
            self.vm.close()
            self.ram.close()

    def join(self) -> None:
        """Stop, and return once no vCPU runs any more. Not from a vCPU's thread."""
        if not self._threads:
            return
        self.end("stopped", "closed")
        for thread in self._threads:
            thread.join(KICK_TIMEOUT)
            if thread.is_alive():
                # Freeing the memory under a running CPU would be worse than the leak.
                raise RuntimeError(f"{thread.name} does not stop")

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- the run loop --------------------------------------------------------------------

    def _thread(self, vcpu: Vcpu) -> None:
        try:
            self._run(vcpu)
        except BaseException as e:  # noqa: BLE001 - wait() raises it again, with its traceback
            with self._cond:
                self._failure = self._failure or e
            self.end("internal-error", f"{type(e).__name__}: {e}")
        finally:
            with self._cond:
                self._gone += 1
                last = self._gone == len(self.vcpus)
                if last:
                    self._ended.set()
                self._cond.notify_all()
            if last and self.debugger is not None and self._outcome is not None:
                self.debugger.ended(self._outcome)

    def _run(self, vcpu: Vcpu) -> None:
        """Answer exits until the machine stops. Ordered by how often each exit comes."""
        run, answer = vcpu.run, self._accesses.answer
        if self._want != "run":
            if not self._park(vcpu):
                return
            vcpu = self.vcpus[vcpu.index]
            run = vcpu.run
        while True:
            try:
                match run():
                    case PioWrite() | MmioWrite() | PioRead() | MmioRead() as access:
                        answer(vcpu, access)
                    case Interrupted():
                        if self._want != "run":
                            if not self._park(vcpu):
                                return
                            vcpu = self.vcpus[vcpu.index]  # it may have moved
                            run = vcpu.run
                        if self._halted:
                            self._survey(vcpu)
                        if self._asked is not None:
                            self._look(vcpu)
                    case Halted():
                        self._halt(vcpu)
                        return
                    case other:
                        watched = self.debugger is not None
                        if watched and not self._debug_stop(vcpu, other):
                            return
                        if not (watched and isinstance(other, DebugStop)):
                            self._final(vcpu, other)
            except GuestError as e:
                self.guest_errors.append(str(e))

    def _final(self, vcpu: Vcpu, last: object) -> None:
        """An exit that ends the machine."""
        match last:
            case Shutdown():
                self.end("triple-fault", f"vCPU {vcpu.index}")
            case SystemEvent(kind):
                self.end(_EVENTS.get(kind, "crash"), f"the engine reports {kind}")
            case InternalError(reason, data):
                detail = " ".join([reason, *(f"{word:#x}" for word in data)])
                self.end("internal-error", detail)
            case DebugStop(reason, address):
                self.end("internal-error", f"a {reason} for no debugger at {address:#x}")
            case _:
                raise TypeError(f"the engine returned {last!r}, which is no Exit")

    def _debug_stop(self, vcpu: Vcpu, why: Exit) -> bool:
        """Pause the whole machine for its debugger; False when it stops instead."""
        with self._cond:
            if self._want == "run":
                self._want = "pause"
        if self.debugger is not None:
            self.debugger.stopped(vcpu.index, why)
        for other in self.vcpus:
            if other is not vcpu:
                other.kick()
        return self._park(vcpu)

    def _park(self, vcpu: Vcpu) -> bool:
        """Wait out a pause; False when the machine stops."""
        with self._cond:
            self._parked.add(vcpu.index)
            self._cond.notify_all()
            self._cond.wait_for(
                lambda: (
                    self._want == "stop" or (self._want == "run" and vcpu.index not in self._held)
                )
            )
            self._parked.discard(vcpu.index)
            return self._want == "run"

    # ---- a machine in which every CPU sleeps for good --------------------------------------

    def _halt(self, vcpu: Vcpu) -> None:
        """Nothing wakes this vCPU: wait for the end. When all are like it, that is the end."""
        with self._cond:
            self._halted.add(vcpu.index)
            self._parked.add(vcpu.index)
            self._dormant.clear()
            self._cond.notify_all()
            self._check_all_halted(vcpu.index)
        for other in self.vcpus:
            if other is not vcpu:
                other.kick()  # each looks at itself in _survey
        with self._cond:
            self._cond.wait_for(lambda: self._want == "stop")

    def _survey(self, vcpu: Vcpu) -> None:
        """Another vCPU halted for good: this one counts as asleep if nobody ever started it."""
        if vcpu.get_state().mp_state == "init":
            with self._cond:
                self._dormant.add(vcpu.index)
                self._check_all_halted(vcpu.index)

    def _check_all_halted(self, index: int) -> None:
        if self._want != "stop" and len(self._halted | self._dormant) == len(self.vcpus):
            self._outcome = self._outcome or Outcome("halted", ALL_HALTED, 0, index)
            self._want = "stop"
            self._cond.notify_all()
            for vcpu in self.vcpus:
                vcpu.kick()
