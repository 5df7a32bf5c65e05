"""The same program inside and outside a guest: CPython's own tests, by outcome of each.

The tests are those of the Python that runs this, with its `test` package; both sides get the same
words, folder and environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from barevisor.errors import HostError
from barevisor.vm import Vm

MODULES = (
    "test_struct", "test_re", "test_hashlib", "test_zlib", "test_json", "test_math",
    "test_decimal", "test_threading",
)  # fmt: skip
"""The shortest first."""
MARK = "outcomes: "
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
LIMIT = 3600.0

RUNNER = f"""
import json, sys, unittest

class Outcomes(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.all = {{}}
    def note(self, test, outcome):
        self.all[test.id()] = outcome
    def addSuccess(self, test):
        self.all.setdefault(test.id(), "ok")
    def addSkip(self, test, reason):
        self.note(test, "skipped")
    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.note(test, "failed")
    def addError(self, test, error):
        super().addError(test, error)
        self.note(test, "error")
    def addExpectedFailure(self, test, error):
        self.note(test, "failed as expected")
    def addSubTest(self, test, part, error):
        super().addSubTest(test, part, error)
        if error is not None:
            self.note(test, "failed")

outcomes = Outcomes()
unittest.defaultTestLoader.loadTestsFromName("test." + sys.argv[1])(outcomes)
for test, text in outcomes.failures + outcomes.errors:
    print(test.id(), text, file=sys.stderr)
print({MARK!r} + json.dumps(outcomes.all), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of one module at one place: test id to outcome, and what was said of failures."""

    seconds: float
    tests: dict[str, str]
    errors: str


def python() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return str(Path(sys.executable).resolve())


def missing() -> str:
    """ "" when this Python has its tests, else that it has not."""
    return "" if find_spec("test.test_math") else f"needs the test package of {python()}"


def words(module: str) -> list[str]:
    """The command for one module."""
    return [python(), "-I", "-c", RUNNER, module]


def outside(module: str) -> Outcomes:
    """On the host."""
    start = time.perf_counter()
    done = subprocess.run(
        words(module), env=ENVIRONMENT, cwd="/", capture_output=True, timeout=LIMIT, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return _outcomes(module, time.perf_counter() - start, done.stdout, done.stderr)


def inside(vm: Vm, module: str, limit: float = LIMIT) -> Outcomes:
    """In the guest. Raises GuestTimeout."""
    start = time.perf_counter()
    done = vm.run(words(module), env=ENVIRONMENT, cwd="/", timeout=limit)
    return _outcomes(module, time.perf_counter() - start, done.stdout, done.stderr)


def differences(outer: Outcomes, inner: Outcomes) -> list[str]:
    """One line for each test that ended differently; [] when all is the same."""
    names = sorted(outer.tests.keys() | inner.tests.keys())
    pairs = [(name, outer.tests.get(name, "absent"), inner.tests.get(name, "absent"))
             for name in names]  # fmt: skip
    return [f"{name}: {there} outside, {here} inside" for name, there, here in pairs
            if there != here]  # fmt: skip


def _outcomes(module: str, seconds: float, out: bytes, err: bytes) -> Outcomes:
    text = err.decode(errors="replace")
    for line in reversed(out.decode(errors="replace").splitlines()):
        if MARK in line:
            return Outcomes(seconds, json.loads(line.partition(MARK)[2]), text)
    raise HostError(f"{module} came to no end", text[-2000:])
