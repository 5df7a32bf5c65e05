"""The agent's own program and its client, on this machine: the compiled /init serves a socket
when it is not process 1, so nothing here needs a guest."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from barevisor.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ConfigError,
    GuestError,
    HostError,
)
from barevisor.guest.agent import AgentClient, GuestProcess
from barevisor.guest.init import wire

ENV = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
SOON = 10.0
BIG_ENOUGH = 4 << 20
BIG = os.urandom(1 << 20) * 10


class Rig:
    """The agent in a process of its own, and a thread that plays the device."""

    def __init__(self, program: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [program, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self.socket = ours
        self.client = AgentClient(ours.sendall)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while data := self._receive():
            self.client.feed(data)
        self.client.fail(HostError("the guest is gone"))

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except OSError:
            return b""

    def spawn(self, *argv: str, **options: object) -> GuestProcess:
        settings = {"env": ENV, "timeout": SOON, **options}
        return self.client.spawn(list(argv), **settings)  # type: ignore[arg-type]

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.process.wait(SOON)
        self.thread.join(SOON)
        self.socket.close()


@pytest.fixture
def rig(program: Path) -> Iterator[Rig]:
    # Under nohup SIGHUP is ignored here; process 1, whose place the agent takes, has all as new.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    rig = Rig(program)
    signal.signal(signal.SIGHUP, before)
    yield rig
    rig.close()


def finish(process: GuestProcess, input: bytes = b"") -> tuple[bytes, bytes, int | None]:
    out, err = process.communicate(input, SOON)
    return out, err, process.returncode


def test_hello(rig: Rig) -> None:
    hello = rig.client.wait_ready(SOON)
    assert hello.pid == rig.process.pid
    assert 0 < hello.init_started <= hello.agent_ready


def test_three_streams(rig: Rig) -> None:
    process = rig.spawn("sh", "-c", "cat; echo err >&2; exit 7")
    assert finish(process, b"in\0\xff") == (b"in\0\xff", b"err\n", 7)


def test_ten_megabytes_through_cat(rig: Rig) -> None:
    out, err, code = finish(rig.spawn("cat"), BIG)
    assert (out == BIG, err, code) == (True, b"", 0)


def test_merged_and_without_stdin(rig: Rig) -> None:
    process = rig.spawn("sh", "-c", "echo a; echo b >&2; cat", merge=True, stdin=False)
    assert (process.stdin, process.stderr) == (None, None)
    assert finish(process) == (b"a\nb\n", b"", 0)


EXITS = [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", -9), ("kill -SEGV $$", -11)]


@pytest.mark.parametrize(("script", "code"), EXITS)
def test_exit_codes(rig: Rig, script: str, code: int) -> None:
    assert rig.spawn("sh", "-c", script).wait(SOON) == code


def test_environment_folder_and_arguments(rig: Rig, tmp_path: Path) -> None:
    script = 'pwd; echo "$A"; printf "%s|" "$@"'
    process = rig.spawn(
        "sh", "-c", script, "x", "a b", "", "é", env={"A": "1 =2", **ENV}, cwd=str(tmp_path)
    )
    assert finish(process)[0] == f"{tmp_path}\n1 =2\na b||é|".encode()


def test_only_its_own_descriptors(rig: Rig) -> None:
    held = [rig.spawn("cat") for _ in range(3)]
    out = finish(rig.spawn("sh", "-c", "ls /proc/self/fd"))[0]
    assert out.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own
    for process in held:
        process.kill()
        assert process.wait(SOON) == -9


def test_signals_are_as_new(rig: Rig) -> None:
    out = finish(rig.spawn("sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status"))[0]
    assert out.split() == [b"SigBlk:", b"0" * 16, b"SigIgn:", b"0" * 16]


def test_what_cannot_start(rig: Rig, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    unknown = tmp_path / "unknown"
    unknown.write_bytes(b"\x01\x02")
    unknown.chmod(0o755)
    cases: list[tuple[type[Exception], tuple[str, ...], dict[str, object]]] = [
        (CommandNotFound, ("no-such-command",), {}),
        (CommandNotFound, ("/no/such/command",), {}),
        (CommandNotFound, ("",), {}),
        (CommandNotExecutable, (str(plain),), {}),
        (CommandNotExecutable, (str(unknown),), {}),
        (CommandNotExecutable, ("/",), {}),
        (CommandNotExecutable, ("plain",), {"env": {"PATH": f"/none:{tmp_path}:/plain"}}),
        (ConfigError, ("true",), {"cwd": "/no/such/folder"}),
    ]
    for error, argv, options in cases:
        with pytest.raises(error):
            rig.spawn(*argv, **options)
    assert rig.spawn("true").wait(SOON) == 0


PATHS = [
    ("second folder", "/none:/usr/bin:/bin", "/"),
    ("empty entry is here", "/none:", "/bin"),
    ("leading colon", ":/none", "/bin"),
]


@pytest.mark.parametrize(("path", "cwd"), [c[1:] for c in PATHS], ids=[c[0] for c in PATHS])
def test_path_of_the_command(rig: Rig, path: str, cwd: str) -> None:
    assert rig.spawn("true", env={"PATH": path}, cwd=cwd).wait(SOON) == 0


def test_no_path_has_a_default(rig: Rig) -> None:
    assert rig.spawn("true", env={}).wait(SOON) == 0


def test_too_large_and_malformed_requests(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="KiB"):
        rig.spawn("true", "x" * (wire.MAX_PAYLOAD + 1))
    with pytest.raises(ConfigError, match="NUL"):
        rig.spawn("tr\0ue")
    with pytest.raises(ConfigError, match="no command"):
        rig.spawn()


def test_a_large_argument(rig: Rig) -> None:
    out = finish(rig.spawn("sh", "-c", 'printf %s "$1" | wc -c', "x", "y" * 100000))[0]
    assert int(out) == 100000


def test_a_slow_reader_stops_the_writer_and_nobody_else(rig: Rig) -> None:
    slow = rig.spawn("cat", "/dev/zero")
    while len(slow.stdout._data) < wire.OUTPUT_WINDOW:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(slow.stdout._data) == wire.OUTPUT_WINDOW
    assert finish(rig.spawn("cat"), BIG[: 1 << 20])[0] == BIG[: 1 << 20]
    assert slow.stdout.read(10) == bytes(10)
    slow.kill()
    assert slow.wait(SOON) == -9


def test_stdin_nobody_reads_blocks_its_writer_only(rig: Rig) -> None:
    stuck = rig.spawn("sleep", "100")
    assert stuck.stdin is not None
    written = 0
    with suppress(TimeoutError):
        while written < BIG_ENOUGH:
            written += stuck.stdin.write_for(bytes(32768), 0.3)
    assert written <= 2 * wire.STDIN_WINDOW  # the ring here, and a pipe
    assert finish(rig.spawn("cat"), b"x")[0] == b"x"
    stuck.kill()
    stuck.wait(SOON)


def test_closed_stdin_is_a_broken_pipe(rig: Rig) -> None:
    process = rig.spawn("sh", "-c", "exec <&-; sleep 100")
    stdin = process.stdin
    assert stdin is not None
    with pytest.raises(BrokenPipeError):
        [stdin.write_for(bytes(32768), SOON) for _ in range(100)]
    process.kill()
    process.wait(SOON)


def test_closed_stdout_is_a_broken_pipe_for_the_command(rig: Rig) -> None:
    process = rig.spawn("cat", "/dev/zero")
    process.stdout.close()
    assert process.wait(SOON) == -signal.SIGPIPE


def test_signals_to_the_group_and_to_one(rig: Rig) -> None:
    script = "trap 'echo got; exit 3' TERM; sleep 100 & wait"
    process = rig.spawn("sh", "-c", script)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM, group=False)
    assert process.stdout.read(4) == b"got\n"
    assert process.wait(SOON) == 3
    assert not process.stdout.ended  # sleep holds it
    process.kill()
    process.until(lambda: process.done, SOON)
    assert process.stdout.read() == b""


def test_exit_does_not_wait_for_descendants(rig: Rig) -> None:
    process = rig.spawn("sh", "-c", "sleep 100 & echo hi; head -c 100000 /dev/zero")
    out, _ = process.communicate(b"", SOON, to_end=False)
    assert out == b"hi\n" + bytes(100000)
    process.kill()


def test_a_terminal(rig: Rig) -> None:
    process = rig.spawn("sh", "-c", "stty size; tty; read x; echo got $x; stty size",
                        tty=True, rows=33, columns=101)  # fmt: skip
    assert process.stdin is not None
    head = b""
    while head.count(b"\n") < 2:
        head += process.stdout.read_for(100, SOON)
    size, name = head.split(b"\r\n")[:2]
    assert (size, name.startswith(b"/dev/pts/")) == (b"33 101", True)
    process.resize(50, 120)
    process.stdin.write(b"word\n")
    out, _ = process.communicate(b"", SOON)
    assert out.endswith(b"got word\r\n50 120\r\n")
    assert process.returncode == 0


def test_a_terminal_interrupts_and_ends(rig: Rig) -> None:
    process = rig.spawn("sleep", "100", tty=True)
    assert process.stdin is not None
    process.stdin.write(b"\x03")
    assert process.wait(SOON) == -signal.SIGINT
    assert finish(rig.spawn("cat", tty=True), b"a\n") == (b"a\r\na\r\n", b"", 0)


def test_many_at_once_and_one_too_many(rig: Rig) -> None:
    processes = [rig.spawn("cat") for _ in range(wire.MAX_COMMANDS)]
    with pytest.raises(ConfigError, match="64 commands already"):
        rig.spawn("cat")
    for i, process in enumerate(processes):
        assert finish(process, b"%d" % i) == (b"%d" % i, b"", 0)
    assert rig.spawn("true").wait(SOON) == 0


def test_many_one_after_another(rig: Rig) -> None:
    for _ in range(200):
        assert rig.spawn("/bin/true").wait(SOON) == 0
    end = time.monotonic() + SOON
    while rig.client._processes and time.monotonic() < end:
        time.sleep(0.01)  # a command ends before its streams are known to be closed
    assert not rig.client._processes


def test_from_asyncio(rig: Rig) -> None:
    async def run() -> tuple[bytes, int | None]:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        process = rig.client.start(["sh", "-c", "echo hi; exit 4"], env=ENV)
        process.add_listener(lambda: loop.call_soon_threadsafe(changed.set))
        out = b""
        while not process.done:
            await changed.wait()
            changed.clear()
            out += process.stdout.read_now(100) or b""
        return out, process.returncode

    assert asyncio.run(run()) == (b"hi\n", 4)


def test_sync(rig: Rig) -> None:
    rig.client.sync(SOON)


def test_power_off_ends_the_commands(rig: Rig) -> None:
    process = rig.spawn("sleep", "100")
    rig.client.power_off()
    rig.process.wait(SOON)
    with pytest.raises(HostError, match="gone"):
        process.wait(SOON)
    deadline = time.monotonic() + SOON
    while Path(f"/proc/{process.pid}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            break  # a zombie that nobody reaped yet
        time.sleep(0.01)
    assert time.monotonic() < deadline


BROKEN_HEADS = {
    "unknown kind": bytes((0, 0, 0, 0, 99, 0, 0, 0)),
    "oversized": (wire.MAX_PAYLOAD + 1).to_bytes(4, "little") + bytes((5, 0, 0, 0)),
}


@pytest.mark.parametrize("head", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
def test_the_agent_ends_on_a_broken_frame(rig: Rig, head: bytes) -> None:
    process = rig.spawn("cat")
    rig.client._send(head + process._id.to_bytes(4, "little"))
    assert rig.process.wait(SOON) == 1
    with pytest.raises(HostError):
        process.wait(SOON)


def test_frames_cut_anywhere(rig: Rig) -> None:
    rig.client.wait_ready(SOON)
    whole = rig.client._send
    rig.client._send = lambda data: [whole(bytes([byte])) for byte in data] and None
    assert finish(rig.spawn("cat"), b"slow")[0] == b"slow"


def test_unknown_ids_are_ignored(rig: Rig) -> None:
    rig.client.send(wire.DATA, 0, 999, b"x")
    rig.client.send(wire.SIGNAL, 0, 999, bytes(4))
    assert rig.spawn("true").wait(SOON) == 0


def test_guest_errors_reach_every_waiter() -> None:
    client = AgentClient(lambda data: None)
    with pytest.raises(GuestError):
        client.feed(b"\xff" * 12)
    with pytest.raises(GuestError):
        client.wait_ready(SOON)
    with pytest.raises(GuestError):
        client.start(["true"], env=ENV)
