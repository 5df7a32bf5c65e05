"""A few seconds of what bench/fuzz_bt.py does for hours: hostile guests in a child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "fuzz_bt.py"
CASES = 192


@pytest.mark.parametrize("first", [0, 1 << 20, 1 << 40])
def test_seeds(first: int) -> None:
    """The child reports a seed when it dies, hangs or grows; see the bench's docstring."""
    command = [sys.executable, str(BENCH), "--once", "--first", str(first), "--batch", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CASES} cases" in done.stdout
