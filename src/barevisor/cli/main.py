"""`bare`: the entry point. Commands are imported when they are asked for.

Every error that a user, a host or a guest can cause is a BarevisorError: one line, perhaps a
hint and a report, and its own exit code. Anything else is our bug and keeps its traceback.
"""

from __future__ import annotations

import gc
import os
import sys

from barevisor.cli.parser import Given, Parser
from barevisor.errors import BarevisorError, ConfigError, GuestCrash

TYPE_CHECKING = False  # see cli/parser.py
if TYPE_CHECKING:
    from types import ModuleType

COMMANDS = ("run", "doctor", "kernel")
ABOUT = """Barevisor: Linux virtual machines on /dev/kvm, or on a software engine without
it."""


def main(args: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = (sys.argv[1:] if args is None else args) or ["--help"]
    # What a start makes lasts: the collector would look through it again and again. `bare run`
    # lets it collect once the guest has started.
    gc.disable()
    try:
        code = _run(words)
        sys.stdout.flush()
    except BarevisorError as e:
        return _failed(e)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads our output: what is left of it must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        gc.enable()
    return code


def _run(words: list[str]) -> int:
    """Raises BarevisorError."""
    name = words[0]
    if name in COMMANDS:
        code: int = _command(name).main(words[1:])
        return code
    if not name.startswith("-"):
        raise ConfigError(f"no such command {name!r}", "see bare --help")
    lines = [f"  {command:<8}{_command(command).ABOUT.splitlines()[0]}" for command in COMMANDS]
    parser = Parser(
        "bare", "[OPTIONS] COMMAND [ARGS]...", ABOUT, more="\n".join(["Commands:", *lines])
    )
    if parser.read(words, Given()) is not None:
        parser.error("no command given")
    return 0


def _command(name: str) -> ModuleType:
    # As importlib.import_module, which brings `warnings` with it: a hundredth of a start.
    module: ModuleType = __import__(f"barevisor.cli.{name}", fromlist=["main"])
    return module


def _failed(error: BarevisorError) -> int:
    """Say it on stderr; the exit code."""
    report = error.report if isinstance(error, GuestCrash) else ""
    lines = [f"error: {error}", *([f"hint: {error.hint}"] if error.hint else [])]
    text = "\n".join([*lines, *([report] if report else [])])
    sys.stderr.write(text.encode("utf-8", "replace").decode() + "\n")
    return error.exit_code
