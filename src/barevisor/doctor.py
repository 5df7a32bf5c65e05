"""What can run on this machine, and why not: the facts behind `bare doctor`."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

from barevisor.cpu.select import select
from barevisor.errors import BarevisorError
from barevisor.guest.cache import cache_dir
from barevisor.guest.kernel import Kernel, list_kernels
from barevisor.guest.modules import BASE, OVERLAY, SHARES, ModuleTree

MIB = 1 << 20
MEMORY_WANTED = 768 * MIB
"""A guest of the default size, and what we need beside it."""
SPACE_WANTED = 300 * MIB
"""A kernel package, unpacked, and its cached forms."""


@dataclass(frozen=True, slots=True)
class Check:
    """One fact. `needed`: nothing runs without it."""

    name: str
    ok: bool
    detail: str
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All of them, and which engine `--engine auto` takes ("" when none can run)."""

    ready: bool
    engine: str
    checks: tuple[Check, ...]


def diagnose() -> Diagnosis:
    """Look at everything anew; runs the probe guests of /dev/kvm, starts nothing else."""
    engines = [_engine("kvm"), _engine("bt")]
    chosen = next((check.name.removeprefix("engine ") for check in engines if check.ok), "")
    checks = (*engines, *_kernel(), _memory(), _cpus(), _cache(), *_limits())
    ready = bool(chosen) and all(check.ok for check in checks if check.needed)
    return Diagnosis(ready, chosen, checks)


def _engine(name: str) -> Check:
    try:
        reason = select(name)[0].probe()
    except (BarevisorError, ImportError) as e:  # a source tree that was not built
        reason = str(e)
    works = "runs what a stock kernel needs" if name == "kvm" else "software engine"
    return Check(f"engine {name}", not reason, reason or works)


def _kernel() -> list[Check]:
    found = list_kernels()
    if not found:
        can = shutil.which("apt-get") is not None
        detail = "none here; fetched at the first run" if can else "none: give --kernel PATH"
        return [Check("kernel", can, detail)]
    kernel = found[0]
    return [Check("kernel", True, f"{kernel.version} ({kernel.image})"), _modules(kernel)]


def _modules(kernel: Kernel) -> Check:
    if kernel.modules is None:
        return Check("modules", True, "built in")
    tree = ModuleTree(kernel.modules)
    missing = [name for name in (*BASE, *SHARES, *OVERLAY) if tree.missing(name)]
    detail = f"missing: {', '.join(missing)}" if missing else "virtio, virtiofs, overlay"
    return Check("modules", not missing, f"{detail} ({kernel.modules})")


def _memory() -> Check:
    fields = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) << 10
    free = fields.get("MemAvailable", 0)
    detail = f"{free // MIB} MiB of {fields.get('MemTotal', 0) // MIB} MiB available"
    return Check("memory", free >= MEMORY_WANTED, detail)


def _cpus() -> Check:
    return Check("cpus", True, str(len(os.sched_getaffinity(0))))


def _cache() -> Check:
    folder = cache_dir()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(there, os.W_OK):
        return Check("cache", False, f"{folder} cannot be written: every start unpacks anew")
    free = shutil.disk_usage(there).free
    return Check("cache", free >= SPACE_WANTED, f"{folder}, {free // MIB} MiB free")


def _limits() -> list[Check]:
    checks = []
    for name, limit, wanted in (
        ("open files", resource.RLIMIT_NOFILE, 1024),
        ("address space", resource.RLIMIT_AS, 4 << 30),
        ("locked memory", resource.RLIMIT_MEMLOCK, 0),
    ):
        soft = resource.getrlimit(limit)[0]
        endless = soft == resource.RLIM_INFINITY
        checks.append(
            Check(f"limit: {name}", endless or soft >= wanted, "none" if endless else str(soft))
        )
    return checks
