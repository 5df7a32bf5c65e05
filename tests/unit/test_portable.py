"""What must match before a guest moves, and the states of KVM's chips there and back."""

from __future__ import annotations

import ctypes

import pytest

from barevisor.cpu.kvm import abi, chipabi, chips, state
from barevisor.cpu.portable import differences
from barevisor.cpu.vmstate import IoApicState, PicState, PitChannel, PitState, VmState
from barevisor.cpu.x86 import cpuid

KHZ = 2_400_000


def vm(names: frozenset[str] = cpuid.V3, khz: int = KHZ, irqchip: bool = True) -> VmState:
    rows = cpuid.table(names, 0, 1, khz, irqchip)
    return VmState(0, khz, rows, [], IoApicState() if irqchip else None)


def changed(leaf: int, **words: int) -> VmState:
    made = vm()
    made.cpuid = tuple(r._replace(**words) if r.leaf == leaf else r for r in made.cpuid)
    return made


REFUSED = [
    ("a feature that is gone", vm(), vm(cpuid.V3 - {"bmi2"}),
     ["it was told of bmi2, which is not here"]),
    ("a feature that is new", vm(cpuid.V3 - {"bmi2"}), vm(), ["bmi2 would be new to it"]),
    ("another XSAVE layout", vm(), changed(0xD, ebx=0, ecx=2048),
     ["its XSAVE areas are laid out otherwise"]),
    ("no kvm-clock", vm(), changed(cpuid.KVM_BASE + 1, eax=0),
     ["kvm-clock and what else KVM offers differ"]),
    ("another TSC", vm(), vm(khz=3_000_000),
     ["its TSC runs at 2400000 kHz, the one here at 3000000 kHz"]),
    ("another family", vm(), changed(0x1, eax=0x600), ["CPUID differs in leaf 0x1"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "here", "reasons"), [r[1:] for r in REFUSED],
                         ids=[r[0] for r in REFUSED])  # fmt: skip
def test_what_differs_is_named(source: VmState, here: VmState, reasons: list[str]) -> None:
    assert differences(source, here) == reasons


def test_interrupt_controllers_on_one_side_only() -> None:
    assert "only one of the two has interrupt controllers" in differences(vm(), vm(irqchip=False))


def test_a_rate_that_was_measured_twice_is_the_same() -> None:
    assert differences(vm(), vm(khz=KHZ + KHZ // 10_000)) == []


def test_a_rate_that_the_vm_can_be_made_to_have() -> None:
    other = vm(khz=3_000_000)
    assert differences(vm(), other, range(KHZ, KHZ + 1)) == []
    assert differences(vm(), other, range(KHZ)) != []


PICS = [
    ("reset", PicState()),
    ("rotated", PicState(lowest=2, irr=0x41, isr=2, imr=0xFE, base=0x20, auto_eoi=True)),
    ("in the middle of ICWs", PicState(initialising=3, icw4=True, base=0x70, lines=0x80)),
    ("with everything on", PicState(
        0x11, 0x22, 0x33, 0x44, 0xD0, 0x28, 5, 0, True, True, True, True, True, True, True)),
]  # fmt: skip


@pytest.mark.parametrize("pic", [p for _, p in PICS], ids=[n for n, _ in PICS])
def test_an_8259_goes_through_kvm_s_struct(pic: PicState) -> None:
    assert chips.pic_from(chips.pic_to(pic, chips.SLAVE)) == pic


def test_the_ioapic_goes_through_kvm_s_struct() -> None:
    ioapic = IoApicState(3, 0x15, [n << 56 | n | 1 << 15 for n in range(24)], 0x800010)
    chip = chips.ioapic_to(ioapic)
    assert chips.ioapic_from(chip) == ioapic
    raw = chipabi.IoApicState.from_buffer_copy(chip.chip)
    assert (chip.chip_id, raw.base_address) == (chips.IOAPIC, 0xFEC0_0000)


CHANNELS = [
    ("never programmed", PitChannel()),
    ("periodic", PitChannel(reload=1193, mode=2, running=True)),
    ("a word half written", PitChannel(mode=3, running=True, low=0x34)),
    ("a word half read", PitChannel(mode=3, running=True, high_next=True)),
    ("latched word", PitChannel(mode=3, running=True, latch=[0x34, 0x12])),
    ("latched, low byte read", PitChannel(mode=3, running=True, latch=[0x12])),
    ("latched low byte", PitChannel(mode=2, access=1, running=True, latch=[0x34])),
    ("latched high byte", PitChannel(mode=2, access=2, running=True, latch=[0x12])),
    ("latched status", PitChannel(mode=2, running=True, status=0x34)),
    ("gate closed", PitChannel(mode=0, running=True, gate=False)),
]


@pytest.mark.parametrize("channel", [c for _, c in CHANNELS], ids=[n for n, _ in CHANNELS])
def test_a_timer_channel_goes_through_kvm_s_struct(channel: PitChannel) -> None:
    channel.elapsed = 5_000_000
    back = chips.pit_from(chips.pit_to(PitState([channel] * 3, True)))
    assert back.speaker
    assert 5_000_000 <= back.channels[1].elapsed < 5_000_000 + 10**10
    back.channels[1].elapsed = channel.elapsed
    assert back.channels[1] == channel


def page(lvt: int, start: int, now: int) -> bytes:
    made = bytearray(ctypes.sizeof(abi.Lapic))
    for at, value in ((state.LVT_TIMER, lvt), (state.TMICT, start), (state.TMCCT, now)):
        made[at : at + 4] = value.to_bytes(4, "little")
    return bytes(made)


TIMERS = [
    ("over", page(0x40, 1000, 0), 0),
    ("running", page(0x40, 1000, 7), 1000),
    ("periodic", page(0x2_0040, 1000, 0), 1000),
    ("TSC deadline", page(0x4_0040, 0, 0), 0),
]


@pytest.mark.parametrize(("lapic", "start"), [t[1:] for t in TIMERS], ids=[t[0] for t in TIMERS])
def test_a_timer_that_is_over_is_not_started_again(lapic: bytes, start: int) -> None:
    settled = state.settled_timer(lapic)
    assert int.from_bytes(settled[state.TMICT : state.TMICT + 4], "little") == start
