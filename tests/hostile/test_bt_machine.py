"""Hostile guests in a whole machine on the software engine: each ends soon, and says how."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from barevisor.board.machine import Machine, Outcome
from barevisor.cpu.bt.vm import BtEngine
from barevisor.cpu.engine import MachineSpec
from barevisor.devices.serial import Serial
from barevisor.testing.asm import assemble

MIB = 1 << 20
AT = 0x7C00
SECONDS = 1.0
"""A stop is answered within this time."""

LOOPS = {
    "cli, jump to itself": "cli; l: jmp l",
    "cli, two blocks": "cli; a: jmp b; nop; b: jmp a",
    "cli, two pages": "cli; a: jmp b; align 4096; b: jmp a",
    "huge REP STOS": "cli; bits 16; l: mov ecx, 0xffffffff; hex f36766ab; jmp l",
    "huge REP MOVS onto itself": "mov ecx, -1; xor esi, esi; mov edi, 1; l: hex f367a4; jmp l",
    "LOOP": "l: mov ecx, -1; m: hex 67e2fd; jmp l",
    "fault storm": "l: ud2; jmp l",
    "HLT with interrupts off": "cli; l: hlt; jmp l",
    "HLT, nothing pending": "sti; l: hlt; jmp l",
    "PIT at its fastest, no handler": """mov al, 0x34; out 0x43, al; mov al, 1; out 0x40, al
        xor al, al; out 0x40, al; sti; l: jmp l""",
    "traps": "pushf; pop ax; or ax, 0x100; push ax; popf; l: jmp l",
    "reads of a device": "l: in al, 0x21; jmp l",
    "code that rewrites itself": f"l: inc byte [{AT}+0x20]; jmp m; align 32; m: db 0xb0, 0; jmp l",
}
ENDS = {
    "triple fault": ("lidt [null]; int3; align 8; null: dq 0", 0, "triple-fault"),
    "reset vector without ROM": ("", 0xFFFF0000, "internal-error"),
    "into a device": ("", 0xD0000000, "internal-error"),
}


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(BtEngine(), MachineSpec(), 4 * MIB) as m:
        yield m


def start(m: Machine, text: str, base: int = 0) -> None:
    """Real-mode code at AT of CS with `base`, an IDT of IRETs."""
    m.ram.write(0, bytes.fromhex("00060000") * 256)
    m.ram.write(0x600, b"\xcf")
    m.ram.write(AT, assemble(text, AT, 16).code)
    vcpu = m.vcpus[0]
    state = vcpu.get_state()
    state.cs.selector, state.cs.base = 0, base
    state.regs.rip, state.regs.rsp = AT, 0x7000
    vcpu.set_state(state)
    m.start()


def stop(m: Machine) -> Outcome:
    before = time.monotonic()
    m.stop("the test")
    outcome = m.wait(10)
    assert outcome is not None
    assert time.monotonic() - before < SECONDS
    return outcome


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_stopped(machine: Machine, text: str) -> None:
    start(machine, text)
    outcome = machine.wait(0.15) or stop(machine)
    assert outcome.kind in ("stopped", "halted")
    assert outcome.state is not None


@pytest.mark.parametrize(("text", "base", "kind"), ENDS.values(), ids=ENDS)
def test_an_end_is_reported(machine: Machine, text: str, base: int, kind: str) -> None:
    start(machine, text, base)
    outcome = machine.wait(10)
    assert outcome is not None
    assert outcome.kind == kind
    assert "rip" in machine.report().lower()


def resident() -> int:
    """MiB of this process that are in memory now (proc(5), statm): not the peak, which earlier
    tests of the same process have moved."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE >> 20


def test_memory_of_a_console_flood(machine: Machine) -> None:
    """Output goes to its taker at once; nothing piles up on the way."""
    count = 0

    def take(data: bytes) -> None:
        nonlocal count
        count += len(data)

    machine.ports.add(0x3F8, 8, Serial(take, machine.irq(4).set), "com1")
    start(machine, "mov dx, 0x3f8; xor si, si; l: mov cx, -1; rep outsb; jmp l")
    time.sleep(0.3)
    before = resident()
    time.sleep(0.5)
    assert stop(machine).kind == "stopped"
    assert count > 1000
    assert resident() - before < 8


def test_memory_of_endless_new_code(machine: Machine) -> None:
    """Each round runs code that no round before it had: caches are dropped when they are full."""
    text = """
        xor ebx, ebx
        l: inc ebx
        mov [target+2], ebx
        call target
        add word [at+1], 7
        jmp l
        align 4096
        target: hex 66b800000000
        at: mov cx, 0
        ret
    """
    before = resident()
    start(machine, text.replace("{AT}", hex(AT)))
    time.sleep(1.0)
    assert stop(machine).kind == "stopped"
    assert machine.vcpus[0].instructions() > 10_000
    assert resident() - before < 100  # blocks 48, native code 32, and their tables
