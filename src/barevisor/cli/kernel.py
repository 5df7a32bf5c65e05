"""`bare kernel`: the kernels that guests can boot."""

from __future__ import annotations

import sys

from barevisor.cli import parser

ABOUT = "The kernels that guests can boot."
ACTIONS = {
    "list": "List them, best first: /boot's, then fetched ones.",
    "fetch": "Fetch the distribution's own, without root, into the cache folder.",
}

OPTIONS = (parser.Option("json", "", "Print JSON, not a table."),)


class Given(parser.Given):
    """The command line."""

    action: list[str]
    json: bool


def main(words: list[str]) -> int:
    """Raises BarevisorError."""
    actions = "\n".join(f"  {name:<7}{text}" for name, text in ACTIONS.items())
    line = parser.Parser(
        "bare kernel", "[OPTIONS] ACTION", ABOUT, OPTIONS, words="action",
        more=f"Actions:\n{actions}",
    )  # fmt: skip
    given = line.read(words, Given())
    if given is None:
        return 0
    match given.action:
        case ["list"]:
            _list(given.json)
        case ["fetch"]:
            _fetch(given.json)
        case others:
            line.error(f"no such ACTION: {' '.join(others)}" if others else "no ACTION given")
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
