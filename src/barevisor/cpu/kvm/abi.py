"""The structs of /dev/kvm on x86-64, as ctypes, each with the size that the ABI gives it.

Layouts: Linux Documentation/virt/kvm/api.rst, sections 4 and 5; include/uapi/linux/kvm.h and
arch/x86/include/uapi/asm/kvm.h of Linux 6.1. Field order is the ABI; import checks every size.
"""

from __future__ import annotations

import ctypes as c
from struct import Struct

from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar

u8, u16, u32, u64 = c.c_uint8, c.c_uint16, c.c_uint32, c.c_uint64

CPUID_ENTRIES = 256  # KVM_MAX_CPUID_ENTRIES
MSR_ENTRIES = 64  # per call; ours is a choice, the kernel's limit is 256 (MAX_IO_MSRS)
MSR_INDICES = 1024
XSAVE_BYTES = 4096


class Abi(c.Structure):
    """A struct of the kernel's ABI. SIZE is the kernel's sizeof, checked at import."""

    SIZE: ClassVar[int]

    @classmethod
    def check(cls) -> None:
        """Raises TypeError when ctypes lays the struct out differently than the kernel."""
        if c.sizeof(cls) != cls.SIZE:
            raise TypeError(f"{cls.__name__} is {c.sizeof(cls)} bytes, the ABI says {cls.SIZE}")


class MemoryRegion(Abi):
    """struct kvm_userspace_memory_region (api.rst 4.35)."""

    SIZE = 32
    _fields_ = (("slot", u32), ("flags", u32), ("gpa", u64), ("size", u64), ("hva", u64))


class Regs(Abi):
    """struct kvm_regs (api.rst 4.11). The kernel's order is not the encoding order."""

    SIZE = 144
    _fields_ = (
        *((r, u64) for r in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp")),
        *((f"r{n}", u64) for n in range(8, 16)),
        ("rip", u64),
        ("rflags", u64),
    )


class Segment(Abi):
    """struct kvm_segment. The limit is in bytes, granularity applied."""

    SIZE = 24
    _fields_ = (
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        *((f, u8) for f in ("type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable")),
        ("padding", u8),
    )


class DTable(Abi):
    """struct kvm_dtable."""

    SIZE = 16
    _fields_ = (("base", u64), ("limit", u16), ("padding", u16 * 3))


class Sregs(Abi):
    """struct kvm_sregs (api.rst 4.13)."""

    SIZE = 312
    _fields_ = (
        *((s, Segment) for s in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", DTable),
        ("idt", DTable),
        *((r, u64) for r in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", u64 * 4),
    )


class CpuidEntry(Abi):
    """struct kvm_cpuid_entry2 (api.rst 4.46)."""

    SIZE = 40
    _fields_ = (
        *((f, u32) for f in ("function", "index", "flags", "eax", "ebx", "ecx", "edx")),
        ("padding", u32 * 3),
    )


class Cpuid(Abi):
    """struct kvm_cpuid2 with room for CPUID_ENTRIES; the ioctl number counts the header only."""

    SIZE = 8 + 40 * CPUID_ENTRIES
    HEADER = 8
    _fields_ = (("nent", u32), ("padding", u32), ("entries", CpuidEntry * CPUID_ENTRIES))


class MsrEntry(Abi):
    """struct kvm_msr_entry."""

    SIZE = 16
    _fields_ = (("index", u32), ("reserved", u32), ("data", u64))


class Msrs(Abi):
    """struct kvm_msrs with room for MSR_ENTRIES (api.rst 4.18)."""

    SIZE = 8 + 16 * MSR_ENTRIES
    HEADER = 8
    _fields_ = (("nmsrs", u32), ("pad", u32), ("entries", MsrEntry * MSR_ENTRIES))


class MsrList(Abi):
    """struct kvm_msr_list with room for MSR_INDICES (api.rst 4.3)."""

    SIZE = 4 + 4 * MSR_INDICES
    HEADER = 4
    _fields_ = (("nmsrs", u32), ("indices", u32 * MSR_INDICES))


class Xsave(Abi):
    """struct kvm_xsave (api.rst 4.42): the standard-format XSAVE image."""

    SIZE = XSAVE_BYTES
    _fields_ = (("region", u8 * XSAVE_BYTES),)


class Xcr(Abi):
    """struct kvm_xcr."""

    SIZE = 16
    _fields_ = (("xcr", u32), ("reserved", u32), ("value", u64))


class Xcrs(Abi):
    """struct kvm_xcrs (api.rst 4.44)."""

    SIZE = 392
    _fields_ = (("nr_xcrs", u32), ("flags", u32), ("xcrs", Xcr * 16), ("padding", u64 * 16))


class DebugRegs(Abi):
    """struct kvm_debugregs (api.rst 4.33)."""

    SIZE = 128
    _fields_ = (
        ("db", u64 * 4),
        ("dr6", u64),
        ("dr7", u64),
        ("flags", u64),
        ("reserved", u64 * 9),
    )


class GuestDebug(Abi):
    """struct kvm_guest_debug (api.rst 4.87) with struct kvm_guest_debug_arch."""

    SIZE = 72
    _fields_ = (("control", u32), ("pad", u32), ("debugreg", u64 * 8))


class ExceptionEvent(Abi):
    """struct kvm_vcpu_events.exception."""

    SIZE = 8
    _fields_ = (
        ("injected", u8),
        ("nr", u8),
        ("has_error_code", u8),
        ("pending", u8),
        ("error_code", u32),
    )


class InterruptEvent(Abi):
    """struct kvm_vcpu_events.interrupt."""

    SIZE = 4
    _fields_ = (("injected", u8), ("nr", u8), ("soft", u8), ("shadow", u8))


class NmiEvent(Abi):
    """struct kvm_vcpu_events.nmi."""

    SIZE = 4
    _fields_ = (("injected", u8), ("pending", u8), ("masked", u8), ("pad", u8))


class VcpuEvents(Abi):
    """struct kvm_vcpu_events (api.rst 4.31)."""

    SIZE = 64
    _fields_ = (
        ("exception", ExceptionEvent),
        ("interrupt", InterruptEvent),
        ("nmi", NmiEvent),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", u8 * 4),
        ("triple_fault", u8),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    )


class MpState(Abi):
    """struct kvm_mp_state (api.rst 4.38)."""

    SIZE = 4
    _fields_ = (("mp_state", u32),)


class Lapic(Abi):
    """struct kvm_lapic_state (api.rst 4.57)."""

    SIZE = 1024
    _fields_ = (("regs", u8 * 1024),)


class Translation(Abi):
    """struct kvm_translation (api.rst 4.15)."""

    SIZE = 24
    _fields_ = (
        ("linear_address", u64),
        ("physical_address", u64),
        ("valid", u8),
        ("writeable", u8),
        ("usermode", u8),
        ("pad", u8 * 5),
    )


class PitConfig(Abi):
    """struct kvm_pit_config (api.rst 4.71)."""

    SIZE = 64
    _fields_ = (("flags", u32), ("pad", u32 * 15))


class IrqLevel(Abi):
    """struct kvm_irq_level (api.rst 4.25)."""

    SIZE = 8
    _fields_ = (("irq", u32), ("level", u32))


class Msi(Abi):
    """struct kvm_msi (api.rst 4.70)."""

    SIZE = 32
    _fields_ = (
        ("address_lo", u32),
        ("address_hi", u32),
        ("data", u32),
        ("flags", u32),
        ("devid", u32),
        ("pad", u8 * 12),
    )


class IoEventFd(Abi):
    """struct kvm_ioeventfd (api.rst 4.59)."""

    SIZE = 64
    _fields_ = (
        ("datamatch", u64),
        ("addr", u64),
        ("len", u32),
        ("fd", c.c_int32),
        ("flags", u32),
        ("pad", u8 * 36),
    )


class CoalescedZone(Abi):
    """struct kvm_coalesced_mmio_zone (api.rst 4.116)."""

    SIZE = 16
    _fields_ = (("addr", u64), ("size", u32), ("pio", u32))


class SignalMask(Abi):
    """struct kvm_signal_mask with the kernel's 8-byte sigset (api.rst 4.20)."""

    SIZE = 12
    HEADER = 4
    _pack_ = 1
    _fields_ = (("len", u32), ("sigset", u64))


class U64(Abi):
    """A bare __u64 argument."""

    SIZE = 8
    _fields_ = (("value", u64),)


# ---- struct kvm_run (api.rst 5): a shared page, read in place; the arms of its union at byte 32

RUN_IMMEDIATE_EXIT = 1
RUN_EXIT_REASON = 8
RUN_ARM = 32


RUN_REASON = Struct("<I")
RUN_IO = Struct("<BBHIQ")
"""KVM_EXIT_IO: direction (1 out), size, port, count, where in the page the data is."""
RUN_MMIO = Struct("<Q8sIB")
"""KVM_EXIT_MMIO: address, data, its length, 1 for a store."""
RUN_MMIO_DATA = RUN_ARM + 8
RUN_DEBUG = Struct("<I4xQQQ")
"""KVM_EXIT_DEBUG (struct kvm_debug_exit_arch): exception, pc, DR6, DR7."""
RUN_FAIL_ENTRY = Struct("<QI")
"""KVM_EXIT_FAIL_ENTRY: hardware's reason, CPU."""
RUN_INTERNAL = Struct("<II16Q")
"""KVM_EXIT_INTERNAL_ERROR: suberror, how many words follow, the words."""
RUN_SYSTEM_EVENT = Struct("<I")
"""KVM_EXIT_SYSTEM_EVENT: type."""


for _struct in Abi.__subclasses__():
    _struct.check()
