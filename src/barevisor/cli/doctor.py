"""`bare doctor`: what can run here, and why not."""

from __future__ import annotations

from typing import Annotated

import typer

from barevisor.errors import HostError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def doctor(as_json: Json = False) -> None:
    """Say what can run on this machine, and why not."""
    from barevisor.cli.show import show_json, show_table
    from barevisor.doctor import diagnose

    found = diagnose()
    if as_json:
        show_json(found)
    else:
        rows = [("ok" if c.ok else "NO" if c.needed else "--", c.name, c.detail)
                for c in found.checks]  # fmt: skip
        show_table(rows)
        typer.echo(f"\nbare run uses the {found.engine} engine." if found.engine else "")
    if not found.ready:
        raise HostError("nothing can run here", "see the lines above")
