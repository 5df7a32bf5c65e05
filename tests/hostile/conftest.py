"""Fixtures of the hostile tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from barevisor.cpu.bt.vm import BtEngine
from barevisor.testing import hostile
from barevisor.testing.hostile import Box


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with hostile.walled() as (room, ram, rom):
        box = Box(BtEngine(), room, ram, rom)
        yield box
        box.close()
