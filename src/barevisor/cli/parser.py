"""What the command lines share: argparse with one layout, and errors that are ours (ADR 13).

A command's own file declares its options with argparse's `add_argument`, on `Parser.options`.
"""

from __future__ import annotations

import argparse

from barevisor.errors import ConfigError

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without a tenth of the start of `bare --help`
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn, TypeVar

    Given = TypeVar("Given", bound=argparse.Namespace)

WIDTH, HELP_AT = 80, 28


class _Layout(argparse.RawDescriptionHelpFormatter):
    """A fixed width: asking for the terminal's costs an import of compression libraries."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_AT, width=WIDTH)

    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup], prefix: str | None = None,
    ) -> None:  # fmt: skip
        super().add_usage(usage, actions, groups, "Usage: ")


class Parser(argparse.ArgumentParser):
    """The line of one command. Options are never guessed from their beginnings."""

    def __init__(self, name: str, usage: str, about: str, *, more: str = "") -> None:
        """`usage`: what follows the name; `about`: the help's text, `more`: what ends it."""
        super().__init__(
            prog=name, usage=f"%(prog)s {usage}", description=about, epilog=more,
            formatter_class=_Layout, add_help=False, allow_abbrev=False,
        )  # fmt: skip
        self.arguments = self.add_argument_group("Arguments")
        self.options = self.add_argument_group("Options")
        self.options.add_argument("-h", "--help", action="help", help="Show this message and exit.")

    def read(self, words: Sequence[str], given: Given) -> Given | None:
        """`given`, filled; or None when the words asked for help, which was printed.

        Raises ConfigError."""
        try:
            _, unknown = self.parse_known_args(words, given)
        except SystemExit:  # how argparse ends --help; its errors come to `error`
            return None
        if unknown:
            what = "no such option" if unknown[0].startswith("-") else "unexpected argument"
            self.error(f"{what}: {unknown[0]}")
        return given

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(message.replace("\n", " "), f"see {self.prog} --help")
