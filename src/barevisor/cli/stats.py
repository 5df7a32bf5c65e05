"""`--stats`: exits by kind and device, and the time in each."""

from __future__ import annotations

import sys

from barevisor.board.stats import Report, Row


def show(engine: str, report: Report) -> None:
    """A table on stderr."""
    for line in lines(engine, report):
        sys.stderr.write(f"[stats] {line}\n")


def lines(engine: str, report: Report) -> list[str]:
    """What is told, dearest first."""
    seconds = sum(row.seconds for row in report.exits)
    total = report.engine.get("exits", 0)
    share = f", {report.total / total:.1%} of the {total} that {engine} counts" if total else ""
    out = [
        f"engine {engine}: {report.total} exits reached Python{share}; "
        f"{seconds * 1000:.1f} ms there, {report.inside * 1000:.1f} ms in the engine",
        f"{'':40}{'count':>9}{'ms':>11}{'us each':>10}",
        *map(_row, report.exits),
    ]
    if report.calls:
        out.append("calls from the engine, and into it:")
        out += map(_row, report.calls)
    counts = {name: value for name, value in report.engine.items() if value}
    if counts:
        words = [f"{name} {value}" for name, value in sorted(counts.items(), key=lambda c: -c[1])]
        out.append(f"counted by {engine}: {', '.join(words)}")
    return out


def _row(row: Row) -> str:
    name = f"{row.kind} ({row.where})" if row.where else row.kind
    each = row.seconds / max(row.times, 1) * 1e6
    return f"  {name:<38}{row.times:>9}{row.seconds * 1000:>11.1f}{each:>10.1f}"
