"""CPU models of the software engine: which features a guest sees, as tables of CPUID leaves.

Leaves and bits: SDM, "CPUID - CPU Identification"; the hypervisor leaves are those of
Documentation/virt/kvm/x86/cpuid.rst (Linux 6.1) and 0x40000010, which VMware defined. Features
have the names that /proc/cpuinfo and the instruction table use.

Who we say we are. The engine follows Intel where vendors differ (SYSCALL and SYSENTER in long
mode), so the vendor is GenuineIntel on every host. The model is 6/0x36, an in-order Atom: Linux
since 4.15 knows that these do not speculate (cpu_vuln_whitelist, NO_SPECULATION) and leaves out
retpolines, return-stack filling and page-table isolation. That is true enough here: guest
branches are not host branches, and no guest address is mapped into another guest ring. What the
mitigations protect against is between the host and this process, and the host's own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from barevisor.errors import ConfigError, EngineError
from barevisor.records import NamedTuple

EAX, EBX, ECX, EDX = range(4)

BITS: dict[str, tuple[int, int, int, int]] = {
    name: (leaf, subleaf, register, bit)
    for leaf, subleaf, register, names in (
        (0x1, 0, EDX, (
            (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"),
            (7, "mce"), (8, "cx8"), (9, "apic"), (11, "sep"), (12, "mtrr"), (13, "pge"),
            (14, "mca"), (15, "cmov"), (16, "pat"), (17, "pse36"), (19, "clflush"), (23, "mmx"),
            (24, "fxsr"), (25, "sse"), (26, "sse2"), (28, "ht"),
        )),
        (0x1, 0, ECX, (
            (0, "pni"), (1, "pclmulqdq"), (9, "ssse3"), (12, "fma"), (13, "cx16"), (17, "pcid"),
            (19, "sse4_1"), (20, "sse4_2"), (21, "x2apic"), (22, "movbe"), (23, "popcnt"),
            (24, "tsc_deadline_timer"), (25, "aes"), (26, "xsave"), (28, "avx"), (29, "f16c"),
            (30, "rdrand"), (31, "hypervisor"),
        )),
        (0x6, 0, EAX, ((2, "arat"),)),
        (0x7, 0, EBX, (
            (0, "fsgsbase"), (1, "tsc_adjust"), (3, "bmi1"), (5, "avx2"), (7, "smep"),
            (8, "bmi2"), (9, "erms"), (10, "invpcid"), (18, "rdseed"), (19, "adx"), (20, "smap"),
            (23, "clflushopt"), (24, "clwb"), (29, "sha_ni"),
        )),
        (0x7, 0, ECX, (
            (2, "umip"), (3, "pku"), (8, "gfni"), (9, "vaes"), (10, "vpclmulqdq"), (22, "rdpid"),
            (31, "pks"),
        )),
        (0x7, 0, EDX, ((4, "fsrm"),)),
        (0xD, 1, EAX, ((0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"))),
        (0x80000001, 0, ECX, ((0, "lahf_lm"), (5, "abm"), (8, "3dnowprefetch"))),
        (0x80000001, 0, EDX, (
            (11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm"),
        )),
        (0x80000007, 0, EDX, ((8, "nonstop_tsc"),)),
    )
    for bit, name in names
}  # fmt: skip
"""Feature name to (leaf, subleaf, register, bit)."""

# What the engine does itself, whatever the host has.
EMULATED = frozenset((
    "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge",
    "mca", "cmov", "pat", "pse36", "clflush", "fxsr", "cx16", "pcid", "x2apic",
    "tsc_deadline_timer", "xsave", "hypervisor", "arat", "fsgsbase", "tsc_adjust", "smep",
    "erms", "invpcid", "smap", "clflushopt", "clwb", "umip", "rdpid", "fsrm", "xsaveopt",
    "xsavec", "xgetbv1", "lahf_lm", "3dnowprefetch", "syscall", "nx", "pdpe1gb", "rdtscp", "lm",
    "nonstop_tsc", "movbe",
))  # fmt: skip
# What runs as the host's own instruction.
NATIVE = frozenset((
    "mmx", "sse", "sse2", "pni", "pclmulqdq", "ssse3", "fma", "sse4_1", "sse4_2", "popcnt",
    "aes", "avx", "f16c", "rdrand", "bmi1", "avx2", "bmi2", "rdseed", "adx", "sha_ni", "vaes",
    "vpclmulqdq", "abm",
))  # fmt: skip
# What the engine does too, but CpuState does not carry: for images that are never saved.
UNSAVED = frozenset(("pku", "pks"))
BASELINE = EMULATED | {"mmx", "sse", "sse2"}
V2 = BASELINE | {"pni", "ssse3", "sse4_1", "sse4_2", "popcnt"}
V3 = V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm"}
NAMED = {"x86-64-v2": V2, "x86-64-v3": V3}
MODELS = ("host", "max", *NAMED)

PHYSICAL_BITS = 46
LINEAR_BITS = 48
SIGNATURE = 0x00030661  # family 6, model 0x36, stepping 1 (Atom "Cedarview")
VENDOR = b"GenuineIntel"
KVM_SIGNATURE = b"KVMKVMKVM\0\0\0"
KVM_BASE = 0x4000_0000
BUS_KHZ = 1_000_000  # the local APIC timer's clock, as in KVM
CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, PV_EOI = 1 << 0, 1 << 1, 1 << 3, 1 << 6
CLOCKSOURCE_STABLE = 1 << 24
KVM_FEATURES = CLOCKSOURCE | NOP_IO_DELAY | CLOCKSOURCE2 | PV_EOI | CLOCKSOURCE_STABLE

CR4_BITS = {
    "vme": 0x3, "tsc": 0x4, "de": 0x8, "pse": 0x10, "pae": 0x20, "mce": 0x40, "pge": 0x80,
    "fpu": 0x100, "fxsr": 0x200, "sse": 0x400, "umip": 0x800, "fsgsbase": 1 << 16,
    "pcid": 1 << 17, "xsave": 1 << 18, "smep": 1 << 20, "smap": 1 << 21, "pku": 1 << 22,
    "pks": 1 << 24,
}  # fmt: skip
"""CR4 bits that come with a feature; CR4.PCE (no CPUID bit) comes with the first one."""
EFER_BITS = {"syscall": 0x1, "lm": 0x500, "nx": 0x800}

Reader = Callable[[int, int], tuple[int, int, int, int]]


class CpuidRow(NamedTuple):
    """One leaf. `subleaf` None: the leaf ignores ECX."""

    leaf: int
    subleaf: int | None = None
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


class Cache(NamedTuple):
    """One row of leaf 4. `kind`: 1 data, 2 instructions, 3 both."""

    kind: int
    level: int
    ways: int
    sets: int
    shared: bool = False


CACHES = (
    Cache(1, 1, 8, 64),  # 32 KiB
    Cache(2, 1, 8, 64),
    Cache(3, 2, 8, 1024),  # 512 KiB
    Cache(3, 3, 16, 16384, shared=True),  # 16 MiB
)


def host_features(cpuid: Reader) -> frozenset[str]:
    """The names of BITS that a CPU announces; `cpuid` is hostcpuid.cpuid or a table's lookup."""
    found = set()
    leaves: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    limits = {top: cpuid(top, 0)[EAX] for top in (0, 0x8000_0000)}
    for name, (leaf, subleaf, register, bit) in BITS.items():
        if leaf > limits[leaf & 0x8000_0000]:
            continue
        if (leaf, subleaf) not in leaves:
            leaves[leaf, subleaf] = cpuid(leaf, subleaf)
        if leaves[leaf, subleaf][register] >> bit & 1:
            found.add(name)
    return frozenset(found)


def features(model: str, cpuid: Reader) -> frozenset[str]:
    """What `model` announces on this host. Raises ConfigError for an unknown name and
    EngineError when the host lacks an instruction set of a named model."""
    here = host_features(cpuid)
    if model in ("host", "max"):
        return EMULATED | (NATIVE & here) | (UNSAVED if model == "max" else frozenset())
    if model not in NAMED:
        raise ConfigError(f"unknown CPU model {model!r}", f"one of {', '.join(MODELS)}")
    wanted = NAMED[model]
    missing = sorted(wanted & NATIVE - here)
    if missing:
        raise EngineError(f"CPU model {model}: this CPU lacks {', '.join(missing)}")
    return wanted


def mask(names: Iterable[str], order: tuple[str, ...]) -> int:
    """A bit for each name of `order` (the instruction table's FEATURES) that is in `names`.
    "" is what every CPU has."""
    have = set(names) | {""}
    return sum(1 << at for at, name in enumerate(order) if name in have)


def cr4_allowed(names: frozenset[str]) -> int:
    """The CR4 bits that do not raise #GP."""
    return sum(bits for name, bits in CR4_BITS.items() if name in names)


def efer_allowed(names: frozenset[str]) -> int:
    """The EFER bits that do not raise #GP."""
    return sum(bits for name, bits in EFER_BITS.items() if name in names)


# ---- leaves ----------------------------------------------------------------------------------


def table(
    names: frozenset[str], index: int = 0, cpus: int = 1, tsc_khz: int = 0, irqchip: bool = True
) -> tuple[CpuidRow, ...]:
    """All leaves of CPU `index` of `cpus`. OSXSAVE, APIC on/off and the XSAVE sizes are as after
    reset; the CPUID instruction fills in what CR4, IA32_APIC_BASE and XCR0 change."""
    if not irqchip:
        names -= {"apic", "x2apic", "tsc_deadline_timer", "arat"}
    if cpus > 1:
        names |= {"ht"}
    rows = [
        *_basic(index, cpus, tsc_khz),
        *_caches(cpus),
        *_topology(index, cpus),
        *_xsave(names),
        *_kvm(tsc_khz, irqchip),
        *_extended(),
    ]
    return tuple(_with_features(row, names) for row in rows)


def lookup(rows: tuple[CpuidRow, ...], leaf: int, subleaf: int) -> CpuidRow:
    """As the CPUID instruction finds it: an unknown leaf, or subleaf, is all zeros."""
    for row in rows:
        if row.leaf == leaf and row.subleaf in (None, subleaf):
            return row
    return CpuidRow(leaf, subleaf)


def _with_features(row: CpuidRow, names: frozenset[str]) -> CpuidRow:
    words = [row.eax, row.ebx, row.ecx, row.edx]
    for name in names:
        leaf, subleaf, register, bit = BITS[name]
        if leaf == row.leaf and subleaf == (row.subleaf or 0):
            words[register] |= 1 << bit
    return row._replace(eax=words[0], ebx=words[1], ecx=words[2], edx=words[3])


def _word(text: bytes, at: int) -> int:
    return int.from_bytes(text[4 * at : 4 * at + 4], "little")


def _basic(index: int, cpus: int, tsc_khz: int) -> list[CpuidRow]:
    clflush = 8 << 8  # in units of 8 bytes
    return [
        CpuidRow(0x0, None, 0x16, _word(VENDOR, 0), _word(VENDOR, 2), _word(VENDOR, 1)),
        CpuidRow(0x1, None, SIGNATURE, index << 24 | min(cpus, 255) << 16 | clflush),
        CpuidRow(0x2, None, 0x0000FF01),  # "see leaf 4"
        CpuidRow(0x6),
        CpuidRow(0x7, 0),
        CpuidRow(0x16, None, tsc_khz // 1000, tsc_khz // 1000, 100),
    ]


def _caches(cpus: int) -> list[CpuidRow]:
    rows = []
    for at, c in enumerate(CACHES):
        sharing = cpus - 1 if c.shared else 0
        eax = c.kind | c.level << 5 | 1 << 8 | sharing << 14 | min(cpus - 1, 63) << 26
        rows.append(CpuidRow(0x4, at, eax, 63 | (c.ways - 1) << 22, c.sets - 1))
    return rows


def _topology(index: int, cpus: int) -> list[CpuidRow]:
    """Leaf 0xB: one thread a core, all cores in one package."""
    shift = max(cpus - 1, 0).bit_length()
    return [
        CpuidRow(0xB, 0, 0, 1, 1 << 8 | 0, index),
        CpuidRow(0xB, 1, shift, cpus, 2 << 8 | 1, index),
        *(CpuidRow(0xB, n, 0, 0, n, index) for n in (2, 3)),
    ]


def _xsave(names: frozenset[str]) -> list[CpuidRow]:
    """Leaf 0xD: x87 and SSE in the legacy region, AVX (256 bytes) behind the header."""
    if "xsave" not in names:
        return []
    avx = "avx" in names
    rows = [
        CpuidRow(0xD, 0, 7 if avx else 3, 576, 832 if avx else 576),
        CpuidRow(0xD, 1, 0, 576),
    ]
    return [*rows, CpuidRow(0xD, 2, 256, 576)] if avx else rows


def _kvm(tsc_khz: int, irqchip: bool) -> list[CpuidRow]:
    known = KVM_FEATURES if irqchip else KVM_FEATURES & ~PV_EOI
    name = [_word(KVM_SIGNATURE, n) for n in range(3)]
    return [
        CpuidRow(KVM_BASE, None, KVM_BASE + 0x10, *name),
        CpuidRow(KVM_BASE + 1, None, known),
        CpuidRow(KVM_BASE + 0x10, None, tsc_khz, BUS_KHZ),
    ]


def _extended() -> list[CpuidRow]:
    brand = b"Barevisor software CPU".ljust(48, b"\0")
    words = [_word(brand, n) for n in range(12)]
    return [
        CpuidRow(0x8000_0000, None, 0x8000_0008),
        CpuidRow(0x8000_0001),
        *(CpuidRow(0x8000_0002 + n, None, *words[4 * n : 4 * n + 4]) for n in range(3)),
        CpuidRow(0x8000_0006, None, ecx=512 << 16 | 6 << 12 | 64),
        CpuidRow(0x8000_0007),
        CpuidRow(0x8000_0008, None, PHYSICAL_BITS | LINEAR_BITS << 8),
    ]
