"""What `--help` shows of a cli.parser.Parser: plain text of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from barevisor.cli.parser import Option, Parser

WIDTH, TEXT_AT, INDENT = 80, 28, 2


def text(parser: Parser) -> str:
    """All of it, with a newline at its end."""
    parts = [f"Usage: {parser.name} {parser.usage}", parser.about]
    if parser.words_help:
        parts.append(_table("Arguments", [(parser.words.upper(), parser.words_help)]))
    parts.append(_table("Options", [(_shown(option), option.help) for option in parser.options]))
    return "\n\n".join([*parts, *([parser.more] if parser.more else [])]) + "\n"


def _shown(option: Option) -> str:
    short = f"-{option.short}, " if option.short else ""
    return f"{short}--{option.name} {option.value}".rstrip()


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Names, and texts beside them; beneath names that are too long for it."""
    known = list(rows)
    at = min(TEXT_AT, max(len(name) for name, _ in known) + 2 * INDENT)
    lines = [f"{title}:"]
    for name, about in known:
        first, *others = textwrap.wrap(about, WIDTH - at)
        head = " " * INDENT + name
        if len(head) + INDENT > at:
            lines.append(head)
            head = ""
        lines += [f"{head:<{at}}{first}", *(" " * at + other for other in others)]
    return "\n".join(lines)
