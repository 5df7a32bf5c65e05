"""One Linux guest for all tests of a session that do not end it, and `bare` as users start it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from barevisor import BarevisorError, Vm
from barevisor.guest.kernel import find_kernel
from barevisor.testing.bare import Bare


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
