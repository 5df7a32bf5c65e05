"""Tiers: each folder of tests is one, and a demanded tier must not be skipped as a whole.

BAREVISOR_TIERS=unit,guest names the tiers that must run: one of them in which nothing passed
fails the session, so that a machine that lost its kernel or its tools is noticed.

Tests of the tier "nested", and with --nest all that are selected, run in one nest: an outer guest
with a stock /dev/kvm (barevisor.testing.nest). Their reports come back one by one and count here
under their own names. Tests marked `long` run with --long only.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from barevisor.errors import BarevisorError
from barevisor.testing import nest

ROOT = Path(__file__).parent
VARIABLE = "BAREVISOR_TIERS"
TIERS = ("unit", "diff", "hostile", "kvm", "guest", "nested")
NEST_SECONDS, LONG_SECONDS = 420.0, 2400.0
SELECTED = "selected.json"


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


# ---- the nest, seen from outside -----------------------------------------------------------


class InNest:
    """Runs the chosen items in one nest and replays their reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._nest: nest.Nest | None = None
        self._lines: Iterator[str] = iter(())
        self._ids: list[str] = []
        self._broken = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        everything = self._config.getoption("--nest")
        if everything:
            here = [item for item in items if item.get_closest_marker("no_kvm")]
            self._config.hook.pytest_deselected(items=here)
            items[:] = [item for item in items if item not in here]
        for item in items:
            if not everything and tier_of(item.nodeid) != "nested":
                continue
            if item.get_closest_marker("long") and not self._config.getoption("--long"):
                item.add_marker(pytest.mark.skip(reason="long: needs --long, as `make nested`"))
                continue
            self._ids.append(item.nodeid)
            item.add_marker(pytest.mark.timeout(0))  # the nest has its own

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if item.nodeid not in self._ids:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if self._nest is None and not self._broken:
            self._start()
        for line in self._lines:
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=json.loads(line)
            )
            if isinstance(report.longrepr, list):  # JSON has no tuples; a skip's place is one
                report.longrepr = tuple(report.longrepr)
            yield report
            if report.when == "teardown":
                return
        yield self._lost(item)

    def _start(self) -> None:
        files = sorted({str(self._config.rootpath / i.partition("::")[0]) for i in self._ids})
        inner = [os.path.relpath(f, self._config.rootpath) for f in files]
        # What hangs is to be seen, and to leave time for the others.
        command = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "150",
                   "-o", "faulthandler_timeout=120", *inner]  # fmt: skip
        files_in = {
            SELECTED: json.dumps(self._ids).encode(),
            "pyproject.toml": (self._config.rootpath / "pyproject.toml").read_bytes(),
        }
        limit = LONG_SECONDS if self._config.getoption("--long") else NEST_SECONDS
        try:
            self._nest = nest.Nest(command, folders=[ROOT], files=files_in, timeout=limit)
            self._lines = self._nest.results()
        except BarevisorError as e:
            self._broken = f"{e} ({e.hint})" if e.hint else str(e)

    def _lost(self, item: pytest.Item) -> pytest.TestReport:
        """A test whose report never came: skipped where there can be no nest, else failed."""
        if self._nest is None:
            place = (str(item.path), item.location[1] or 0, f"Skipped: no nest: {self._broken}")
            return pytest.TestReport(
                item.nodeid, item.location, {}, "skipped", place, "setup", [], 0
            )
        result = self._nest.finish()
        text = f"the nest ended without this test's report: {result.end}\n{result.output[-4000:]}"
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call", [], 0)

    def pytest_sessionfinish(self) -> None:
        if self._nest is not None:
            self._nest.close()


# ---- the nest, seen from inside ------------------------------------------------------------


class Sender:
    """Runs what was selected outside, and sends each report there."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        selected = set(json.loads((ROOT.parent / SELECTED).read_text()))
        items[:] = [item for item in items if item.nodeid in selected]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        nest.send(json.dumps(data))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nest", action="store_true", help="run all selected tests in a nest")
    parser.addoption("--long", action="store_true", help="with the tests marked long")


def pytest_configure(config: pytest.Config) -> None:
    demanded = [tier for tier in os.environ.get(VARIABLE, "").split(",") if tier]
    unknown = sorted(set(demanded) - set(TIERS))
    if unknown:
        raise pytest.UsageError(f"{VARIABLE}: no tier {', '.join(unknown)}")
    config.addinivalue_line("markers", "long: takes minutes; runs with --long only")
    config.addinivalue_line("markers", "no_kvm: of the other engine alone; --nest leaves it out")
    config.pluginmanager.register(Tiers(demanded), "barevisor-tiers")
    plugin = Sender(config) if nest.inside() else InNest(config)
    config.pluginmanager.register(plugin, "barevisor-nest")
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:  # in the background of a script
            signal.signal(number, usual)
