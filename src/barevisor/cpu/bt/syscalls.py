"""SYSCALL, SYSRET, SYSENTER, SYSEXIT, and hypercalls."""

from cython import cast


def is_intel(cpu):
    """Which vendor's rules hold where they differ: by the announced name."""
    i: u32
    for i in range(cpu.ncpuid):
        if cpu.cpuid[i].leaf == 0:
            return cpu.cpuid[i].ebx == 0x756E6547  # "Genu"
    return True


def flat_segment(cpu, seg, selector, attr):
    """A segment register as these instructions load it: flat, without reading a descriptor."""
    cpu.segs[seg].selector = selector
    cpu.segs[seg].base = 0
    cpu.segs[seg].limit = cast(u32, 0xFFFFFFFF)
    cpu.segs[seg].attr = attr
    cpu.segs[seg].usable = 1


def enter_flat(cpu, selector, cpl, long_code):
    """CS from `selector`, SS from the next descriptor, at `cpl`."""
    flat_segment(cpu, SEG_CS, selector | cpl, (0xA9B if long_code else 0xC9B) | (cpl << 5))
    flat_segment(cpu, SEG_SS, (selector + 8) | cpl, 0xC93 | (cpl << 5))
    cpu.cpl = cpl
    update_mode(cpu)


def h_syscall(cpu, op):
    """SDM, SYSCALL: 64-bit mode only on Intel; on AMD also from compatibility mode, by CSTAR,
    whose use by a system says that it wants that (Linux leaves it 0 where the vendor is Intel).
    TF counts as it is afterwards, here and in SYSRET: the system masks it at entry, and the trap
    comes when SYSRET restores it."""
    flags: u64 = get_rflags(cpu)
    if not in_long(cpu) or not cpu.efer & EFER_SCE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if not in_code64(cpu) and is_intel(cpu) and not cpu.cstar:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    cpu.regs[1] = next_ip(cpu, op)
    cpu.regs[11] = flags & ~cast(u64, FLAG_RF)
    cpu.rip = cpu.lstar if in_code64(cpu) else cpu.cstar
    set_rflags(cpu, flags & ~(cpu.sfmask | FLAG_RF))
    if flags & FLAG_TF and not cpu.sysflags & FLAG_TF:
        cpu.pending_db |= cast(u32, DB_NO_STEP)
    enter_flat(cpu, cast(u32, cpu.star >> 32) & 0xFFFC, 0, True)
    return ST_NEXT


def h_sysret(cpu, op):
    """SDM, SYSRET."""
    selector: u32 = cast(u32, cpu.star >> 48) & 0xFFFC
    stepped: u32 = cpu.sysflags & FLAG_TF
    if not in_code64(cpu) or not cpu.efer & EFER_SCE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    if op.osize == 8:
        if not canonical(cpu.regs[1]):
            return fault(cpu, op, EXC_GP, 0)
        cpu.rip = cpu.regs[1]
        enter_sysret(cpu, selector + 16, selector + 8, True)
    else:
        cpu.rip = cast(u32, cpu.regs[1])
        enter_sysret(cpu, selector, selector + 8, False)
    set_rflags(cpu, cpu.regs[11] & 0x3C7FD7)
    if cpu.sysflags & FLAG_TF:
        cpu.pending_db |= DB_BS
    elif stepped:
        cpu.pending_db |= cast(u32, DB_NO_STEP)
    update_mode(cpu)
    return ST_NEXT


def enter_sysret(cpu, code, stack, long_code):
    flat_segment(cpu, SEG_CS, code | 3, 0xAFB if long_code else 0xCFB)
    flat_segment(cpu, SEG_SS, stack | 3, 0xCF3)
    cpu.cpl = 3


def h_sysenter(cpu, op):
    """SDM, SYSENTER."""
    selector: u32 = cast(u32, cpu.sysenter_cs) & 0xFFFC
    if not cpu.cr0 & CR0_PE or not selector:
        return fault(cpu, op, EXC_GP, 0)
    if in_long(cpu) and not is_intel(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    cpu.sysflags &= ~cast(u32, FLAG_VM | FLAG_IF | FLAG_RF)
    cpu.regs[4] = cpu.sysenter_esp if in_long(cpu) else cast(u32, cpu.sysenter_esp)
    cpu.rip = cpu.sysenter_eip if in_long(cpu) else cast(u32, cpu.sysenter_eip)
    enter_flat(cpu, selector, 0, in_long(cpu))
    return ST_NEXT


def h_sysexit(cpu, op):
    """SDM, SYSEXIT."""
    selector: u32 = cast(u32, cpu.sysenter_cs) & 0xFFFC
    if not cpu.cr0 & CR0_PE or not selector or cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    if in_long(cpu) and not is_intel(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if op.osize == 8:
        if not canonical(cpu.regs[1]) or not canonical(cpu.regs[2]):
            return fault(cpu, op, EXC_GP, 0)
        cpu.rip = cpu.regs[2]
        cpu.regs[4] = cpu.regs[1]
        enter_flat(cpu, selector + 32, 3, True)
    else:
        cpu.rip = cast(u32, cpu.regs[2])
        cpu.regs[4] = cast(u32, cpu.regs[1])
        enter_flat(cpu, selector + 16, 3, False)
    return ST_NEXT


def send_ipi(cpu):
    """KVM_HC_SEND_IPI: RBX and RCX are the bitmap, RDX the APIC ID of its first bit, RSI is ICR;
    outside 64-bit mode each is a word."""
    word: u64 = cast(u64, 0xFFFFFFFF)
    low: u64 = cpu.regs[3]
    high: u64 = cpu.regs[1]
    if in_code64(cpu):
        return pv_send_ipi(cpu, low, high, cpu.regs[2], cpu.regs[6])
    return pv_send_ipi(cpu, low & word | high << 32, 0, cpu.regs[2] & word, cpu.regs[6])


def h_vmcall(cpu, op):
    """KVM hypercalls (Linux Documentation/virt/kvm/x86/hypercalls.rst): the others answer
    -KVM_ENOSYS (any of them -KVM_EPERM from user mode) in the caller's width. RBX, RCX, RDX and
    RSI have the arguments."""
    answer: u64 = 0 - cast(u64, 1000)
    number: u64 = cpu.regs[0] if in_code64(cpu) else cast(u32, cpu.regs[0])
    if cpu.cpl != 0:
        answer = 0 - cast(u64, 1)
    elif number == HC_VAPIC_POLL_IRQ or number == HC_SCHED_YIELD:
        answer = 0
    elif number == HC_SEND_IPI and cpu.vm.irqchip:
        answer = send_ipi(cpu)
    write_reg(cpu, 0, 8 if in_code64(cpu) else 4, answer)
    return finish(cpu, op)


def h_vmmcall(cpu, op):
    return h_vmcall(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "syscall": entry_of(h_syscall),
        "sysret": entry_of(h_sysret),
        "sysenter": entry_of(h_sysenter),
        "sysexit": entry_of(h_sysexit),
        "vmcall": entry_of(h_vmcall),
        "vmmcall": entry_of(h_vmmcall),
    }
