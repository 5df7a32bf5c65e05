"""`bare run`: a command, or a shell, in a Linux guest; or a bare image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from barevisor.errors import TESTDEV_ERROR, BarevisorError, ConfigError

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND", help="Without one: a shell. With --no-root: "
                   "the image's arguments.", show_default=False),
]  # fmt: skip
Engine = Annotated[str, typer.Option(help="kvm, bt or auto.", metavar="ENGINE")]
Cpus = Annotated[int, typer.Option(help="Virtual CPUs.", metavar="N")]
Memory = Annotated[str, typer.Option(help="Guest memory: 512M, 2G.", metavar="SIZE")]
Kernel = Annotated[
    Path | None,
    typer.Option(help="A bzImage or vmlinux; by default /boot's newest, else a fetched one.",
                 metavar="PATH", show_default=False),
]  # fmt: skip
Modules = Annotated[
    Path | None,
    typer.Option(help="The kernel's modules, as in /lib/modules/VERSION.", metavar="DIR",
                 show_default=False),
]  # fmt: skip
Root = Annotated[
    str,
    typer.Option(help="host: this machine's files, or a folder; under a throw-away overlay.",
                 metavar="host|DIR"),
]  # fmt: skip
Rw = Annotated[
    list[Path] | None,
    typer.Option(help="A folder of the host that the guest may write, at the same path. "
                 "The --root folder itself: a writable root.", metavar="DIR", show_default=False),
]  # fmt: skip
Shares = Annotated[
    list[str] | None,
    typer.Option("--share", help="A folder of the host, mounted in the guest.",
                 metavar="HOST:GUEST[:ro]", show_default=False),
]  # fmt: skip
Cwd = Annotated[
    str | None,
    typer.Option(help="The command's folder; by default this one, where the guest has it.",
                 metavar="DIR", show_default=False),
]  # fmt: skip
Env = Annotated[
    list[str] | None,
    typer.Option(help="An environment variable; K alone takes the caller's.", metavar="K=V",
                 show_default=False),
]  # fmt: skip
Timeout = Annotated[
    float | None,
    typer.Option(help="End everything after this time, with code 124.", metavar="SECONDS",
                 show_default=False),
]  # fmt: skip
Tty = Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")]
BootLog = Annotated[bool, typer.Option("--boot-log", help="Kernel messages and times on stderr.")]
Append = Annotated[str, typer.Option(help="More kernel parameters.", metavar="TEXT")]
NoRoot = Annotated[bool, typer.Option("--no-root", help="--kernel is a bare image: multiboot, "
                                      "PVH or Linux; its serial port is stdout.")]  # fmt: skip
Initrd = Annotated[
    Path | None,
    typer.Option(help="With --no-root: the image's one module.", metavar="PATH",
                 show_default=False),
]  # fmt: skip
TestDev = Annotated[
    bool,
    typer.Option("--testdev", help="With --no-root: the devices that test images expect."),
]  # fmt: skip
DebugCon = Annotated[
    bool, typer.Option("--debugcon", help="With --no-root: port 0xe9 writes to stderr.")
]  # fmt: skip


def run(
    command: Words = None,
    engine: Engine = "auto",
    cpus: Cpus = 1,
    memory: Memory = "512M",
    kernel: Kernel = None,
    modules: Modules = None,
    root: Root = "host",
    rw: Rw = None,
    share: Shares = None,
    cwd: Cwd = None,
    env: Env = None,
    timeout: Timeout = None,
    tty: Tty = False,
    boot_log: BootLog = False,
    append: Append = "",
    no_root: NoRoot = False,
    initrd: Initrd = None,
    testdev: TestDev = False,
    debugcon: DebugCon = False,
) -> int:
    """Run a command in a Linux guest; its exit code is the command's.

    The guest sees this machine's files and cannot change them: what it writes is gone with it.
    Without a command it is a shell on this terminal; ^] three times ends a guest that hangs.
    """
    given = Given(
        tuple(command or ()), engine, cpus, memory, kernel, modules, root, tuple(rw or ()),
        tuple(share or ()), cwd, tuple(env or ()), timeout, tty, boot_log, append, initrd,
        testdev, debugcon,
    )  # fmt: skip
    try:
        return _image(given) if no_root else _linux(given)
    except BarevisorError as e:
        if testdev:
            e.exit_code = TESTDEV_ERROR
        raise


@dataclass(frozen=True, slots=True)
class Given:
    """The command line, as typer read it."""

    command: tuple[str, ...]
    engine: str
    cpus: int
    memory: str
    kernel: Path | None
    modules: Path | None
    root: str
    rw: tuple[Path, ...]
    share: tuple[str, ...]
    cwd: str | None
    env: tuple[str, ...]
    timeout: float | None
    tty: bool
    boot_log: bool
    append: str
    initrd: Path | None
    testdev: bool
    debugcon: bool

    def seconds(self) -> float | None:
        """The timeout. Raises ConfigError."""
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(
                f"a timeout of {self.timeout:g} s", "give a number of seconds above 0"
            )
        return self.timeout


def _image(given: Given) -> int:
    from barevisor.config import ImageConfig, parse_memory

    if given.kernel is None:
        raise ConfigError("--no-root needs an image", "give --kernel PATH")
    linux_only = {"--modules": given.modules, "--rw": given.rw, "--share": given.share,
                  "--cwd": given.cwd, "--env": given.env, "--tty": given.tty}  # fmt: skip
    if wrong := [flag for flag, value in linux_only.items() if value]:
        raise ConfigError(f"{wrong[0]} is not for bare images", "leave --no-root out for Linux")
    config = ImageConfig(
        given.kernel,
        (*given.append.split(), *given.command),
        given.initrd,
        parse_memory(given.memory),
        given.cpus,
        given.engine,
        testdev=given.testdev,
        debugcon=given.debugcon,
    )
    from barevisor.cli.image import run_image

    return run_image(config, given.seconds())


def _linux(given: Given) -> int:
    from barevisor.config import Share, VmConfig, parse_environment, parse_memory

    image_only = {"--initrd": given.initrd, "--testdev": given.testdev,
                  "--debugcon": given.debugcon}  # fmt: skip
    if wrong := [flag for flag, value in image_only.items() if value]:
        raise ConfigError(f"{wrong[0]} is for bare images", "add --no-root and --kernel PATH")
    config = VmConfig(
        memory=parse_memory(given.memory),
        cpus=given.cpus,
        engine=given.engine,
        kernel=given.kernel,
        modules=given.modules,
        root=given.root,
        rw=given.rw,
        shares=tuple(Share.parse(text) for text in given.share),
        append=given.append,
        verbose=given.boot_log,
    )
    env, timeout = parse_environment(given.env), given.seconds()
    from barevisor.cli.session import Session

    return Session(
        config, given.command, env=env, cwd=given.cwd, timeout=timeout, tty=given.tty,
        boot_log=given.boot_log,
    ).run()  # fmt: skip
