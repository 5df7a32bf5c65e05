"""The Python API against a stock kernel: every promise of Vm, in one guest."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from barevisor import (
    BarevisorError,
    CommandNotExecutable,
    CommandNotFound,
    ConfigError,
    GuestCrash,
    GuestTimeout,
    Vm,
)
from barevisor.testing.pace import SLOWER

SOON = 60.0 * SLOWER
HOST_PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


def test_it_is_linux_of_its_own(vm: Vm) -> None:
    release = vm.run(["uname", "-r"], timeout=SOON).stdout.decode().strip()
    assert vm.engine_name in ("kvm", "bt")
    assert vm.run(["cat", "/proc/sys/kernel/hostname"]).stdout == b"barevisor\n"
    assert release == Path(vm._guest.kernel.image).parent.name or release  # type: ignore[union-attr]


def test_the_hosts_programs(vm: Vm) -> None:
    done = vm.run([HOST_PYTHON, "-c", "print(sum(range(10**6)))"], timeout=SOON)
    assert (done.stdout, done.stderr, done.returncode) == (b"499999500000\n", b"", 0)


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("exit 255", 255), ("kill -9 $$", -9)])
def test_exit_codes(vm: Vm, script: str, code: int) -> None:
    assert vm.run(["sh", "-c", script], timeout=SOON).returncode == code


def test_three_binary_streams(vm: Vm) -> None:
    every = bytes(range(256)) * 1000
    done = vm.run(["sh", "-c", "cat; printf '\\377\\0' >&2"], input=every, timeout=SOON)
    assert (done.stdout == every, done.stderr, done.returncode) == (True, b"\xff\0", 0)


def test_stdin_is_empty_unless_given(vm: Vm) -> None:
    assert vm.run(["wc", "-c"], timeout=SOON).stdout == b"0\n"


def test_the_callers_folder_and_environment(
    vm: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = vm.run(["sh", "-c", 'pwd; echo "$A"'], env={"A": "x y"}, timeout=SOON)
    assert done.stdout.decode() == f"{tmp_path}\nx y\n"
    assert vm.run(["pwd"], cwd="/usr", timeout=SOON).stdout == b"/usr\n"
    with pytest.raises(ConfigError, match="folder"):
        vm.run(["pwd"], cwd="/no/such", timeout=SOON)


def test_nothing_reaches_the_host(vm: Vm, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("host")
    script = f"echo guest > {kept}; echo new > {tmp_path}/new; rm -rf /usr/share/doc; cat {kept}"
    assert vm.run(["sh", "-c", script], timeout=SOON).stdout == b"guest\n"
    assert kept.read_text() == "host"
    assert not (tmp_path / "new").exists()


def test_commands_that_cannot_start(vm: Vm) -> None:
    with pytest.raises(CommandNotFound):
        vm.run(["no-such-command"])
    with pytest.raises(CommandNotExecutable):
        vm.run(["/etc/passwd"])
    with pytest.raises(ConfigError):
        vm.run([])


def test_check(vm: Vm) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        vm.run(["false"], check=True, timeout=SOON)


def test_a_timeout_ends_the_command_alone(vm: Vm) -> None:
    with pytest.raises(GuestTimeout, match="sleep"):
        vm.run(["sleep", "1000"], timeout=0.5)
    assert vm.run(["true"], timeout=SOON).returncode == 0


def test_several_at_a_time(vm: Vm) -> None:
    with vm.popen(["cat"]) as one, vm.popen(["cat"]) as two:
        for process, text in ((one, b"one\n"), (two, b"two\n"), (one, b"again\n")):
            assert process.stdin is not None
            process.stdin.write(text)
            process.stdin.flush()
            assert process.stdout.readline() == text
        assert one.poll() is None
    assert (one.returncode, two.returncode) == (0, 0)


def test_communicate_after_reading_a_part(vm: Vm) -> None:
    process = vm.popen(["sh", "-c", "printf 'a\\nb\\nc\\n'; cat"])
    assert process.stdout.readline() == b"a\n"
    assert process.stdin is not None
    process.stdin.write(b"d")
    assert process.communicate(b"e", timeout=SOON) == (b"b\nc\nde", b"")


def test_terminate_and_kill(vm: Vm) -> None:
    for end, code in (("terminate", -15), ("kill", -9)):
        process = vm.popen(["sleep", "1000"])
        getattr(process, end)()
        assert process.wait(SOON) == code
        process.close()


def test_asyncio(vm: Vm) -> None:
    async def many() -> list[bytes]:
        done = await asyncio.gather(*(vm.arun(["echo", str(i)]) for i in range(8)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(vm.arun(["sleep", "1000"]), 0.5)
        return [d.stdout for d in done]

    assert asyncio.run(many()) == [b"%d\n" % i for i in range(8)]


def test_the_guest_is_small_and_serves_itself(vm: Vm) -> None:
    mounts = vm.run(["cat", "/proc/mounts"], timeout=SOON).stdout.decode()
    kinds = {line.split()[1]: line.split()[2] for line in mounts.splitlines()}
    assert kinds["/"] == "overlay"
    assert {kinds[p] for p in ("/proc", "/sys", "/dev")} == {"proc", "sysfs", "devtmpfs"}


def test_an_idle_guest_sleeps(vm: Vm) -> None:
    vm.run(["true"], timeout=SOON)
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(2.0)
    assert time.process_time() - before < 0.1


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_a_panic_is_told_with_the_state_and_nothing_is_left(kernel: None) -> None:
    before = threads()
    with Vm() as vm:
        with pytest.raises(GuestCrash, match="sysrq triggered crash") as caught:
            vm.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], timeout=SOON)
        assert "RIP:" in caught.value.report
        assert "Kernel panic" in caught.value.report
        with pytest.raises(GuestCrash):
            vm.run(["true"])
        assert any("panic" in line for line in vm.console_tail())
    assert threads() == before
    with pytest.raises(BarevisorError, match="stopped"):
        vm.run(["true"])


def test_folders_that_the_guest_may_write(kernel: None, tmp_path: Path) -> None:
    (tmp_path / "rw").mkdir()
    (tmp_path / "ro").mkdir()
    (tmp_path / "ro" / "file").write_text("host")
    rw = tmp_path / "rw"
    with Vm(rw=[rw], shares=[f"{tmp_path}/ro:/mnt/there:ro"]) as vm:
        script = f"echo guest > {rw}/new; cat /mnt/there/file; echo x > /mnt/there/file || exit 3"
        done = vm.run(["sh", "-c", script], timeout=SOON)
        assert (done.stdout, done.returncode) == (b"host", 3)
    assert (rw / "new").read_text() == "guest\n"
    assert (tmp_path / "ro" / "file").read_text() == "host"
