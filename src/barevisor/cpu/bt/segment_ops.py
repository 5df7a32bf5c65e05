"""Instructions on segment registers, descriptors and descriptor tables."""

import cython
from cython import address, cast

# ---- segment registers --------------------------------------------------------------------


def h_mov_sreg_r(cpu, op):
    """SDM, MOV (8E): CS is #UD; SS holds interrupts and debug traps off for one instruction."""
    value: u64 = 0
    status: cython.int
    if op.reg == SEG_CS or op.reg > SEG_GS:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    status = read_rm(cpu, op, 2, address(value))
    if status == 0:
        status = load_segment(cpu, op.reg, cast(u32, value))
    if status:
        return leave(cpu, op, status)
    if op.reg == SEG_SS:
        cpu.shadow = 2
    return finish(cpu, op)


def h_mov_r_sreg(cpu, op):
    """SDM, MOV (8C): memory takes 16 bits, a register is zero-extended to the operand size."""
    if op.reg > SEG_GS:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    return store_word(cpu, op, cpu.segs[op.reg].selector)


def h_push_sreg(cpu, op):
    """SDM, PUSH: the selector, zero-extended to the operand size. Bits 3-5 of each of the
    opcodes (06 0E 16 1E, 0F A0, 0F A8) are the segment's number."""
    value: u64 = cpu.segs[(op.opcode >> 3) & 7].selector
    status: cython.int = push_items(cpu, address(value), 1, op.osize)
    return leave(cpu, op, status) if status else leave_after(cpu, op)


def h_pop_sreg(cpu, op):
    """SDM, POP: the low 16 bits of the slot are the selector."""
    s: Stack
    value: u64 = 0
    seg: u32 = (op.opcode >> 3) & 7
    status: cython.int
    stack_current(cpu, address(s))
    status = stack_pop(cpu, address(s), address(value), 1, op.osize)
    if status == 0:
        status = load_segment(cpu, seg, cast(u32, value))
    if status:
        return leave(cpu, op, status)
    stack_commit(cpu, address(s))
    if seg == SEG_SS:
        cpu.shadow = 2
    return finish(cpu, op)


def load_far_pointer(cpu, op, seg):
    """SDM, LDS/LES/LFS/LGS/LSS: offset, then selector; the register only when both are good."""
    offset: u64 = 0
    selector: u32 = 0
    status: cython.int
    if not op.mod_mem:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    status = far_operand(cpu, op, address(offset), address(selector))
    if status == 0:
        status = load_segment(cpu, seg, selector)
    if status:
        return leave(cpu, op, status)
    write_reg(cpu, op.reg, op.osize, offset)
    return finish(cpu, op)


def h_lds(cpu, op):
    return load_far_pointer(cpu, op, SEG_DS)


def h_les(cpu, op):
    return load_far_pointer(cpu, op, SEG_ES)


def h_lfs(cpu, op):
    return load_far_pointer(cpu, op, SEG_FS)


def h_lgs(cpu, op):
    return load_far_pointer(cpu, op, SEG_GS)


def h_lss(cpu, op):
    return load_far_pointer(cpu, op, SEG_SS)


# ---- LDTR and TR --------------------------------------------------------------------------


def h_lldt(cpu, op):
    """SDM, LLDT."""
    value: u64 = 0
    status: cython.int
    if no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    status = read_rm(cpu, op, 2, address(value))
    if status == 0:
        status = load_ldt(cpu, cast(u32, value), EXC_GP)
    if status:
        return leave(cpu, op, status)
    return finish(cpu, op)


def h_ltr(cpu, op):
    """SDM, LTR."""
    value: u64 = 0
    status: cython.int
    if no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    status = read_rm(cpu, op, 2, address(value))
    if status == 0:
        status = load_tr(cpu, cast(u32, value))
    if status:
        return leave(cpu, op, status)
    return finish(cpu, op)


def umip_blocks(cpu):
    """SDM, "User-Mode Instruction Prevention"."""
    return cpu.cr4 & CR4_UMIP and cpu.cpl != 0


def store_selector(cpu, op, seg):
    """SDM, SLDT and STR."""
    if no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if umip_blocks(cpu):
        return fault(cpu, op, EXC_GP, 0)
    return store_word(cpu, op, cpu.segs[seg].selector)


def h_sldt(cpu, op):
    return store_selector(cpu, op, SEG_LDT)


def h_str(cpu, op):
    return store_selector(cpu, op, SEG_TR)


# ---- asking about descriptors -------------------------------------------------------------


def verify(cpu, op, write):
    """SDM, VERR/VERW: ZF says whether the segment could be read or written from here."""
    value: u64 = 0
    desc: u64 = 0
    attr: u32
    ok: cython.bint = False
    status: cython.int
    if no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    status = read_rm(cpu, op, 2, address(value))
    if status:
        return leave(cpu, op, status)
    if value & 0xFFFC and in_table(cpu, cast(u32, value), 8):
        status = load_system(cpu, table_address(cpu, cast(u32, value)), 8, address(desc))
        if status:
            return leave(cpu, op, status)
        attr = desc_attr(desc)
        ok = (attr & ATTR_S) != 0
        if (attr & (ATTR_CODE | ATTR_CONFORM)) != (ATTR_CODE | ATTR_CONFORM):
            ok = ok and dpl_of(attr) >= cpu.cpl and dpl_of(attr) >= (value & 3)
        if write:
            ok = ok and (attr & (ATTR_CODE | ATTR_WRITE)) == ATTR_WRITE
        else:
            ok = ok and (attr & (ATTR_CODE | ATTR_WRITE)) != ATTR_CODE
    set_zf(cpu, ok)
    return finish(cpu, op)


def h_verr(cpu, op):
    return verify(cpu, op, 0)


def h_verw(cpu, op):
    return verify(cpu, op, 1)


def probe_descriptor(cpu, selector, types, desc, found):
    """For LAR and LSL: is the descriptor visible here, and its system type in the mask `types`?"""
    attr: u32
    status: cython.int
    found[0] = False
    if not selector & 0xFFFC or not in_table(cpu, selector, 8):
        return 0
    status = load_system(cpu, table_address(cpu, selector), 8, desc)
    if status:
        return status
    attr = desc_attr(desc[0])
    if not attr & ATTR_S and not (types >> (attr & ATTR_TYPE)) & 1:
        return 0
    if (attr & (ATTR_S | ATTR_CODE | ATTR_CONFORM)) != (ATTR_S | ATTR_CODE | ATTR_CONFORM) and (
        dpl_of(attr) < cpu.cpl or dpl_of(attr) < (selector & 3)
    ):
        return 0
    found[0] = True
    return 0


def h_lar(cpu, op):
    """SDM, LAR, with its table of valid system types."""
    value: u64 = 0
    desc: u64 = 0
    found: cython.bint = False
    types: u32 = 0x1A04 if in_long(cpu) else 0x1A3E
    status: cython.int
    if no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    status = read_rm(cpu, op, 2, address(value))
    if status == 0:
        status = probe_descriptor(cpu, cast(u32, value), types, address(desc), address(found))
    if status:
        return leave(cpu, op, status)
    set_zf(cpu, found)
    if found:
        write_reg(cpu, op.reg, op.osize, (desc >> 32) & 0xFFFF00)
    return finish(cpu, op)


def h_lsl(cpu, op):
    """SDM, LSL, with its table of valid system types."""
    value: u64 = 0
    desc: u64 = 0
    found: cython.bint = False
    types: u32 = 0x0A04 if in_long(cpu) else 0x0A0E
    status: cython.int
    if no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    status = read_rm(cpu, op, 2, address(value))
    if status == 0:
        status = probe_descriptor(cpu, cast(u32, value), types, address(desc), address(found))
    if status:
        return leave(cpu, op, status)
    set_zf(cpu, found)
    if found:
        write_reg(cpu, op.reg, op.osize, desc_limit(desc))
    return finish(cpu, op)


def h_arpl(cpu, op):
    """SDM, ARPL: raise the RPL of the first selector to that of the second."""
    value: u64 = 0
    rpl: u64 = cpu.regs[op.reg] & 3
    status: cython.int
    if no_selectors(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    status = read_rm(cpu, op, 2, address(value))
    if status:
        return leave(cpu, op, status)
    if (value & 3) >= rpl:
        set_zf(cpu, False)
        return finish(cpu, op)
    value = (value & 0xFFFC) | rpl
    if op.mod_mem:
        status = store_operand(cpu, op, 2, address(value))
        if status:
            return leave(cpu, op, status)
    else:
        write_reg(cpu, op.rm, 2, value)
    set_zf(cpu, True)
    return leave_after(cpu, op)


# ---- GDTR and IDTR ------------------------------------------------------------------------


def load_table(cpu, op, base, limit):
    """SDM, LGDT/LIDT: 2 + 8 bytes in 64-bit mode, else 2 + 4, of which 16-bit operands use 3."""
    raw: u8[16]
    size: u32 = 10 if in_code64(cpu) else 6
    i: u32
    status: cython.int
    if cpu.cpl != 0:
        return set_fault(cpu, EXC_GP, 0)
    status = load_operand(cpu, op, size, raw)
    if status:
        return status
    limit[0] = cast(u32, raw[0]) | (cast(u32, raw[1]) << 8)
    base[0] = 0
    for i in range(2, size):
        base[0] |= cast(u64, raw[i]) << (8 * (i - 2))
    if size == 6 and op.osize == 2:
        base[0] &= 0xFFFFFF
    if not canonical(base[0]):
        return set_fault(cpu, EXC_GP, 0)
    return 0


def store_table(cpu, op, base, limit):
    """SDM, SGDT/SIDT."""
    raw: u8[16]
    size: u32 = 10 if in_code64(cpu) else 6
    i: u32
    status: cython.int
    if umip_blocks(cpu):
        return fault(cpu, op, EXC_GP, 0)
    raw[0] = cast(u8, limit)
    raw[1] = cast(u8, limit >> 8)
    for i in range(2, size):
        raw[i] = cast(u8, base >> (8 * (i - 2)))
    status = store_operand(cpu, op, size, raw)
    if status:
        return leave(cpu, op, status)
    return leave_after(cpu, op)


def h_lgdt(cpu, op):
    base: u64 = 0
    limit: u32 = 0
    status: cython.int = load_table(cpu, op, address(base), address(limit))
    if status:
        return leave(cpu, op, status)
    cpu.gdt_base = base
    cpu.gdt_limit = limit
    return finish(cpu, op)


def h_lidt(cpu, op):
    base: u64 = 0
    limit: u32 = 0
    status: cython.int = load_table(cpu, op, address(base), address(limit))
    if status:
        return leave(cpu, op, status)
    cpu.idt_base = base
    cpu.idt_limit = limit
    return finish(cpu, op)


def h_sgdt(cpu, op):
    return store_table(cpu, op, cpu.gdt_base, cpu.gdt_limit)


def h_sidt(cpu, op):
    return store_table(cpu, op, cpu.idt_base, cpu.idt_limit)


# ---- FS and GS bases ----------------------------------------------------------------------


def read_base(cpu, op, seg):
    """SDM, RDFSBASE/RDGSBASE."""
    if not in_code64(cpu) or not cpu.cr4 & CR4_FSGSBASE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    write_reg(cpu, op.rm, op.osize, cpu.segs[seg].base)
    return next_op(cpu, op)


def write_base(cpu, op, seg):
    """SDM, WRFSBASE/WRGSBASE."""
    value: u64 = cpu.regs[op.rm] & size_mask(op.osize)
    if not in_code64(cpu) or not cpu.cr4 & CR4_FSGSBASE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if not canonical(value):
        return fault(cpu, op, EXC_GP, 0)
    cpu.segs[seg].base = value
    cpu.segbase[seg] = value
    return next_op(cpu, op)


def h_rdfsbase(cpu, op):
    return read_base(cpu, op, SEG_FS)


def h_rdgsbase(cpu, op):
    return read_base(cpu, op, SEG_GS)


def h_wrfsbase(cpu, op):
    return write_base(cpu, op, SEG_FS)


def h_wrgsbase(cpu, op):
    return write_base(cpu, op, SEG_GS)


def h_swapgs(cpu, op):
    """SDM, SWAPGS."""
    base: u64 = cpu.segs[SEG_GS].base
    if not in_code64(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    cpu.segs[SEG_GS].base = cpu.kernel_gs_base
    cpu.segbase[SEG_GS] = cpu.kernel_gs_base
    cpu.kernel_gs_base = base
    return next_op(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "mov_sreg_r": entry_of(h_mov_sreg_r),
        "mov_r_sreg": entry_of(h_mov_r_sreg),
        "push_sreg": entry_of(h_push_sreg),
        "pop_sreg": entry_of(h_pop_sreg),
        "lds": entry_of(h_lds),
        "les": entry_of(h_les),
        "lfs": entry_of(h_lfs),
        "lgs": entry_of(h_lgs),
        "lss": entry_of(h_lss),
        "lldt": entry_of(h_lldt),
        "ltr": entry_of(h_ltr),
        "sldt": entry_of(h_sldt),
        "str": entry_of(h_str),
        "verr": entry_of(h_verr),
        "verw": entry_of(h_verw),
        "lar": entry_of(h_lar),
        "lsl": entry_of(h_lsl),
        "arpl": entry_of(h_arpl),
        "lgdt": entry_of(h_lgdt),
        "lidt": entry_of(h_lidt),
        "sgdt": entry_of(h_sgdt),
        "sidt": entry_of(h_sidt),
        "rdfsbase": entry_of(h_rdfsbase),
        "rdgsbase": entry_of(h_rdgsbase),
        "wrfsbase": entry_of(h_wrfsbase),
        "wrgsbase": entry_of(h_wrgsbase),
        "swapgs": entry_of(h_swapgs),
    }
