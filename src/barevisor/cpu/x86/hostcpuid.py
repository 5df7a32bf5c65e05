"""The CPUID instruction of the host (SDM, "CPUID")."""

import cython


def cpuid(leaf: int, subleaf: int = 0) -> tuple:
    """EAX, EBX, ECX, EDX. A leaf above the maximum returns what the CPU makes of it."""
    which: cython.uint = leaf
    sub: cython.uint = subleaf
    eax: cython.uint = 0
    ebx: cython.uint = 0
    ecx: cython.uint = 0
    edx: cython.uint = 0
    __cpuid_count(which, sub, eax, ebx, ecx, edx)  # noqa: F821 (hostcpuid.pxd)
    return eax, ebx, ecx, edx
