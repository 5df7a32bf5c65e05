"""CpuState to and from the structs of KVM. Nothing here makes an ioctl."""

from __future__ import annotations

from barevisor.cpu import engine
from barevisor.cpu.kvm import abi

SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
GENERAL = (*engine.GPR_NAMES, "rip", "rflags")

TSC = 0x10
TSC_DEADLINE = 0x6E0
MTRRS = (*range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF)
"""A KVM without them takes all RAM for write-back, which is what a guest programs."""
PARAVIRTUAL = {
    0x11: 0, 0x12: 0, 0x4B564D00: 3, 0x4B564D01: 3,  # the clocks
    0x4B564D02: 4, 0x4B564D06: 14,  # async page faults
    0x4B564D03: 5,  # steal time
    0x4B564D04: 6,  # PV EOI
    0x4B564D05: 12,  # poll control
}  # fmt: skip
"""KVM's own MSRs (Documentation/virt/kvm/x86/msr.rst) and the bit of leaf 0x40000001 that offers
each to the guest."""
MSRS = (
    0x3B,  # IA32_TSC_ADJUST
    0x48,  # IA32_SPEC_CTRL
    0x174, 0x175, 0x176,  # IA32_SYSENTER_CS, _ESP, _EIP
    0x1A0,  # IA32_MISC_ENABLE
    0x277,  # IA32_PAT
    *MTRRS,
    0xDA0,  # IA32_XSS
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084,  # STAR, LSTAR, CSTAR, SFMASK
    0xC0000102, 0xC0000103,  # KERNEL_GS_BASE, TSC_AUX
    *PARAVIRTUAL,
    TSC_DEADLINE,  # last: it means something only once the local APIC and the TSC are set
)  # fmt: skip
"""The MSRs of a CpuState; a kernel's KVM_GET_MSR_INDEX_LIST decides which of them exist."""

EVENT_NMI_PENDING, EVENT_SHADOW = 1, 4  # KVM_VCPUEVENT_VALID_*
MP_STATES = {"runnable": 0, "init": 1, "halted": 3, "sipi": 4}
MP_NAMES = {0: "runnable", 1: "init", 2: "init", 3: "halted", 4: "sipi"}


def regs_from(raw: abi.Regs) -> engine.Registers:
    """struct kvm_regs to Registers."""
    return engine.Registers(**{r: getattr(raw, r) for r in GENERAL})


def regs_to(regs: engine.Registers) -> abi.Regs:
    """Registers to struct kvm_regs."""
    return abi.Regs(**{r: getattr(regs, r) for r in GENERAL})


def segment_from(raw: abi.Segment) -> engine.Segment:
    """struct kvm_segment to Segment."""
    return engine.Segment(
        selector=raw.selector, base=raw.base, limit=raw.limit, type=raw.type,
        present=bool(raw.present), dpl=raw.dpl, db=bool(raw.db), s=bool(raw.s), long=bool(raw.l),
        g=bool(raw.g), avl=bool(raw.avl), unusable=bool(raw.unusable),
    )  # fmt: skip


def segment_to(seg: engine.Segment) -> abi.Segment:
    """Segment to struct kvm_segment."""
    return abi.Segment(
        base=seg.base, limit=seg.limit, selector=seg.selector, type=seg.type,
        present=seg.present, dpl=seg.dpl, db=seg.db, s=seg.s, l=seg.long, g=seg.g,
        avl=seg.avl, unusable=seg.unusable,
    )  # fmt: skip


def sregs_from(raw: abi.Sregs, state: engine.CpuState) -> None:
    """Fill the segments, descriptor tables and control registers of `state`."""
    for name in SEGMENTS:
        setattr(state, name, segment_from(getattr(raw, name)))
    for name in CONTROL:
        setattr(state, name, getattr(raw, name))
    state.gdt = engine.DescriptorTable(raw.gdt.base, raw.gdt.limit)
    state.idt = engine.DescriptorTable(raw.idt.base, raw.idt.limit)


def sregs_to(state: engine.CpuState) -> abi.Sregs:
    """The reverse of sregs_from; a pending external interrupt goes with the events."""
    raw = abi.Sregs()
    for name in SEGMENTS:
        setattr(raw, name, segment_to(getattr(state, name)))
    for name in CONTROL:
        setattr(raw, name, getattr(state, name))
    raw.gdt.base, raw.gdt.limit = state.gdt.base, state.gdt.limit
    raw.idt.base, raw.idt.limit = state.idt.base, state.idt.limit
    return raw


def events_from(raw: abi.VcpuEvents, cr2: int) -> engine.Events:
    """struct kvm_vcpu_events to Events. CR2 is already set when a #PF waits for delivery."""
    events = engine.Events(
        interrupt_shadow=raw.interrupt.shadow,
        nmi_pending=bool(raw.nmi.pending or raw.nmi.injected),
        nmi_masked=bool(raw.nmi.masked),
    )
    if raw.exception.injected or raw.exception.pending:
        events.exception = raw.exception.nr
        if raw.exception.has_error_code:
            events.exception_error = raw.exception.error_code
        events.exception_address = cr2 if raw.exception.nr == 14 else 0
    if raw.interrupt.injected:
        events.interrupt = raw.interrupt.nr
        events.interrupt_soft = bool(raw.interrupt.soft)
    return events


def events_to(events: engine.Events) -> abi.VcpuEvents:
    """Events to struct kvm_vcpu_events."""
    raw = abi.VcpuEvents(flags=EVENT_NMI_PENDING | EVENT_SHADOW)
    if events.exception >= 0:
        raw.exception.injected, raw.exception.nr = 1, events.exception
        if events.exception_error is not None:
            raw.exception.has_error_code = 1
            raw.exception.error_code = events.exception_error
    if events.interrupt >= 0:
        raw.interrupt.injected, raw.interrupt.nr = 1, events.interrupt
        raw.interrupt.soft = events.interrupt_soft
    raw.interrupt.shadow = events.interrupt_shadow
    raw.nmi.pending, raw.nmi.masked = events.nmi_pending, events.nmi_masked
    return raw


def debugregs_to(state: engine.CpuState) -> abi.DebugRegs:
    """DR0-3, DR6 and DR7 to struct kvm_debugregs."""
    raw = abi.DebugRegs(dr6=state.dr6, dr7=state.dr7)
    raw.db[:] = state.dr
    return raw


def xcrs_to(xcr0: int) -> abi.Xcrs:
    """XCR0 to struct kvm_xcrs."""
    raw = abi.Xcrs(nr_xcrs=1)
    raw.xcrs[0].value = xcr0
    return raw


def initial_xsave() -> bytes:
    """The image after FINIT (SDM, "Initialization of the x87 FPU") with MXCSR as at reset.
    XSTATE_BV 0 means that every component is in its initial state."""
    image = bytearray(abi.XSAVE_BYTES)
    image[0:2] = (0x37F).to_bytes(2, "little")
    image[24:28] = (0x1F80).to_bytes(4, "little")
    return bytes(image)


LVT_TIMER, TMICT, TMCCT = 0x320, 0x380, 0x390  # local APIC registers (SDM, "Local APIC")
TIMER_MODE = 3 << 17  # 0: one shot


def one_shot_over(page: bytes) -> bool:
    """Whether a local APIC's timer was started for one interrupt, and has counted down."""
    if not page:
        return False
    lvt, start, now = (
        int.from_bytes(page[at : at + 4], "little") for at in (LVT_TIMER, TMICT, TMCCT)
    )
    return not lvt & TIMER_MODE and start != 0 and now == 0


def settled_timer(page: bytes) -> bytes:
    """The page for KVM_SET_LAPIC, which would let a timer that is over fire once more
    (arch/x86/kvm/lapic.c, set_target_expiration: a current count of 0 means now)."""
    if not one_shot_over(page):
        return page
    return page[:TMICT] + bytes(4) + page[TMICT + 4 :]
