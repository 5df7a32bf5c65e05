"""`bare run`: a command, or a shell, in a Linux guest; or a bare image."""

from __future__ import annotations

from barevisor.cli import parser as line
from barevisor.cli.parser import Option, Parser
from barevisor.errors import TESTDEV_ERROR, BarevisorError, ConfigError

ABOUT = """Run a command in a Linux guest; its exit code is the command's.

The guest sees this machine's files and cannot change them: what it writes is
gone with it. Without a command it is a shell on this terminal; ^] three times
ends a guest that hangs."""

OPTIONS = (
    Option("engine", "ENGINE", "kvm, bt or auto. [default: auto]", "auto"),
    Option("cpus", "N", "Virtual CPUs. [default: 1]", 1, int),
    Option("cpu", "MODEL", "What CPU the guest sees: host, common (what both engines have), "
           "x86-64-v2, x86-64-v3. [default: host]", "host"),
    Option("memory", "SIZE", "Guest memory: 512M, 2G. [default: 512M]", "512M"),
    Option("kernel", "PATH",
           "A bzImage or vmlinux; by default /boot's newest, else a fetched one."),
    Option("modules", "DIR", "The kernel's modules, as in /lib/modules/VERSION."),
    Option("root", "host|DIR", "host: this machine's files, or a folder; under a throw-away "
           "overlay. [default: host]", "host"),
    Option("rw", "DIR", "A folder of the host that the guest may write, at the same path. The "
           "--root folder itself: a writable root.", many=True),
    Option("share", "HOST:GUEST[:ro]", "A folder of the host, mounted in the guest.", many=True),
    Option("cwd", "DIR", "The command's folder; by default this one, where the guest has it."),
    Option("env", "K=V", "An environment variable; K alone takes the caller's.", many=True),
    Option("timeout", "SECONDS", "End everything after this time, with code 124.", None, float),
    Option("tty", "", "Give the command a terminal.", short="t"),
    Option("boot-log", "", "Kernel messages and times on stderr."),
    Option("stats", "", "At the end, exits by kind with their times on stderr."),
    Option("append", "TEXT", "More kernel parameters.", ""),
    Option("gdb", "ADDRESS[,nowait]", "Serve gdb at :PORT (of this machine only), HOST:PORT or "
           "unix:PATH; the guest waits for it. :0 finds a port."),
    Option("trace", "exits|blocks[:FILE]", "A line for each exit from the guest, or (bt) for each "
           "block of code it runs, on stderr or in FILE."),
    Option("no-root", "", "--kernel is a bare image: multiboot, PVH or Linux; its serial port is "
           "stdout."),
    Option("initrd", "PATH", "With --no-root: the image's one module."),
    Option("testdev", "", "With --no-root: the devices that test images expect."),
    Option("debugcon", "", "With --no-root: port 0xe9 writes to stderr."),
)  # fmt: skip


class Given(line.Given):
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
    """Reads a Given. What follows the command's name is the command's own."""
    return Parser(
        "bare run", "[OPTIONS] [COMMAND]", ABOUT, OPTIONS, words="command", rest=True,
        words_help="Without one: a shell. With --no-root: the image's arguments.",
    )  # fmt: skip


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
    from barevisor.config import GdbListen, ImageConfig, Trace, parse_memory

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
        stats=given.stats,
        gdb=GdbListen.parse(given.gdb) if given.gdb is not None else None,
        trace=Trace.parse(given.trace) if given.trace is not None else None,
    )
    from barevisor.cli.image import run_image

    return run_image(config, given.seconds())


def _linux(given: Given) -> int:
    from barevisor.config import (
        GdbListen,
        Share,
        Trace,
        VmConfig,
        as_path,
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
        kernel=as_path(given.kernel) if given.kernel is not None else None,
        modules=as_path(given.modules) if given.modules is not None else None,
        root=given.root,
        rw=tuple(as_path(path) for path in given.rw),
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
