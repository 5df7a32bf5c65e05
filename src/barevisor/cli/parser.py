"""What the command lines share: options as rows, one reader, and errors that are ours (ADR 13).

A command's own file has a table of its options. How help looks is in cli/help.py, which is imported
when somebody asks for it.
"""

from __future__ import annotations

import sys

from barevisor.errors import ConfigError
from barevisor.records import NamedTuple

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without a tenth of the start of `bare --help`
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TypeVar

    Filled = TypeVar("Filled", bound="Given")


class Given:
    """A command line that was read: an attribute for each option, and one for its words."""


class Option(NamedTuple):
    """--name VALUE, --name=VALUE, or without `value` a flag.

    `value`: what help calls the word; `read` makes something of it, or raises ValueError. `many`:
    it may come again, and all are kept in a list. `short`: one letter."""

    name: str
    value: str
    help: str
    default: object = None
    read: Callable[[str], object] = str
    many: bool = False
    short: str = ""

    @property
    def attribute(self) -> str:
        """Its name in a Given."""
        return self.name.replace("-", "_")

    def initial(self) -> object:
        """What a Given has that does not say it."""
        if self.many:
            return []
        return self.default if self.value else False


HELP = Option("help", "", "Show this message and exit.", short="h")


class Parser:
    """The line of one command. Options are never guessed from their beginnings, and end at the
    first word that is none when the words are somebody else's command (`rest`)."""

    def __init__(
        self, name: str, usage: str, about: str, options: Sequence[Option] = (), *,
        words: str = "", words_help: str = "", rest: bool = False, more: str = "",
    ) -> None:  # fmt: skip
        """`usage`: what follows the name; `about`: the help's text, `more`: what ends it; `words`:
        the attribute for words that are no options, "" when there may be none."""
        self.name, self.usage, self.about, self.more = name, usage, about, more
        self.options = (HELP, *options)
        self.words, self.words_help, self.rest = words, words_help, rest

    def read(self, words: Sequence[str], given: Filled) -> Filled | None:
        """`given`, filled; or None when the words asked for help, which was printed.

        Raises ConfigError."""
        known = {f"--{option.name}": option for option in self.options}
        known |= {f"-{option.short}": option for option in self.options if option.short}
        for option in self.options[1:]:
            setattr(given, option.attribute, option.initial())
        left, own = list(reversed(words)), []
        while left:
            word = left.pop()
            if word in ("-", "--") or not word.startswith("-"):
                own.append(word)
                if self.rest:
                    own += reversed(left)
                    break
                continue
            name, equals, value = word.partition("=")
            found = known.get(name)
            if found is None or (equals and not found.value):
                self.error(f"no such option: {word}")
            if found is HELP:
                from barevisor.cli.help import text

                sys.stdout.write(text(self))
                return None
            if found.value and not equals:
                if not left or left[-1] == "--":
                    self.error(f"{name} needs {found.value}")
                value = left.pop()
            self._take(given, found, value)
        if own and not self.words:
            self.error(f"unexpected argument: {own[0]}")
        if self.words:
            setattr(given, self.words, own)
        return given

    def _take(self, given: Given, option: Option, word: str) -> None:
        value: object = True
        if option.value:
            try:
                value = option.read(word)
            except ValueError:
                self.error(f"--{option.name}: {word!r} is no number")
        if option.many:
            value = [*getattr(given, option.attribute), value]
        setattr(given, option.attribute, value)

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(message.replace("\n", " "), f"see {self.name} --help")
