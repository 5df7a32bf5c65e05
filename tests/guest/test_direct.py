"""Direct execution under Linux: programs do what they do on the host."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

from barevisor import Vm
from barevisor.config import VmConfig
from barevisor.cpu.bt import userprocess

pytestmark = pytest.mark.timeout(300)
PROGRAM = Path(__file__).with_name("direct_program.py")
PYTHON = "/usr/bin/python3"


@cache
def outside() -> bytes:
    return subprocess.run([PYTHON, PROGRAM], capture_output=True, check=True).stdout


def inside(cpus: int) -> tuple[bytes, int]:
    """What it prints, and how often user code was run directly."""
    with Vm(config=VmConfig(engine="bt", cpus=cpus, stats=True)) as vm:
        done = vm.run([PYTHON, str(PROGRAM)])
    assert done.returncode == 0, done.stderr
    report = vm.statistics()
    assert report is not None
    return done.stdout, report.engine["direct_runs"]


@pytest.mark.parametrize(
    ("mode", "cpus"), [("", 1), ("", 2), ("direct", 1), ("direct", 2), ("translate", 1)]
)
def test_programs_do_what_they_do_on_the_host(
    monkeypatch: pytest.MonkeyPatch, mode: str, cpus: int
) -> None:
    monkeypatch.setenv("BAREVISOR_BT", mode)
    printed, runs = inside(cpus)
    assert printed == outside()
    assert (runs > 0) == (mode != "translate")


def test_a_host_that_allows_no_such_process_translates(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(ram: int, table: int, *, traps_tsc: bool) -> tuple[int, int]:
        raise PermissionError(1, "no more processes")

    monkeypatch.setattr(userprocess, "spawn", refuse)
    printed, runs = inside(1)
    assert printed == outside()
    assert runs == 0
