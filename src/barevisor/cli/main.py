"""`bare`: the entry point. Commands are imported when they are asked for.

Every error that a user, a host or a guest can cause is a BarevisorError: one line, perhaps a
hint and a report, and its own exit code. Anything else is our bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys

import typer

from barevisor.errors import TESTDEV_ERROR, BarevisorError, ConfigError, GuestCrash

COMMANDS = ("run", "doctor", "kernel")
USAGE_ERROR: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)
"""typer's own base of everything wrong with a command line."""


def build(args: list[str]) -> typer.Typer:
    """The application, with the command that `args` name, or with all for --help."""
    app = typer.Typer(
        name="bare",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Barevisor: Linux virtual machines on /dev/kvm, or on a software engine without it.",
    )
    app.callback()(_root)
    for name in [args[0]] if args and args[0] in COMMANDS else COMMANDS:
        _add(app, name)
    return app


def _root() -> None:
    """Typer treats a single command as the whole program; with this it does not."""


def _add(app: typer.Typer, name: str) -> None:
    # Spelled out, so that a reader and a type checker see what is imported.
    if name == "run":
        from barevisor.cli.run import run

        # What follows the command's name is the command's own.
        app.command("run", context_settings={"allow_interspersed_args": False})(run)
    elif name == "doctor":
        from barevisor.cli.doctor import doctor

        app.command("doctor")(doctor)
    else:
        from barevisor.cli.kernel import app as kernel

        app.add_typer(kernel, name="kernel")


def main(args: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = (sys.argv[1:] if args is None else args) or ["--help"]
    try:
        code = build(words)(words, prog_name="bare", standalone_mode=False)
        sys.stdout.flush()
    except BarevisorError as e:
        return _failed(e)
    except USAGE_ERROR as e:
        message = str(getattr(e, "format_message", e.__str__)()).rstrip(".").replace("\n", " ")
        context = getattr(e, "ctx", None)
        path = getattr(context, "command_path", "bare")
        error = ConfigError(message[:1].lower() + message[1:], f"see {path} --help")
        if "--testdev" in words[: words.index("--") if "--" in words else None]:
            error.exit_code = TESTDEV_ERROR
        return _failed(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads our output: what is left of it must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code if isinstance(code, int) else 0


def _failed(error: BarevisorError) -> int:
    """Say it on stderr; the exit code."""
    report = error.report if isinstance(error, GuestCrash) else ""
    lines = [f"error: {error}", *([f"hint: {error.hint}"] if error.hint else [])]
    text = "\n".join([*lines, *([report] if report else [])])
    sys.stderr.write(text.encode("utf-8", "replace").decode() + "\n")
    return error.exit_code
