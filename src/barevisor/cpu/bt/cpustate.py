"""Between struct Cpu and the contract's CpuState, which is what a snapshot holds.

A snapshot is input: what the guest itself could not have set raises EngineError or is dropped.
C signatures are in cpustate.pxd.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import get_rflags, set_rflags
from cython.cimports.barevisor.cpu.bt.apic import (
    apic_get_tpr,
    apic_load,
    apic_power_up,
    apic_reset,
    apic_save,
    apic_set_tpr,
)
from cython.cimports.barevisor.cpu.bt.apicbus import wake
from cython.cimports.barevisor.cpu.bt.atomics import __sync_fetch_and_and
from cython.cimports.barevisor.cpu.bt.fpstate import load_xsave_image, xsave_image
from cython.cimports.barevisor.cpu.bt.mode import update_mode
from cython.cimports.barevisor.cpu.bt.msr import msr_read, msr_write
from cython.cimports.barevisor.cpu.bt.tlb import tlb_flush
from cython.cimports.barevisor.cpu.bt.tsc import guest_tsc, vm_tsc

from barevisor.cpu import engine
from barevisor.cpu.x86 import cpuid
from barevisor.errors import EngineError

GENERAL = engine.GPR_NAMES
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")
"""In the order of SEG_*."""
MP_NAMES = {MP_RUNNABLE: "runnable", MP_WAIT_SIPI: "init", MP_HALTED: "halted"}
MP_STATES = {
    "runnable": MP_RUNNABLE, "init": MP_WAIT_SIPI, "sipi": MP_WAIT_SIPI, "halted": MP_HALTED,
}  # fmt: skip
TSC_ADJUST, TSC_DEADLINE = 0x3B, 0x6E0
MSRS = (
    TSC_ADJUST,
    0x174, 0x175, 0x176,  # IA32_SYSENTER_CS, _ESP, _EIP
    0x1A0,  # IA32_MISC_ENABLE
    0x277,  # IA32_PAT
    *range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF,  # MTRRs
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084,  # STAR, LSTAR, CSTAR, SFMASK
    0xC0000102, 0xC0000103,  # KERNEL_GS_BASE, TSC_AUX
    0x4B564D00, 0x4B564D01, 0x4B564D04,  # kvm-clock, PV EOI
    TSC_DEADLINE,
)  # fmt: skip
"""The MSRs of a CpuState that are no field of their own."""
LAPIC_BYTES = 1024


# ---- parts -----------------------------------------------------------------------------------


def save_registers(cpu):
    return engine.Registers(*[cpu.regs[i] for i in range(16)], cpu.rip, get_rflags(cpu))


def load_registers(cpu, regs):
    for at, name in enumerate(GENERAL):
        cpu.regs[at] = getattr(regs, name)
    cpu.rip = regs.rip
    set_rflags(cpu, regs.rflags)
    update_mode(cpu)
    return 0


def save_segment(cpu, number):
    raw: cython.pointer(Seg) = cython.address(cpu.segs[number])
    attr = raw.attr
    return engine.Segment(
        selector=raw.selector, base=raw.base, limit=raw.limit, type=attr & 15,
        s=bool(attr >> 4 & 1), dpl=attr >> 5 & 3, present=bool(attr >> 7 & 1),
        avl=bool(attr >> 8 & 1), long=bool(attr >> 9 & 1), db=bool(attr >> 10 & 1),
        g=bool(attr >> 11 & 1), unusable=not raw.usable,
    )  # fmt: skip


def load_segment(cpu, number, segment):
    raw: cython.pointer(Seg) = cython.address(cpu.segs[number])
    raw.selector, raw.base, raw.limit = segment.selector, segment.base, segment.limit
    raw.attr = (
        segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7
        | segment.avl << 8 | segment.long << 9 | segment.db << 10 | segment.g << 11
    )  # fmt: skip
    raw.usable = not segment.unusable
    return 0


def save_msrs(cpu):
    value: u64
    values = {}
    for index in MSRS:
        value = 0
        if msr_read(cpu, index, cython.address(value)) == 0:
            values[index] = value
    return values


def load_msrs(cpu, msrs):
    """The deadline last: it means something once the local APIC and the TSC are set."""
    for index in sorted(msrs, key=lambda m: (m == TSC_DEADLINE, m)):
        if msr_write(cpu, index, msrs[index]) and msrs[index]:
            raise EngineError(f"MSR {index:#x} does not take {msrs[index]:#x} on the bt engine")
    return 0


def load_lapic(cpu, page, cr8):
    if len(page) not in (0, LAPIC_BYTES):
        raise EngineError(f"a local APIC page of {len(page)} bytes")
    apic_reset(cpu, 1)
    if page:
        apic_load(cpu, cython.cast(cython.pointer(u8), cython.cast(cython.p_char, page)))
        return 0
    apic_power_up(cpu)
    apic_set_tpr(cpu, cython.cast(u32, cr8 << 4))
    return 0


# ---- the whole -------------------------------------------------------------------------------


def save_state(cpu):
    s = engine.CpuState(regs=save_registers(cpu))
    for number, name in enumerate(SEGMENTS):
        setattr(s, name, save_segment(cpu, number))
    if not s.ss.unusable:
        s.ss.dpl = cpu.cpl
    s.gdt = engine.DescriptorTable(cpu.gdt_base, cpu.gdt_limit)
    s.idt = engine.DescriptorTable(cpu.idt_base, cpu.idt_limit)
    s.cr0, s.cr2, s.cr3, s.cr4 = cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4
    s.cr8, s.efer, s.xcr0 = apic_get_tpr(cpu) >> 4, cpu.efer, cpu.xcr0
    s.apic_base = cpu.apic_base
    s.dr = [cpu.dr[i] for i in range(4)]
    s.dr6, s.dr7 = cpu.dr[6], cpu.dr[7]
    s.xsave = xsave_image(cpu)
    s.msrs = save_msrs(cpu)
    s.tsc = guest_tsc(cpu)
    s.events = engine.Events(
        interrupt_shadow=cpu.shadow,
        nmi_pending=bool(cpu.attention & ATT_NMI),
        nmi_masked=bool(cpu.nmi_masked),
    )
    s.mp_state = MP_NAMES[cpu.mp_state]
    if cpu.vm.irqchip:
        page = bytes(LAPIC_BYTES)
        apic_save(cpu, cython.cast(cython.pointer(u8), cython.cast(cython.p_char, page)))
        s.lapic = page
    return s


def check_state(state):
    """A snapshot is input like any other. What makes no sense to the CPU is refused here; what is
    merely wrong is the guest's to suffer."""
    if state.mp_state not in MP_STATES:
        raise EngineError(f"a CPU cannot be {state.mp_state!r}")
    if not 0 <= state.ss.dpl <= 3:
        raise EngineError(f"no privilege level is {state.ss.dpl}")
    if not state.xcr0 & XCR0_X87 or state.xcr0 & ~XCR0_KNOWN:
        raise EngineError(f"XCR0 {state.xcr0:#x}: the bt engine has x87, SSE and AVX")
    if state.cr0 >> 31 & 1 and not state.cr0 & CR0_PE:
        raise EngineError(f"CR0 {state.cr0:#x}: paging outside protected mode")
    return 0


def load_state(cpu, state):
    """The TSC is one for all CPUs of the VM."""
    check_state(state)
    for number, name in enumerate(SEGMENTS):
        load_segment(cpu, number, getattr(state, name))
    cpu.gdt_base, cpu.gdt_limit = state.gdt.base, state.gdt.limit
    cpu.idt_base, cpu.idt_limit = state.idt.base, state.idt.limit
    cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4 = state.cr0, state.cr2, state.cr3, state.cr4
    cpu.efer, cpu.xcr0, cpu.apic_base = state.efer, state.xcr0, state.apic_base
    for i in range(4):
        cpu.dr[i] = state.dr[i]
    cpu.dr[6], cpu.dr[7] = state.dr6, state.dr7
    cpu.mmio_n = cpu.io_ready = cpu.halted = cpu.pending_db = 0
    if load_xsave_image(cpu, state.xsave):
        raise EngineError("the XSAVE image is malformed")
    load_registers(cpu, state.regs)
    # As KVM: the privilege level is the DPL of SS (SDM, "Current Privilege Level").
    vm86 = state.regs.rflags & FLAG_VM
    cpu.cpl = 0 if not state.cr0 & 1 else 3 if vm86 else state.ss.dpl
    cpu.mp_state = MP_STATES[state.mp_state]
    load_lapic(cpu, state.lapic, state.cr8)
    cpu.tsc_adjust = state.msrs.get(TSC_ADJUST, 0)
    if state.tsc is not None:
        cpu.vm.tsc_offset = cython.cast(u64, state.tsc) - vm_tsc(cpu.vm) - cpu.tsc_adjust
    load_msrs(cpu, state.msrs)
    cpu.shadow, cpu.nmi_masked = state.events.interrupt_shadow, state.events.nmi_masked
    cpu.nmi_pending = state.events.nmi_pending
    if state.events.nmi_pending:
        wake(cpu, ATT_NMI)
    else:
        __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_NMI))
    update_mode(cpu)
    tlb_flush(cpu, 0)
    return 0


def reset_state(index, irqchip):
    s = engine.CpuState()
    s.regs.rdx, s.regs.rip = cpuid.SIGNATURE, 0xFFF0
    s.cs.selector, s.cs.base = 0xF000, 0xFFFF0000
    s.apic_base = 0xFEE00800 | (0 if index else 0x100)
    s.mp_state = "init" if index and irqchip else "runnable"
    return s
