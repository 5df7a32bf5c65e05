"""Model-specific registers (SDM, "Model-Specific Registers (MSRs)"; KVM's own:
Documentation/virt/kvm/x86/msr.rst, Linux 6.1). C signatures are in msr.pxd.

An MSR that no announced feature brings raises #GP, as on hardware; Linux reads such ones with
rdmsr_safe. Memory types are stored and have no effect.
"""

import cython
from cython.cimports.barevisor.cpu.bt.apic import (
    apic_base_write,
    apic_deadline_read,
    apic_deadline_write,
    apic_msr_read,
    apic_msr_write,
)
from cython.cimports.barevisor.cpu.bt.clock import clock_write_system_time, clock_write_wall
from cython.cimports.barevisor.cpu.bt.mode import update_mode
from cython.cimports.barevisor.cpu.bt.registers import *
from cython.cimports.barevisor.cpu.bt.tlb import tlb_flush
from cython.cimports.barevisor.cpu.bt.tsc import guest_tsc

EFER = cython.declare("u32", 0xC0000080)
STAR = cython.declare("u32", 0xC0000081)
LSTAR = cython.declare("u32", 0xC0000082)
CSTAR = cython.declare("u32", 0xC0000083)
SFMASK = cython.declare("u32", 0xC0000084)
FS_BASE = cython.declare("u32", 0xC0000100)
GS_BASE = cython.declare("u32", 0xC0000101)
KERNEL_GS_BASE = cython.declare("u32", 0xC0000102)
TSC_AUX = cython.declare("u32", 0xC0000103)
PAT_RESET = cython.declare("u64", 0x0007040600070406)
PAT_TYPES = cython.declare("u32", 0xF3)  # UC WC - - WT WP WB UC-
MTRR_TYPES = cython.declare("u32", 0x73)
MICROCODE = cython.declare("u64", 0x100000000)  # revision 1
MTRR_CAPS = cython.declare("u64", 0x508)  # 8 variable ranges, fixed ranges, WC
FEATURES_LOCKED = cython.declare("u64", 1)
FAST_STRINGS = cython.declare("u64", 1)
NO_BTS_NO_PEBS = cython.declare("u64", 0x1800)
# Fast strings, thermal control, SpeedStep, MONITOR, CPUID limit, xTPR, XD: kept, without effect.
MISC_WRITABLE = cython.declare("u64", 0x4_00C5_0009)
ASYNC_PF_RESERVED = cython.declare("u64", 0x30)


def msr_reset(cpu):
    """SDM, "Processor State After Reset"; INIT leaves these alone except EFER and the bases."""
    cpu.pat = PAT_RESET
    cpu.misc_enable = FAST_STRINGS | NO_BTS_NO_PEBS


# ---- MSRs that are one field of Cpu ----------------------------------------------------------


def mtrr_fixed_number(index):
    if index == IA32_MTRR_FIX64K:
        return 0
    if IA32_MTRR_FIX16K_0 <= index <= IA32_MTRR_FIX16K_1:
        return 1 + index - IA32_MTRR_FIX16K_0
    if IA32_MTRR_FIX4K_0 <= index <= IA32_MTRR_FIX4K_7:
        return 3 + index - IA32_MTRR_FIX4K_0
    return -1


def field(cpu, index, check):
    """Where the MSR is kept and which values it takes, or NULL."""
    check[0] = ANY
    if index == STAR:
        return cython.address(cpu.star)
    if index == IA32_SYSENTER_CS:
        return cython.address(cpu.sysenter_cs)
    check[0] = CANONICAL
    if index == KERNEL_GS_BASE:
        return cython.address(cpu.kernel_gs_base)
    if index == LSTAR:
        return cython.address(cpu.lstar)
    if index == CSTAR:
        return cython.address(cpu.cstar)
    if index == IA32_SYSENTER_ESP:
        return cython.address(cpu.sysenter_esp)
    if index == IA32_SYSENTER_EIP:
        return cython.address(cpu.sysenter_eip)
    check[0] = LOW_32
    if index == SFMASK:
        return cython.address(cpu.sfmask)
    if index == TSC_AUX:
        return cython.address(cpu.tsc_aux)
    check[0] = TYPES_PAT
    if index == IA32_PAT:
        return cython.address(cpu.pat)
    check[0] = TYPES_MTRR
    if mtrr_fixed_number(index) >= 0:
        return cython.address(cpu.mtrr_fixed[mtrr_fixed_number(index)])
    check[0] = NONE
    if IA32_MTRR_BASE0 <= index <= IA32_MTRR_MASK7:
        return cython.address(cpu.mtrr_var[index - IA32_MTRR_BASE0])
    if index == IA32_MTRR_DEF_TYPE:
        return cython.address(cpu.mtrr_def_type)
    if index == EFER:
        return cython.address(cpu.efer)
    if index == IA32_PKRS and cpu.cr4_allowed & CR4_PKS:
        return cython.address(cpu.pkrs)
    if index == FS_BASE:
        return cython.address(cpu.segs[SEG_FS].base)
    if index == GS_BASE:
        return cython.address(cpu.segs[SEG_GS].base)
    if index == IA32_TSC_ADJUST:
        return cython.address(cpu.tsc_adjust)
    if index == IA32_APIC_BASE:
        return cython.address(cpu.apic_base)
    if index == IA32_MISC_ENABLE:
        return cython.address(cpu.misc_enable)
    if index == KVM_SYSTEM_TIME or index == KVM_SYSTEM_TIME_OLD:
        return cython.address(cpu.msr_kvm_system_time)
    if index == KVM_WALL_CLOCK or index == KVM_WALL_CLOCK_OLD:
        return cython.address(cpu.msr_kvm_wall_clock)
    if index == KVM_PV_EOI and cpu.vm.irqchip:
        return cython.address(cpu.msr_kvm_pv_eoi)
    return cython.NULL


# ---- what a value must be --------------------------------------------------------------------


def valid_types(value, allowed):
    """Eight memory types, one a byte; `allowed` has a bit for each."""
    i: cython.int
    one: u64
    for i in range(8):
        one = (value >> (8 * i)) & 0xFF
        if one > 7 or not (allowed >> one) & 1:
            return 0
    return 1


def valid(value, check):
    if check == ANY:
        return 1
    if check == CANONICAL:
        return canonical(value)
    if check == LOW_32:
        return value >> 32 == 0
    if check == TYPES_PAT:
        return valid_types(value, PAT_TYPES)
    if check == TYPES_MTRR:
        return valid_types(value, MTRR_TYPES)
    return 0


# ---- reading ---------------------------------------------------------------------------------


def read_special(cpu, index, value):
    """MSRs that are computed or constant."""
    if index == IA32_TSC:
        value[0] = guest_tsc(cpu)
    elif index == IA32_TSC_DEADLINE and cpu.vm.irqchip:
        value[0] = apic_deadline_read(cpu)
    elif index == IA32_BIOS_SIGN_ID:
        value[0] = MICROCODE
    elif index == IA32_MTRRCAP:
        value[0] = MTRR_CAPS
    elif index == IA32_FEATURE_CONTROL:
        value[0] = FEATURES_LOCKED
    elif index == IA32_PLATFORM_INFO:
        value[0] = cpu.vm.vm_khz // 100000 << 8
    elif (
        index == IA32_PLATFORM_ID
        or index == IA32_MCG_CAP
        or index == IA32_MCG_STATUS
        or index == IA32_DEBUGCTL
        or index == IA32_PERF_CAPABILITIES
        or index == KVM_ASYNC_PF
    ):
        value[0] = 0
    else:
        return 1
    return 0


def msr_read(cpu, index, value):
    check: Check = ANY
    at: cython.pointer(u64)
    if X2APIC_FIRST <= index <= X2APIC_LAST:
        return apic_msr_read(cpu, index, value) if cpu.vm.irqchip else 1
    at = field(cpu, index, cython.address(check))
    if at == cython.NULL:
        return read_special(cpu, index, value)
    value[0] = at[0]
    return 0


# ---- writing ---------------------------------------------------------------------------------


def msr_write(cpu, index, value):
    check: Check = ANY
    at: cython.pointer(u64)
    if X2APIC_FIRST <= index <= X2APIC_LAST:
        return apic_msr_write(cpu, index, value) if cpu.vm.irqchip else 1
    at = field(cpu, index, cython.address(check))
    if at == cython.NULL or check == NONE:
        return write_special(cpu, index, value)
    if not valid(value, check):
        return 1
    at[0] = value
    return 0


def write_special(cpu, index, value):
    if index == IA32_TSC_DEADLINE and cpu.vm.irqchip:
        apic_deadline_write(cpu, value)
    elif index == FS_BASE:
        return write_base(cpu, SEG_FS, value)
    elif index == GS_BASE:
        return write_base(cpu, SEG_GS, value)
    elif index == EFER:
        return write_efer(cpu, value)
    elif index == IA32_TSC:
        move_tsc(cpu, cpu.tsc_adjust + value - guest_tsc(cpu))
    elif index == IA32_TSC_ADJUST:
        move_tsc(cpu, value)
    elif index == IA32_APIC_BASE:
        return apic_base_write(cpu, value)
    elif index == IA32_MISC_ENABLE:
        cpu.misc_enable = value & MISC_WRITABLE | NO_BTS_NO_PEBS
    elif IA32_MTRR_BASE0 <= index <= IA32_MTRR_MASK7:
        return write_mtrr_variable(cpu, index, value)
    elif index == IA32_MTRR_DEF_TYPE:
        if value & ~cython.cast(u64, 0xCFF) or not valid_types(value & 0xFF, MTRR_TYPES):
            return 1
        cpu.mtrr_def_type = value
    elif index == IA32_DEBUGCTL:
        return (value & ~cython.cast(u64, 3)) != 0  # LBR and BTF: taken, without effect
    elif index == IA32_MCG_STATUS:
        return value != 0
    elif index == IA32_PKRS and cpu.cr4_allowed & CR4_PKS:
        if value >> 32:
            return 1
        cpu.pkrs = value
        tlb_flush(cpu, 0)
    elif index != IA32_BIOS_SIGN_ID and index != IA32_UCODE_WRITE:
        return write_kvm(cpu, index, value)
    return 0


def write_kvm(cpu, index, value):
    """MSR_KVM_*: a bad address is the guest's own loss; only reserved bits fault."""
    if index == KVM_SYSTEM_TIME or index == KVM_SYSTEM_TIME_OLD:
        cpu.msr_kvm_system_time = value
        clock_write_system_time(cpu)
    elif index == KVM_WALL_CLOCK or index == KVM_WALL_CLOCK_OLD:
        cpu.msr_kvm_wall_clock = value
        clock_write_wall(cpu, value)
    elif index == KVM_PV_EOI and cpu.vm.irqchip and not value & 2:
        cpu.msr_kvm_pv_eoi = value
        cpu.apic.pv_eoi_armed = 0
    elif index == KVM_ASYNC_PF:
        return (value & ASYNC_PF_RESERVED) != 0  # taken, but no page is ever late here
    else:
        return 1
    return 0


def write_base(cpu, segment, value):
    if not canonical(value):
        return 1
    cpu.segs[segment].base = value
    cpu.segbase[segment] = value
    return 0


def write_efer(cpu, value):
    """SDM, "IA32_EFER MSR": LMA is read-only, LME is locked while paging is on."""
    if value & ~cpu.efer_allowed:
        return 1
    if (value ^ cpu.efer) & EFER_LME and cpu.cr0 & CR0_PG:
        return 1
    value = value & ~EFER_LMA | cpu.efer & EFER_LMA
    if (value ^ cpu.efer) & EFER_NXE:
        tlb_flush(cpu, 0)
    cpu.efer = value
    update_mode(cpu)
    return 0


def write_mtrr_variable(cpu, index, value):
    """SDM, "Variable Range MTRRs": even ones are bases with a type, odd ones masks."""
    fixed: u64 = 0x800 if index & 1 else 0xFF
    if value & ~(cpu.phys_mask & ~cython.cast(u64, 0xFFF) | fixed):
        return 1
    if not index & 1 and not valid_types(value & 0xFF, MTRR_TYPES):
        return 1
    cpu.mtrr_var[index - IA32_MTRR_BASE0] = value
    return 0


def move_tsc(cpu, adjust):
    """A new IA32_TSC_ADJUST; an armed deadline keeps its value in guest TSC."""
    deadline: u64 = cpu.apic.tsc_deadline
    cpu.tsc_adjust = adjust
    if deadline:
        apic_deadline_write(cpu, deadline)
    if cpu.msr_kvm_system_time & 1:
        clock_write_system_time(cpu)
