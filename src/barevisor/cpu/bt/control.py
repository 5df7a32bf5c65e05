"""Control and debug registers, and what they keep cached (SDM, "Control Registers")."""

import cython
from cython import address, cast

# ---- control registers --------------------------------------------------------------------


def enter_paging(cpu):
    """CR0.PG goes from 0 to 1: with EFER.LME that activates IA-32e mode (SDM, "Initializing
    IA-32e Mode")."""
    if not cpu.efer & EFER_LME:
        return 0
    if not cpu.cr4 & CR4_PAE or cpu.segs[SEG_CS].attr & ATTR_L:
        return set_fault(cpu, EXC_GP, 0)
    if cpu.segs[SEG_TR].usable and (cpu.segs[SEG_TR].attr & 0x1D) == TYPE_TSS16:
        return set_fault(cpu, EXC_GP, 0)
    cpu.efer |= EFER_LMA
    return 0


def pdptes_refused(cpu, cr0, cr3, cr4):
    """Would these values load page-directory-pointer entries that fault?"""
    pg: u64 = cast(u64, CR0_PG)
    if not cr0 & pg or not cr4 & CR4_PAE or cpu.efer & EFER_LME:
        return 0
    return not pdptes_valid(cpu, cr3)


def write_cr0(cpu, value):
    """SDM, MOV to CR0: PG needs PE, NW needs CD; reserved low bits are ignored, ET is fixed."""
    changed: u64
    pg: u64 = cast(u64, CR0_PG)
    if value >> 32:
        return set_fault(cpu, EXC_GP, 0)
    value = (value & (CR0_VALID_LOW | pg)) | CR0_ET
    changed = value ^ cpu.cr0
    if (value & pg and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
        return set_fault(cpu, EXC_GP, 0)
    if changed & pg:
        if value & pg:
            if pdptes_refused(cpu, value, cpu.cr3, cpu.cr4):
                return set_fault(cpu, EXC_GP, 0)
            if enter_paging(cpu):
                return ST_FAULT
        else:
            if in_code64(cpu) or cpu.cr4 & CR4_PCIDE:
                return set_fault(cpu, EXC_GP, 0)
            cpu.efer &= ~cast(u64, EFER_LMA)
    cpu.cr0 = value
    if changed & (pg | CR0_WP | CR0_PE):
        tlb_flush(cpu, 0)
    update_mode(cpu)
    return 0


def write_cr3(cpu, value):
    """SDM, MOV to CR3: with CR4.PCIDE, bit 63 keeps the new PCID's entries. The TLB holds one
    address space, so only a load of the present value can keep anything but global pages."""
    keep: u64 = cast(u64, 1) << 63
    held: cython.bint = False
    if cpu.cr4 & CR4_PCIDE:
        held = (value & keep) != 0
        value &= ~keep
    if in_long(cpu) and value & ~cpu.phys_mask:
        return set_fault(cpu, EXC_GP, 0)
    if held and value == cpu.cr3:
        return 0
    if pdptes_refused(cpu, cpu.cr0, value, cpu.cr4):
        return set_fault(cpu, EXC_GP, 0)
    cpu.cr3 = value
    tlb_flush(cpu, 1)
    if not held:
        space_flush_user(cpu, value)
    return 0


def write_cr4(cpu, value):
    """SDM, MOV to CR4: bits that the CPU model lacks are reserved."""
    changed: u64 = value ^ cpu.cr4
    if value & ~cpu.cr4_allowed:
        return set_fault(cpu, EXC_GP, 0)
    if in_long(cpu) and not value & CR4_PAE:
        return set_fault(cpu, EXC_GP, 0)
    if changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP) and pdptes_refused(
        cpu, cpu.cr0, cpu.cr3, value
    ):
        return set_fault(cpu, EXC_GP, 0)
    if changed & value & CR4_PCIDE and (not in_long(cpu) or cpu.cr3 & 0xFFF):
        return set_fault(cpu, EXC_GP, 0)
    cpu.cr4 = value
    if changed & CR4_PAGING:
        tlb_flush(cpu, 0)
    update_mode(cpu)
    return 0


def h_mov_cr_r(cpu, op):
    """SDM, MOV (to control registers)."""
    value: u64 = cpu.regs[op.rm]
    status: cython.int = 0
    serialize()
    if op.reg == 1 or (op.reg > 4 and op.reg != 8):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    if not in_code64(cpu):
        value = cast(u32, value)
    if op.reg == 0:
        status = write_cr0(cpu, value)
    elif op.reg == 2:
        cpu.cr2 = value
    elif op.reg == 3:
        status = write_cr3(cpu, value)
    elif op.reg == 4:
        status = write_cr4(cpu, value)
    elif value > 15:
        status = set_fault(cpu, EXC_GP, 0)
    else:
        apic_set_tpr(cpu, cast(u32, value) << 4)
    if status:
        return leave(cpu, op, status)
    return leave_after(cpu, op)


def h_mov_r_cr(cpu, op):
    """SDM, MOV (from control registers)."""
    value: u64
    if op.reg == 1 or (op.reg > 4 and op.reg != 8):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    if op.reg == 0:
        value = cpu.cr0
    elif op.reg == 2:
        value = cpu.cr2
    elif op.reg == 3:
        value = cpu.cr3
    elif op.reg == 4:
        value = cpu.cr4
    else:
        value = apic_get_tpr(cpu) >> 4
    write_reg(cpu, op.rm, 8 if in_code64(cpu) else 4, value)
    return next_op(cpu, op)


def h_lmsw(cpu, op):
    """SDM, LMSW: PE MP EM TS; PE can be set, not cleared."""
    value: u64 = 0
    low: u64 = 15
    status: cython.int
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    status = read_rm(cpu, op, 2, address(value))
    if status == 0:
        value = (value & 15) | (cpu.cr0 & CR0_PE)
        status = write_cr0(cpu, (cpu.cr0 & ~low) | value)
    if status:
        return leave(cpu, op, status)
    return finish(cpu, op)


def h_smsw(cpu, op):
    """SDM, SMSW."""
    if cpu.cr4 & CR4_UMIP and cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    return store_word(cpu, op, cpu.cr0)


def h_clts(cpu, op):
    """SDM, CLTS."""
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    cpu.cr0 &= ~cast(u64, CR0_TS)
    update_mode(cpu)
    return finish(cpu, op)


# ---- protection keys ----------------------------------------------------------------------


def h_rdpkru(cpu, op):
    """SDM, RDPKRU."""
    if not cpu.cr4 & CR4_PKE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cast(u32, cpu.regs[1]):
        return fault(cpu, op, EXC_GP, 0)
    cpu.regs[0] = cpu.pkru
    cpu.regs[2] = 0
    return finish(cpu, op)


def h_wrpkru(cpu, op):
    """SDM, WRPKRU. The TLB holds rights as the keys made them."""
    if not cpu.cr4 & CR4_PKE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cast(u32, cpu.regs[1]) or cast(u32, cpu.regs[2]):
        return fault(cpu, op, EXC_GP, 0)
    if cpu.pkru != cast(u32, cpu.regs[0]):
        cpu.pkru = cast(u32, cpu.regs[0])
        tlb_flush(cpu, 0)
    return finish(cpu, op)


# ---- debug registers ----------------------------------------------------------------------


def check_debug_register(cpu, number):
    """SDM, "Debug Registers": DR4 and DR5 alias DR6 and DR7 unless CR4.DE; DR7.GD traps."""
    if number[0] == 4 or number[0] == 5:
        if cpu.cr4 & CR4_DE:
            return set_fault(cpu, EXC_UD, NO_ERROR)
        number[0] += 2
    if number[0] > 7:
        return set_fault(cpu, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return set_fault(cpu, EXC_GP, 0)
    if cpu.dr[7] & DR7_GD:
        cpu.fault_address = 1 << 13
        return set_fault(cpu, EXC_DB, NO_ERROR)
    return 0


def h_mov_dr_r(cpu, op):
    """SDM, MOV (to debug registers). Pages under a data breakpoint stay out of the TLB's fast
    path, so a change of any enabled breakpoint flushes it."""
    number: u32 = op.reg
    value: u64 = cpu.regs[op.rm]
    watched: cython.bint = (cpu.dr[7] & 0xFF) != 0
    status: cython.int = check_debug_register(cpu, address(number))
    if status:
        return leave(cpu, op, status)
    if not in_code64(cpu):
        value = cast(u32, value)
    if number >= 6 and value >> 32:
        return fault(cpu, op, EXC_GP, 0)
    if number == 6:
        value = (value & DR6_WRITABLE) | cast(u64, 0xFFFF0FF0)
    elif number == 7:
        value = (value & cast(u64, 0xFFFF2BFF)) | 0x400
    cpu.dr[number] = value
    if number != 6 and (watched or cpu.dr[7] & 0xFF):
        tlb_flush(cpu, 0)
    return finish(cpu, op)


def h_mov_r_dr(cpu, op):
    """SDM, MOV (from debug registers)."""
    number: u32 = op.reg
    status: cython.int = check_debug_register(cpu, address(number))
    if status:
        return leave(cpu, op, status)
    write_reg(cpu, op.rm, 8 if in_code64(cpu) else 4, cpu.dr[number])
    return finish(cpu, op)


# ---- caches -------------------------------------------------------------------------------


def h_invlpg(cpu, op):
    """SDM, INVLPG."""
    serialize()
    if not op.mod_mem:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    tlb_flush_page(cpu, linear(cpu, op))
    return finish(cpu, op)


def h_invpcid(cpu, op):
    """SDM, INVPCID: 0 one address, 1 one PCID, 2 all with global pages, 3 all but those. The
    TLB holds only the present PCID; entries of others are flushed whenever it changes."""
    raw: u64[2]
    kind: u64 = cpu.regs[op.reg]
    status: cython.int
    if not op.mod_mem or no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    raw[0] = raw[1] = 0
    status = load_operand(cpu, op, 16, raw)
    if status:
        return leave(cpu, op, status)
    if not in_code64(cpu):
        kind = cast(u32, kind)
    if kind > 3 or raw[0] >> 12:
        return fault(cpu, op, EXC_GP, 0)
    if kind < 2 and raw[0] and not cpu.cr4 & CR4_PCIDE:
        return fault(cpu, op, EXC_GP, 0)
    if kind == 0:
        if not canonical(raw[1]):
            return fault(cpu, op, EXC_GP, 0)
        tlb_flush_page(cpu, raw[1])
    else:
        tlb_flush(cpu, kind != 2)
        space_flush_user(cpu, ~cast(u64, 0))
    return finish(cpu, op)


def h_clflush(cpu, op):
    """SDM, CLFLUSH, CLFLUSHOPT, CLWB: caches are the host's and coherent; what is left is that the
    byte must be readable. A device does not notice."""
    gpa: u64 = 0
    status: cython.int = 0
    if op.flags & OPF_LEGACY:
        status = check_segment(cpu, op.seg, offset_of(cpu, op), 1, 0)
    if status == 0:
        status = translate(cpu, linear(cpu, op), ACCESS_READ, cpu.mmu_idx, address(gpa))
    if status:
        return leave(cpu, op, status)
    return next_op(cpu, op)


def h_invd(cpu, op):
    """SDM, INVD: caches are the host's and coherent; only the privilege check is left."""
    serialize()
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    return finish(cpu, op)


def h_wbinvd(cpu, op):
    """SDM, WBINVD: as INVD."""
    return h_invd(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "mov_cr_r": entry_of(h_mov_cr_r),
        "mov_r_cr": entry_of(h_mov_r_cr),
        "rdpkru": entry_of(h_rdpkru),
        "wrpkru": entry_of(h_wrpkru),
        "lmsw": entry_of(h_lmsw),
        "smsw": entry_of(h_smsw),
        "clts": entry_of(h_clts),
        "mov_dr_r": entry_of(h_mov_dr_r),
        "mov_r_dr": entry_of(h_mov_r_dr),
        "invlpg": entry_of(h_invlpg),
        "invpcid": entry_of(h_invpcid),
        "clflush": entry_of(h_clflush),
        "invd": entry_of(h_invd),
        "wbinvd": entry_of(h_wbinvd),
    }
