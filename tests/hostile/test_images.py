"""Bare images that end well, end badly, or do not end: what the user sees of each, on bt.

Also images that are no images: one line, a hint, an exit code, nothing left behind."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from barevisor.testing.bare import LIMIT, Bare
from barevisor.testing.images import bzimage, elf, multiboot_elf, pvh_elf

HLT = b"\xfa\xf4"
LOOP = b"\xfa\xeb\xfe"
COM1 = b"\x66\xba\xf8\x03"


def say(text: str) -> bytes:
    """mov dx, 0x3f8; then mov al, C; out dx, al for each character."""
    return COM1 + b"".join(bytes((0xB0, byte, 0xEE)) for byte in text.encode())


SAY_COMMAND_LINE = bytes.fromhex("8b7310") + COM1 + bytes.fromhex("ac84c07403eeebf8")
SAY_INPUT = bytes.fromhex("66bafd03 eca80174fb 66baf803 ec ee")
EXIT_3 = b"\xb0\x03\xe6\xf4" + LOOP


@dataclass(frozen=True)
class Case:
    """An image, how it is started, and what is seen."""

    name: str
    image: bytes
    code: int
    out: bytes = b""
    err: str = ""
    flags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    report: bool = False
    input: bytes = field(default=b"", repr=False)


TESTDEV = ("--testdev",)
CASES = [
    Case("multiboot halts", multiboot_elf(say("hello\n") + HLT), 0, b"hello\n"),
    Case("pvh halts", pvh_elf(say("pvh") + HLT, bits=32), 0, b"pvh"),
    Case("debug exit", multiboot_elf(say("t") + EXIT_3), 7, b"t", flags=TESTDEV),
    Case("reads its serial port", multiboot_elf(SAY_INPUT * 2 + HLT), 0, b"ab", input=b"ab"),
    Case("debug console", multiboot_elf(b"\xb0A\xe6\xe9" + HLT), 0, b"", "A",
         flags=("--debugcon",)),
    Case("power off", multiboot_elf(bytes.fromhex("66ba0006b034ee") + LOOP), 0),
    Case("halt with test devices", multiboot_elf(HLT), 250, err="halted", flags=TESTDEV,
         report=True),
    Case("triple fault", multiboot_elf(b"\x0f\x01\x1d\0\0\0\0\x0f\x0b"), 125, err="triple fault",
         report=True),
    Case("triple fault with test devices", multiboot_elf(b"\x0f\x01\x1d\0\0\0\0\x0f\x0b"), 250,
         err="triple fault", flags=TESTDEV, report=True),
    Case("reset", multiboot_elf(bytes.fromhex("66baf90cb006ee") + LOOP), 125, err="reset",
         report=True),
    Case("loops with interrupts off", multiboot_elf(say("x") + LOOP), 124, b"x", "1 s",
         flags=("--timeout", "1"), report=True),
    Case("loops, with test devices", multiboot_elf(LOOP), 250, err="1 s",
         flags=("--timeout", "1", *TESTDEV), report=True),
    Case("jumps into the void", multiboot_elf(b"\xb8\0\0\0\xd0\xff\xe0"), 125, report=True),
    Case("empty", b"", 121, err="empty"),
    Case("text", b"hello, world\n" * 1000, 121, err="not a kernel"),
    Case("truncated", multiboot_elf(HLT)[:60], 121, err="truncated"),
    Case("ELF for another machine", elf([], 0, machine=183), 121),
    Case("damaged bzImage", bzimage(b"\x1f\x8b" + b"x" * 60 + b"\0\0\1\0"), 121, err="damaged"),
    Case("not enough memory", multiboot_elf(HLT, 0x800_0000), 121, err="memory",
         flags=("--memory", "16M")),
    Case("halts, and another CPU was never started", multiboot_elf(say("hi\n") + HLT), 0, b"hi\n",
         flags=("--cpus", "2")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_image(case: Case, tmp_path: Path) -> None:
    image = tmp_path / "image.elf"
    image.write_bytes(case.image)
    bare = Bare({**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    done = bare.run("run", "--engine", "bt", "--no-root", "--kernel", str(image), *case.flags,
                    "--", *case.words, input=case.input)  # fmt: skip
    err = done.stderr.decode()
    assert (done.returncode, done.stdout) == (case.code, case.out), err
    assert case.err in err
    assert ("RIP:" in err) == case.report
    assert "Traceback" not in err


def test_arguments_follow_the_name(tmp_path: Path) -> None:
    image = tmp_path / "image.elf"
    image.write_bytes(multiboot_elf(SAY_COMMAND_LINE + HLT))
    done = Bare(dict(os.environ)).run(
        "run", "--engine", "bt", "--no-root", "--kernel", str(image), "--append", "a=1", "--", "b"
    )
    assert done.stdout == f"{image} a=1 b".encode()


def test_an_interrupt_ends_an_image_that_hangs(tmp_path: Path) -> None:
    image = tmp_path / "image.elf"
    image.write_bytes(multiboot_elf(say("\n") + LOOP))
    with Bare(dict(os.environ)) as bare:
        process = bare.start("run", "--engine", "bt", "--no-root", "--kernel", str(image))
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
        assert time.monotonic() - started < 2
