"""The kvm engine on the real /dev/kvm: kicks, doorbells, state. Real mode: every KVM runs it."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Iterator

import pytest

from barevisor.cpu import engine
from barevisor.cpu.kvm.vcpu import KvmVcpu
from barevisor.cpu.kvm.vm import KvmEngine, KvmVm
from barevisor.cpu.select import select
from barevisor.errors import ConfigError, EngineError

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no usable /dev/kvm"),
    pytest.mark.timeout(20),
]
BELL = 0x00080000


class Machine:
    """64 KiB of RAM, one vCPU in real mode at 0x1000."""

    def __init__(self, irqchip: bool, cpus: int = 1) -> None:
        self.ram = mmap.mmap(-1, 0x10000)
        self.anchor = ctypes.c_char.from_buffer(self.ram)
        self.vm: KvmVm = KvmEngine().create_vm(engine.MachineSpec(cpus=cpus, irqchip=irqchip))
        self.vm.set_memory(0, 0, 0x10000, ctypes.addressof(self.anchor))
        self.vcpu = self.vm.create_vcpu(0)

    def load(self, code: str) -> None:
        raw = bytes.fromhex(code)
        self.ram[0x1000 : 0x1000 + len(raw)] = raw
        state = engine.CpuState()
        state.regs = engine.Registers(rip=0x1000, rsp=0x8000)
        self.vcpu.set_state(state)


@pytest.fixture(params=[False, True], ids=["no irqchip", "irqchip"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    m = Machine(request.param)
    yield m
    m.vm.close()


def test_kick_from_another_thread_ends_a_busy_loop(machine: Machine) -> None:
    machine.load("ebfe")
    timer = threading.Timer(0.1, machine.vcpu.kick)
    timer.start()
    assert machine.vcpu.run() == engine.Interrupted()
    timer.join()


def test_kick_before_run_is_kept_and_ends_one_run(machine: Machine) -> None:
    machine.load("e6e9 ebfe")
    machine.vcpu.kick()
    assert machine.vcpu.run() == engine.Interrupted()
    assert machine.vcpu.run() == engine.PioWrite(0xE9, 1, b"\0")


def test_kick_ends_a_cpu_that_waits_for_sipi() -> None:
    machine = Machine(irqchip=True, cpus=2)
    vcpu = machine.vm.create_vcpu(1)
    assert vcpu.get_state().mp_state == "init"
    timer = threading.Timer(0.1, vcpu.kick)
    timer.start()
    assert vcpu.run() == engine.Interrupted()
    timer.join()
    machine.vm.close()


def test_kicks_from_many_runs_on_changing_threads(machine: Machine) -> None:
    machine.load("ebfe")
    for _ in range(3):
        done: list[engine.Exit] = []
        thread = threading.Thread(target=lambda out=done: out.append(machine.vcpu.run()))
        thread.start()
        time.sleep(0.02)
        machine.vcpu.kick()
        thread.join(5)
        assert done == [engine.Interrupted()]


def test_hlt_without_interrupt_controllers_is_an_exit() -> None:
    machine = Machine(irqchip=False)
    machine.load("f4")
    assert machine.vcpu.run() == engine.Halted()
    machine.vm.close()


def test_doorbell_rings_without_an_exit(machine: Machine) -> None:
    rung = threading.Event()
    machine.vm.add_doorbell(BELL, 2, lambda value: rung.set())
    # mov ax, 0x8000 << 0; mov ds, ax is 0x80000; mov [0], ax; out 0xe9, al
    machine.load("b80080 8ed8 a30000 e6e9")
    assert machine.vcpu.run() == engine.PioWrite(0xE9, 1, b"\0")
    assert rung.wait(5)
    machine.vm.remove_doorbell(BELL)
    machine.load("b80080 8ed8 a30000 e6e9")
    assert machine.vcpu.run() == engine.MmioWrite(BELL, b"\x00\x80")


def test_stores_to_a_late_port_come_before_the_next_exit(machine: Machine) -> None:
    seen: list[tuple[str, bytes]] = []
    for name, port in (("a", 0x70), ("b", 0x72)):
        machine.vm.add_late_ports(port, 1, lambda at, data, name=name: seen.append((name, data)))
    # mov al, 1; out 0x70, al; inc ax; out 0x70, al; inc ax; out 0x72, al; out 0x70, ax; in al, 0x71
    machine.load("b001 e670 40 e670 40 e672 e770 e471")
    assert machine.vcpu.run() == engine.PioWrite(0x70, 2, b"\3\0")
    assert seen == [("a", b"\1\2"), ("b", b"\3")]
    assert machine.vcpu.run() == engine.PioRead(0x71, 1)
    # out 0x70, al; jmp $
    machine.load("e670 ebfe")
    timer = threading.Timer(0.2, machine.vcpu.kick)
    timer.start()
    assert machine.vcpu.run() == engine.Interrupted()
    timer.join()
    assert seen[2:] == [("a", b"\0")]


def test_stores_to_an_ignored_port_are_lost(machine: Machine) -> None:
    machine.vm.ignore_port(0xCF8, 4)
    # mov dx, 0xcf8; out dx, eax; inc dx; out dx, al
    machine.load("baf80c 66ef 42 ee")
    assert machine.vcpu.run() == engine.PioWrite(0xCF9, 1, b"\0")
    # mov dx, 0xcf8; out dx, ax
    machine.load("baf80c ef")
    assert machine.vcpu.run() == engine.PioWrite(0xCF8, 2, b"\0\0")


def test_more_late_stores_than_the_ring_holds_keep_their_order(machine: Machine) -> None:
    seen: list[int] = []
    machine.vm.add_late_ports(0x70, 1, lambda at, data: seen.extend(data))
    # l: out 0x70, al; inc al; jnz l; in al, 0x71
    machine.load("e670 fec0 75fa e471")
    while isinstance(done := machine.vcpu.run(), engine.PioWrite):
        seen.extend(done.data)
    assert done == engine.PioRead(0x71, 1)
    assert seen == list(range(256))


def test_state_after_an_exit_is_after_the_instruction(machine: Machine) -> None:
    machine.load("e560 40 e6e9")  # in ax, 0x60; inc ax; out 0xe9, al
    assert machine.vcpu.run() == engine.PioRead(0x60, 2)
    machine.vcpu.complete_read(b"\x34\x12")
    regs = machine.vcpu.get_regs()
    assert (regs.rip, regs.rax & 0xFFFF) == (0x1002, 0x1234)
    assert machine.vcpu.run() == engine.PioWrite(0xE9, 1, b"\x35")
    assert machine.vcpu.get_regs().rip == 0x1005


def test_whole_state_survives_the_round_trip(machine: Machine) -> None:
    machine.load("ebfe")
    before = machine.vcpu.get_state()
    before.regs.r15 = 0xFEDCBA9876543210
    before.dr = [0x1000, 0x2000, 0x3000, 0x4000]
    before.msrs[0xC0000102] = 0xFFFF800000001234
    machine.vcpu.set_state(before)
    after = machine.vcpu.get_state()
    assert before.tsc is not None
    assert after.tsc is not None
    assert after.tsc >= before.tsc
    after.tsc = before.tsc
    for msr in (0x3B,):
        after.msrs.pop(msr, None)
        before.msrs.pop(msr, None)
    if machine.vm.spec.irqchip:
        after.lapic = before.lapic
    assert after == before


def test_an_unknown_msr_is_named(machine: Machine) -> None:
    state = machine.vcpu.get_state()
    state.msrs[0x12345] = 1
    with pytest.raises(EngineError, match="no MSR 0x12345"):
        machine.vcpu.set_state(state)


def test_translate_without_paging_is_the_identity(machine: Machine) -> None:
    machine.load("ebfe")
    assert machine.vcpu.translate(0x1234) == 0x1234


def test_a_feature_that_kvm_lacks_is_named() -> None:
    with pytest.raises(EngineError, match="KVM here lacks no-such"):
        KvmEngine().create_vm(engine.MachineSpec(features=frozenset({"fpu", "no-such"})))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown CPU model 'z80'"):
        KvmEngine().create_vm(engine.MachineSpec(cpu_model="z80"))


def test_select_by_name() -> None:
    assert select("kvm")[0].name == "kvm"
    with pytest.raises(ConfigError, match="unknown engine 'xen'"):
        select("xen")


def test_probe_answers_within_its_time() -> None:
    started = time.monotonic()
    reason = KvmEngine().probe()
    assert time.monotonic() - started < 5
    assert reason == "" or reason.startswith("/dev/kvm")


def test_vcpus_satisfy_the_contract(machine: Machine) -> None:
    assert isinstance(machine.vcpu, KvmVcpu)
    kind: engine.Engine = KvmEngine()  # for the type checker
    assert kind.name == "kvm"
