"""`bare doctor`: what can run here, and why not."""

from __future__ import annotations

from barevisor.cli import parser
from barevisor.errors import HostError

ABOUT = "Say what can run on this machine, and why not."
OPTIONS = (parser.Option("json", "", "Print JSON, not a table."),)


class Given(parser.Given):
    """The command line."""

    json: bool


def main(words: list[str]) -> int:
    """Raises BarevisorError."""
    given = parser.Parser("bare doctor", "[OPTIONS]", ABOUT, OPTIONS).read(words, Given())
    if given is None:
        return 0
    from barevisor.cli.show import show, show_json, show_table
    from barevisor.doctor import diagnose

    found = diagnose()
    if given.json:
        show_json(found)
    else:
        rows = [("ok" if c.ok else "NO" if c.needed else "--", c.name, c.detail)
                for c in found.checks]  # fmt: skip
        show_table(rows)
        show(f"\nbare run uses the {found.engine} engine." if found.engine else "")
    if not found.ready:
        raise HostError("nothing can run here", "see the lines above")
    return 0
