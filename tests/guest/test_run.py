"""`bare run` as its issue shows it, in processes of their own."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from barevisor.testing.bare import LIMIT, Bare


def test_uname(bare: Bare) -> None:
    done = bare.run("run", "--", "uname", "-s")
    assert (done.stdout, done.stderr, done.returncode) == (b"Linux\n", b"", 0)


def test_streams_and_exit_code(bare: Bare) -> None:
    script = "wc -c; printf '\\0\\377'; echo problem >&2; exit 7"
    done = bare.run("run", "--env", "A=b", "sh", "-c", script, input=b"x" * 100_000)
    assert done.stdout == b"100000\n\0\xff"
    assert (done.stderr, done.returncode) == (b"problem\n", 7)


def test_a_command_that_is_not_there(bare: Bare) -> None:
    done = bare.run("run", "--", "no-such-command")
    assert done.returncode == 127
    assert done.stderr == b"error: no-such-command: no such command in the guest\n"


def test_a_timeout_of_a_command(bare: Bare) -> None:
    started = time.monotonic()
    done = bare.run("run", "--timeout", "25", "--", "sleep", "1000")
    assert done.returncode == 124
    assert done.stderr == b"error: sleep did not end within 25 s\n"
    assert 25 <= time.monotonic() - started < 32


def test_a_guest_that_does_not_start(bare: Bare) -> None:
    done = bare.run("run", "--timeout", "3", "--append", "initcall_debug maxcpus=0 rdinit=/m/00.ko",
                    "--", "true")  # fmt: skip
    assert done.returncode in (124, 125)
    assert b"RIP:" in done.stderr


def test_boot_log(bare: Bare) -> None:
    done = bare.run("run", "--boot-log", "--", "true")
    text = done.stderr.decode()
    assert done.returncode == 0
    assert "[guest] [    0.000000] Linux version" in text
    for phase in ("first instruction", "kernel to init", "agent ready", "command", "total"):
        assert phase in text


def test_an_interrupt_reaches_the_command_first(bare: Bare) -> None:
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    process = bare.start("run", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert (out, err, process.returncode) == (b"caught\n", b"", 5)


BUSY = "for n in 1 2 3 4; do while :; do :; done & done; wait"


@pytest.mark.parametrize(
    ("cpus", "work"),
    [
        pytest.param("1", "sleep 1000", id="asleep"),
        pytest.param("4", BUSY, id="four-busy-cpus", marks=pytest.mark.several_cpus),
    ],
)
def test_two_interrupts_end_a_command_that_ignores_them(bare: Bare, cpus: str, work: str) -> None:
    script = f"trap '' INT; echo ready; {work}"
    process = bare.start("run", "--cpus", cpus, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert time.monotonic() - started < 2


def test_a_reader_that_goes_away(bare: Bare) -> None:
    with bare.start("run", "--", "yes", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(LIMIT) == 128 + signal.SIGPIPE


def test_a_folder_as_root(bare: Bare, tmp_path: Path) -> None:
    """A static program is all that a root needs: the agent's own."""
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("needs busybox-static")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").write_bytes(busybox.read_bytes())
    (tmp_path / "bin" / "sh").chmod(0o755)
    done = bare.run("run", "--root", str(tmp_path), "--rw", str(tmp_path), "--", "/bin/sh", "-c",
                    "echo written > /file; pwd")  # fmt: skip
    assert (done.stdout, done.returncode) == (b"/\n", 0)
    assert (tmp_path / "file").read_text() == "written\n"


def test_a_shell_at_a_terminal(bare: Bare) -> None:
    """Raw mode and back, the window's size, ^C for the guest, the shell's exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("<HHHH", 33, 99, 0, 0))
    before = termios.tcgetattr(theirs)
    bare.environment.update(SHELL="/bin/sh", PS1="$ ")
    process = bare.start("run", stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    try:
        talk = Talk(ours)
        talk.expect(b"# ")
        talk.type(b"stty size\r", b"33 99")
        talk.type(b"sleep 1000\r", b"1000")
        time.sleep(1.0)
        talk.type(b"\x03", b"# ")
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("<HHHH", 20, 50, 0, 0))
        process.send_signal(signal.SIGWINCH)
        time.sleep(0.5)
        talk.type(b"stty size\r", b"20 50")
        talk.type(b"exit 3\r", b"exit")
        assert process.wait(LIMIT) == 3
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(theirs)


class Talk:
    """The person at the terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._seen = b""

    def expect(self, text: bytes) -> None:
        end = time.monotonic() + LIMIT
        os.set_blocking(self._fd, False)
        while text not in self._seen:
            assert time.monotonic() < end, f"no {text!r} in {self._seen!r}"
            try:
                self._seen += os.read(self._fd, 4096)
            except BlockingIOError:
                time.sleep(0.05)
        self._seen = self._seen.partition(text)[2]

    def type(self, keys: bytes, answer: bytes) -> None:
        os.write(self._fd, keys)
        self.expect(answer)
