"""`bare run` and Vm on a stock kernel, on a /dev/kvm that can run one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from barevisor import Vm
from barevisor.cpu.select import select
from barevisor.testing import images
from barevisor.testing.bare import LIMIT, Bare

SMALL = ("--memory", "256M")
LOOP = "66baf803 b055 ee b00a ee fa ebfe"
"""mov dx, 0x3f8; mov al, 'U'; out dx, al; mov al, 10; out dx, al; cli; jmp to itself."""


@pytest.fixture
def bare() -> Iterator[Bare]:
    with Bare(dict(os.environ)) as bare:
        yield bare


@pytest.fixture(scope="module", params=[1, 2], ids=["1 CPU", "2 CPUs"])
def vm(request: pytest.FixtureRequest) -> Iterator[Vm]:
    with Vm(cpus=request.param, memory="256M") as vm:
        yield vm


def test_the_probe_finds_a_kvm_that_runs_stock_kernels() -> None:
    engine, reason = select("auto")
    assert (engine.name, reason) == ("kvm", "/dev/kvm runs what a stock kernel needs")


def test_uname_in_a_process_of_its_own(bare: Bare) -> None:
    done = bare.run("run", *SMALL, "--engine", "kvm", "--", "uname", "-a")
    assert (done.stderr, done.returncode) == (b"", 0)
    assert done.stdout.startswith(b"Linux barevisor ")


def test_streams_and_exit_code_in_a_process_of_its_own(bare: Bare) -> None:
    script = "wc -c; printf '\\0\\377'; echo problem >&2; exit 7"
    done = bare.run("run", *SMALL, "--", "sh", "-c", script, input=b"x" * 100_000)
    assert done.stdout == b"100000\n\0\xff"
    assert (done.stderr, done.returncode) == (b"problem\n", 7)


def test_auto_takes_kvm(vm: Vm) -> None:
    assert vm.engine_name == "kvm"


def test_each_cpu_is_there_and_runs(vm: Vm) -> None:
    count = vm.config.cpus
    script = "grep -c ^processor /proc/cpuinfo; for n in $(seq $(nproc)); do taskset $n true; done"
    done = vm.run(["sh", "-c", script], timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (f"{count}\n".encode(), b"", 0)


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_exit_codes(vm: Vm, code: int) -> None:
    assert vm.run(["sh", "-c", f"exit {code}"], timeout=60).returncode == code


def test_a_command_that_a_signal_ends(vm: Vm) -> None:
    assert vm.run(["sh", "-c", "kill -9 $$"], timeout=60).returncode == -signal.SIGKILL


def test_a_megabyte_each_way(vm: Vm) -> None:
    data = bytes(range(256)) * 4096
    done = vm.run(["cat"], input=data, timeout=120)
    assert done.stdout == data


def test_commands_side_by_side(vm: Vm) -> None:
    with vm.popen(["cat"]) as first, vm.popen(["cat"]) as second:
        assert second.communicate(b"two", 60) == (b"two", b"")
        assert first.communicate(b"one", 60) == (b"one", b"")


def test_the_guest_sees_the_clock_and_kvm(vm: Vm) -> None:
    script = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; date +%s"
    begun = time.time()
    clock, now = vm.run(["sh", "-c", script], timeout=60).stdout.split()
    assert clock in (b"kvm-clock", b"tsc")
    assert begun - 5 <= float(now) <= time.time() + 5


def test_what_the_guest_writes_stays_in_it(vm: Vm) -> None:
    done = vm.run(["sh", "-c", "echo x > /etc/nothing && cat /etc/nothing"], timeout=60)
    assert done.stdout == b"x\n"
    assert not Path("/etc/nothing").exists()


def test_a_deadline_ends_a_busy_guest(bare: Bare) -> None:
    done = bare.run("run", *SMALL, "--timeout", "14", "--", "sh", "-c", "while :; do :; done")
    assert done.returncode == 124
    assert done.stderr.startswith(b"error: sh did not end within 14 s")


def test_an_interrupt_ends_a_guest_that_has_no_command_yet(bare: Bare) -> None:
    process = bare.start("run", *SMALL, "--engine", "kvm", "--boot-log", "--", "true")
    assert process.stderr is not None
    while b"Linux version" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, errors.decode()


def test_an_interrupt_ends_a_busy_command(bare: Bare) -> None:
    script = "echo up; while :; do :; done"
    process = bare.start("run", *SMALL, "--engine", "kvm", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, errors.decode()


@pytest.mark.parametrize("ending", ["interrupt", "deadline"])
def test_a_guest_that_hears_nothing_ends(bare: Bare, tmp_path: Path, ending: str) -> None:
    """Interrupts off and no exit: only a kick gets the CPU's thread back."""
    image = tmp_path / "loop"
    image.write_bytes(images.multiboot_elf(bytes.fromhex(LOOP)))
    words = ["run", "--engine", "kvm", "--no-root", "--memory", "4M", "--kernel", str(image)]
    if ending == "deadline":
        done = bare.run(*words[:1], "--timeout", "1", *words[1:])
        assert (done.returncode, done.stdout) == (124, b"U\n")
        assert done.stderr.endswith(b"error: the image did not end within 1 s\n")
        return
    process = bare.start(*words)
    assert process.stdout is not None
    assert process.stdout.readline() == b"U\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT) == (b"", b"")
    assert process.returncode == 130


def test_doctor_says_kvm(bare: Bare) -> None:
    done = bare.run("doctor", "--json")
    told = json.loads(done.stdout)
    checks = {check["name"]: check for check in told["checks"]}
    assert (told["engine"], checks["engine kvm"]["ok"]) == ("kvm", True)
