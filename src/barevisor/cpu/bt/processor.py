"""What a processor tells of itself and how it waits: CPUID, MSRs, the TSC, HLT, MWAIT."""

import cython
from cython import address, cast

# ---- CPUID --------------------------------------------------------------------------------


def find_cpuid(cpu, leaf, subleaf):
    """The model's entry, or NULL."""
    i: u32
    for i in range(cpu.ncpuid):
        if cpu.cpuid[i].leaf == leaf and (
            not cpu.cpuid[i].has_subleaf or cpu.cpuid[i].subleaf == subleaf
        ):
            return address(cpu.cpuid[i])
    return cython.NULL


def redirect_leaf(cpu, leaf):
    """SDM, CPUID: beyond the highest basic or extended leaf Intel answers with the highest
    basic one; AMD with zeros. KVM's own leaves (0x4000_00xx) have a range of their own."""
    entry: cython.pointer[CpuidEntry] = find_cpuid(cpu, leaf & cast(u32, 0xC0000000), 0)
    if entry != cython.NULL and leaf <= entry.eax:
        return leaf
    entry = find_cpuid(cpu, 0, 0)
    if entry == cython.NULL or not is_intel(cpu):
        return leaf
    return entry.eax


def live_cpuid(cpu, leaf, subleaf, out):
    """Bits that depend on the CPU's number and state."""
    if leaf == 1:
        out.ebx = (out.ebx & 0xFFFFFF) | (cpu.index << 24)
        out.ecx &= ~cast(u32, 1 << 27)
        if cpu.cr4 & CR4_OSXSAVE:
            out.ecx |= 1 << 27
        if not cpu.apic_base & 0x800:
            out.edx &= ~cast(u32, 1 << 9)
    elif leaf == 7 and subleaf == 0:
        if cpu.cr4 & CR4_PKE:
            out.ecx |= 1 << 4
    elif leaf == 0xB or leaf == 0x1F:
        out.ecx = (out.ecx & ~cast(u32, 0xFF)) | (subleaf & 0xFF)
        out.edx = cpu.index
    elif leaf == 0xD and subleaf < 2:
        out.ebx = XSAVE_YMM if cpu.xcr0 & 4 else XSAVE_LEGACY


def h_cpuid(cpu, op):
    """SDM, CPUID."""
    leaf: u32 = cast(u32, cpu.regs[0])
    subleaf: u32 = cast(u32, cpu.regs[1])
    out: CpuidEntry
    entry: cython.pointer[CpuidEntry] = find_cpuid(cpu, leaf, subleaf)
    serialize()
    out.eax = out.ebx = out.ecx = out.edx = 0
    if entry == cython.NULL:
        leaf = redirect_leaf(cpu, leaf)
        entry = find_cpuid(cpu, leaf, subleaf)
    if entry != cython.NULL:
        out = entry[0]
    live_cpuid(cpu, leaf, subleaf, address(out))
    cpu.regs[0] = out.eax
    cpu.regs[3] = out.ebx
    cpu.regs[1] = out.ecx
    cpu.regs[2] = out.edx
    return finish(cpu, op)


# ---- time stamps and counters -------------------------------------------------------------


def h_rdtsc(cpu, op):
    """SDM, RDTSC."""
    now: u64
    if cpu.cr4 & CR4_TSD and cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    now = guest_tsc(cpu)
    cpu.regs[0] = cast(u32, now)
    cpu.regs[2] = now >> 32
    return next_op(cpu, op)


def h_rdtscp(cpu, op):
    """SDM, RDTSCP."""
    if cpu.cr4 & CR4_TSD and cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    cpu.regs[1] = cast(u32, cpu.tsc_aux)
    return h_rdtsc(cpu, op)


def h_rdpid(cpu, op):
    """SDM, RDPID."""
    cpu.regs[op.rm] = cast(u32, cpu.tsc_aux)
    return finish(cpu, op)


def h_rdpmc(cpu, op):
    """SDM, RDPMC: the model has no performance counters, so every index is invalid."""
    return fault(cpu, op, EXC_GP, 0)


# ---- model-specific registers -------------------------------------------------------------


def h_rdmsr(cpu, op):
    """SDM, RDMSR."""
    value: u64 = 0
    if cpu.cpl != 0 or msr_read(cpu, cast(u32, cpu.regs[1]), address(value)):
        return fault(cpu, op, EXC_GP, 0)
    cpu.regs[0] = cast(u32, value)
    cpu.regs[2] = value >> 32
    return finish(cpu, op)


def h_wrmsr(cpu, op):
    """SDM, WRMSR. It may change modes (EFER), bases (FS, GS), or leave (x2APIC EOI)."""
    value: u64 = cast(u64, cast(u32, cpu.regs[2])) << 32 | cast(u32, cpu.regs[0])
    serialize()
    if cpu.cpl != 0 or msr_write(cpu, cast(u32, cpu.regs[1]), value):
        return fault(cpu, op, EXC_GP, 0)
    update_mode(cpu)
    return leave_after(cpu, op)


# ---- waiting ------------------------------------------------------------------------------


def h_hlt(cpu, op):
    """SDM, HLT: the vCPU layer sleeps or reports."""
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    cpu.halted = 1
    cpu.exit_reason = EXIT_HALTED
    return leave_after(cpu, op)


def h_monitor(cpu, op):
    """SDM, MONITOR: the range is touched as a load would; only ECX = 0 is defined."""
    byte: u8 = 0
    status: cython.int
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cast(u32, cpu.regs[1]):
        return fault(cpu, op, EXC_GP, 0)
    status = load(cpu, cpu.regs[0] + cpu.segbase[SEG_DS], 1, address(byte))
    if status:
        return leave(cpu, op, status)
    return finish(cpu, op)


def h_mwait(cpu, op):
    """SDM, MWAIT: a hint; waking at once is always allowed."""
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    return finish(cpu, op)


def h_ud(cpu, op):
    """SDM, UD."""
    return fault(cpu, op, EXC_UD, NO_ERROR)


def h_rsm(cpu, op):
    """SDM, RSM: #UD outside of system-management mode, which does not exist here."""
    return fault(cpu, op, EXC_UD, NO_ERROR)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "cpuid": entry_of(h_cpuid),
        "rdtsc": entry_of(h_rdtsc),
        "rdtscp": entry_of(h_rdtscp),
        "rdpid": entry_of(h_rdpid),
        "rdpmc": entry_of(h_rdpmc),
        "rdmsr": entry_of(h_rdmsr),
        "wrmsr": entry_of(h_wrmsr),
        "hlt": entry_of(h_hlt),
        "monitor": entry_of(h_monitor),
        "mwait": entry_of(h_mwait),
        "ud": entry_of(h_ud),
        "rsm": entry_of(h_rsm),
    }
