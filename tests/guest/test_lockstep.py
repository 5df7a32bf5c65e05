"""The translator against the interpreter, trace by trace, over a boot of Linux and programs.

Python's own tests run with BAREVISOR_LONG=1 only: the eight modules take two hours.
"""

from __future__ import annotations

import os

import pytest

from barevisor import Vm
from barevisor.config import VmConfig
from barevisor.errors import ConfigError
from barevisor.testing import samebytes

pytestmark = pytest.mark.timeout(300)
LONG = 3 * 3600.0
ENOUGH = 1_000_000
"""Runs of translations that a boot has many times over."""


def test_a_boot_and_programs_differ_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAREVISOR_BT", "lockstep")
    with Vm(config=VmConfig(engine="bt", stats=True)) as vm:
        done = vm.run(["sh", "-c", "echo $((6 * 7)); ls / | wc -l; cat /proc/cpuinfo | head -1"])
    assert done.returncode == 0
    assert done.stdout.startswith(b"42\n")
    report = vm.statistics()
    assert report is not None
    assert report.engine["translator_compared"] > ENOUGH


@pytest.mark.timeout(LONG + 300)
@pytest.mark.parametrize("module", samebytes.MODULES)
def test_pythons_own_tests_differ_nowhere(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Not that they pass: at such a speed those that wait for each other may not."""
    if reason := samebytes.missing():
        pytest.skip(reason)
    if not os.environ.get("BAREVISOR_LONG"):
        pytest.skip("takes up to two hours: set BAREVISOR_LONG=1")
    monkeypatch.setenv("BAREVISOR_BT", "lockstep")
    with Vm(config=VmConfig(engine="bt", stats=True)) as vm:
        assert samebytes.inside(vm, module, LONG).tests
        report = vm.statistics()
    assert report is not None
    assert report.engine["translator_compared"] > ENOUGH


def test_several_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAREVISOR_BT", "lockstep")
    with pytest.raises(ConfigError, match="compares one CPU"), Vm(engine="bt", cpus=2) as vm:
        vm.run(["true"])
