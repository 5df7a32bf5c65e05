"""What CPUID tells a guest on KVM: what the kernel supports, made into one machine's view.

KVM_GET_SUPPORTED_CPUID (api.rst 4.46) returns the host's topology and APIC IDs as they are; a
guest needs its own. Leaves: SDM, "CPUID"; KVM's: Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

from collections.abc import Iterable

from barevisor.cpu.kvm import abi
from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from barevisor.cpu.x86.cpuid import CpuidRow

INDEX_SIGNIFICANT = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX
HYPERVISOR, TSC_DEADLINE, MONITOR, VMX = 1 << 31, 1 << 24, 1 << 3, 1 << 5  # leaf 1, ECX
HTT = 1 << 28  # leaf 1, EDX
SVM = 1 << 2  # leaf 0x80000001, ECX
SMT, CORE = 1, 2  # leaf 0xB, ECX[15:8]
KVM_FEATURES = 0x40000001

DROPPED = {0x5, 0x6, 0xA, 0xB, 0x1F, 0x8000000A}
"""Replaced (0xB) or left out: MONITOR, thermal, PMU, V2 topology, SVM."""


def adjust(
    supported: list[abi.CpuidEntry], apic_id: int, cpus: int, tsc_deadline: bool
) -> abi.Cpuid:
    """The table for vCPU `apic_id` of `cpus`; the arguments are not changed."""
    kept = [_entry(e, apic_id, cpus, tsc_deadline) for e in supported if e.function not in DROPPED]
    kept += _topology(apic_id, cpus)
    table = abi.Cpuid(nent=len(kept))
    for at, entry in enumerate(kept):
        table.entries[at] = entry
    return table


def table(rows: Iterable[CpuidRow]) -> abi.Cpuid:
    """A named model's rows (cpu/x86/cpuid.py) for KVM_SET_CPUID2."""
    made = abi.Cpuid()
    for row in rows:
        made.entries[made.nent] = abi.CpuidEntry(
            function=row.leaf, index=row.subleaf or 0,
            flags=0 if row.subleaf is None else INDEX_SIGNIFICANT,
            eax=row.eax, ebx=row.ebx, ecx=row.ecx, edx=row.edx,
        )  # fmt: skip
        made.nent += 1
    return made


def rows(entries: Iterable[abi.CpuidEntry]) -> tuple[CpuidRow, ...]:
    """The reverse."""
    from barevisor.cpu.x86.cpuid import CpuidRow

    return tuple(
        CpuidRow(
            e.function, e.index if e.flags & INDEX_SIGNIFICANT else None, e.eax, e.ebx, e.ecx, e.edx
        )
        for e in entries
    )


def features(supported: Iterable[abi.CpuidEntry], tsc_deadline: bool) -> frozenset[str]:
    """The names of x86/cpuid.py's features that a guest can have on this KVM."""
    from barevisor.cpu.x86.cpuid import host_features, lookup

    known = rows(supported)

    def read(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        row = lookup(known, leaf, subleaf)
        return row.eax, row.ebx, row.ecx, row.edx

    return host_features(read) | {"hypervisor", *(["tsc_deadline_timer"] if tsc_deadline else [])}


def _entry(raw: abi.CpuidEntry, apic_id: int, cpus: int, tsc_deadline: bool) -> abi.CpuidEntry:
    e = abi.CpuidEntry.from_buffer_copy(raw)
    match e.function:
        case 0x1:
            e.ebx = e.ebx & 0x0000FFFF | apic_id << 24 | min(cpus, 255) << 16
            e.ecx = e.ecx & ~(MONITOR | VMX | TSC_DEADLINE) | HYPERVISOR
            e.ecx |= TSC_DEADLINE if tsc_deadline else 0
            e.edx = e.edx & ~HTT | (HTT if cpus > 1 else 0)
        case 0x4 if e.eax & 0x1F:
            # Cache sharing: each core its own, the last level shared by all.
            shared = cpus - 1 if e.eax >> 5 & 7 >= 3 else 0
            e.eax = e.eax & 0x3FFF | (cpus - 1) << 26 | shared << 14
        case 0x80000001:
            e.ecx &= ~SVM
        case 0x80000008:
            e.ecx = cpus - 1 if cpus <= 256 else 0
        case 0x8000001D if e.eax & 0x1F:
            shared = cpus - 1 if e.eax >> 5 & 7 >= 3 else 0
            e.eax = e.eax & 0x3FFF | shared << 14
        case 0x8000001E:
            e.eax, e.ebx, e.ecx = apic_id, apic_id, 0
    return e


def _topology(apic_id: int, cpus: int) -> list[abi.CpuidEntry]:
    """Leaf 0xB: one thread a core, all cores in one package."""
    shift = max(cpus - 1, 0).bit_length()
    rows = ((0, 1, SMT), (shift, cpus, CORE), (0, 0, 0))
    return [
        abi.CpuidEntry(
            function=0xB, index=level, flags=INDEX_SIGNIFICANT,
            eax=width, ebx=count, ecx=kind << 8 | level, edx=apic_id,
        )
        for level, (width, count, kind) in enumerate(rows)
    ]  # fmt: skip
