"""The peer: a guest of ours on QEMU's TCG and its virtiofsd, driven by the same agent.

Same kernel, same initramfs, same commands, so what differs is the machine. Needs root (virtiofsd)
and the packages qemu-system-x86 and qemu-system-common (or virtiofsd).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from barevisor.errors import HostError
from barevisor.guest.agent import AgentClient

QEMU = "qemu-system-x86_64"
VIRTIOFSD_PLACES = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
START_SECONDS = 10.0
RUST_OPTIONS = ("--cache=auto", "--sandbox=chroot")
C_OPTIONS = "cache=auto,sandbox=chroot"
COMMAND_LINE = "console=ttyS0 quiet panic=-1"


def virtiofsd() -> str | None:
    """The server's path, or None."""
    places = (*VIRTIOFSD_PLACES, shutil.which("virtiofsd"))
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def missing() -> str:
    """ "" when the peer can run here, else what it lacks, in one line."""
    if shutil.which(QEMU) is None:
        return f"needs {QEMU}"
    if virtiofsd() is None:
        return "needs virtiofsd"
    return "" if os.geteuid() == 0 else "needs root for virtiofsd"


class QemuGuest:
    """A QEMU guest with the agent's port and a virtio-fs device for each of `sources` (tag to
    folder). The servers listen before QEMU starts: `launched` is when QEMU did, in monotonic
    seconds. `close` it in any case."""

    def __init__(
        self,
        folder: Path,
        kernel: Path,
        initrd: bytes,
        sources: Mapping[str, str],
        *,
        command_line: str = COMMAND_LINE,
        machine: str = "q35",
        memory_mib: int = 512,
        options: Sequence[str] = (),
    ) -> None:
        self.folder, self._stack = folder, ExitStack()
        (folder / "initrd").write_bytes(initrd)
        arguments = [
            QEMU, "-machine", f"{machine},accel=tcg,memory-backend=ram", "-cpu", "max",
            "-m", str(memory_mib), "-display", "none", "-nodefaults", "-no-reboot",
            "-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on",
            "-serial", f"file:{folder}/console",
            "-kernel", str(kernel), "-initrd", f"{folder}/initrd", "-append", command_line,
            "-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off",
            "-device", "virtio-serial-pci,disable-legacy=on",
            "-device", "virtserialport,chardev=agent,name=barevisor.agent",
            "-device", "virtio-rng-pci,disable-legacy=on", *options,
        ]  # fmt: skip
        try:
            for tag, source in sources.items():
                self._serve(tag, source)
                arguments += ["-chardev", f"socket,id={tag},path={folder}/{tag}"]
                arguments += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
            self.launched = time.monotonic()
            self.process = self._spawn(arguments, None)
            self._socket = self._connect(folder / "agent")
        except BaseException:
            self._stack.close()
            raise
        self.client = AgentClient(self._socket.sendall)
        self._thread = threading.Thread(target=self._receive, name="qemu-agent")
        self._thread.start()

    def _spawn(self, arguments: list[str], errors: int | None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=errors)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _serve(self, tag: str, source: str) -> None:
        program = virtiofsd()
        if program is None:
            raise HostError("virtiofsd is not here", "install qemu-system-common or virtiofsd")
        path = self.folder / tag
        words = [program, f"--socket-path={path}", "-o", f"source={source},{C_OPTIONS}"]
        if not program.startswith("/usr/lib/qemu/"):  # the Rust one has options of its own
            words = [program, f"--socket-path={path}", f"--shared-dir={source}", *RUST_OPTIONS]
        server = self._spawn(words, subprocess.DEVNULL)
        limit = time.monotonic() + START_SECONDS
        while not path.exists():
            if server.poll() is not None or time.monotonic() > limit:
                raise HostError(f"{program} does not serve {source}")
            time.sleep(0.005)

    def _connect(self, path: Path) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        limit = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < limit:
            try:
                connection.connect(str(path))
            except OSError:
                time.sleep(0.005)
                continue
            return connection
        connection.close()
        raise HostError(f"{QEMU} did not start", "its words are on stderr")

    def _receive(self) -> None:
        try:
            while data := self._socket.recv(65536):
                self.client.feed(data)
        except OSError as e:
            self.client.fail(HostError(f"QEMU is gone: {e.strerror}"))
        self.client.fail(HostError("the guest is gone"))

    def console(self) -> str:
        """What the serial console printed so far."""
        return (self.folder / "console").read_text(errors="replace")

    def close(self) -> None:
        """End QEMU and the servers. Idempotent."""
        self._stack.close()
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> QemuGuest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()
