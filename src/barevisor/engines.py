"""Which engine runs a guest, without asking /dev/kvm anew at every start.

The probe runs a dozen small guests, which takes a tenth of a second. Its answer holds until the
machine boots again, so it is kept for that long in the cache folder.
"""

from __future__ import annotations

import os

from barevisor.cpu import select
from barevisor.cpu.engine import Engine
from barevisor.errors import EngineError
from barevisor.guest.cache import cache_path, keep, kept, read_cached, stamp

BOOT_ID = "/proc/sys/kernel/random/boot_id"
DEVICE = "/dev/kvm"


def choose(name: str) -> tuple[Engine, str]:
    """As cpu.select.select, with the probe's last answer. Raises ConfigError."""
    if name != "auto":
        return select.select(name)
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return select.select("bt")[0], "/dev/kvm is not here, or not for this user"
    file, key = os.path.join(cache_path(), "kvm-probe"), _key()
    known = kept(file, key)
    if known is not None:
        return select.select("bt" if known else "kvm")[0], known.decode("utf-8", "replace")
    kvm = select.select("kvm")[0]
    reason = kvm.probe()
    keep(file, key, reason.encode())
    return (select.select("bt")[0] if reason else kvm), reason


def for_linux(name: str) -> tuple[Engine, str]:
    """As `choose`; a /dev/kvm that was asked for by name and cannot run a stock kernel is refused
    now, because the kernel would only hang or crash on it later. Raises EngineError."""
    engine, reason = choose(name)
    if name == "kvm" and (against := engine.probe()):
        usable = os.access(DEVICE, os.R_OK | os.W_OK)
        hint = "a bare image may still run on it" if usable else "its group is often called kvm"
        raise EngineError(against, f"use --engine bt; {hint}")
    return engine, reason


def _key() -> str:
    """Names this boot of this machine, its device and this version of the probe."""
    boot = (read_cached(BOOT_ID) or os.urandom(16)).hex()
    probe = os.path.join(os.path.dirname(select.__file__), "kvm", "probe.py")
    return f"{boot} {os.stat(DEVICE).st_rdev} {os.geteuid()} {stamp(probe)}"


def common_features() -> frozenset[str]:
    """What both engines can announce to a guest here (--cpu common), so that it may move between
    them; where kvm cannot run a stock kernel, what bt can."""
    from barevisor.cpu.x86 import cpuid, hostcpuid

    here = cpuid.features("host", hostcpuid.cpuid)
    if choose("auto")[0].name != "kvm":
        return here
    from barevisor.cpu.kvm.vm import supported_features

    return here & supported_features()
