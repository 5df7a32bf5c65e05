"""Interrupt controllers, timer and clock of KVM to and from the contract's dataclasses.

Nothing here makes an ioctl. Structs: arch/x86/include/uapi/asm/kvm.h of Linux 6.1.
"""

from __future__ import annotations

import time

from barevisor.cpu.kvm import chipabi
from barevisor.cpu.kvm.abi import Abi
from barevisor.cpu.vmstate import IoApicState, PicState, PitChannel, PitState

MASTER, SLAVE, IOAPIC = 0, 1, 2  # KVM_IRQCHIP_*
ELCR_MASKS = (0xF8, 0xDE)  # lines that can be level-triggered
SPEAKER_ON = 2  # KVM_PIT_FLAGS_SPEAKER_DATA_ON
IOAPIC_BASE = 0xFEC0_0000
LOW, HIGH, WORD0, WORD1 = 1, 2, 3, 4  # RW_STATE_* (arch/x86/kvm/i8254.c)
NOT_LOADED = 0xFF
"""A channel's mode before its first control word (kvm_pit_reset_reinject)."""


def pic_from(chip: chipabi.IrqChip) -> PicState:
    """KVM numbers the next ICW from 1; priority_add is the IRQ of highest priority."""
    raw = chipabi.PicState.from_buffer_copy(chip.chip)
    return PicState(
        irr=raw.irr, isr=raw.isr, imr=raw.imr, lines=raw.last_irr, elcr=raw.elcr,
        base=raw.irq_base, lowest=(raw.priority_add + 7) & 7,
        initialising=raw.init_state + 1 if raw.init_state else 0, icw4=bool(raw.init4),
        auto_eoi=bool(raw.auto_eoi), rotate=bool(raw.rotate_on_auto_eoi),
        nested=bool(raw.special_fully_nested_mode), read_isr=bool(raw.read_reg_select),
        poll=bool(raw.poll), special_mask=bool(raw.special_mask),
    )  # fmt: skip


def pic_to(state: PicState, number: int) -> chipabi.IrqChip:
    """The reverse, for chip MASTER or SLAVE."""
    raw = chipabi.PicState(
        irr=state.irr, isr=state.isr, imr=state.imr, last_irr=state.lines, elcr=state.elcr,
        irq_base=state.base, priority_add=(state.lowest + 1) & 7,
        init_state=state.initialising - 1 if state.initialising else 0, init4=state.icw4,
        auto_eoi=state.auto_eoi, rotate_on_auto_eoi=state.rotate,
        special_fully_nested_mode=state.nested, read_reg_select=state.read_isr,
        poll=state.poll, special_mask=state.special_mask, elcr_mask=ELCR_MASKS[number],
    )  # fmt: skip
    return _chip(number, raw)


def ioapic_from(chip: chipabi.IrqChip) -> IoApicState:
    """`irr` is the inputs' levels."""
    raw = chipabi.IoApicState.from_buffer_copy(chip.chip)
    return IoApicState(raw.id, raw.ioregsel, list(raw.redirtbl), raw.irr)


def ioapic_to(state: IoApicState) -> chipabi.IrqChip:
    """The reverse."""
    raw = chipabi.IoApicState(
        base_address=IOAPIC_BASE, ioregsel=state.select, id=state.id, irr=state.lines
    )
    raw.redirtbl[:] = state.table
    return _chip(IOAPIC, raw)


def _chip(number: int, raw: Abi) -> chipabi.IrqChip:
    chip = chipabi.IrqChip(chip_id=number)
    data = bytes(raw)
    chip.chip[: len(data)] = data
    return chip


def pit_from(raw: chipabi.PitState) -> PitState:
    """struct kvm_pit_state2."""
    return PitState([_channel_from(c) for c in raw.channels], bool(raw.flags & SPEAKER_ON))


def _channel_from(raw: chipabi.PitChannel) -> PitChannel:
    access = raw.rw_mode or WORD0
    latch = []
    if raw.count_latched:
        low, high = raw.latched_count & 0xFF, raw.latched_count >> 8
        latch = {LOW: [low], HIGH: [high], WORD0: [low, high], WORD1: [high]}[raw.count_latched]
    return PitChannel(
        reload=raw.count or 0x10000, mode=raw.mode if raw.mode != NOT_LOADED else 0,
        bcd=bool(raw.bcd), access=access, gate=bool(raw.gate), running=raw.mode != NOT_LOADED,
        elapsed=max(time.monotonic_ns() - raw.count_load_time, 0),
        low=raw.write_latch if raw.write_state == WORD1 else None,
        high_next=raw.read_state == WORD1, latch=latch,
        status=raw.status if raw.status_latched else None,
    )  # fmt: skip


def pit_to(state: PitState) -> chipabi.PitState:
    """The reverse. KVM counts every channel from its reload value anew."""
    raw = chipabi.PitState(flags=SPEAKER_ON if state.speaker else 0)
    for to, channel in zip(raw.channels, state.channels, strict=True):
        _channel_to(channel, to)
    return raw


def _channel_to(state: PitChannel, raw: chipabi.PitChannel) -> None:
    both = state.access == 3
    raw.count, raw.bcd, raw.gate = state.reload, state.bcd, state.gate
    raw.mode = state.mode if state.running else NOT_LOADED
    raw.rw_mode = state.access
    raw.read_state = WORD1 if state.high_next else state.access
    raw.write_state = WORD1 if both and state.low is not None else state.access
    raw.write_latch = state.low or 0
    raw.status_latched, raw.status = state.status is not None, state.status or 0
    if len(state.latch) == 2:
        raw.count_latched, raw.latched_count = WORD0, state.latch[0] | state.latch[1] << 8
    elif state.latch:
        high = state.access == HIGH or both
        raw.count_latched = (WORD1 if both else HIGH) if high else LOW
        raw.latched_count = state.latch[0] << 8 if high else state.latch[0]
    raw.count_load_time = time.monotonic_ns() - state.elapsed
