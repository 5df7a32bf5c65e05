"""What a debugger asks of an engine (set_debug, set_step), on both of them."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from barevisor.cpu import engine
from barevisor.cpu.engine import Breakpoint, DebugStop, Exit, GuestDebug, PioRead, PioWrite
from barevisor.cpu.select import select
from barevisor.errors import EngineError
from barevisor.testing import nest
from barevisor.testing.micro import CODE, DATA, RAM_SIZE, Gate, MicroGuest, build

pytestmark = pytest.mark.timeout(60)
ON_TCG = nest.inside()
NO_INT3 = "raises no intercept for INT3"
NO_REGISTERS = "does not arm a guest's debug registers"
NO_SHADOW = "keeps a single-step trap back behind STI"


@dataclass(slots=True)
class Guest:
    """A micro guest that a test debugs."""

    vm: engine.EngineVm
    vcpu: engine.Vcpu
    ram: mmap.mmap
    labels: dict[str, int]
    reported: list[int] = field(default_factory=list)

    def next(self) -> Exit | str:
        """The next exit that is not a REPORT; "end" for the last one."""
        for _ in range(200):
            match self.vcpu.run():
                case PioWrite(port=0x10, data=data):
                    self.reported.append(int.from_bytes(data, "little"))
                case PioWrite(port=0xF4):
                    return "end"
                case PioRead(size=size):
                    self.vcpu.complete_read(b"\x5a" * size)
                case engine.MmioRead(size=size):
                    self.vcpu.complete_read(b"\xa5" * size)
                case engine.InternalError() as e if "emulation failed" in e.reason:
                    pytest.skip(f"/dev/kvm here: {e.reason}")
                case other:
                    return other
        raise AssertionError("no end")

    def set(self, *stops: Breakpoint | engine.Watchpoint) -> None:
        breaks = tuple(s for s in stops if isinstance(s, Breakpoint))
        watches = tuple(s for s in stops if isinstance(s, engine.Watchpoint))
        try:
            self.vm.set_debug(GuestDebug(breaks, watches))
        except EngineError as e:
            if "KVM_CAP_SET_GUEST_DEBUG" in str(e):
                pytest.skip(str(e))
            raise

    def step(self) -> Exit | str:
        self.vcpu.set_step(True)
        stop = self.next()
        self.vcpu.set_step(False)
        return stop

    def at(self, label: str) -> DebugStop:
        return DebugStop("breakpoint", self.labels[label])

    def step_to(self, label: str) -> DebugStop:
        return DebugStop("step", self.labels[label])


Start = Callable[..., Guest]


@pytest.fixture(params=["kvm", pytest.param("bt", marks=pytest.mark.no_kvm)])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Make a Guest of a text."""
    if request.param == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/kvm")
    kind = select(request.param)[0]
    emulated = request.param == "kvm" and kind.probe() != ""
    made: list[engine.EngineVm] = []
    timers: list[threading.Timer] = []
    ram = mmap.mmap(-1, RAM_SIZE)
    anchor = ctypes.c_char.from_buffer(ram)

    def make(
        text: str, mode: str = "long", *, on_emulated: bool = True, not_nested: str = "",
        **fields: object,
    ) -> Guest:  # fmt: skip
        if emulated and not on_emulated:
            pytest.skip("/dev/kvm here emulates ring 0, and that without debug exits")
        if kind.name == "kvm" and ON_TCG and not_nested:
            pytest.skip(f"QEMU's TCG {not_nested}")
        row = MicroGuest("debugged", mode, text, **fields)  # type: ignore[arg-type]
        image = build(row)
        for at, raw in image.parts.items():
            ram[at : at + len(raw)] = raw
        vm = kind.create_vm(engine.MachineSpec(irqchip=row.irqchip))
        made.append(vm)
        vm.set_memory(0, 0, RAM_SIZE, ctypes.addressof(anchor))
        vcpu = vm.create_vcpu(0)
        vcpu.set_state(image.state)
        timer = threading.Timer(20, vcpu.kick)
        timers.append(timer)
        timer.start()
        return Guest(vm, vcpu, ram, image.labels)

    yield make
    for timer in timers:
        timer.cancel()
        timer.join()
    for vm in made:
        vm.close()


LOOP = """
    mov ecx, 3; mov rbx, DATA_; xor eax, eax
again: add eax, 5
here: mov [rbx], eax
after: dec ecx; jnz again
done: report eax
    end
"""


@pytest.mark.parametrize("hardware", [False, True], ids=["software", "hardware"])
def test_breakpoint_stops_before_its_instruction(start: Start, hardware: bool) -> None:
    g = start(LOOP, not_nested=NO_REGISTERS if hardware else NO_INT3)
    here = Breakpoint(g.labels["here"], hardware)
    for turn in (5, 10, 15):
        g.set(here)
        assert g.next() == g.at("here")
        regs = g.vcpu.get_regs()
        assert (regs.rip, regs.rax) == (g.labels["here"], turn)
        assert int.from_bytes(g.ram[DATA : DATA + 4], "little") == turn - 5
        g.set()
        assert g.step() == g.step_to("after")
        assert int.from_bytes(g.ram[DATA : DATA + 4], "little") == turn
    g.set(here)
    assert g.next() == "end"
    assert g.reported == [15]


def test_memory_is_as_it_was_once_breakpoints_are_gone(start: Start) -> None:
    g = start(LOOP)
    before = g.ram[CODE:DATA]
    g.set(Breakpoint(g.labels["here"]), Breakpoint(g.labels["done"]))
    g.set()
    assert g.ram[CODE:DATA] == before
    assert g.next() == "end"


def test_breakpoints_also_stop_code_that_ran_before(start: Start) -> None:
    g = start(
        LOOP.replace("mov ecx, 3", "mov ecx, 300; in al, 0x60; in al, 0x61"), not_nested=NO_INT3
    )
    assert g.step() != "end"
    g.set(Breakpoint(g.labels["done"]))
    assert g.next() == g.at("done")
    g.vm.set_debug(None)
    assert g.next() == "end"


HOT = """
    mov ecx, 3; mov rbx, DATA_; xor eax, eax
outer: mov edx, 100000
inner: add eax, 1
here: mov [rbx], eax
after: dec edx; jnz inner
    report 1; dec ecx; jnz outer
    end
"""


@pytest.mark.parametrize(("stop", "reason", "label", "why_not"), [
    (Breakpoint, "breakpoint", "here", NO_INT3),
    (lambda at: engine.Watchpoint(DATA, 4, "write"), "watch", "after", NO_REGISTERS),
], ids=["breakpoint", "watchpoint"])  # fmt: skip
def test_code_that_runs_hot_is_stopped_and_gets_hot_again(
    start: Start, stop: Callable[[int], Breakpoint], reason: str, label: str, why_not: str
) -> None:
    g = start(HOT, on_emulated=False, not_nested=why_not)
    assert g.vcpu.run() == PioWrite(0x10, 4, b"\1\0\0\0")
    for _ in range(3):
        g.set(stop(g.labels["here"]))
        found = g.next()
        assert isinstance(found, DebugStop)
        assert (found.reason, g.vcpu.get_regs().rip) == (reason, g.labels[label])
        g.set()
        g.step()
    g.vm.set_debug(None)
    assert g.next() == "end"
    assert g.reported == [1, 1]
    assert int.from_bytes(g.ram[DATA : DATA + 4], "little") == 100001


def test_every_instruction_of_a_program_is_stepped(start: Start) -> None:
    g = start("one: mov edi, MMIO_\ntwo: mov eax, 7\nthree: out 0x10, eax\nfour: in al, 0x60\n"
              "five: push rax\nsix: mov ebx, [rdi]\nseven: nop\neight: end",
              on_emulated=False)  # fmt: skip
    for label in ("two", "three", "four", "five", "six", "seven", "eight"):
        assert g.step() == g.step_to(label)
    assert g.vcpu.get_regs().rbx == 0xA5A5A5A5
    assert g.next() == "end"
    assert g.reported == [7]


def test_a_step_into_a_fault_stops_at_its_handler(start: Start) -> None:
    """KVM steps with RFLAGS.TF, which delivery clears: it stops behind the handler, if at all."""
    g = start("ud2\nhandler: end", gates={6: Gate("handler")}, on_emulated=False)
    if type(g.vm).__module__.startswith("barevisor.cpu.kvm"):
        pytest.skip("KVM goes through an exception's handler")
    assert g.step() == g.step_to("handler")
    assert g.next() == "end"


def test_the_guests_own_int3_is_its_own(start: Start) -> None:
    g = start("int3\nbehind: end\nhandler: mov eax, 9; out 0x10, eax; iretq",
              gates={3: Gate("handler")}, on_emulated=False, not_nested=NO_INT3)  # fmt: skip
    g.set(Breakpoint(g.labels["behind"]))
    assert g.next() == g.at("behind")
    assert g.reported == [9]


WATCHED = """
    mov rbx, DATA_; mov dword [rbx], 1; mov dword [rbx+64], 2
    mov eax, [rbx+16]
read: mov eax, [rbx+17]
read_done: nop
    mov byte [rbx+15], 3; mov byte [rbx+20], 4
write: mov byte [rbx+19], 5
write_done: nop
both: add dword [rbx+16], 6
both_done: nop
    end
"""


@pytest.mark.parametrize(("kind", "stops"), [
    ("write", ["write_done", "both_done"]),
    ("access", ["read", "read_done", "write_done", "both_done"]),
])  # fmt: skip
def test_watchpoint_stops_behind_the_access(start: Start, kind: str, stops: list[str]) -> None:
    g = start(WATCHED, on_emulated=False, not_nested=NO_REGISTERS)
    watch = engine.Watchpoint(DATA + 16, 4, kind)  # type: ignore[arg-type]
    for label in stops:
        g.set(watch)
        assert g.next() == DebugStop("watch", DATA + 16)
        assert g.vcpu.get_regs().rip == g.labels[label]
    assert g.next() == "end"


def test_watched_string_store_stops_at_its_element(start: Start) -> None:
    g = start("mov rdi, DATA_; mov ecx, 64; xor eax, eax; rep stosq\nbehind: end",
              on_emulated=False, not_nested=NO_REGISTERS)  # fmt: skip
    g.set(engine.Watchpoint(DATA + 80, 8, "write"))
    assert g.next() == DebugStop("watch", DATA + 80)
    assert 64 - 11 >= g.vcpu.get_regs().rcx >= 0
    g.set()
    assert g.next() == "end"


def test_a_step_holds_interrupts_back_and_run_takes_them(start: Start) -> None:
    g = start("sti\none: nop\ntwo: nop\nthree: nop; nop; end\nhandler: report 0x77; end",
              irqchip=True, gates={0x40: Gate("handler")}, on_emulated=False,
              not_nested=NO_SHADOW)  # fmt: skip
    for label in ("one", "two", "three"):
        assert g.step() == g.step_to(label)
        g.vm.signal_msi(0xFEE00000, 0x40)


def test_breakpoint_in_other_modes(start: Start) -> None:
    g = start(
        "mov ax, 0x100; mov ds, ax\nhere: inc ax\nbehind: end", mode="real",
        on_emulated=False, not_nested=NO_INT3,
    )  # fmt: skip
    g.set(Breakpoint(g.labels["here"]))
    assert g.next() == g.at("here")
    g.set()
    assert g.step() == g.step_to("behind")
    assert g.next() == "end"


def test_too_much_is_refused(start: Start) -> None:
    g = start(LOOP)
    if type(g.vm).__module__.startswith("barevisor.cpu.kvm"):
        many = tuple(Breakpoint(0x1000 + n, True) for n in range(5))
    else:
        many = tuple(Breakpoint(n) for n in range(1025))
    with pytest.raises(EngineError, match=r"debug registers|breakpoints"):
        g.vm.set_debug(GuestDebug(many))
    g.set()
    assert g.next() == "end"


def test_rip_is_cheap_and_completes_nothing(start: Start) -> None:
    g = start("in: in al, 0x60\nbehind: end")
    assert g.vcpu.run() == PioRead(0x60, 1)
    assert g.vcpu.rip() in (g.labels["in"], g.labels["behind"])
    g.vcpu.complete_read(b"\1")
    assert g.next() == "end"
