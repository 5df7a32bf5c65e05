"""The table of micro guests, on every engine."""

from __future__ import annotations

import importlib.util
import os

import pytest

from barevisor.cpu.engine import Engine
from barevisor.cpu.select import select
from barevisor.testing import nest
from barevisor.testing.micro import MicroGuest, differences, run
from barevisor.testing.microguests import ROWS
from barevisor.testing.microguests_conform import CONFORM_ROWS
from barevisor.testing.microguests_direct import DIRECT_ROWS
from barevisor.testing.microguests_hot import HOT_ROWS
from barevisor.testing.microguests_rights import RIGHT_ROWS
from barevisor.testing.microguests_rules import RULE_ROWS
from barevisor.testing.microguests_smp import SMP_ROWS
from barevisor.testing.microguests_system import SYSTEM_ROWS

ALL_ROWS = (
    *ROWS, *SYSTEM_ROWS, *CONFORM_ROWS, *RULE_ROWS, *RIGHT_ROWS, *HOT_ROWS, *SMP_ROWS,
    *DIRECT_ROWS,
)  # fmt: skip

pytestmark = pytest.mark.timeout(60)


ON_TCG = nest.inside()
# QEMU 7.2 calls cpu_abort ("invalid tss type") for a busy 32-bit TSS in a VMCB: its own TR keeps
# the type that LTR found.
TSS_TYPE = 9 if ON_TCG else 11


def why_not(name: str) -> str:
    """ "" when the engine can run micro guests here."""
    if name == "kvm":
        return "" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "no usable /dev/kvm"
    found = importlib.util.find_spec("barevisor.cpu.bt.vm")
    return "" if found else "barevisor.cpu.bt.vm is not built"


WAYS = ("interpret", "translate", "lockstep", "direct")
BT = [pytest.param(f"bt-{way}", marks=pytest.mark.no_kvm) for way in WAYS]


@pytest.fixture(params=["kvm", *BT], scope="session")
def kind(request: pytest.FixtureRequest) -> Engine:
    name = request.param.partition("-")[0]
    reason = why_not(name)
    if reason:
        pytest.skip(reason)
    return select(name)[0]


@pytest.fixture(autouse=True)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row runs on bt four times: interpreted, with every block translated at its first run,
    with both compared, and with user code executed directly."""
    if "kind" in request.fixturenames:
        mode = request.node.callspec.params["kind"].partition("-")[2]
        if mode:
            monkeypatch.setenv("BAREVISOR_BT", mode)


@pytest.fixture(scope="session")
def emulated(kind: Engine) -> bool:
    """Whether this is a /dev/kvm that cannot run all of ring 0."""
    return kind.name == "kvm" and kind.probe() != ""


def test_names_are_unique() -> None:
    names = [row.name for row in ALL_ROWS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("row", ALL_ROWS, ids=[row.name for row in ALL_ROWS])
def test_microguest(row: MicroGuest, kind: Engine, emulated: bool) -> None:
    if row.model != "host" and kind.name == "kvm":
        pytest.skip("the host's CPU need not have what this row is about")
    if row.cpus > 1 and os.environ.get("BAREVISOR_BT") == "lockstep":
        pytest.skip("lockstep compares one CPU")
    if row.not_emulated and emulated:
        pytest.skip(f"/dev/kvm here {row.not_emulated}")
    if kind.name == "kvm" and ON_TCG and row.not_nested:
        pytest.skip(f"QEMU's TCG {row.not_nested}")
    outcome = run(kind, row, tss_type=TSS_TYPE)
    if emulated and "emulation failed" in outcome.end:
        pytest.skip("/dev/kvm here: KVM: instruction emulation failed")
    assert not differences(outcome, row), outcome.state.regs
