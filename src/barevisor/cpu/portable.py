"""May a guest that runs on one engine go on on another? What it was told must still be true.

A guest reads CPUID once and acts on it for ever: an instruction that is gone, another layout of
its XSAVE areas or a paravirtual clock that stops would break it long after the move. So the
answer is given before anything is changed, with every reason.
"""

from __future__ import annotations

from barevisor.cpu.vmstate import VmState
from barevisor.cpu.x86.cpuid import BITS, KVM_BASE, CpuidRow

TSC_TOLERANCE = 250e-6
"""As a share of the rate. NTP corrects clocks by up to 500 ppm; and a rate that one engine had to
measure is not exactly what the other was told."""

DYNAMIC = {
    (0x1, 1): 0xFF00_0000,  # the APIC ID
    (0x1, 2): 1 << 27,  # OSXSAVE follows CR4
    (0x7, 2): 1 << 4,  # OSPKE
    (0xB, 3): 0xFFFF_FFFF,  # the x2APIC ID
    (0xD, 1): 0xFFFF_FFFF,  # sizes for what XCR0 and XSS enable now
}
"""(leaf, register): bits that depend on the moment or on which CPU asks."""
CLOCK_LEAVES = {0x15, 0x16, KVM_BASE + 0x10}
"""They tell the TSC's rate, which is compared with a tolerance."""
XSAVE, PARAVIRTUAL = 0xD, KVM_BASE + 1


def same_rate(source: int, here: int) -> bool:
    """Both in kHz, and within TSC_TOLERANCE."""
    return abs(source - here) <= source * TSC_TOLERANCE


def differences(source: VmState, here: VmState, rates: range = range(0)) -> list[str]:
    """Why a guest of `source` cannot go on in a VM whose fresh state is `here`; [] when it can.
    rates: in kHz, at which the VM can let the guest's TSC run, beside its own."""
    reasons = []
    if (source.ioapic is None) != (here.ioapic is None):
        reasons.append("only one of the two has interrupt controllers")
    if not same_rate(source.tsc_khz, here.tsc_khz) and source.tsc_khz not in rates:
        reasons.append(f"its TSC runs at {source.tsc_khz} kHz, the one here at {here.tsc_khz} kHz")
    return reasons + _cpuid(source.cpuid, here.cpuid)


Table = dict[tuple[int, int], tuple[int, int, int, int]]


def _table(rows: tuple[CpuidRow, ...]) -> Table:
    found: Table = {}
    for row in rows:
        if row.leaf in CLOCK_LEAVES:
            continue
        words = (row.eax, row.ebx, row.ecx, row.edx)
        masked = [w & ~DYNAMIC.get((row.leaf, at), 0) for at, w in enumerate(words)]
        if any(masked):
            found[row.leaf, row.subleaf or 0] = (masked[0], masked[1], masked[2], masked[3])
    return found


def _cpuid(source: tuple[CpuidRow, ...], here: tuple[CpuidRow, ...]) -> list[str]:
    """Features by name, the rest by leaf."""
    old, new = _table(source), _table(here)
    zeros = (0, 0, 0, 0)
    gone: list[str] = []
    come: list[str] = []
    leaves: list[tuple[int, int]] = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key, zeros), new.get(key, zeros)
        if before == now:
            continue
        lost, won, rest = _features(key, before, now)
        gone += lost
        come += won
        if rest:
            leaves.append(key)
    reasons = []
    if gone:
        reasons.append(f"it was told of {', '.join(gone)}, which is not here")
    if come:
        reasons.append(f"{', '.join(come)} would be new to it")
    if any(leaf == XSAVE for leaf, _ in leaves):
        reasons.append("its XSAVE areas are laid out otherwise")
    if any(leaf == PARAVIRTUAL for leaf, _ in leaves):
        reasons.append("kvm-clock and what else KVM offers differ")
    others = [f"{leaf:#x}" for leaf, _ in leaves if leaf not in (XSAVE, PARAVIRTUAL)]
    if others:
        reasons.append(f"CPUID differs in leaf {', '.join(dict.fromkeys(others))}")
    return reasons


def _features(
    key: tuple[int, int], before: tuple[int, ...], now: tuple[int, ...]
) -> tuple[list[str], list[str], bool]:
    """Names of bits that are gone and new in one leaf, and whether other bits differ too."""
    gone: list[str] = []
    come: list[str] = []
    left = [a ^ b for a, b in zip(before, now, strict=True)]
    for name, (leaf, subleaf, register, bit) in BITS.items():
        if (leaf, subleaf) == key and left[register] >> bit & 1:
            left[register] &= ~(1 << bit)
            (gone if before[register] >> bit & 1 else come).append(name)
    return gone, come, any(left)
