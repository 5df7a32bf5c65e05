"""The structs of KVM's interrupt controllers, timer and clock, beside those of abi.py.

Only a guest that moves to or from KVM needs them: a start does without.
"""

from __future__ import annotations

import ctypes as c

from barevisor.cpu.kvm.abi import Abi, u8, u16, u32, u64


class PitChannel(Abi):
    """struct kvm_pit_channel_state. A count of 0x10000 is told as such."""

    SIZE = 24
    _fields_ = (
        ("count", u32),
        ("latched_count", u16),
        *(
            (f, u8)
            for f in (
                "count_latched", "status_latched", "status", "read_state", "write_state",
                "write_latch", "rw_mode", "mode", "bcd", "gate",
            )
        ),
        ("count_load_time", c.c_int64),
    )  # fmt: skip


class PitState(Abi):
    """struct kvm_pit_state2 (api.rst 4.72)."""

    SIZE = 112
    _fields_ = (("channels", PitChannel * 3), ("flags", u32), ("reserved", u32 * 9))


class PicState(Abi):
    """struct kvm_pic_state: one 8259A."""

    SIZE = 16
    _fields_ = tuple(
        (f, u8)
        for f in (
            "last_irr", "irr", "imr", "isr", "priority_add", "irq_base", "read_reg_select",
            "poll", "special_mask", "init_state", "auto_eoi", "rotate_on_auto_eoi",
            "special_fully_nested_mode", "init4", "elcr", "elcr_mask",
        )
    )  # fmt: skip


class IoApicState(Abi):
    """struct kvm_ioapic_state."""

    SIZE = 216
    _fields_ = (
        ("base_address", u64),
        ("ioregsel", u32),
        ("id", u32),
        ("irr", u32),
        ("pad", u32),
        ("redirtbl", u64 * 24),
    )


class IrqChip(Abi):
    """struct kvm_irqchip (api.rst 4.26): chip_id 0 and 1 the 8259As, 2 the IOAPIC."""

    SIZE = 520
    _fields_ = (("chip_id", u32), ("pad", u32), ("chip", u8 * 512))


class Clock(Abi):
    """struct kvm_clock_data (api.rst 4.29)."""

    SIZE = 48
    _fields_ = (
        ("clock", u64),
        ("flags", u32),
        ("pad0", u32),
        ("realtime", u64),
        ("host_tsc", u64),
        ("pad", u32 * 4),
    )


for _struct in Abi.__subclasses__():
    _struct.check()
