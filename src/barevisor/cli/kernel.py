"""`bare kernel`: the kernels that guests can boot."""

from __future__ import annotations

import argparse
import sys

from barevisor.cli.parser import Parser

ABOUT = "The kernels that guests can boot."
ACTIONS = {
    "list": "List them, best first: /boot's, then fetched ones.",
    "fetch": "Fetch the distribution's own, without root, into the cache folder.",
}


class Given(argparse.Namespace):
    """The command line."""

    action: str
    json: bool


def main(words: list[str]) -> int:
    """Raises BarevisorError."""
    actions = "\n".join(f"  {name:<7}{text}" for name, text in ACTIONS.items())
    parser = Parser("bare kernel", "[OPTIONS] ACTION", ABOUT, more=f"Actions:\n{actions}")
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=argparse.SUPPRESS)
    parser.options.add_argument("--json", action="store_true", help="Print JSON, not a table.")
    given = parser.read(words, Given())
    if given is not None:
        (_list if given.action == "list" else _fetch)(given.json)
    return 0


def _list(as_json: bool) -> None:
    from barevisor.cli.show import show_json, show_table
    from barevisor.guest.kernel import list_kernels

    found = list_kernels()
    if as_json:
        show_json(found)
    elif found:
        show_table([(k.version, k.source, str(k.image)) for k in found])
    else:
        sys.stderr.write("none yet: bare kernel fetch\n")


def _fetch(as_json: bool) -> None:
    from barevisor.cli.progress import FetchProgress
    from barevisor.cli.show import show, show_json
    from barevisor.guest.kernel import fetched

    with FetchProgress() as progress:
        kernel = fetched(progress)
    if as_json:
        show_json(kernel)
    else:
        show(f"{kernel.version}  {kernel.image}")
