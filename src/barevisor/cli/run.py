"""`bare run`: a command, or a shell, in a Linux guest; or a bare image."""

from __future__ import annotations

import argparse

from barevisor.cli.parser import Parser
from barevisor.errors import TESTDEV_ERROR, BarevisorError, ConfigError

ABOUT = """Run a command in a Linux guest; its exit code is the command's.

The guest sees this machine's files and cannot change them: what it writes is
gone with it. Without a command it is a shell on this terminal; ^] three times
ends a guest that hangs."""


class Given(argparse.Namespace):
    """The command line."""

    command: list[str]
    engine: str
    cpus: int
    cpu: str
    memory: str
    kernel: str | None
    modules: str | None
    root: str
    rw: list[str]
    share: list[str]
    cwd: str | None
    env: list[str]
    timeout: float | None
    tty: bool
    boot_log: bool
    stats: bool
    append: str
    gdb: str | None
    trace: str | None
    no_root: bool
    initrd: str | None
    testdev: bool
    debugcon: bool

    def seconds(self) -> float | None:
        """The timeout. Raises ConfigError."""
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(
                f"a timeout of {self.timeout:g} s", "give a number of seconds above 0"
            )
        return self.timeout


def parser() -> Parser:
    """Reads a Given."""
    made = Parser("bare run", "[OPTIONS] [COMMAND]", ABOUT)
    # What follows the command's name is the command's own.
    made.arguments.add_argument(
        "command", metavar="COMMAND", nargs=argparse.REMAINDER,
        help="Without one: a shell. With --no-root: the image's arguments.",
    )  # fmt: skip
    _linux_options(made)
    _image_options(made)
    return made


def _linux_options(made: Parser) -> None:
    """And those that both kinds of guest have."""
    add = made.options.add_argument
    add("--engine", metavar="ENGINE", default="auto",
        help="kvm, bt or auto.  [default: %(default)s]")  # fmt: skip
    add("--cpus", metavar="N", type=int, default=1, help="Virtual CPUs.  [default: %(default)s]")
    add("--cpu", metavar="MODEL", default="host", help="What CPU the guest sees: host, common "
        "(what both engines have), x86-64-v2, x86-64-v3.  [default: %(default)s]")  # fmt: skip
    add("--memory", metavar="SIZE", default="512M",
        help="Guest memory: 512M, 2G.  [default: %(default)s]")  # fmt: skip
    add("--kernel", metavar="PATH",
        help="A bzImage or vmlinux; by default /boot's newest, else a fetched one.")  # fmt: skip
    add("--modules", metavar="DIR", help="The kernel's modules, as in /lib/modules/VERSION.")
    add("--root", metavar="host|DIR", default="host", help="host: this machine's files, or a "
        "folder; under a throw-away overlay.  [default: %(default)s]")  # fmt: skip
    add("--rw", metavar="DIR", action="append", default=[],
        help="A folder of the host that the guest may write, at the same path. The --root folder "
        "itself: a writable root.")  # fmt: skip
    add("--share", metavar="HOST:GUEST[:ro]", action="append", default=[],
        help="A folder of the host, mounted in the guest.")  # fmt: skip
    add("--cwd", metavar="DIR",
        help="The command's folder; by default this one, where the guest has it.")  # fmt: skip
    add("--env", metavar="K=V", action="append", default=[],
        help="An environment variable; K alone takes the caller's.")  # fmt: skip
    add("--timeout", metavar="SECONDS", type=float,
        help="End everything after this time, with code 124.")  # fmt: skip
    add("-t", "--tty", action="store_true", help="Give the command a terminal.")
    add("--boot-log", action="store_true", help="Kernel messages and times on stderr.")
    add("--stats", action="store_true",
        help="At the end, exits by kind with their times on stderr.")  # fmt: skip
    add("--append", metavar="TEXT", default="", help="More kernel parameters.")
    add("--gdb", metavar="ADDRESS[,nowait]", help="Serve gdb at :PORT (of this machine only), "
        "HOST:PORT or unix:PATH; the guest waits for it. :0 finds a port.")  # fmt: skip
    add("--trace", metavar="exits|blocks[:FILE]", help="A line for each exit from the guest, or "
        "(bt) for each block of code it runs, on stderr or in FILE.")  # fmt: skip


def _image_options(made: Parser) -> None:
    add = made.options.add_argument
    add("--no-root", action="store_true", help="--kernel is a bare image: multiboot, PVH or "
        "Linux; its serial port is stdout.")  # fmt: skip
    add("--initrd", metavar="PATH", help="With --no-root: the image's one module.")
    add("--testdev", action="store_true",
        help="With --no-root: the devices that test images expect.")  # fmt: skip
    add("--debugcon", action="store_true", help="With --no-root: port 0xe9 writes to stderr.")


def main(words: list[str]) -> int:
    """Raises BarevisorError."""
    given = Given()
    testdev = "--testdev" in words[: words.index("--") if "--" in words else None]
    try:
        if parser().read(words, given) is None:
            return 0
        testdev = given.testdev
        if given.command[:1] == ["--"]:
            del given.command[0]
        return _image(given) if given.no_root else _linux(given)
    except BarevisorError as e:
        if testdev:
            e.exit_code = TESTDEV_ERROR
        raise


def _image(given: Given) -> int:
    from pathlib import Path

    from barevisor.config import GdbListen, ImageConfig, Trace, parse_memory

    if given.kernel is None:
        raise ConfigError("--no-root needs an image", "give --kernel PATH")
    linux_only = {"--modules": given.modules, "--rw": given.rw, "--share": given.share,
                  "--cwd": given.cwd, "--env": given.env, "--tty": given.tty}  # fmt: skip
    if wrong := [flag for flag, value in linux_only.items() if value]:
        raise ConfigError(f"{wrong[0]} is not for bare images", "leave --no-root out for Linux")
    config = ImageConfig(
        Path(given.kernel),
        (*given.append.split(), *given.command),
        Path(given.initrd) if given.initrd is not None else None,
        parse_memory(given.memory),
        given.cpus,
        given.engine,
        testdev=given.testdev,
        debugcon=given.debugcon,
        stats=given.stats,
        gdb=GdbListen.parse(given.gdb) if given.gdb is not None else None,
        trace=Trace.parse(given.trace) if given.trace is not None else None,
    )
    from barevisor.cli.image import run_image

    return run_image(config, given.seconds())


def _linux(given: Given) -> int:
    from pathlib import Path

    from barevisor.config import (
        GdbListen,
        Share,
        Trace,
        VmConfig,
        parse_environment,
        parse_memory,
    )

    image_only = {"--initrd": given.initrd, "--testdev": given.testdev,
                  "--debugcon": given.debugcon}  # fmt: skip
    if wrong := [flag for flag, value in image_only.items() if value]:
        raise ConfigError(f"{wrong[0]} is for bare images", "add --no-root and --kernel PATH")
    config = VmConfig(
        memory=parse_memory(given.memory),
        cpus=given.cpus,
        cpu=given.cpu,
        engine=given.engine,
        kernel=Path(given.kernel) if given.kernel is not None else None,
        modules=Path(given.modules) if given.modules is not None else None,
        root=given.root,
        rw=tuple(Path(path) for path in given.rw),
        shares=tuple(Share.parse(text) for text in given.share),
        append=given.append,
        verbose=given.boot_log,
        stats=given.stats,
        gdb=GdbListen.parse(given.gdb) if given.gdb is not None else None,
        trace=Trace.parse(given.trace) if given.trace is not None else None,
    )
    env, timeout = parse_environment(given.env), given.seconds()
    from barevisor.cli.session import Session

    return Session(
        config, tuple(given.command), env=env, cwd=given.cwd, timeout=timeout, tty=given.tty,
        boot_log=given.boot_log,
    ).run()  # fmt: skip
