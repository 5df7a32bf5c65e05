"""Tiers: each folder of tests is one, and a demanded tier must not be skipped as a whole.

BAREVISOR_TIERS=unit,guest names the tiers that must run: one of them in which nothing passed
fails the session, so that a machine that lost its kernel or its tools is noticed.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
VARIABLE = "BAREVISOR_TIERS"
TIERS = ("unit", "diff", "hostile", "kvm", "guest")


def tier_of(nodeid: str) -> str:
    """The folder beneath tests/."""
    parts = Path(nodeid.partition("::")[0]).parts
    return next((part for part in parts if part in TIERS), "")


class Tiers:
    """Counts outcomes by tier and judges them at the end."""

    def __init__(self, demanded: list[str]) -> None:
        self.demanded = demanded
        self.counts: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[tier_of(report.nodeid), report.outcome] += 1

    def idle(self) -> list[str]:
        """Demanded tiers in which nothing passed."""
        return [tier for tier in self.demanded if not self.counts[tier, "passed"]]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.idle() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for tier in TIERS:
            seen = {o: self.counts[tier, o] for o in ("passed", "failed", "skipped")}
            if any(seen.values()):
                text = ", ".join(f"{count} {name}" for name, count in seen.items() if count)
                terminalreporter.write_line(f"tier {tier}: {text}")
        for tier in self.idle():
            terminalreporter.write_line(f"ERROR: {VARIABLE} demands {tier}, where nothing passed")


def pytest_configure(config: pytest.Config) -> None:
    demanded = [tier for tier in os.environ.get(VARIABLE, "").split(",") if tier]
    unknown = sorted(set(demanded) - set(TIERS))
    if unknown:
        raise pytest.UsageError(f"{VARIABLE}: no tier {', '.join(unknown)}")
    config.pluginmanager.register(Tiers(demanded), "barevisor-tiers")
