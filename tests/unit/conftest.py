"""Fixtures of the unit tier."""

from __future__ import annotations

from pathlib import Path

import pytest

from barevisor.guest.initrd import init_program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's /init, which runs on this host as well."""
    path = tmp_path_factory.mktemp("init") / "init"
    path.write_bytes(init_program())
    path.chmod(0o755)
    return path
