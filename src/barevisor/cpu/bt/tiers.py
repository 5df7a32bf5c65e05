"""Which tiers of the engine run, and what the host allows.

BAREVISOR_BT: unset, blocks are interpreted until they have run often enough to be translated;
`interpret`, none is translated; `translate`, each is at its first run (for tests: slower to start);
`lockstep`, that, and each run of a translation is compared with the interpreter (very slow). Unset,
user code that runs long at a time is executed directly (ADR 20); `direct`, all that can be is.
"""

from __future__ import annotations

import os

from barevisor.cpu.x86 import hostcpuid
from barevisor.errors import ConfigError, EngineError
from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from barevisor.cpu.bt.tier import TranslatorOwner

CODE_BYTES = 96 << 20
"""Host code of one VM's translations; when it is full all of it is dropped."""
RUNS = 12
"""How often a block runs before it is translated: less makes a boot translate what runs once."""
MODES = ("interpret", "translate", "lockstep", "direct")
DIRECT_OFF, DIRECT_LONG, DIRECT_ALWAYS = 0, 1, 2
"""As in state.pxd."""
HWCAP2_FSGSBASE = 1 << 1
AT_HWCAP2 = 26


def _hwcap2() -> int:
    """The kernel's word on instructions it allows (getauxval(3), AT_HWCAP2)."""
    with open("/proc/self/auxv", "rb") as f:
        data = f.read()
    for at in range(0, len(data) - 15, 16):
        if int.from_bytes(data[at : at + 8], "little") == AT_HWCAP2:
            return int.from_bytes(data[at + 8 : at + 16], "little")
    return 0


def refusal() -> str:
    """Why this host can't translate, or the empty string."""
    ebx = hostcpuid.cpuid(7, 0)[1]
    ecx = hostcpuid.cpuid(1, 0)[2]
    if not ebx >> 8 & 1:
        return "the CPU lacks BMI2 (RORX)"
    if not ecx >> 28 & 1 or not ebx >> 5 & 1:
        return "the CPU lacks AVX2"
    if not _hwcap2() & HWCAP2_FSGSBASE:
        return "the kernel does not allow WRGSBASE (Linux 5.9 and later do)"
    return ""


def direct() -> int:
    """DIRECT_*: when user code runs directly. Whether the host allows that, the first one shows."""
    wanted = os.environ.get("BAREVISOR_BT", "")
    if wanted == "direct":
        return DIRECT_ALWAYS
    return DIRECT_OFF if wanted or refusal() else DIRECT_LONG


def translator(cpus: int) -> TranslatorOwner | None:
    """A new VM's translator; None where BAREVISOR_BT, or the host, says to interpret.

    Raises ConfigError for an unknown mode, EngineError when translation was asked for by name and
    this host can't.
    """
    wanted = os.environ.get("BAREVISOR_BT", "")
    if wanted and wanted not in MODES:
        raise ConfigError(f"BAREVISOR_BT={wanted}: no such mode", f"one of {', '.join(MODES)}")
    if wanted == "lockstep" and cpus != 1:
        raise ConfigError("BAREVISOR_BT=lockstep compares one CPU", "--cpus 1")
    reason = refusal()
    if wanted == "interpret" or (reason and not wanted):
        return None
    if reason:
        raise EngineError(f"BAREVISOR_BT={wanted}: {reason}", "BAREVISOR_BT=interpret")
    from barevisor.cpu.bt.tier import TranslatorOwner

    runs = 1 if wanted in ("translate", "lockstep") else RUNS
    made = TranslatorOwner(CODE_BYTES, runs, wanted == "lockstep")
    if wanted == "lockstep":
        from barevisor.cpu.bt import lockstep

        lockstep.enable(made)
    return made
