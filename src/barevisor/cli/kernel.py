"""`bare kernel`: the kernels that guests can boot."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

app = typer.Typer(help="The kernels that guests can boot.",
                  rich_markup_mode=None)  # fmt: skip


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List them, best first: /boot's, then fetched ones."""
    from barevisor.cli.show import show_json, show_table
    from barevisor.guest.kernel import list_kernels

    found = list_kernels()
    if as_json:
        show_json(found)
    elif found:
        show_table([(k.version, k.source, str(k.image)) for k in found])
    else:
        typer.echo("none yet: bare kernel fetch", err=True)


@app.command("fetch")
def fetch(as_json: Json = False) -> None:
    """Fetch the distribution's own kernel now, without root, into the cache folder."""
    from barevisor.cli.progress import FetchProgress
    from barevisor.cli.show import show_json
    from barevisor.guest.kernel import fetched

    with FetchProgress() as progress:
        kernel = fetched(progress)
    if as_json:
        show_json(kernel)
    else:
        typer.echo(f"{kernel.version}  {kernel.image}")
