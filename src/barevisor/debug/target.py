"""What a debugger can do with a machine: `Target`, and `MachineTarget`, which is one.

All of it is for one thread, the debugger's. While the target runs only `stop`, `kill` and `detach`
are allowed; the rest wants it stopped. Addresses are linear, by the page tables of the CPU that is
named; memory that is not RAM is not touched, for a device would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from barevisor.board.machine import Machine, Outcome
from barevisor.board.report import cpu_report
from barevisor.cpu.engine import CpuState, DebugStop, Exit, GuestDebug, Registers
from barevisor.errors import BarevisorError

PAGE = 4096
LAST = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Stopped:
    """A CPU ran into `why`, and every CPU has stopped or is about to: call `stop`."""

    cpu: int
    why: Exit


@dataclass(frozen=True, slots=True)
class Ended:
    """The machine is at its end. `clean`: it was not a crash."""

    clean: bool


Event = Stopped | Ended


class TargetError(Exception):
    """The target cannot do it: memory that is not there, a breakpoint too many."""


class Target(Protocol):
    """See the module."""

    cpus: int

    def listen(self, notify: Callable[[Event], None]) -> None:
        """Whom to tell what happens; called on threads of the machine's."""

    def stop(self) -> bool:
        """Return once no CPU runs; False: the machine is ending, and `Ended` will follow. Stops
        of their own that CPUs came to meanwhile are told before."""

    def resume(self, step: Collection[int], run: Collection[int]) -> None:
        """Let these CPUs do one instruction, those run; the others stay."""

    def detach(self) -> None:
        """Take back breakpoints and steps, and let all run."""

    def kill(self) -> None:
        """End the machine."""

    def registers(self, cpu: int) -> CpuState:
        """A CPU's state; not to be changed."""

    def set_general(self, cpu: int, regs: Registers) -> None:
        """Replace the general registers and RIP. Raises TargetError."""

    def set_state(self, cpu: int, state: CpuState) -> None:
        """Replace all. Raises TargetError."""

    def read(self, cpu: int, address: int, size: int) -> bytes:
        """`size` bytes, or fewer where memory ends. Raises TargetError when there are none."""

    def write(self, cpu: int, address: int, data: bytes) -> None:
        """Also to pages that the guest may not write. Raises TargetError, then nothing is
        written."""

    def set_debug(self, debug: GuestDebug) -> None:
        """Replace breakpoints and watchpoints. Raises TargetError, then all is as before."""

    def report(self, cpu: int) -> str:
        """A CPU's registers, as text."""


class MachineTarget:
    """A Machine as a Target. Breakpoints are in the guest only while it runs, so that memory reads
    as the guest's own, whatever the engine does to make a breakpoint."""

    def __init__(self, machine: Machine) -> None:
        self.cpus = len(machine.vcpus)
        self._machine = machine
        self._notify: Callable[[Event], None] | None = None
        self._debug = GuestDebug()
        self._used = self._armed = False
        self._stepping: set[int] = set()
        self._states: dict[int, CpuState] = {}
        machine.debugger = self

    # ---- called by the machine (board.machine.Debugger) ----

    def listen(self, notify: Callable[[Event], None]) -> None:
        """See Target."""
        self._notify = notify

    def stopped(self, vcpu: int, why: Exit) -> None:
        """See board.machine.Debugger."""
        if self._notify is not None:
            self._notify(Stopped(vcpu, why))

    def ended(self, outcome: Outcome) -> None:
        """See board.machine.Debugger."""
        if self._notify is not None:
            self._notify(Ended(outcome.kind in ("poweroff", "reset", "exit", "stopped", "halted")))

    # ---- control ----

    def stop(self) -> bool:
        """See Target."""
        if not self._machine.pause():
            return False
        self._disarm()
        for cpu in self._stepping:
            self._machine.vcpus[cpu].set_step(False)
        self._stepping.clear()
        self._states.clear()
        return True

    def resume(self, step: Collection[int], run: Collection[int]) -> None:
        """See Target."""
        self._states.clear()
        try:
            self._arm()
            if self._used and not self._armed and not step:
                self._machine.vm.set_debug(None)  # nothing is set: the guest runs at full speed
                self._used = False
            for cpu in step:
                self._machine.vcpus[cpu].set_step(True)
                self._stepping.add(cpu)
                self._used = True
        except BarevisorError as e:
            raise TargetError(str(e)) from e
        everyone = range(self.cpus)
        self._machine.resume(hold=[n for n in everyone if n not in step and n not in run])

    def detach(self) -> None:
        """See Target."""
        if not self.stop():
            return
        self._debug = GuestDebug()
        if self._used:
            self._machine.vm.set_debug(None)
        self._used = self._armed = False
        self._machine.resume()

    def kill(self) -> None:
        """See Target."""
        self._machine.stop("killed by the debugger")

    def _arm(self) -> None:
        if (self._debug.breakpoints or self._debug.watchpoints) and not self._armed:
            self._machine.vm.set_debug(self._debug)
            self._armed = self._used = True

    def _disarm(self) -> None:
        if self._armed:
            self._machine.vm.set_debug(GuestDebug())
            self._armed = False

    def set_debug(self, debug: GuestDebug) -> None:
        """See Target. What is refused is refused now, and not when it goes on."""
        before, self._debug = self._debug, debug
        try:
            self._disarm()
            self._arm()
        except BarevisorError as e:
            self._debug, self._armed = before, False
            raise TargetError(str(e)) from e

    # ---- registers ----

    def registers(self, cpu: int) -> CpuState:
        """See Target."""
        state = self._states.get(cpu)
        if state is None:
            state = self._states[cpu] = self._machine.vcpus[cpu].get_state()
        return state

    def set_general(self, cpu: int, regs: Registers) -> None:
        """See Target. A CPU that sleeps in HLT and gets another RIP is awake."""
        state = self.registers(cpu)
        if state.mp_state == "halted" and regs.rip != state.regs.rip:
            self.set_state(cpu, replace(state, regs=regs, mp_state="runnable"))
            return
        self._machine.vcpus[cpu].set_regs(regs)
        self._states.pop(cpu, None)

    def set_state(self, cpu: int, state: CpuState) -> None:
        """See Target."""
        self._states.pop(cpu, None)
        try:
            self._machine.vcpus[cpu].set_state(replace(state, tsc=None))
        except (BarevisorError, OverflowError) as e:
            raise TargetError(str(e)) from e

    # ---- memory ----

    def _pieces(self, cpu: int, address: int, size: int) -> list[tuple[int, int]]:
        """Guest-physical (address, size) of each page's part, up to the first that is not RAM."""
        self._disarm()
        vcpu, found, at = self._machine.vcpus[cpu], [], address
        end = min(address + size, LAST + 1)
        while at < end:
            piece = min(PAGE - at % PAGE, end - at)
            gpa = vcpu.translate(at)
            ranges = self._machine.ram.ranges
            if gpa is None or not any(r.gpa <= gpa < r.gpa + r.size for r in ranges):
                break
            found.append((gpa, piece))
            at += piece
        return found

    def read(self, cpu: int, address: int, size: int) -> bytes:
        """See Target."""
        pieces = self._pieces(cpu, address, size)
        if size and not pieces:
            raise TargetError(f"no memory at {address:#x}")
        return b"".join(self._machine.ram.read(gpa, piece) for gpa, piece in pieces)

    def write(self, cpu: int, address: int, data: bytes) -> None:
        """See Target."""
        pieces = self._pieces(cpu, address, len(data))
        if sum(size for _, size in pieces) != len(data):
            raise TargetError(f"no memory for {len(data)} bytes at {address:#x}")
        at = 0
        for gpa, size in pieces:
            self._machine.ram.write(gpa, data[at : at + size])
            at += size

    def report(self, cpu: int) -> str:
        """See Target."""
        return cpu_report(self._machine.vcpus[cpu], self._machine.ram)


def is_current(why: Exit, debug: GuestDebug) -> bool:
    """Whether a stop is for something that is still set; steps and crashes always are."""
    match why:
        case DebugStop("watch", address):
            return any(w.address == address for w in debug.watchpoints)
        case DebugStop("breakpoint", address):
            return any(b.address == address for b in debug.breakpoints)
    return True
