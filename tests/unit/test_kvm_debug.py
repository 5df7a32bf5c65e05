"""A debugger's wishes as KVM_GUESTDBG: debug registers, INT3 in memory, and what an exit means."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import pytest

from barevisor.cpu.engine import Breakpoint, DebugStop, GuestDebug, Watchpoint
from barevisor.cpu.kvm import debug
from barevisor.cpu.kvm.debug import Register, Stops, debug_argument, pieces
from barevisor.cpu.kvm.exits import Trap
from barevisor.errors import EngineError

ALL = (1 << 21) - 1
BASE = 0x10000


class Vcpu:
    """Maps [0x1000, 0x3000) to BASE."""

    def translate(self, linear: int) -> int | None:
        return linear - 0x1000 + BASE if 0x1000 <= linear < 0x3000 else None


@pytest.fixture
def memory() -> Any:
    return ctypes.create_string_buffer(bytes(range(256)) * 32, 0x2000)


@pytest.fixture
def stops(memory: Any) -> Stops:
    made = Stops(ALL)
    made.memory(0, BASE, 0x2000, ctypes.addressof(memory), readonly=False)
    return made


def vcpus() -> Any:
    return cast(Any, [Vcpu()])


@pytest.mark.parametrize(("watch", "expected"), [
    ((0x1000, 8), [(0x1000, 8)]),
    ((0x1004, 4), [(0x1004, 4)]),
    ((0x1001, 4), [(0x1001, 1), (0x1002, 2), (0x1004, 1)]),
    ((0x1004, 8), [(0x1004, 4), (0x1008, 4)]),
    ((0x1000, 32), [(0x1000 + 8 * n, 8) for n in range(4)]),
])  # fmt: skip
def test_watchpoint_in_aligned_pieces(
    watch: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    made = pieces(Watchpoint(*watch, "write"))
    assert [(r.address, r.size) for r in made] == expected
    assert {r.stop for r in made} == {DebugStop("watch", watch[0])}


@pytest.mark.parametrize(("rw", "size", "bits"), [
    (debug.EXECUTE, 1, 0x0), (debug.WRITE, 1, 0x1), (debug.WRITE, 2, 0x5),
    (debug.WRITE, 4, 0xD), (debug.WRITE, 8, 0x9), (debug.ACCESS, 4, 0xF),
])  # fmt: skip
def test_debug_register_bits(rw: int, size: int, bits: int) -> None:
    """SDM, "Debug Control Register (DR7)": G0 and R/W0, LEN0; the same of register 1."""
    one = Register(0x1234, rw, size, DebugStop("watch", 0))
    raw = debug_argument(debug.ENABLE, [one, one])
    assert raw.control == debug.ENABLE | debug.USE_HW_BP
    assert list(raw.debugreg) == [0x1234, 0x1234, 0, 0, 0, 0, 0, 0x60A | bits << 16 | bits << 20]


def test_int3_is_planted_and_taken_back(stops: Stops, memory: Any) -> None:
    before = memory.raw
    stops.set(GuestDebug((Breakpoint(0x1004), Breakpoint(0x1005), Breakpoint(0x1004))), vcpus())
    assert memory.raw[4:6] == b"\xcc\xcc"
    assert stops.argument(False).control == debug.ENABLE | debug.USE_SW_BP
    memory[5] = 0x90  # the guest writes its code anew
    stops.set(GuestDebug(), vcpus())
    assert memory.raw == before[:5] + b"\x90" + before[6:]
    assert stops.argument(False).control == debug.ENABLE
    stops.set(None, vcpus())
    assert stops.argument(False).control == 0


def test_what_is_not_mapped_or_hardware_takes_a_register(stops: Stops, memory: Any) -> None:
    before = memory.raw
    stops.set(GuestDebug((Breakpoint(0x9000), Breakpoint(0x1000, True))), vcpus())
    assert memory.raw == before
    assert list(stops.argument(False).debugreg)[:3] == [0x9000, 0x1000, 0]


def test_read_only_memory_takes_a_register(memory: Any) -> None:
    stops = Stops(ALL)
    stops.memory(0, BASE, 0x2000, ctypes.addressof(memory), readonly=True)
    stops.set(GuestDebug((Breakpoint(0x1000),)), vcpus())
    assert stops.argument(False).control == debug.ENABLE | debug.USE_HW_BP


@pytest.mark.parametrize("wanted", [
    GuestDebug(tuple(Breakpoint(n, True) for n in range(5))),
    GuestDebug((), (Watchpoint(0x1000, 33, "write"),)),
    GuestDebug((Breakpoint(0x9000),) * 3, (Watchpoint(0x1001, 4, "read"),)),
])  # fmt: skip
def test_there_are_four_registers(stops: Stops, memory: Any, wanted: GuestDebug) -> None:
    before = memory.raw
    with pytest.raises(EngineError, match="a CPU has 4"):
        stops.set(wanted, vcpus())
    assert memory.raw == before


def test_a_kvm_that_cannot_says_so() -> None:
    none = Stops(0)
    with pytest.raises(EngineError, match="KVM_CAP_SET_GUEST_DEBUG"):
        none.set(GuestDebug(), vcpus())
    with pytest.raises(EngineError, match="single-step"):
        none.argument(True)
    none.set(None, vcpus())


def test_a_step_holds_interrupts_where_kvm_can(stops: Stops) -> None:
    assert stops.argument(True).control == debug.ENABLE | debug.SINGLESTEP | debug.BLOCKIRQ
    old = Stops(debug.BLOCKIRQ - 1)
    assert old.argument(True).control == debug.ENABLE | debug.SINGLESTEP


@pytest.mark.parametrize(("trap", "step", "expected"), [
    (Trap(0x1004, 0, 3), False, DebugStop("breakpoint", 0x1004)),
    (Trap(0x1008, 0, 3), False, None),
    (Trap(0x2000, 2, 1), False, DebugStop("breakpoint", 0x2000)),
    (Trap(0x1010, 1, 1), False, DebugStop("watch", 0x2100)),
    (Trap(0x1010, 4, 1), False, None),
    (Trap(0x1010, 1 << 14, 1), True, DebugStop("step", 0x1010)),
    (Trap(0x1010, 1 << 14, 1), False, None),
    (Trap(0x1010, 1 << 14 | 1, 1), True, DebugStop("watch", 0x2100)),
], ids=["our INT3", "the guest's INT3", "execute", "watch", "the guest's register", "step",
        "the guest's TF", "both"])  # fmt: skip
def test_what_a_debug_exit_means(
    stops: Stops, trap: Trap, step: bool, expected: DebugStop | None
) -> None:
    """DR0 is the watchpoint's: they come before breakpoints."""
    breaks = (Breakpoint(0x1004), Breakpoint(0x2000, True))
    stops.set(GuestDebug(breaks, (Watchpoint(0x2100, 4, "write"),)), vcpus())
    assert stops.judge(trap, vcpus()[0], step) == expected
    stops.set(None, vcpus())
