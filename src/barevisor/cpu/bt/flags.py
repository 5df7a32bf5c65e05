"""Instructions on RFLAGS: the interrupt flag with its virtual twin, PUSHF and POPF, the rest."""

import cython
from cython import address, cast


def interrupt_flag(cpu):
    """Which flag CLI and STI change here (SDM, CLI, "Decision Table"): IF, VIF, or 0 for
    #GP(0)."""
    if cpu.mode & MODE_REAL or cpu.cpl <= iopl(cpu):
        return FLAG_IF
    if cpu.mode & MODE_VM86:
        return FLAG_VIF if cpu.cr4 & CR4_VME else 0
    return FLAG_VIF if cpu.cr4 & CR4_PVI and cpu.cpl == 3 else 0


def h_cli(cpu, op):
    """SDM, CLI."""
    flag: u32 = interrupt_flag(cpu)
    if not flag:
        return fault(cpu, op, EXC_GP, 0)
    cpu.sysflags &= ~flag
    return next_op(cpu, op)


def h_sti(cpu, op):
    """SDM, STI: when it enables interrupts, they wait for one more instruction."""
    flag: u32 = interrupt_flag(cpu)
    if not flag or (flag == FLAG_VIF and cpu.sysflags & FLAG_VIP):
        return fault(cpu, op, EXC_GP, 0)
    if flag == FLAG_IF and not cpu.sysflags & FLAG_IF:
        cpu.shadow = 1
    cpu.sysflags |= flag
    return finish(cpu, op)


def h_cld(cpu, op):
    cpu.sysflags &= ~cast(u32, FLAG_DF)
    return next_op(cpu, op)


def h_std(cpu, op):
    cpu.sysflags |= FLAG_DF
    return next_op(cpu, op)


def h_clc(cpu, op):
    cpu.fl &= ~cast(u32, FL_CF)
    return next_op(cpu, op)


def h_stc(cpu, op):
    cpu.fl |= FL_CF
    return next_op(cpu, op)


def h_cmc(cpu, op):
    cpu.fl ^= FL_CF
    return next_op(cpu, op)


def h_lahf(cpu, op):
    """SDM, LAHF: Cpu.fl keeps AH's image in its second byte."""
    cpu.regs[0] = (cpu.regs[0] & ~cast(u64, 0xFF00)) | (cpu.fl & 0xFF00)
    return next_op(cpu, op)


def h_sahf(cpu, op):
    """SDM, SAHF: OF stays."""
    cpu.fl = (cpu.fl & FL_OF) | (cast(u32, cpu.regs[0]) & 0xD500) | 0x200
    return next_op(cpu, op)


def h_pushf(cpu, op):
    """SDM, PUSHF in 64-bit mode onto a page that the TLB knows; the rest is pushf_slow's."""
    host: cython.pointer[u8] = cython.NULL
    if in_code64(cpu) and op.osize == 8:
        host = write_fast(cpu, cpu.regs[4] - 8, 8)
    if host == cython.NULL:
        return pushf_slow(cpu, op)
    cast(cython.pointer[u64], host)[0] = get_rflags(cpu) & ~cast(u64, FLAG_RF)
    cpu.regs[4] -= 8
    return next_op(cpu, op)


def pushf_slow(cpu, op):
    """SDM, PUSHF: VM and RF read as 0; in virtual-8086 mode below IOPL 3 either CR4.VME shows
    VIF as IF, or #GP(0)."""
    value: u64 = get_rflags(cpu) & ~cast(u64, FLAG_VM | FLAG_RF)
    status: cython.int
    if cpu.mode & MODE_VM86 and iopl(cpu) < 3:
        if not cpu.cr4 & CR4_VME or op.osize != 2:
            return fault(cpu, op, EXC_GP, 0)
        value = (value & ~cast(u64, FLAG_IF)) | FLAG_IOPL
        if cpu.sysflags & FLAG_VIF:
            value |= FLAG_IF
    status = push_items(cpu, address(value), 1, op.osize)
    return leave(cpu, op, status) if status else leave_after(cpu, op)


def load_popped_flags(cpu, flags, size):
    """SDM, POPF, "Effect of POPF/POPFD on the EFLAGS Register"."""
    vif: u32 = FLAG_VIF
    flags &= ~cast(u64, FLAG_RF)
    if cpu.mode & MODE_VM86 and iopl(cpu) < 3:
        if not cpu.cr4 & CR4_VME or size != 2:
            return set_fault(cpu, EXC_GP, 0)
        if flags & FLAG_TF or (flags & FLAG_IF and cpu.sysflags & FLAG_VIP):
            return set_fault(cpu, EXC_GP, 0)
        load_return_flags(cpu, flags, 2, 3)
        cpu.sysflags &= ~vif
        if flags & FLAG_IF:
            cpu.sysflags |= vif
        return 0
    load_return_flags(cpu, flags, size, 0 if cpu.mode & MODE_REAL else cpu.cpl)
    return 0


def h_popf(cpu, op):
    s: Stack
    value: u64 = 0
    ac: u32 = cpu.sysflags & FLAG_AC
    status: cython.int
    stack_current(cpu, address(s))
    status = stack_pop(cpu, address(s), address(value), 1, op.osize)
    if status == 0:
        status = load_popped_flags(cpu, value, op.osize)
    if status:
        return leave(cpu, op, status)
    stack_commit(cpu, address(s))
    if ac != cpu.sysflags & FLAG_AC:
        update_mode(cpu)
    return finish(cpu, op)


def set_smap(cpu, idx):
    """What update_mode derives when only AC changed at CPL 0."""
    if cpu.cr4 & CR4_SMAP:
        cpu.mmu_idx = idx
        cpu.tlb = cpu.tlbs[idx]


def h_stac(cpu, op):
    """SDM, STAC."""
    if cpu.cpl != 0 or cpu.mode & MODE_VM86:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    cpu.sysflags |= FLAG_AC
    set_smap(cpu, MMU_SUPERVISOR_AC)
    return next_op(cpu, op)


def h_clac(cpu, op):
    """SDM, CLAC."""
    if cpu.cpl != 0 or cpu.mode & MODE_VM86:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    cpu.sysflags &= ~cast(u32, FLAG_AC)
    set_smap(cpu, MMU_SUPERVISOR)
    return next_op(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "cli": entry_of(h_cli),
        "sti": entry_of(h_sti),
        "cld": entry_of(h_cld),
        "std": entry_of(h_std),
        "clc": entry_of(h_clc),
        "stc": entry_of(h_stc),
        "cmc": entry_of(h_cmc),
        "lahf": entry_of(h_lahf),
        "sahf": entry_of(h_sahf),
        "pushf": entry_of(h_pushf),
        "popf": entry_of(h_popf),
        "stac": entry_of(h_stac),
        "clac": entry_of(h_clac),
    }
