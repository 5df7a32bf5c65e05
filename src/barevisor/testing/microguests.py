"""Micro guests: what a CPU engine must do, one row each (see `micro` for how they run).

Expected results come from the manuals (SDM volumes 2 and 3; APM volume 2 for SYSCALL), not from
what an engine was seen to do.
"""

from __future__ import annotations

from dataclasses import replace

from barevisor.testing.micro import MicroGuest
from barevisor.testing.microguests_devices import DEVICE_ROWS
from barevisor.testing.microguests_memory import MEMORY_ROWS
from barevisor.testing.microguests_modes import MODE_ROWS

# ---- where a row cannot run: facts about places, not about the architecture ----

EMULATED = {
    "lacks the instruction": (
        "long: xsave and xrstor", "long: cmpxchg16b, equal", "long: cmpxchg16b, different",
        "long: cmpxchg16b needs alignment",
    ),
    "does not check this": (
        "real: a word at 0xFFFF is beyond the limit", "prot32: stack limit is a stack fault",
        "long: #GP, mov cr0 above 32 bits", "long: #GP, wrmsr of an invalid PAT",
        "long: #GP, iretq to a non-canonical address",
        "user: #AC, unaligned load with AC and AM", "debug: general detect",
        "long: #SS, non-canonical stack, on IST",
    ),
    "has no 32-bit paging and no 1 GiB pages": (
        "prot32: paging with 4 KiB and 4 MiB pages", "prot32: PAE paging with NX",
        "paging: 1 GiB page",
    ),
    "runs user code directly and wants KVM's own user selectors": (
        "user: int 0x80 frame", "user: syscall and sysret", "user: sysret to compatibility mode",
        "user: iretq to compatibility mode and int back",
        "user: 64-bit call gate and far return",
    ),
    "stores the first half before the second faults": (
        "paging: access across two pages faults on the second",
    ),
    "has no data watchpoints, and no MOV SS shadow for traps": (
        "debug: single step waits behind mov ss", "debug: write watchpoint is a trap",
        "debug: read-write watchpoint of another register",
    ),
    "looks for interrupts only after a while": (
        "apic: interrupt to itself", "apic: in-service blocks equal priority until EOI",
        "apic: cr8 holds an interrupt back",
        "apic: NMI comes with interrupts off, and not inside an NMI",
        "apic: x2APIC registers are MSRs", "irq: sti shields one instruction",
        "irq: popf opens at once", "ioapic: edge-triggered line",
        "ioapic: level-triggered line comes again until lowered", "ioapic: masked line waits",
    ),
}  # fmt: skip
"""A /dev/kvm that emulates ring 0 by instruction (6.18 with kvm_pvm). It also ends the run with
an emulation failure at many more instructions; that needs no row here."""

NESTED = {
    "checks no segment limits and rights": (
        "real: a word at 0xFFFF is beyond the limit", "prot32: segment base and limit",
        "prot32: expand-down segment", "prot32: stack limit is a stack fault",
        "prot32: use of a null selector", "prot32: write to a read-only segment",
        "prot32: write through CS",
    ),
    "checks no canonical addresses here": (
        "long: #GP, wrmsr of a non-canonical LSTAR", "long: #GP, jump to a non-canonical address",
        "long: #GP, iretq to a non-canonical address", "long: #SS, non-canonical stack, on IST",
    ),
    "gives another error code or address": (
        "long: #GP, int through no gate", "long: a gate not present makes #NP",
        "long: #GP whose gate is not present is a double fault", "paging: reserved bit",
    ),
    "has no such exception": (
        "long: #UD, lock mov", "long: #XM, unmasked SSE division by zero",
        "user: #AC, unaligned load with AC and AM", "debug: icebp", "debug: general detect",
    ),
    "does not take DR7 from the VMCB": (
        "debug: instruction breakpoint is a fault, RF passes it",
        "debug: write watchpoint is a trap", "debug: read-write watchpoint of another register",
    ),
    "notices the store too late": ("code: store into the next instruction",),
    "saves no SSE state for the inner guest": ("long: xsave and xrstor",),
    "makes KVM emulate it, which cuts the value to 32 bits": ("long: #GP, mov cr0 above 32 bits",),
}  # fmt: skip
"""KVM on the AMD SVM of QEMU 7.2's TCG."""


def _limits(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: reason for reason, names in table.items() for name in names}


def _rows(*groups: tuple[MicroGuest, ...]) -> tuple[MicroGuest, ...]:
    emulated, nested = _limits(EMULATED), _limits(NESTED)
    rows = tuple(
        replace(r, not_emulated=emulated.pop(r.name, ""), not_nested=nested.pop(r.name, ""))
        for group in groups
        for r in group
    )
    if emulated or nested:
        raise ValueError(f"no such rows: {[*emulated, *nested]}")
    return rows


ROWS = _rows(DEVICE_ROWS, MODE_ROWS, MEMORY_ROWS)
