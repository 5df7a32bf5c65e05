"""Guests that go on on another engine: after every exit, by the state that both understand."""

from __future__ import annotations

import os

import pytest

from barevisor.cpu.kvm.vm import supported_features
from barevisor.cpu.select import select
from barevisor.cpu.x86 import cpuid, hostcpuid
from barevisor.testing import nest
from barevisor.testing.micro import MicroGuest, differences, run, run_moving
from barevisor.testing.microguests import ROWS
from barevisor.testing.microguests_system import SYSTEM_ROWS

KVM = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no usable /dev/kvm")
pytestmark = pytest.mark.timeout(60)
PAIRS = {
    "bt to bt": ("bt", "bt"),
    "bt to kvm": ("bt", "kvm"),
    "kvm to bt": ("kvm", "bt"),
}
ALL = [row for row in (*ROWS, *SYSTEM_ROWS) if row.cpus == 1]


@pytest.fixture(scope="session")
def features() -> frozenset[str]:
    """What both engines have here, also where kvm could not run Linux."""
    here = cpuid.features("host", hostcpuid.cpuid)
    return here & supported_features() if os.access("/dev/kvm", os.R_OK | os.W_OK) else here


@pytest.fixture(scope="session")
def emulated() -> bool:
    """Whether this is a /dev/kvm that cannot run all of ring 0."""
    return select("kvm")[0].probe() != ""


def why_not(row: MicroGuest, kinds: tuple[str, str], emulated: bool) -> str:
    """ "" when both engines can run the row here."""
    if "kvm" not in kinds:
        return ""
    if emulated and row.not_emulated:
        return f"/dev/kvm here {row.not_emulated}"
    if nest.inside() and row.mode in ("prot16", "prot32"):
        return "QEMU's TCG ends at a busy 32-bit TSS in a VMCB, which is how bt leaves it"
    return f"QEMU's TCG {row.not_nested}" if nest.inside() and row.not_nested else ""


@pytest.mark.parametrize("pair", [
    pytest.param(v, id=k, marks=KVM if "kvm" in v else pytest.mark.no_kvm) for k, v in PAIRS.items()
])  # fmt: skip
@pytest.mark.parametrize("row", ALL, ids=[row.name for row in ALL])
def test_a_micro_guest_that_moves_after_every_exit(
    row: MicroGuest, pair: tuple[str, str], features: frozenset[str], emulated: bool
) -> None:
    if reason := why_not(row, pair, emulated):
        pytest.skip(reason)
    kinds = [select(name)[0] for name in pair]
    names = features if "kvm" in pair else cpuid.features("host", hostcpuid.cpuid)
    outcome, moves = run_moving(kinds, row, names)
    if "steps" in differences(outcome, row):
        for kind in kinds:
            if "steps" in differences(run(kind, row, names), row):
                pytest.skip(f"{kind.name} without moving: lacks a feature, or cannot emulate it")
    assert not differences(outcome, row), f"{moves} moves"
