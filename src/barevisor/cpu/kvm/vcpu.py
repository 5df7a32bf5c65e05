"""One vCPU of /dev/kvm.

Kicks: KVM_RUN ends early when `immediate_exit` is set at its start, and when a signal is pending
that its own signal mask (api.rst 4.20) leaves open. KICK is blocked in the vCPU's thread and open
only inside KVM_RUN, so it needs no handler, cannot get lost between a check and the ioctl, and
ends no other system call.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from contextlib import suppress
from errno import EAGAIN, EINTR

from barevisor.cpu import engine
from barevisor.cpu.kvm import abi, debug, exits, ioctls, late, state
from barevisor.errors import EngineError
from barevisor.signals import signal

KICK = signal.SIGRTMIN + 4
SYS_TGKILL = 234  # x86-64
RUN = ioctls.RUN.number

_libc = ctypes.CDLL(None)
_libc.syscall.argtypes = [ctypes.c_long] * 4


class KvmVcpu:
    """The contract's Vcpu (cpu/engine.py)."""

    def __init__(
        self, fd: int, index: int, run_size: int, irqchip: bool, msrs: set[int],
        stops: debug.Stops, ports: late.LatePorts,
    ) -> None:  # fmt: skip
        """Takes over `fd`. `msrs`: the kernel's KVM_GET_MSR_INDEX_LIST; `stops` and `ports`: the
        VM's."""
        self.index = index
        self._stops = stops
        self._step = False
        self._fd = fd
        self._irqchip = irqchip
        self._map = mmap.mmap(fd, run_size)
        self._page = memoryview(self._map)
        self._ports = ports
        at = ports.ring_at
        ring = self._page[at : at + late.PAGE] if at else late.NO_RING
        self._ring = ring.cast("I")
        self._thread = 0  # kernel thread ID while in `run`
        self._masked: set[int] = set()
        self._unfinished = False  # an exit whose instruction the next KVM_RUN completes
        self._held: engine.Exit | None = None
        self._data_at = 0
        self._msrs = self._readable([m for m in state.MSRS if m in msrs])
        self._reset_lapic = self._get_lapic()

    # ---- running ----

    def run(self) -> engine.Exit:
        """See Vcpu.run. EAGAIN: a CPU that waits for its start-up IPI woke for nothing."""
        if self._held is not None:
            held, self._held = self._held, None
            return held
        me = threading.get_native_id()
        if me not in self._masked:
            self._open_kick(me)
        self._thread = me
        try:
            while True:
                failed = self._enter()
                if failed == 0:
                    if (done := self._exited()) is not None:
                        return done
                    continue
                if failed == EINTR:
                    self._unfinished = False
                    self._drain()
                    return engine.Interrupted()
                if failed != EAGAIN:
                    raise EngineError(f"KVM_RUN: {os.strerror(failed)}")
        finally:
            self._thread = 0

    def _enter(self) -> int:
        """KVM_RUN; 0 or the errno. The GIL is released meanwhile."""
        failed = 0
        try:
            fcntl.ioctl(self._fd, RUN, 0)
        except OSError as e:
            failed = e.errno or EINTR
        ring = self._ring
        if ring[late.FIRST] != ring[late.LAST]:
            self._ports.drain(ring)
        return failed

    def _exited(self) -> engine.Exit | None:
        """None: a debug exception of the guest's own, which the next KVM_RUN delivers."""
        done = exits.decode(self._page)
        match done:
            case exits.Trap():
                self._unfinished = False
                stop = self._stops.judge(done, self, self._step)
                if stop is None:
                    self._inject(done)
                return stop
            case engine.PioRead() | engine.PioWrite():
                self._unfinished = True
                self._data_at = abi.RUN_IO.unpack_from(self._page, abi.RUN_ARM)[4]
            case engine.MmioRead() | engine.MmioWrite():
                self._unfinished = True
                self._data_at = abi.RUN_MMIO_DATA
            case _:
                self._unfinished = False
        return done

    # ---- a debugger (kvm/debug.py) ----

    def set_step(self, on: bool) -> None:
        """See Vcpu.set_step."""
        if on == self._step:
            return
        self._settle()
        if not on and isinstance(self._held, engine.DebugStop) and self._held.reason == "step":
            self._held = None
        self._step = on
        self.update_debug()

    def update_debug(self) -> None:
        """Take over what the debugger has set in the VM."""
        ioctls.SET_GUEST_DEBUG(self._fd, self._stops.argument(self._step))

    def _inject(self, trap: exits.Trap) -> None:
        argument = self._stops.argument(self._step)
        argument.control |= debug.ENABLE
        if trap.exception == debug.VECTOR_BP:
            argument.control |= debug.INJECT_BP
        else:
            argument.control |= debug.INJECT_DB
            ioctls.GET_DEBUGREGS(self._fd, raw := abi.DebugRegs())
            raw.dr6 = raw.dr6 & ~debug.DR6_HITS | trap.dr6
            ioctls.SET_DEBUGREGS(self._fd, raw)
        ioctls.SET_GUEST_DEBUG(self._fd, argument)

    def rip(self) -> int:
        """See Vcpu.rip."""
        ioctls.GET_REGS(self._fd, raw := abi.Regs())
        return int(raw.rip)

    def _open_kick(self, thread: int) -> None:
        """Block KICK in this thread and open it inside KVM_RUN."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {KICK})
        sigset = 0
        for number in blocked - {KICK}:
            sigset |= 1 << (number - 1)
        ioctls.SET_SIGNAL_MASK(self._fd, abi.SignalMask(len=8, sigset=sigset))
        self._masked = {thread}

    def _drain(self) -> None:
        # The flag first: a kick between the two lines then still ends the next run.
        self._page[abi.RUN_IMMEDIATE_EXIT] = 0
        signal.sigtimedwait({KICK}, 0)

    def complete_read(self, data: bytes) -> None:
        """See Vcpu.complete_read."""
        self._page[self._data_at : self._data_at + len(data)] = data

    def kick(self) -> None:
        """See Vcpu.kick. One that is closed (its machine moved) needs none."""
        with suppress(ValueError):  # of a page that was given back
            self._page[abi.RUN_IMMEDIATE_EXIT] = 1
        thread = self._thread
        if thread:
            # By thread ID and not by pthread_t: the thread may be gone by now.
            _libc.syscall(SYS_TGKILL, os.getpid(), thread, KICK)

    def _settle(self) -> None:
        """Complete the instruction of the last exit, so that the state is that after it (api.rst
        5, note on KVM_EXIT_IO and KVM_EXIT_MMIO). An access in several parts exits again; that
        exit is kept for the next `run`, and the state is that in the middle of the instruction."""
        if not self._unfinished or self._held is not None:
            return
        kicked = self._page[abi.RUN_IMMEDIATE_EXIT]
        self._page[abi.RUN_IMMEDIATE_EXIT] = 1
        failed = self._enter()
        self._page[abi.RUN_IMMEDIATE_EXIT] = kicked
        if failed == 0:
            self._held = self._exited()
        elif failed == EINTR:
            self._unfinished = False
        else:
            raise EngineError(f"KVM_RUN: {os.strerror(failed)}")

    # ---- general registers ----

    def get_regs(self) -> engine.Registers:
        """See Vcpu.get_regs."""
        self._settle()
        ioctls.GET_REGS(self._fd, raw := abi.Regs())
        return state.regs_from(raw)

    def set_regs(self, regs: engine.Registers) -> None:
        """See Vcpu.set_regs."""
        self._settle()
        ioctls.SET_REGS(self._fd, state.regs_to(regs))

    def translate(self, linear: int) -> int | None:
        """See Vcpu.translate."""
        ioctls.TRANSLATE(self._fd, t := abi.Translation(linear_address=linear))
        return int(t.physical_address) if t.valid else None

    def instructions(self) -> int:
        """KVM does not count."""
        return 0

    def stats_fd(self) -> int:
        """A descriptor of the kernel's statistics, the caller's to close."""
        return ioctls.GET_STATS_FD(self._fd)

    # ---- the whole state ----

    def get_state(self) -> engine.CpuState:
        """See Vcpu.get_state."""
        self._settle()
        fd, s = self._fd, engine.CpuState()
        ioctls.GET_MP_STATE(fd, mp := abi.MpState())
        s.mp_state = state.MP_NAMES.get(mp.mp_state, "runnable")
        ioctls.GET_REGS(fd, regs := abi.Regs())
        s.regs = state.regs_from(regs)
        ioctls.GET_SREGS(fd, sregs := abi.Sregs())
        state.sregs_from(sregs, s)
        ioctls.GET_VCPU_EVENTS(fd, events := abi.VcpuEvents())
        s.events = state.events_from(events, s.cr2)
        ioctls.GET_DEBUGREGS(fd, dr := abi.DebugRegs())
        s.dr, s.dr6, s.dr7 = list(dr.db), dr.dr6, dr.dr7
        ioctls.GET_XSAVE(fd, xsave := abi.Xsave())
        s.xsave = bytes(xsave)
        ioctls.GET_XCRS(fd, xcrs := abi.Xcrs())
        s.xcr0 = next((x.value for x in xcrs.xcrs[: xcrs.nr_xcrs] if x.xcr == 0), 1)
        s.msrs = self._get_msrs(self._msrs)
        s.tsc = self._get_msrs([state.TSC]).get(state.TSC, 0)
        s.lapic = self._get_lapic()
        if state.one_shot_over(s.lapic):
            # Its interrupt may still wait outside the local APIC, where a run takes it from.
            self._pass_through()
            s.lapic = self._get_lapic()
        return s

    def _pass_through(self) -> None:
        """KVM_RUN with a signal already there: no instruction is executed."""
        me = threading.get_native_id()
        if me not in self._masked:
            self._open_kick(me)
        _libc.syscall(SYS_TGKILL, os.getpid(), me, KICK)
        kicked = self._page[abi.RUN_IMMEDIATE_EXIT]
        self._page[abi.RUN_IMMEDIATE_EXIT] = 0
        failed = self._enter()
        self._page[abi.RUN_IMMEDIATE_EXIT] = kicked
        signal.sigtimedwait({KICK}, 0)
        if failed not in (EINTR, EAGAIN):
            raise EngineError(f"KVM_RUN: {os.strerror(failed) if failed else 'it went on'}")

    def set_state(self, s: engine.CpuState) -> None:
        """See Vcpu.set_state. Order: the local APIC after the APIC base, the deadline MSR after
        the local APIC and the TSC, events after the registers that their delivery looks at."""
        self._settle()
        self._held, self._unfinished = None, False
        fd = self._fd
        ioctls.SET_SREGS(fd, state.sregs_to(s))
        ioctls.SET_REGS(fd, state.regs_to(s.regs))
        ioctls.SET_XCRS(fd, state.xcrs_to(s.xcr0))
        ioctls.SET_XSAVE(fd, _xsave(s.xsave or state.initial_xsave()))
        ioctls.SET_DEBUGREGS(fd, state.debugregs_to(s))
        if self._irqchip:
            page = state.settled_timer(s.lapic or self._reset_lapic)
            ioctls.SET_LAPIC(fd, abi.Lapic.from_buffer_copy(page))
        self._set_msrs(s)
        ioctls.SET_VCPU_EVENTS(fd, state.events_to(s.events))
        if self._irqchip:
            ioctls.SET_MP_STATE(fd, abi.MpState(mp_state=state.MP_STATES[s.mp_state]))

    def _get_lapic(self) -> bytes:
        if not self._irqchip:
            return b""
        ioctls.GET_LAPIC(self._fd, lapic := abi.Lapic())
        return bytes(lapic)

    # ---- MSRs ----

    def _readable(self, msrs: list[int]) -> list[int]:
        """Without those that the kernel lists and this vCPU's CPUID does not give it."""
        left = list(msrs)
        known: list[int] = []
        while left:
            values = self._get_msrs(left)
            known += values
            left = left[len(values) + 1 :]
        return known

    def _get_msrs(self, msrs: list[int]) -> dict[int, int]:
        """Up to the first that KVM refuses (KVM_GET_MSRS returns how many it read)."""
        values: dict[int, int] = {}
        for at in range(0, len(msrs), abi.MSR_ENTRIES):
            part = msrs[at : at + abi.MSR_ENTRIES]
            raw = abi.Msrs(nmsrs=len(part))
            for entry, index in zip(raw.entries, part, strict=False):
                entry.index = index
            done = ioctls.GET_MSRS(self._fd, raw)
            values |= {e.index: e.data for e in raw.entries[:done]}
            if done < len(part):
                break
        return values

    def _set_msrs(self, s: engine.CpuState) -> None:
        """The TSC, then the rest in the order of state.MSRS. Raises EngineError for an MSR that
        this host does not have, unless its value is 0."""
        known = {*self._msrs, *state.MTRRS}
        foreign = [m for m, value in s.msrs.items() if m not in known and value]
        if foreign:
            raise EngineError(f"KVM here has no MSR {', '.join(map(hex, sorted(foreign)))}")
        rows = [(m, s.msrs[m]) for m in self._msrs if m in s.msrs]
        if s.tsc is not None:
            rows.insert(0, (state.TSC, s.tsc))
        while rows:
            part = rows[: abi.MSR_ENTRIES]
            raw = abi.Msrs(nmsrs=len(part))
            for entry, (index, value) in zip(raw.entries, part, strict=False):
                entry.index, entry.data = index, value
            done = ioctls.SET_MSRS(self._fd, raw)
            if done < len(part):
                # Some (KVM's asynchronous page fault MSRs without a local APIC) can be read and
                # refuse even the 0 that was read.
                index, value = part[done]
                if value:
                    raise EngineError(f"KVM_SET_MSRS: MSR {index:#x} does not take {value:#x}")
                done += 1
            rows = rows[done:]

    def close(self) -> None:
        """Unmap and close. Idempotent."""
        if self._fd >= 0:
            self._ring.release()
            self._page.release()
            self._map.close()
            os.close(self._fd)
            self._fd = -1


def _xsave(image: bytes) -> abi.Xsave:
    if len(image) > abi.XSAVE_BYTES:
        raise EngineError(f"an XSAVE image of {len(image)} bytes; KVM here takes 4096")
    return abi.Xsave.from_buffer_copy(image.ljust(abi.XSAVE_BYTES, b"\0"))
