"""Vm with the agent's own program as a process of this machine instead of a guest: everything
above the machine, without an engine."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from barevisor import BarevisorError, GuestCrash, GuestError, GuestTimeout, Vm
from barevisor.board.machine import Outcome
from barevisor.guest.agent import AgentClient
from barevisor.guest.console import ConsoleLog

SOON = 20.0


class NativeMachine:
    """What Vm asks of a Machine; its guest is a process that serves a socket."""

    def __init__(self, program: Path, client: AgentClient, ours: socket.socket) -> None:
        self.ended = threading.Event()
        self.outcome: Outcome | BaseException = Outcome("stopped")
        self.client, self.socket, self.program = client, ours, program
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, paused: bool = False) -> None:
        ours, theirs = self.socket, self.theirs
        fd = theirs.fileno()
        self.process = subprocess.Popen([self.program, str(fd)], pass_fds=[fd])
        theirs.close()
        self.thread = threading.Thread(target=self._serve, args=(ours,))
        self.thread.start()

    theirs: socket.socket

    def _serve(self, ours: socket.socket) -> None:
        while data := self._receive(ours):
            self.client.feed(data)

    def _receive(self, ours: socket.socket) -> bytes:
        try:
            return ours.recv(65536)
        except OSError:
            return b""

    def end(self, outcome: Outcome | BaseException) -> None:
        self.outcome = outcome
        self.ended.set()

    def wait(self) -> Outcome:
        self.ended.wait()
        if isinstance(self.outcome, Outcome):
            return self.outcome
        raise self.outcome

    def report(self) -> str:
        return "RIP: here"

    def close(self) -> None:
        self.ended.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        assert self.process is not None
        self.process.wait(SOON)
        self.thread.join(SOON)
        self.socket.close()


class NativeVm(Vm):
    """A Vm whose guest is a process."""

    program: Path
    machine: NativeMachine

    def _assemble(self, engine: Any) -> Any:
        ours, theirs = socket.socketpair()
        client = AgentClient(ours.sendall)
        self.machine = NativeMachine(self.program, client, ours)
        self.machine.theirs = theirs
        return SimpleNamespace(machine=self.machine, client=client, close=self.machine.close)


@pytest.fixture
def vm(program: Path) -> Iterator[NativeVm]:
    NativeVm.program = program
    before = set(threading.enumerate())
    with NativeVm(engine="bt") as vm:
        yield vm
    assert set(threading.enumerate()) == before


def test_run(vm: NativeVm) -> None:
    done = vm.run(["sh", "-c", "cat; echo e >&2; exit 3"], input=b"x", env={"A": "1"}, timeout=SOON)
    assert (done.args[0], done.returncode, done.stdout, done.stderr) == ("sh", 3, b"x", b"e\n")
    assert vm.run(["pwd"], timeout=SOON).stdout.decode().strip() == os.getcwd()
    assert vm.hello is not None
    with pytest.raises(TypeError):
        vm.run("true")


def test_popen(vm: NativeVm) -> None:
    with vm.popen(["cat"]) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\nb\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"a\n"
        assert process.poll() is None
        assert process.communicate(b"c", SOON) == (b"b\nc", b"")
    assert process.returncode == 0


def test_an_exception_in_the_block_kills(vm: NativeVm) -> None:
    with pytest.raises(KeyError), vm.popen(["sleep", "1000"]) as process:
        raise KeyError
    assert process.wait(SOON) == -9


def test_timeouts(vm: NativeVm) -> None:
    with pytest.raises(GuestTimeout, match="sleep"):
        vm.run(["sleep", "1000"], timeout=0.1)
    process = vm.popen(["sleep", "1000"])
    with pytest.raises(GuestTimeout):
        process.wait(0.1)
    process.kill()
    assert process.wait(SOON) == -9
    process.close()
    vm.ping(SOON)


def test_arun(vm: NativeVm) -> None:
    async def work() -> None:
        done = await asyncio.gather(*(vm.arun(["echo", str(i)]) for i in range(5)))
        assert [d.stdout for d in done] == [b"%d\n" % i for i in range(5)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(vm.arun(["sleep", "1000"]), 0.2)
        with pytest.raises(GuestTimeout):
            await vm.arun(["sleep", "1000"], timeout=0.1)

    asyncio.run(work())


ENDS = [
    (Outcome("triple-fault", "vCPU 0"), GuestCrash, "triple fault"),
    (Outcome("internal-error", "bad"), GuestCrash, "bt engine gave up: bad"),
    (Outcome("reset"), GuestCrash, "reset itself"),
    (Outcome("poweroff"), GuestCrash, "powered off"),
    (Outcome("odd"), GuestCrash, "odd"),
    (ZeroDivisionError("ours"), ZeroDivisionError, "ours"),
]


@pytest.mark.parametrize(("end", "kind", "said"), ENDS, ids=[row[2] for row in ENDS])
def test_who_waits_learns_of_the_end(
    vm: NativeVm, end: Outcome | BaseException, kind: type[BaseException], said: str
) -> None:
    process = vm.popen(["sleep", "1000"])
    vm.machine.end(end)
    with pytest.raises(kind, match=said) as caught:
        process.communicate(timeout=SOON)
    if isinstance(caught.value, GuestCrash):
        assert "RIP: here" in caught.value.report


CONSOLES = [
    (b"[ 1.0] Kernel panic - not syncing: oh\r\nmore\n", GuestCrash, "panicked: oh"),
    (b"<2>barevisor-init: mount /lower: error 19\n", GuestError, "start: mount /lower: error 19"),
]


@pytest.mark.parametrize(("text", "kind", "said"), CONSOLES, ids=["panic", "init"])
def test_the_console_tells_why(vm: NativeVm, text: bytes, kind: type[Exception], said: str) -> None:
    vm._console.feed(text)
    vm.machine.end(Outcome("reset"))
    vm._watcher.join(SOON)  # type: ignore[union-attr]
    with pytest.raises(kind, match=said):
        vm.run(["true"])


def test_a_stopped_vm(vm: NativeVm) -> None:
    process = vm.popen(["sleep", "1000"])
    vm.stop()
    vm.stop()
    with pytest.raises(BarevisorError, match="stopped"):
        process.wait(SOON)
    with pytest.raises(BarevisorError, match="stopped"):
        vm.run(["true"])


def test_a_guest_that_does_not_start(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec cat <&$1 >/dev/null\n")
    silent.chmod(0o755)
    NativeVm.program = silent
    before = set(threading.enumerate())
    with pytest.raises(GuestTimeout, match="did not start within"):
        NativeVm(engine="bt").start(0.2)
    assert set(threading.enumerate()) == before


def test_console_log_is_bounded_and_printable() -> None:
    echoed: list[str] = []
    log = ConsoleLog(echoed.append)
    log.feed(b"\x1b[31mred\r\nhalf")
    assert log.lines() == ["?[31mred", "half"]
    log.feed(b"x" * 100_000)
    assert all(len(line) <= 500 for line in log.lines())
    assert len(log.lines()) <= 61
    log.feed(b"\nlast needle here\n")
    assert log.find("needle") == "needle here"
    assert log.find("absent") == ""
    assert echoed[0] == "?[31mred"
