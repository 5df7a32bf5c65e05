"""The ioctls of /dev/kvm that the engine uses: one row each, as in include/uapi/linux/kvm.h.

number = direction << 30 | sizeof(argument) << 16 | KVMIO << 8 | nr (asm-generic/ioctl.h). For a
struct that ends in a flexible array the size is that of its header. A start does without some of
the structs (chipabi.py): their sizes are here as numbers.

`cap` is the capability that says whether the ioctl is there (api.rst, "Capability:" of each). A
KVM that lacks one is refused before a VM exists, by name; `optional` ones are asked where used.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from errno import EINVAL, ENOMEM, ENOSYS, ENOTTY

from barevisor.cpu.kvm import abi
from barevisor.errors import EngineError
from barevisor.records import NamedTuple

KVMIO = 0xAE
NONE, WRITE, READ = 0, 1, 2  # _IOC_NONE, _IOC_WRITE, _IOC_READ

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong]
_libc.ioctl.restype = ctypes.c_int


class Ioctl(NamedTuple):
    """One request. Calling it raises EngineError, which names the ioctl and the errno."""

    name: str
    nr: int
    direction: int = NONE
    arg: type[abi.Abi] | int = 0
    cap: str = ""
    optional: bool = False

    @property
    def number(self) -> int:
        """The request number, as the kernel computes it."""
        arg = self.arg
        size = arg if isinstance(arg, int) else getattr(arg, "HEADER", arg.SIZE)
        return self.direction << 30 | size << 16 | KVMIO << 8 | self.nr

    def __call__(self, fd: int, arg: abi.Abi | int = 0) -> int:
        """The ioctl's result (>= 0)."""
        try:
            if isinstance(arg, int) and arg >= 1 << 31:
                return self._wide(fd, arg)
            return fcntl.ioctl(fd, self.number, arg)
        except OSError as e:
            raise EngineError(f"{self.name}: {e.strerror}", _hint(e.errno)) from e

    def _wide(self, fd: int, arg: int) -> int:
        # fcntl.ioctl passes an int as a signed 32-bit one, and the kernel would see it extended.
        done = int(_libc.ioctl(fd, self.number, arg))
        if done < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno))
        return done


def _hint(errno: int | None) -> str:
    """What to do about a refusal."""
    if errno in (ENOTTY, ENOSYS, EINVAL):
        return "the host's KVM does not know it, or not so: use --engine bt, or a newer kernel"
    if errno == ENOMEM:
        return "lower --memory or --cpus"
    return ""


GET_API_VERSION = Ioctl("KVM_GET_API_VERSION", 0x00)
CREATE_VM = Ioctl("KVM_CREATE_VM", 0x01)
GET_MSR_INDEX_LIST = Ioctl("KVM_GET_MSR_INDEX_LIST", 0x02, READ | WRITE, abi.MsrList)
CHECK_EXTENSION = Ioctl("KVM_CHECK_EXTENSION", 0x03)
GET_VCPU_MMAP_SIZE = Ioctl("KVM_GET_VCPU_MMAP_SIZE", 0x04)
GET_SUPPORTED_CPUID = Ioctl(
    "KVM_GET_SUPPORTED_CPUID", 0x05, READ | WRITE, abi.Cpuid, "KVM_CAP_EXT_CPUID"
)

CREATE_VCPU = Ioctl("KVM_CREATE_VCPU", 0x41)
SET_USER_MEMORY_REGION = Ioctl(
    "KVM_SET_USER_MEMORY_REGION", 0x46, WRITE, abi.MemoryRegion, "KVM_CAP_USER_MEMORY"
)
SET_TSS_ADDR = Ioctl("KVM_SET_TSS_ADDR", 0x47, cap="KVM_CAP_SET_TSS_ADDR")
SET_IDENTITY_MAP_ADDR = Ioctl(
    "KVM_SET_IDENTITY_MAP_ADDR", 0x48, WRITE, abi.U64, "KVM_CAP_SET_IDENTITY_MAP_ADDR"
)
CREATE_IRQCHIP = Ioctl("KVM_CREATE_IRQCHIP", 0x60, cap="KVM_CAP_IRQCHIP")
IRQ_LINE = Ioctl("KVM_IRQ_LINE", 0x61, WRITE, abi.IrqLevel, "KVM_CAP_IRQCHIP")
GET_IRQCHIP = Ioctl("KVM_GET_IRQCHIP", 0x62, READ | WRITE, 520, "KVM_CAP_IRQCHIP")
SET_IRQCHIP = Ioctl("KVM_SET_IRQCHIP", 0x63, READ, 520, "KVM_CAP_IRQCHIP")
CREATE_PIT2 = Ioctl("KVM_CREATE_PIT2", 0x77, WRITE, abi.PitConfig, "KVM_CAP_PIT2")
REGISTER_COALESCED_MMIO = Ioctl(
    "KVM_REGISTER_COALESCED_MMIO", 0x67, WRITE, abi.CoalescedZone, "KVM_CAP_COALESCED_PIO",
    optional=True,
)  # fmt: skip
IOEVENTFD = Ioctl("KVM_IOEVENTFD", 0x79, WRITE, abi.IoEventFd, "KVM_CAP_IOEVENTFD")
SET_CLOCK = Ioctl("KVM_SET_CLOCK", 0x7B, WRITE, 48, "KVM_CAP_ADJUST_CLOCK")
GET_CLOCK = Ioctl("KVM_GET_CLOCK", 0x7C, READ, 48, "KVM_CAP_ADJUST_CLOCK")
GET_PIT2 = Ioctl("KVM_GET_PIT2", 0x9F, READ, 112, "KVM_CAP_PIT_STATE2")
SET_PIT2 = Ioctl("KVM_SET_PIT2", 0xA0, WRITE, 112, "KVM_CAP_PIT_STATE2")
SIGNAL_MSI = Ioctl("KVM_SIGNAL_MSI", 0xA5, WRITE, abi.Msi, "KVM_CAP_SIGNAL_MSI")
GET_STATS_FD = Ioctl("KVM_GET_STATS_FD", 0xCE, cap="KVM_CAP_BINARY_STATS_FD", optional=True)

RUN = Ioctl("KVM_RUN", 0x80)
GET_REGS = Ioctl("KVM_GET_REGS", 0x81, READ, abi.Regs)
SET_REGS = Ioctl("KVM_SET_REGS", 0x82, WRITE, abi.Regs)
GET_SREGS = Ioctl("KVM_GET_SREGS", 0x83, READ, abi.Sregs)
SET_SREGS = Ioctl("KVM_SET_SREGS", 0x84, WRITE, abi.Sregs)
TRANSLATE = Ioctl("KVM_TRANSLATE", 0x85, READ | WRITE, abi.Translation)
GET_MSRS = Ioctl("KVM_GET_MSRS", 0x88, READ | WRITE, abi.Msrs)
SET_MSRS = Ioctl("KVM_SET_MSRS", 0x89, WRITE, abi.Msrs)
SET_SIGNAL_MASK = Ioctl("KVM_SET_SIGNAL_MASK", 0x8B, WRITE, abi.SignalMask)
GET_LAPIC = Ioctl("KVM_GET_LAPIC", 0x8E, READ, abi.Lapic, "KVM_CAP_IRQCHIP")
SET_LAPIC = Ioctl("KVM_SET_LAPIC", 0x8F, WRITE, abi.Lapic, "KVM_CAP_IRQCHIP")
SET_CPUID2 = Ioctl("KVM_SET_CPUID2", 0x90, WRITE, abi.Cpuid, "KVM_CAP_EXT_CPUID")
GET_MP_STATE = Ioctl("KVM_GET_MP_STATE", 0x98, READ, abi.MpState, "KVM_CAP_MP_STATE")
SET_MP_STATE = Ioctl("KVM_SET_MP_STATE", 0x99, WRITE, abi.MpState, "KVM_CAP_MP_STATE")
SET_GUEST_DEBUG = Ioctl(
    "KVM_SET_GUEST_DEBUG", 0x9B, WRITE, abi.GuestDebug, "KVM_CAP_SET_GUEST_DEBUG", optional=True
)
GET_VCPU_EVENTS = Ioctl("KVM_GET_VCPU_EVENTS", 0x9F, READ, abi.VcpuEvents, "KVM_CAP_VCPU_EVENTS")
SET_VCPU_EVENTS = Ioctl("KVM_SET_VCPU_EVENTS", 0xA0, WRITE, abi.VcpuEvents, "KVM_CAP_VCPU_EVENTS")
GET_DEBUGREGS = Ioctl("KVM_GET_DEBUGREGS", 0xA1, READ, abi.DebugRegs, "KVM_CAP_DEBUGREGS")
SET_DEBUGREGS = Ioctl("KVM_SET_DEBUGREGS", 0xA2, WRITE, abi.DebugRegs, "KVM_CAP_DEBUGREGS")
GET_TSC_KHZ = Ioctl("KVM_GET_TSC_KHZ", 0xA3, cap="KVM_CAP_GET_TSC_KHZ")
SET_TSC_KHZ = Ioctl("KVM_SET_TSC_KHZ", 0xA2, cap="KVM_CAP_TSC_CONTROL", optional=True)
GET_XSAVE = Ioctl("KVM_GET_XSAVE", 0xA4, READ, abi.Xsave, "KVM_CAP_XSAVE")
SET_XSAVE = Ioctl("KVM_SET_XSAVE", 0xA5, WRITE, abi.Xsave, "KVM_CAP_XSAVE")
GET_XCRS = Ioctl("KVM_GET_XCRS", 0xA6, READ, abi.Xcrs, "KVM_CAP_XCRS")
SET_XCRS = Ioctl("KVM_SET_XCRS", 0xA7, WRITE, abi.Xcrs, "KVM_CAP_XCRS")

# Capabilities (KVM_CHECK_EXTENSION): their numbers.
CAPS = {
    "KVM_CAP_IRQCHIP": 0,
    "KVM_CAP_USER_MEMORY": 3,
    "KVM_CAP_SET_TSS_ADDR": 4,
    "KVM_CAP_EXT_CPUID": 7,
    "KVM_CAP_NR_MEMSLOTS": 10,
    "KVM_CAP_MP_STATE": 14,
    "KVM_CAP_DESTROY_MEMORY_REGION_WORKS": 21,
    "KVM_CAP_COALESCED_MMIO": 15,  # its value: which page of a vCPU's mapping is the ring
    "KVM_CAP_SET_GUEST_DEBUG": 23,
    "KVM_CAP_PIT2": 33,
    "KVM_CAP_PIT_STATE2": 35,
    "KVM_CAP_IOEVENTFD": 36,
    "KVM_CAP_SET_IDENTITY_MAP_ADDR": 37,
    "KVM_CAP_ADJUST_CLOCK": 39,
    "KVM_CAP_VCPU_EVENTS": 41,
    "KVM_CAP_DEBUGREGS": 50,
    "KVM_CAP_XSAVE": 55,
    "KVM_CAP_XCRS": 56,
    "KVM_CAP_TSC_CONTROL": 60,
    "KVM_CAP_GET_TSC_KHZ": 61,
    "KVM_CAP_MAX_VCPUS": 66,
    "KVM_CAP_TSC_DEADLINE_TIMER": 72,
    "KVM_CAP_SIGNAL_MSI": 77,
    "KVM_CAP_READONLY_MEM": 81,
    "KVM_CAP_IOEVENTFD_ANY_LENGTH": 122,
    "KVM_CAP_IMMEDIATE_EXIT": 136,
    "KVM_CAP_COALESCED_PIO": 162,
    "KVM_CAP_SET_GUEST_DEBUG2": 195,  # its value: the KVM_GUESTDBG_* bits that this KVM knows
    "KVM_CAP_BINARY_STATS_FD": 203,
}
WITHOUT_IOCTL = (
    "KVM_CAP_DESTROY_MEMORY_REGION_WORKS", "KVM_CAP_READONLY_MEM", "KVM_CAP_IOEVENTFD_ANY_LENGTH",
    "KVM_CAP_IMMEDIATE_EXIT",
)  # fmt: skip
"""What the engine cannot do without beside the ioctls: struct kvm_run's and flags of others."""
TABLE = tuple(row for row in list(globals().values()) if isinstance(row, Ioctl))


def needs() -> dict[str, list[str]]:
    """Capability to what needs it, for all that must be there."""
    found: dict[str, list[str]] = {cap: [] for cap in WITHOUT_IOCTL}
    for row in TABLE:
        if row.cap and not row.optional:
            found.setdefault(row.cap, []).append(row.name)
    return found


def capability(kvm: int, name: str) -> int:
    """What this KVM says of a capability: 0 for "not there", else mostly 1."""
    return CHECK_EXTENSION(kvm, CAPS[name])


def missing(kvm: int) -> list[str]:
    """Capabilities that the engine must have and this KVM lacks, each with what needs it."""
    return [
        f"{cap} (for {', '.join(users)})" if users else cap
        for cap, users in needs().items()
        if not capability(kvm, cap)
    ]
