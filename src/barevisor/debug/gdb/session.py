"""One client's session: a packet's text in, the reply's text out (gdb manual, "Packets").

Threads are vCPUs, numbered from 1. All of them stop together. What is not in the tables at
the end is answered with the empty reply, which tells the client that it is not supported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from dataclasses import replace

from barevisor.cpu.engine import DebugStop, GuestDebug
from barevisor.debug.gdb import monitor
from barevisor.debug.gdb.features import description
from barevisor.debug.gdb.packets import (
    PACKET_SIZE,
    PacketError,
    number,
    numbers,
    unhex,
)
from barevisor.debug.gdb.points import KINDS, SIGABRT, SIGINT, SIGTRAP, Points
from barevisor.debug.gdb.registers import ALL_BYTES, REGISTERS, Register, read, read_all
from barevisor.debug.target import Ended, Event, Stopped, Target, TargetError, is_current
from barevisor.errors import BarevisorError

EFAULT = 14
MEMORY_MAX = PACKET_SIZE // 2 - 16
"""Bytes of memory in one reply."""


class Session:
    """See the module. The target is stopped when it begins.

    `running`: the client waits for a stop. `ended`: it asked to be gone, or the machine is.
    """

    def __init__(self, target: Target) -> None:
        self.running = False
        self.ended = False
        self.no_ack = False
        self._target = target
        self._cpu = 0
        self._cpu_run: int | None = None
        self._points = Points()
        self._pending: list[Stopped] = []
        self._interrupted = False
        self._last_run: tuple[Collection[int], Collection[int]] = ((), ())
        self._reply = b""
        self._says = frozenset[bytes]()

    # ---- what the server calls ----

    def handle(self, text: bytes) -> bytes | None:
        """The reply; None: there is none now, as the target runs or is killed."""
        try:
            handler = COMMANDS.get(text[:1])
            if handler is not None:
                return handler(self, text[1:])
            return self._long(text)
        except PacketError as e:
            return b"E%02x" % e.code
        except (TargetError, BarevisorError):
            return b"E%02x" % EFAULT

    def interrupt(self) -> None:
        """^C: the next `events` has a stop reply, whatever stopped meanwhile."""
        self._interrupted = self.running

    def events(self, happened: Iterable[Event]) -> bytes | None:
        """The stop reply to what happened, or None: nothing that the client should know yet."""
        stops, self._pending = self._pending, []
        for event in happened:
            if isinstance(event, Ended):
                return self._over(event)
            stops.append(event)
        if not self.running:
            self._pending = [s for s in stops if _lasts(s)]
            return None
        if not (stops or self._interrupted) or not self._target.stop():
            return None
        current = [s for s in stops if is_current(s.why, self._points.wanted())]
        if not current and not self._interrupted:
            self._go(*self._last_run)
            return None
        self.running = self._interrupted = False
        if current:
            self._pending = [s for s in current[1:] if _lasts(s)]
            self._cpu = current[0].cpu
            self._reply = self._points.reply(current[0], self._says)
        else:
            self._reply = b"T%02xthread:%x;" % (SIGINT, self._cpu + 1)
        return self._reply

    def abandon(self) -> None:
        """The client is gone without a word. A guest that runs runs on, a stopped one stays so;
        without breakpoints, either."""
        if self.running:
            self._target.detach()
        else:
            self._target.set_debug(GuestDebug())

    def _over(self, event: Ended) -> bytes | None:
        self.ended = True
        waits, self.running = self.running, False
        if not waits:
            return None
        return b"W00" if event.clean else b"X%02x" % SIGABRT

    def stop_point(self, text: bytes, *, insert: bool) -> bytes:
        """Z and z. What the engine refuses is refused now, not when the guest goes on."""
        if text[:1] not in KINDS:
            return b""
        before = self._points.copy()
        if insert:
            self._points.insert(text)
        else:
            self._points.remove(text)
        try:
            self._target.set_debug(self._points.wanted())
        except TargetError:
            self._points = before
            raise
        return b"OK"

    # ---- run control ----

    def _go(self, step: Collection[int], run: Collection[int]) -> None:
        self._last_run = step, run
        if not self._pending:  # else there is something to tell before anything runs
            self._target.resume(step, run)
        self.running = True

    def resume(self, text: bytes, *, step: bool, signal: bool) -> None:
        """c, s, C and S: an optional address to go on at. Signals mean nothing to a CPU."""
        if signal:
            _, _, text = text.partition(b";")
        cpu = self._cpu if self._cpu_run is None else self._cpu_run
        if text:
            regs = replace(self._target.registers(cpu).regs, rip=number(text))
            self._target.set_general(cpu, regs)
        everyone = range(self._target.cpus)
        if step:
            self._go([cpu], [])
        else:
            self._go([], everyone)

    def v_cont(self, text: bytes) -> None:
        """vCont;action[:thread]...: each CPU takes the first action that names it."""
        actions: dict[int, bytes] = {}
        for word in text.split(b";")[1:]:
            action, _, thread = word.partition(b":")
            if action[:1] not in (b"c", b"C", b"s", b"S"):
                raise PacketError
            for cpu in self._threads(thread) if thread else range(self._target.cpus):
                actions.setdefault(cpu, action[:1].lower())
        if not actions:
            raise PacketError
        self._go([n for n, a in actions.items() if a == b"s"],
                 [n for n, a in actions.items() if a == b"c"])  # fmt: skip

    def kill(self) -> None:
        """k."""
        self._target.kill()
        self.ended = True

    def detach(self) -> bytes:
        """D: the guest goes on as if there had never been a debugger."""
        self._target.detach()
        self.ended = True
        return b"OK"

    # ---- threads ----

    def _threads(self, text: bytes) -> Collection[int]:
        """CPUs of a thread ID: -1 all, 0 any."""
        if text == b"-1":
            return range(self._target.cpus)
        cpu = number(text) - 1
        if cpu == -1:
            return [self._cpu]
        if cpu >= self._target.cpus:
            raise PacketError
        return [cpu]

    def select(self, text: bytes) -> bytes:
        """Hg: for registers and memory; Hc: for c and s."""
        cpus = self._threads(text[1:])
        if text[:1] == b"g":
            self._cpu = next(iter(cpus)) if len(cpus) == 1 else self._cpu
        elif text[:1] == b"c":
            self._cpu_run = next(iter(cpus)) if len(cpus) == 1 else None
        else:
            raise PacketError
        return b"OK"

    def alive(self, text: bytes) -> bytes:
        """T."""
        self._threads(text)
        return b"OK"

    def thread_info(self, text: bytes) -> bytes:
        """All in one reply: at most 255."""
        return b"m" + b",".join(b"%x" % (n + 1) for n in range(self._target.cpus))

    def thread_extra(self, text: bytes) -> bytes:
        """What `info threads` shows."""
        (cpu,) = self._threads(text)
        state = self._target.registers(cpu)
        return f"vCPU {cpu}, {state.mp_state}, CPL {state.ss.dpl}".encode().hex().encode()

    # ---- registers and memory ----

    def read_registers(self, text: bytes) -> bytes:
        """g."""
        return read_all(self._target.registers(self._cpu)).hex().encode()

    def write_registers(self, text: bytes) -> bytes:
        """G: those that differ are stored."""
        raw, at = unhex(text), 0
        if len(raw) != ALL_BYTES:
            raise PacketError
        for register in REGISTERS:
            size = register.bits // 8
            self._store(register, raw[at : at + size])
            at += size
        return b"OK"

    def read_register(self, text: bytes) -> bytes:
        """p."""
        return read(_register(text), self._target.registers(self._cpu)).hex().encode()

    def write_register(self, text: bytes) -> bytes:
        """P."""
        name, equals, value = text.partition(b"=")
        register, raw = _register(name), unhex(value)
        if not equals or len(raw) != register.bits // 8:
            raise PacketError
        self._store(register, raw)
        return b"OK"

    def _store(self, register: Register, raw: bytes) -> None:
        state = self._target.registers(self._cpu)
        if read(register, state) == raw:
            return
        value = int.from_bytes(raw, "little")
        if register.general:
            state = replace(state, regs=replace(state.regs))
            register.put(state, value)
            self._target.set_general(self._cpu, state.regs)
        else:
            state = deepcopy(state)
            register.put(state, value)
            self._target.set_state(self._cpu, state)

    def read_memory(self, text: bytes) -> bytes:
        """m: as much as there is, and as fits a packet."""
        address, size = numbers(text)
        return self._target.read(self._cpu, address, min(size, MEMORY_MAX)).hex().encode()

    def write_memory(self, text: bytes, *, binary: bool) -> bytes:
        """M and X."""
        where, _, what = text.partition(b":")
        address, size = numbers(where)
        data = what if binary else unhex(what)
        if len(data) != size:
            raise PacketError
        if size:
            self._target.write(self._cpu, address, data)
        return b"OK"

    # ---- queries ----

    def _long(self, text: bytes) -> bytes | None:
        """Packets with a name."""
        for name, handler in QUERIES:
            if text.startswith(name):
                return handler(self, text[len(name) :])
        return b""

    def supported(self, text: bytes) -> bytes:
        """qSupported: what both sides can."""
        words = text.removeprefix(b":").split(b";")
        self._says = frozenset(w[:-1] for w in words if w.endswith(b"+"))
        return (b"PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;"
                b"hwbreak+" % PACKET_SIZE)  # fmt: skip

    def features(self, text: bytes) -> bytes:
        """qXfer:features:read:ANNEX:OFFSET,LENGTH."""
        annex, _, where = text.partition(b":")
        if annex != b"target.xml":
            return b"E00"
        at, size = numbers(where)
        part = description()[at : at + min(size, PACKET_SIZE - 64)]
        return (b"m" if at + len(part) < len(description()) else b"l") + part

    def start_no_ack(self, text: bytes) -> bytes:
        """QStartNoAckMode."""
        self.no_ack = True
        return b"OK"

    def monitor(self, text: bytes) -> bytes:
        """qRcmd: `monitor` of gdb."""
        words = unhex(text).decode("utf-8", "replace")
        return monitor.answer(self._target, self._cpu, words).encode().hex().encode()

    def why(self, text: bytes) -> bytes:
        """?: why it stands where it does."""
        return self._reply or b"T%02xthread:%x;" % (SIGTRAP, self._cpu + 1)

    def current(self, text: bytes) -> bytes:
        """qC."""
        return b"QC%x" % (self._cpu + 1)


def _lasts(stop: Stopped) -> bool:
    """It must still be told after another CPU's stop; a breakpoint will be met again."""
    return not isinstance(stop.why, DebugStop) or stop.why.reason == "watch"


def _register(text: bytes) -> Register:
    index = number(text)
    if index >= len(REGISTERS):
        raise PacketError
    return REGISTERS[index]


def _ok(session: Session, text: bytes) -> bytes:
    return b"OK"


def _v_kill(session: Session, text: bytes) -> bytes:
    session.kill()
    return b"OK"


Handler = Callable[[Session, bytes], bytes | None]

COMMANDS: dict[bytes, Handler] = {
    b"?": Session.why,
    b"c": lambda s, t: s.resume(t, step=False, signal=False),
    b"C": lambda s, t: s.resume(t, step=False, signal=True),
    b"s": lambda s, t: s.resume(t, step=True, signal=False),
    b"S": lambda s, t: s.resume(t, step=True, signal=True),
    b"D": lambda s, t: s.detach(),
    b"k": lambda s, t: s.kill(),
    b"g": Session.read_registers,
    b"G": Session.write_registers,
    b"p": Session.read_register,
    b"P": Session.write_register,
    b"m": Session.read_memory,
    b"M": lambda s, t: s.write_memory(t, binary=False),
    b"X": lambda s, t: s.write_memory(t, binary=True),
    b"H": Session.select,
    b"T": Session.alive,
    b"Z": lambda s, t: s.stop_point(t, insert=True),
    b"z": lambda s, t: s.stop_point(t, insert=False),
}

QUERIES: tuple[tuple[bytes, Handler], ...] = (
    (b"qSupported", Session.supported),
    (b"QStartNoAckMode", Session.start_no_ack),
    (b"qXfer:features:read:", Session.features),
    (b"vCont?", lambda s, t: b"vCont;c;C;s;S"),
    (b"vCont", Session.v_cont),
    (b"vKill", _v_kill),
    (b"qfThreadInfo", Session.thread_info),
    (b"qsThreadInfo", lambda s, t: b"l"),
    (b"qThreadExtraInfo,", Session.thread_extra),
    (b"qAttached", lambda s, t: b"1"),
    (b"qSymbol", _ok),
    (b"qRcmd,", Session.monitor),
    (b"qC", Session.current),
)
"""By what the packet begins with; a longer name before a shorter one."""
