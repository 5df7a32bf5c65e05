"""The kvm engine's tables against the numbers of the kernel headers, and exits from a fake page."""

from __future__ import annotations

import ctypes
import struct

import pytest

from barevisor.cpu import engine
from barevisor.cpu.kvm import abi, chipabi, cpuid, exits, ioctls, state

# As printed by a C program over linux/kvm.h of Linux 6.1, x86-64.
NUMBERS = [
    (ioctls.GET_API_VERSION, 0xAE00),
    (ioctls.CREATE_VM, 0xAE01),
    (ioctls.GET_MSR_INDEX_LIST, 0xC004AE02),
    (ioctls.CHECK_EXTENSION, 0xAE03),
    (ioctls.GET_VCPU_MMAP_SIZE, 0xAE04),
    (ioctls.GET_SUPPORTED_CPUID, 0xC008AE05),
    (ioctls.CREATE_VCPU, 0xAE41),
    (ioctls.SET_USER_MEMORY_REGION, 0x4020AE46),
    (ioctls.SET_TSS_ADDR, 0xAE47),
    (ioctls.SET_IDENTITY_MAP_ADDR, 0x4008AE48),
    (ioctls.CREATE_IRQCHIP, 0xAE60),
    (ioctls.IRQ_LINE, 0x4008AE61),
    (ioctls.CREATE_PIT2, 0x4040AE77),
    (ioctls.IOEVENTFD, 0x4040AE79),
    (ioctls.REGISTER_COALESCED_MMIO, 0x4010AE67),
    (ioctls.GET_IRQCHIP, 0xC208AE62),
    (ioctls.SET_IRQCHIP, 0x8208AE63),
    (ioctls.SET_CLOCK, 0x4030AE7B),
    (ioctls.GET_CLOCK, 0x8030AE7C),
    (ioctls.GET_PIT2, 0x8070AE9F),
    (ioctls.SET_PIT2, 0x4070AEA0),
    (ioctls.SIGNAL_MSI, 0x4020AEA5),
    (ioctls.GET_STATS_FD, 0xAECE),
    (ioctls.RUN, 0xAE80),
    (ioctls.GET_REGS, 0x8090AE81),
    (ioctls.SET_REGS, 0x4090AE82),
    (ioctls.GET_SREGS, 0x8138AE83),
    (ioctls.SET_SREGS, 0x4138AE84),
    (ioctls.TRANSLATE, 0xC018AE85),
    (ioctls.GET_MSRS, 0xC008AE88),
    (ioctls.SET_MSRS, 0x4008AE89),
    (ioctls.SET_SIGNAL_MASK, 0x4004AE8B),
    (ioctls.GET_LAPIC, 0x8400AE8E),
    (ioctls.SET_LAPIC, 0x4400AE8F),
    (ioctls.SET_CPUID2, 0x4008AE90),
    (ioctls.GET_MP_STATE, 0x8004AE98),
    (ioctls.SET_MP_STATE, 0x4004AE99),
    (ioctls.SET_GUEST_DEBUG, 0x4048AE9B),
    (ioctls.GET_VCPU_EVENTS, 0x8040AE9F),
    (ioctls.SET_VCPU_EVENTS, 0x4040AEA0),
    (ioctls.GET_DEBUGREGS, 0x8080AEA1),
    (ioctls.SET_DEBUGREGS, 0x4080AEA2),
    (ioctls.SET_TSC_KHZ, 0xAEA2),
    (ioctls.GET_TSC_KHZ, 0xAEA3),
    (ioctls.GET_XSAVE, 0x9000AEA4),
    (ioctls.SET_XSAVE, 0x5000AEA5),
    (ioctls.GET_XCRS, 0x8188AEA6),
    (ioctls.SET_XCRS, 0x4188AEA7),
]


@pytest.mark.parametrize(("ioctl", "number"), NUMBERS, ids=[i.name for i, _ in NUMBERS])
def test_ioctl_numbers_are_the_kernels(ioctl: ioctls.Ioctl, number: int) -> None:
    assert ioctl.number == number


def test_a_row_without_a_struct_has_its_size() -> None:
    sizes = [
        (chipabi.IrqChip, (ioctls.GET_IRQCHIP, ioctls.SET_IRQCHIP)),
        (chipabi.PitState, (ioctls.GET_PIT2, ioctls.SET_PIT2)),
        (chipabi.Clock, (ioctls.GET_CLOCK, ioctls.SET_CLOCK)),
    ]
    rows = {row: kind.SIZE for kind, both in sizes for row in both}
    given = {row: row.arg for row in ioctls.TABLE if row.arg and isinstance(row.arg, int)}
    assert given == rows


STRUCTS = abi.Abi.__subclasses__()


@pytest.mark.parametrize("struct_type", STRUCTS, ids=[kind.__name__ for kind in STRUCTS])
def test_struct_sizes_are_the_abis(struct_type: type[abi.Abi]) -> None:
    struct_type.check()
    assert ctypes.sizeof(struct_type) == struct_type.SIZE


def test_a_struct_of_the_wrong_size_is_refused() -> None:
    wrong = type("Wrong", (abi.Abi,), {"SIZE": 3, "_fields_": (("a", abi.u32),)})
    with pytest.raises(TypeError, match="Wrong is 4 bytes, the ABI says 3"):
        wrong.check()


def page(reason: int, arm: bytes, extra: bytes = b"") -> memoryview:
    """A fake kvm_run page; `extra` lies at 0x200."""
    raw = bytearray(0x400)
    raw[8:12] = reason.to_bytes(4, "little")
    raw[32 : 32 + len(arm)] = arm
    raw[0x200 : 0x200 + len(extra)] = extra
    return memoryview(raw)


EXITS = [
    ("out byte", page(2, struct.pack("<BBHIQ", 1, 1, 0xE9, 1, 0x200), b"B"),
     engine.PioWrite(0xE9, 1, b"B")),
    ("rep outsd", page(2, struct.pack("<BBHIQ", 1, 4, 0x10, 2, 0x200), b"abcdefgh"),
     engine.PioWrite(0x10, 4, b"abcdefgh")),
    ("rep insw", page(2, struct.pack("<BBHIQ", 0, 2, 0x60, 5, 0x200)),
     engine.PioRead(0x60, 2, 5)),
    ("mmio load", page(6, struct.pack("<Q8sIB", 0xD0000000, b"", 4, 0)),
     engine.MmioRead(0xD0000000, 4)),
    ("mmio store", page(6, struct.pack("<Q8sIB", 1 << 40, b"abcdefgh", 2, 1)),
     engine.MmioWrite(1 << 40, b"ab")),
    ("hlt", page(5, b""), engine.Halted()),
    ("triple fault", page(8, b""), engine.Shutdown()),
    ("debug", page(4, struct.pack("<IIQQQ", 1, 0, 0x1000, 0x4000, 0x400)),
     exits.Trap(0x1000, 0x4000, 1)),
    ("reset event", page(24, struct.pack("<II", 2, 0)), engine.SystemEvent("reset")),
    ("entry failure", page(9, struct.pack("<QI", 0x80000021, 3)),
     engine.InternalError("KVM: VM entry failed", (0x80000021, 3))),
    ("emulation failure", page(17, struct.pack("<IIQQ", 1, 2, 7, 8)),
     engine.InternalError("KVM: instruction emulation failed", (7, 8))),
    ("more data than fits", page(17, struct.pack("<II", 9, 1000)),
     engine.InternalError("KVM: suberror 9", (0,) * 16)),
    ("an exit of a later kernel", page(99, b""),
     engine.InternalError("KVM: exit 99 has no handler")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "run", "expected"), EXITS, ids=[row[0] for row in EXITS])
def test_exits_are_decoded(name: str, run: memoryview, expected: engine.Exit) -> None:
    assert exits.decode(run) == expected


def test_registers_survive_the_round_trip() -> None:
    regs = engine.Registers(*range(100, 118))
    assert state.regs_from(state.regs_to(regs)) == regs


def test_segments_and_control_registers_survive_the_round_trip() -> None:
    before, after = engine.CpuState(cr0=1, cr3=0x5000, efer=0x500), engine.CpuState()
    before.cs = engine.Segment(8, 0x1000, 0xFFFFFFFF, 11, True, 3, False, True, True, True, True)
    before.idt = engine.DescriptorTable(0x6000, 0xFFF)
    state.sregs_from(state.sregs_to(before), after)
    assert after == before


EVENTS = [
    engine.Events(),
    engine.Events(exception=14, exception_error=2, exception_address=0x1234),
    engine.Events(exception=3),
    engine.Events(interrupt=0x80, interrupt_soft=True, interrupt_shadow=1),
    engine.Events(nmi_pending=True, nmi_masked=True),
]


@pytest.mark.parametrize("events", EVENTS, ids=repr)
def test_events_survive_the_round_trip(events: engine.Events) -> None:
    assert state.events_from(state.events_to(events), 0x1234) == events


def test_cpuid_is_made_one_machines() -> None:
    host = [
        abi.CpuidEntry(function=1, ebx=0x07080900, ecx=cpuid.VMX | cpuid.MONITOR, edx=1),
        abi.CpuidEntry(function=0xB, index=0, edx=7),
        abi.CpuidEntry(function=0x80000001, ecx=cpuid.SVM | 1),
    ]
    table = cpuid.adjust(host, apic_id=2, cpus=3, tsc_deadline=True)
    rows = {(e.function, e.index): e for e in table.entries[: table.nent]}
    assert rows[1, 0].ebx == 0x02030900
    assert rows[1, 0].ecx == cpuid.HYPERVISOR | cpuid.TSC_DEADLINE
    assert rows[1, 0].edx == cpuid.HTT | 1
    assert rows[0x80000001, 0].ecx == 1
    assert (rows[0xB, 1].eax, rows[0xB, 1].ebx, rows[0xB, 1].edx) == (2, 3, 2)
    assert host[0].ebx == 0x07080900


def test_every_ioctl_is_checked_here() -> None:
    assert {row.name for row in ioctls.TABLE} == {row.name for row, _ in NUMBERS}


def test_every_capability_has_a_number() -> None:
    assert {row.cap for row in ioctls.TABLE if row.cap} <= set(ioctls.CAPS)
    assert set(ioctls.WITHOUT_IOCTL) <= set(ioctls.CAPS)


def test_a_missing_capability_is_named_with_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"KVM_CAP_PIT2", "KVM_CAP_IMMEDIATE_EXIT", "KVM_CAP_BINARY_STATS_FD"}
    monkeypatch.setattr(ioctls, "capability", lambda kvm, name: name not in absent)
    assert sorted(ioctls.missing(0)) == [
        "KVM_CAP_IMMEDIATE_EXIT", "KVM_CAP_PIT2 (for KVM_CREATE_PIT2)",
    ]  # fmt: skip
