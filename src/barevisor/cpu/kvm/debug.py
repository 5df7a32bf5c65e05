"""A debugger's breakpoints, watchpoints and steps on KVM (KVM_SET_GUEST_DEBUG, api.rst 4.87).

A breakpoint is an INT3 in guest memory, or one of the four debug registers where it must be, or
where its address is not mapped yet. While a debug register is taken, the guest's own have no
effect. The guest can see an INT3; a guest that checks or patches its own code may notice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from barevisor.cpu.engine import DebugStop, GuestDebug, Watchpoint
from barevisor.cpu.kvm import abi
from barevisor.cpu.kvm.exits import Trap
from barevisor.errors import EngineError
from barevisor.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from barevisor.cpu.kvm.vcpu import KvmVcpu

ENABLE, SINGLESTEP, USE_SW_BP, USE_HW_BP = 1, 2, 1 << 16, 1 << 17  # KVM_GUESTDBG_*
INJECT_DB, INJECT_BP, BLOCKIRQ = 1 << 18, 1 << 19, 1 << 20
INT3 = 0xCC
VECTOR_DB, VECTOR_BP = 1, 3
REGISTERS = 4
DR6_HITS, DR6_BS = 0xF, 1 << 14
DR7_FIXED, DR7_EXACT = 1 << 10, 1 << 9
EXECUTE, WRITE, ACCESS = 0, 1, 3  # DR7.R/Wn (SDM, "Debug Control Register (DR7)")
LENGTHS = {1: 0, 2: 1, 4: 3, 8: 2}  # DR7.LENn
KINDS = {"write": WRITE, "read": ACCESS, "access": ACCESS}


class Register(NamedTuple):
    """One debug register's work; `stop` is what its hit means."""

    address: int
    rw: int
    size: int
    stop: DebugStop


def pieces(watch: Watchpoint) -> list[Register]:
    """A watchpoint as naturally aligned ranges of 1, 2, 4 or 8 bytes."""
    found, at, left = [], watch.address, watch.size
    while left:
        size = next(s for s in (8, 4, 2, 1) if s <= left and at % s == 0)
        found.append(Register(at, KINDS[watch.kind], size, DebugStop("watch", watch.address)))
        at, left = at + size, left - size
        if len(found) > REGISTERS:
            break
    return found


def debug_argument(control: int, registers: Sequence[Register]) -> abi.GuestDebug:
    """struct kvm_guest_debug; no control bits: off."""
    raw = abi.GuestDebug(control=control)
    if registers:
        raw.control |= USE_HW_BP
        dr7 = DR7_FIXED | DR7_EXACT
        for n, one in enumerate(registers):
            raw.debugreg[n] = one.address
            dr7 |= 2 << 2 * n | (LENGTHS[one.size] << 2 | one.rw) << 16 + 4 * n
        raw.debugreg[7] = dr7
    return raw


class Stops:
    """What a debugger has set in one VM."""

    def __init__(self, supported: int) -> None:
        """`supported`: KVM_GUESTDBG_* bits, 0 when this KVM cannot debug guests."""
        self._supported = supported
        self._memory: dict[int, tuple[int, int, int]] = {}
        self._planted: dict[int, int] = {}
        self._registers: tuple[Register, ...] = ()
        self.on = False

    def memory(self, slot: int, gpa: int, size: int, host: int, readonly: bool) -> None:
        """A slot changes. An INT3 can be put only where the guest may write."""
        self._memory.pop(slot, None)
        if size and not readonly:
            self._memory[slot] = (gpa, size, host)

    def set(self, debug: GuestDebug | None, vcpus: Sequence[KvmVcpu]) -> None:
        """See EngineVm.set_debug."""
        if debug is not None and not self._supported:
            raise EngineError("KVM here has no KVM_CAP_SET_GUEST_DEBUG", "use --engine bt")
        self._unplant()
        self._registers = ()
        wanted = debug or GuestDebug()
        registers = [r for watch in wanted.watchpoints for r in pieces(watch)]
        places = []
        for one in wanted.breakpoints:
            place = None if one.hardware else self._place(one.address, vcpus)
            if place is None:
                stop = DebugStop("breakpoint", one.address)
                registers.append(Register(one.address, EXECUTE, 1, stop))
            else:
                places.append(place)
        if len(registers) > REGISTERS:
            raise EngineError(f"this needs {len(registers)} debug registers; a CPU has {REGISTERS}")
        self._registers = tuple(registers)
        for place in places:
            # JUSTIFICATION: raw address. _place took it from a slot of RAM that the VM still has.
            byte = ctypes.c_uint8.from_address(place)
            self._planted.setdefault(place, byte.value)
            byte.value = INT3
        self.on = debug is not None

    def _unplant(self) -> None:
        for place, byte in self._planted.items():
            # JUSTIFICATION: as above. A byte that is no INT3 any more was written by the guest.
            now = ctypes.c_uint8.from_address(place)
            now.value = byte if now.value == INT3 else now.value
        self._planted.clear()

    def _place(self, linear: int, vcpus: Sequence[KvmVcpu]) -> int | None:
        """Host address of guest code, by the page tables of the first vCPU that maps it."""
        for vcpu in vcpus:
            gpa = vcpu.translate(linear)
            for start, size, host in self._memory.values() if gpa is not None else ():
                if gpa is not None and start <= gpa < start + size:
                    return host + gpa - start
        return None

    def argument(self, step: bool) -> abi.GuestDebug:
        """What a vCPU gives to KVM_SET_GUEST_DEBUG. Raises EngineError."""
        if step and not self._supported & SINGLESTEP:
            raise EngineError("KVM here cannot single-step a guest", "use --engine bt")
        control = ENABLE if step or self.on else 0
        control |= USE_SW_BP if self._planted else 0
        control |= (SINGLESTEP | BLOCKIRQ & self._supported) if step else 0
        return debug_argument(control, self._registers)

    def judge(self, trap: Trap, vcpu: KvmVcpu, step: bool) -> DebugStop | None:
        """What a debug exit means; None: it is the guest's own exception, to be injected."""
        if trap.exception == VECTOR_BP:
            planted = self._place(trap.pc, [vcpu]) in self._planted
            return DebugStop("breakpoint", trap.pc) if planted else None
        for n, one in enumerate(self._registers):
            if trap.dr6 >> n & 1:
                return one.stop
        return DebugStop("step", trap.pc) if step and trap.dr6 & DR6_BS else None
