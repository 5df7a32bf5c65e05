"""The real gdb on a bare image and on a Linux guest, and traces of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from barevisor import Vm
from barevisor.config import ImageConfig, Trace
from barevisor.errors import EngineError
from barevisor.image_vm import ImageVm
from barevisor.testing import images
from barevisor.testing.asm import assemble
from barevisor.testing.bare import Bare
from barevisor.testing.gdb_client import GdbClient
from barevisor.testing.pace import SLOWER

pytestmark = pytest.mark.timeout(180)
SOON = 100.0 * SLOWER
GDB = shutil.which("gdb")
needs_gdb = pytest.mark.skipif(GDB is None, reason="no gdb (apt-get install gdb)")
AT = 0x10_0000
PROGRAM = """
    mov ecx, 3
    mov ebx, data
again:
    add dword [ebx], 7
behind:
    dec ecx
    jnz again
left:
    mov eax, [ebx]
    mov dx, 0x3F8
    out dx, al
    mov edx, 0xF4
last:
    xor eax, eax
    out dx, eax
    hlt
    data: dd 44
"""


@dataclass
class Gdb:
    """A gdb that runs a script."""

    process: subprocess.Popen[str]
    output: Path

    def wait_for(self, text: str, seconds: float = SOON) -> None:
        end = time.monotonic() + seconds
        while text not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.05)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> str:
        self.process.wait(SOON)
        return self.output.read_text()


@pytest.fixture
def gdb(tmp_path: Path) -> Iterator[object]:
    started: list[Gdb] = []

    def start(address: str, *commands: str) -> Gdb:
        script = tmp_path / "script.gdb"
        lines = ["set pagination off", "set confirm off", f"target remote {address}", *commands]
        script.write_text("\n".join([*lines, ""]))
        output = tmp_path / "gdb.out"
        with output.open("w") as out:
            process = subprocess.Popen(
                [GDB or "gdb", "-nx", "-batch", "-x", str(script)], stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        started.append(Gdb(process, output))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


@contextmanager
def booted(vm: Vm) -> Iterator[Vm]:
    """On its way, not ready yet; stopped in the end."""
    try:
        vm.boot()
        yield vm
    finally:
        vm.stop(sync=False)


@dataclass
class Image:
    """PROGRAM as a multiboot image."""

    path: Path
    labels: dict[str, int]

    def config(self, **fields: object) -> ImageConfig:
        return ImageConfig(self.path, memory=8 << 20, engine="bt", testdev=True, **fields)  # type: ignore[arg-type]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    start = AT + 12
    made = assemble(PROGRAM, start, 32)
    path = tmp_path / "image"
    path.write_bytes(images.multiboot_elf(made.code, AT))
    return Image(path, made.labels)


@needs_gdb
def test_bare_image(image: Image, bare: Bare, gdb: object, tmp_path: Path) -> None:
    labels = image.labels
    path = str(tmp_path / "socket")
    with bare.start("run", "--no-root", "--testdev", "--engine", "bt", "--memory", "8M",
                    "--kernel", str(image.path), "--gdb", f"unix:{path}") as vm:  # fmt: skip
        assert vm.stderr is not None
        assert vm.stderr.readline() == (
            f"gdb: target remote {path}; the guest waits for it\n".encode()
        )
        done = gdb(  # type: ignore[operator]
            path,
            "p/x $cr0", f"break *{labels['again']:#x}", "continue",
            "p $ecx", f"p *(int *){labels['data']:#x}", "stepi", "p/x $pc",
            f"p *(int *){labels['data']:#x}", "delete",
            f"watch *(int *){labels['data']:#x}", "continue", "p/x $pc", "delete",
            f"rwatch *(int *){labels['data']:#x}", "continue", "delete",
            f"hbreak *{labels['last']:#x}", "continue", "p/x $edx", "delete",
            "info registers", "info threads", "p $st0", "p $xmm1", "p $mxcsr", "p $ymm2",
            f"set var *(int *){labels['data']:#x} = 99", "set var $xmm3.uint128 = 5",
            "p $xmm3.uint128", "detach",
        ).finish()  # fmt: skip
        out, _ = vm.communicate(timeout=SOON)
    values = re.findall(r"^\$\d+ = (.*)$", done, re.MULTILINE)
    assert values[:6] == ["0x11", "3", "44", hex(labels["behind"]), "51", hex(labels["behind"])]
    assert "Hardware watchpoint 2" in done
    assert "Old value = 51" in done
    assert "New value = 58" in done
    assert "Hardware read watchpoint 3" in done
    assert "Hardware assisted breakpoint 4" in done
    assert values[6] == "0xf4"
    assert values[-1] == "5"
    assert "vCPU 0, runnable, CPL 0" in done
    assert out == bytes([65])
    assert vm.returncode == 1


BUSY = "trap 'echo done; exit 7' TERM; echo go; i=0; while :; do i=$((i+1)); done"
"""What it runs from "go" on it runs again, until it is ended."""
LINUX = """
echo RUNNING\\n
continue
echo STOPPED\\n
while ($cs & 3) == 0
stepi
end
break *$pc
continue
delete
awatch -l *(long *)$rsp
awatch -l *(long *)($rsp - 8)
continue
delete
watch -l *(long *)JIFFIES
continue
delete
stepi
stepi
monitor info registers
detach
"""


@needs_gdb
def test_linux_guest(kernel: None, gdb: object) -> None:
    """Stopped at its first instruction, on its way, and in a program; it never notices."""
    with Vm(engine="bt") as vm:  # the kernel lies at the same address in each
        found = vm.run(["grep", " jiffies$", "/proc/kallsyms"], timeout=SOON).stdout.split()[0]
    script = LINUX.replace("JIFFIES", f"0x{found.decode()}").splitlines()
    with booted(Vm(engine="bt", gdb=":0")) as vm:
        assert vm.gdb_address is not None
        client = gdb(vm.gdb_address, "p/x $efer", "stepi", "stepi", *script)  # type: ignore[operator]
        client.wait_for("RUNNING")
        vm.wait_ready(SOON)
        process = vm.popen(["sh", "-c", BUSY])
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(0.2)
        client.interrupt()
        text = client.finish()
        process.terminate()
        assert process.communicate(timeout=SOON)[0] == b"done\n"
        assert process.wait(SOON) == 7
        assert vm.run(["uname"], timeout=SOON).stdout == b"Linux\n"
    assert "= 0x500" in text
    assert "SIGINT" in text
    assert "Breakpoint 1," in text
    assert "Hardware access (read/write) watchpoint 3" in text
    assert re.search(r"^(Old value|Value) = ", text, re.M)
    assert "Hardware watchpoint 4" in text
    assert "New value" in text.partition("Hardware watchpoint 4")[2]
    assert "GDT:" in text
    assert "detached" in text


@pytest.mark.several_cpus
def test_two_cpus_of_a_linux_guest(kernel: None) -> None:
    """Hot code on both is stopped; one steps while the other is held, or runs."""
    with booted(Vm(engine="bt", cpus=2, gdb=":0,nowait")) as vm:
        vm.wait_ready(SOON)
        busy = [vm.popen(["sh", "-c", BUSY]) for _ in range(2)]
        time.sleep(0.3)
        assert vm.gdb_address is not None
        client = GdbClient(vm.gdb_address)
        client.ask(b"Hg2")
        held = client.register("rip")
        for _ in range(20):
            assert client.ask(b"vCont;s:1").startswith(b"T05thread:1;")
        client.ask(b"Hg2")
        assert client.register("rip") == held
        for _ in range(20):
            assert client.ask(b"vCont;s:2;c").startswith(b"T05thread:2;")
        client.ask(b"Hg2")
        watched = client.register("rsp") - 8
        assert client.ask(b"Z2,%x,8" % watched) == b"OK"
        for _ in range(3):
            assert b";watch:%x;" % watched in client.ask(b"vCont;c")
        assert client.ask(b"z2,%x,8" % watched) == b"OK"
        client.send(b"vCont;c")
        time.sleep(0.2)
        assert client.interrupt().startswith(b"T02")
        assert client.ask(b"D") == b"OK"
        client.close()
        for process in busy:
            process.terminate()
            assert process.communicate(timeout=SOON)[0] == b"go\ndone\n"
            assert process.wait(SOON) == 7


@needs_gdb
def test_kill_from_gdb_ends_the_guest(bare: Bare, gdb: object, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with bare.start("run", "--engine", "bt", "--gdb", f"unix:{path}", "--", "true") as vm:
        assert vm.stderr is not None
        vm.stderr.readline()
        gdb(path, "kill").finish()  # type: ignore[operator]
        _, error = vm.communicate(timeout=SOON)
    assert vm.returncode == 125
    assert b"killed by the debugger" in error


def test_a_waiting_guest_ends_with_its_timeout(bare: Bare) -> None:
    done = bare.run("run", "--engine", "bt", "--gdb", ":0", "--timeout", "1", "--", "true")
    assert done.returncode == 124
    assert re.match(rb"gdb: target remote 127\.0\.0\.1:\d+; the guest waits for it\n", done.stderr)


def test_nowait_does_not_wait(image: Image) -> None:
    from barevisor.config import GdbListen

    out = bytearray()
    with ImageVm(image.config(gdb=GdbListen(wait=False)), out.extend, out.extend) as vm:
        vm.start()
        assert vm.wait(20) == 1
    assert out == bytes([65])


def test_trace_of_exits(image: Image, tmp_path: Path) -> None:
    file = tmp_path / "exits"
    with ImageVm(image.config(trace=Trace("exits", file)), lambda b: None, lambda b: None) as vm:
        vm.start()
        assert vm.wait(20) == 1
    lines = file.read_text().splitlines()
    assert any("pio-write port=0x3f8 size=1 value=0x41" in line for line in lines)
    last = image.labels["last"] + 3
    assert any(f"rip={last:#x} pio-write port=0xf4 size=4 value=0x0" in line for line in lines)


def test_trace_of_blocks(image: Image, tmp_path: Path) -> None:
    file = tmp_path / "blocks"
    with ImageVm(image.config(trace=Trace("blocks", file)), lambda b: None, lambda b: None) as vm:
        vm.start()
        assert vm.wait(20) == 1
    lines = file.read_text().splitlines()
    again, left = image.labels["again"], image.labels["left"]
    assert lines[0].startswith(f"cpu0 {AT + 12:016x} 32-bit cpl0 ")
    looped = f"cpu0 {again:016x} 32-bit cpl0 {left - again}"
    assert lines.count(looped) == 2


def test_trace_of_blocks_of_a_linux_guest(kernel: None, tmp_path: Path) -> None:
    file = tmp_path / "blocks"
    with booted(Vm(engine="bt", trace=f"blocks:{file}", root="none", memory="128M")):
        end = time.monotonic() + 60
        while time.monotonic() < end and (not file.exists() or file.stat().st_size < 1 << 22):
            time.sleep(0.05)
    with file.open() as lines:
        first = next(lines)
    assert re.fullmatch(r"cpu0 [0-9a-f]{16} 64-bit cpl0 \d+\n", first)


def test_kvm_refuses_a_trace_of_blocks(image: Image) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/kvm")
    config = ImageConfig(image.path, memory=8 << 20, engine="kvm", trace=Trace("blocks"))
    with pytest.raises(EngineError, match="cannot trace blocks"):
        ImageVm(config, lambda b: None, lambda b: None)
