"""A booted Linux that goes on on the other engine, with its devices and what runs in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from barevisor import EngineError, Vm

SCRIPT = "n=0; while read -r line; do n=$((n + 1)); echo $n $line; done"


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with Vm(engine="kvm", cpu="common", memory="256M") as vm:
        yield vm


def test_a_shell_counts_on_across_engines(vm: Vm) -> None:
    with vm.popen(["sh", "-c", SCRIPT]) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        for number, engine in enumerate(("kvm", "bt", "kvm", "bt", "kvm"), 1):
            if engine != vm.engine_name:
                vm.move(engine)
            shell.stdin.write(engine.encode() + b"\n")
            shell.stdin.flush()
            assert shell.stdout.readline() == f"{number} {engine}\n".encode()
        shell.stdin.close()
        assert shell.wait(60) == 0


def test_new_commands_and_clocks_after_a_move(vm: Vm) -> None:
    before = float(vm.run(["cut", "-d ", "-f1", "/proc/uptime"], timeout=60).stdout)
    vm.move("bt")
    done = vm.run(["sh", "-c", "sleep 0.2; cut -d' ' -f1 /proc/uptime; ls / | wc -l"], timeout=120)
    after, entries = map(float, done.stdout.split())
    assert (done.returncode, done.stderr) == (0, b"")
    assert before < after < before + 120
    assert entries > 5
    vm.move("kvm")
    assert vm.run(["true"], timeout=60).returncode == 0


def test_a_guest_of_the_host_s_own_cpu_is_refused_and_goes_on() -> None:
    with Vm(engine="kvm", memory="256M") as vm:
        with pytest.raises(EngineError, match=r"cannot go on on bt: .*CPUID differs in leaf 0x0,"):
            vm.move("bt")
        assert vm.run(["true"], timeout=60).returncode == 0
