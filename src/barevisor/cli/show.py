"""Results on stdout: a table for people, the same dataclass as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from barevisor.config import GdbListen


def show(line: str) -> None:
    """One line."""
    sys.stdout.write(line + "\n")


def show_gdb(address: str | None, gdb: GdbListen | None) -> None:
    """Where a server for gdb listens, on stderr."""
    if address is not None and gdb is not None:
        then = "; the guest waits for it" if gdb.wait else ""
        sys.stderr.write(f"gdb: target remote {address}{then}\n")


def show_json(value: object) -> None:
    """A dataclass, or a list of them."""
    show(json.dumps(_plain(value), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    data = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return json.loads(json.dumps(data, default=_text))


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} in a result")


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need; plain text, so that no library is loaded for it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        show("  ".join(cells).rstrip())
