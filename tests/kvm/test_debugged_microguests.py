"""The table of micro guests while a debugger is there: they must not notice.

On bt a debugger changes how every block is built. `watched` has breakpoints at offsets of the
guests' code, in pages that they never run, and a watchpoint that is never hit; `stepped` goes
through every instruction.
"""

from __future__ import annotations

from typing import Any, cast

import pytest

from barevisor.cpu.engine import Breakpoint, DebugStop, Engine, Exit, GuestDebug, Watchpoint
from barevisor.cpu.select import select
from barevisor.testing.micro import CODE, MicroGuest, differences, run
from barevisor.testing.microguests import ROWS
from barevisor.testing.microguests_conform import CONFORM_ROWS
from barevisor.testing.microguests_system import SYSTEM_ROWS

pytestmark = [pytest.mark.timeout(60), pytest.mark.no_kvm]
ALL_ROWS = (*ROWS, *SYSTEM_ROWS, *CONFORM_ROWS)
ELSEWHERE = 0x7FFF_0000_0000
STEPS_MAX = 200_000
QUIET = GuestDebug(
    tuple(Breakpoint(ELSEWHERE + CODE + n) for n in range(0x400)),
    (Watchpoint(ELSEWHERE, 8, "access"),),
)


class Proxy:
    """Another's attributes, but for those that a subclass has."""

    def __init__(self, other: Any) -> None:
        self.other = other

    def __getattr__(self, name: str) -> Any:
        return getattr(self.other, name)


class Watched(Proxy):
    """bt with QUIET set."""

    def create_vm(self, spec: Any) -> Any:
        vm = self.other.create_vm(spec)
        vm.set_debug(QUIET)
        return vm


class Stepped(Proxy):
    """bt whose vCPUs run by single steps."""

    def create_vm(self, spec: Any) -> Any:
        return SteppedVm(self.other.create_vm(spec))


class SteppedVm(Proxy):
    def create_vcpu(self, index: int) -> Any:
        vcpu = self.other.create_vcpu(index)
        vcpu.set_step(True)
        return SteppedVcpu(vcpu)


class SteppedVcpu(Proxy):
    def run(self) -> Exit:
        for _ in range(STEPS_MAX):
            done: Exit = self.other.run()
            if not isinstance(done, DebugStop):
                return done
        return done


def check(kind: Proxy, row: MicroGuest) -> None:
    outcome = run(cast(Engine, kind), row)
    assert not differences(outcome, row)


@pytest.mark.parametrize("row", ALL_ROWS, ids=[row.name for row in ALL_ROWS])
def test_watched(row: MicroGuest) -> None:
    check(Watched(select("bt")[0]), row)


@pytest.mark.parametrize("row", ALL_ROWS, ids=[row.name for row in ALL_ROWS])
def test_stepped(row: MicroGuest) -> None:
    if row.irqchip:
        pytest.skip("interrupts wait while a debugger steps")
    check(Stepped(select("bt")[0]), row)
