"""One Linux guest for all tests of a session that do not end it, and `bare` as users start it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from barevisor import BarevisorError, Vm
from barevisor.guest.kernel import find_kernel
from barevisor.testing.bare import Bare
from barevisor.testing.pace import LOCKSTEP, SLOWER


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "several_cpus: of a guest with more than one CPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In lockstep all takes longer, and a guest has one CPU."""
    if not LOCKSTEP:
        return
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        if item.get_closest_marker("several_cpus"):
            item.add_marker(pytest.mark.skip(reason="lockstep compares one CPU"))
        marker = item.get_closest_marker("timeout")
        limit = marker.args[0] if marker else float(item.config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(limit * SLOWER), append=False)


@pytest.fixture(scope="session")
def kernel() -> None:
    """A kernel is here, or was fetched now; else the tier is skipped with the reason."""
    try:
        find_kernel()
    except BarevisorError as e:
        pytest.skip(f"guest: {e}")


@pytest.fixture(scope="session")
def vm(kernel: None) -> Iterator[Vm]:
    """A guest on the engine that `auto` takes."""
    with Vm() as vm:
        yield vm


@pytest.fixture
def bare(kernel: None) -> Iterator[Bare]:
    """See Bare."""
    with Bare(dict(os.environ)) as bare:
        yield bare
