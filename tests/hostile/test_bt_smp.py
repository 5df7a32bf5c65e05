"""Several CPUs with next to no room for code: all of it is dropped again and again while they run.

Whoever drops it makes the others stand still first; a CPU that went on in a dropped block would run
what another has built over it.
"""

from __future__ import annotations

import pytest

from barevisor.cpu.bt.vm import BtEngine, BtVm
from barevisor.cpu.engine import MachineSpec
from barevisor.testing.micro import MicroGuest, differences, run
from barevisor.testing.microguests_smp import SMP_ROWS, smp

ROOM = 16 << 10
"""Bytes; a block of 32 instructions takes about six thousand."""

REWRITES = smp(
    "each CPU rewrites code of its own",
    "mov dword [GO], 1; call work; y: pause; cmp dword [READY], 6; jne y; report dword [BAD]; end;"
    "work: mov esi, r12d; shl esi, 12; add esi, SPARE_+0x4000; mov ebp, 2000;"
    "mov byte [rsi], 0xB8; mov byte [rsi+5], 0xC3;"
    "v: mov [rsi+1], ebp; call rsi; cmp eax, ebp; je v1; lock inc dword [BAD];"
    "v1: dec ebp; jne v; ret;"
    "ap: lock inc dword [READY]; a: pause; cmp dword [GO], 1; jne a; call work;"
    "lock inc dword [READY]; z: hlt; jmp z", 0,
)  # fmt: skip
ROWS = (REWRITES, *SMP_ROWS)


class Cramped(BtEngine):
    """The engine, with little room for blocks."""

    def create_vm(self, spec: MachineSpec) -> BtVm:
        vm = super().create_vm(spec)
        self.core = vm._open()
        self.core.limit_code(ROOM)
        return vm


@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_code_is_dropped_while_others_run(row: MicroGuest) -> None:
    engine = Cramped()
    outcome = run(engine, row)
    assert not differences(outcome, row)
    assert engine.core.flushes() > (100 if row is REWRITES else 0)
