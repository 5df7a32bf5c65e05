"""INT n, INT3, INTO, INT1, BOUND and IRET; what far returns share with IRET."""

import cython
from cython import address, cast

# ---- software interrupts ------------------------------------------------------------------


def soft_interrupt(cpu, op, vector, kind):
    """Deliver with the next instruction's address pushed; a fault belongs to this one, unless
    a task gate had already switched tasks. SDM, "Single-Step Exception Condition": INT n clears
    TF before the trap could come."""
    task: u16 = cpu.segs[SEG_TR].selector
    stepped: u32 = cpu.sysflags & FLAG_TF
    status: cython.int
    cpu.rip = next_ip(cpu, op)
    status = deliver_once(cpu, vector, NO_ERROR, kind)
    if status == ST_FAULT and cpu.segs[SEG_TR].selector == task:
        return leave(cpu, op, status)
    if status == 0 and stepped:
        cpu.pending_db |= cast(u32, DB_NO_STEP)
    return ST_EXIT if status == 0 and cpu.exit_reason else status


def vme_redirect(cpu, vector, redirected):
    """SDM, "Software Interrupt Redirection Bit Map": 32 bytes below the I/O map; a clear bit
    sends INT n to the 8086 program's own handler."""
    tss: cython.pointer[Seg] = address(cpu.segs[SEG_TR])
    io_map: u16 = 0
    byte: u8 = 0
    at: u64
    status: cython.int
    redirected[0] = False
    if tss.limit < 0x67:
        return 0
    status = load_system(cpu, tss.base + 0x66, 2, address(io_map))
    if status:
        return status
    if io_map < 32:
        return 0
    at = cast(u64, io_map) - 32 + (vector >> 3)
    if at > tss.limit:
        return 0
    status = load_system(cpu, tss.base + at, 1, address(byte))
    redirected[0] = not (byte >> (vector & 7)) & 1
    return status


def h_int(cpu, op):
    """SDM, INT n."""
    vector: u32 = cast(u32, op.imm) & 0xFF
    redirected: cython.bint = False
    status: cython.int
    if cpu.mode & MODE_VM86:
        if cpu.cr4 & CR4_VME:
            status = vme_redirect(cpu, vector, address(redirected))
            if status:
                return leave(cpu, op, status)
            if redirected:
                return soft_interrupt(cpu, op, vector, KIND_SOFT_VME)
        if iopl(cpu) < 3:
            return fault(cpu, op, EXC_GP, 0)
    return soft_interrupt(cpu, op, vector, KIND_SOFT)


def h_int3(cpu, op):
    """SDM, INT3: not IOPL-sensitive, never redirected."""
    return soft_interrupt(cpu, op, EXC_BP, KIND_SOFT)


def h_into(cpu, op):
    """SDM, INTO."""
    if in_code64(cpu):
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if not cpu.fl & FL_OF:
        return finish(cpu, op)
    return soft_interrupt(cpu, op, EXC_OF, KIND_SOFT)


def h_int1(cpu, op):
    """SDM, INT1: #DB as a trap without DPL check. A breakpoint that MOV SS held back comes with
    it; DR6.BS does not, and the step over INT1 itself is this exception."""
    stepped: u32 = cpu.sysflags & FLAG_TF
    status: cython.int
    cpu.rip = next_ip(cpu, op)
    cpu.fault_address = cpu.pending_db & 0xF
    cpu.pending_db = 0
    status = deliver(cpu, EXC_DB, NO_ERROR, KIND_EXCEPTION)
    if stepped and status == ST_NEXT:
        cpu.pending_db |= cast(u32, DB_NO_STEP)
    return status


def h_bound(cpu, op):
    """SDM, BOUND: #BR unless lower <= index <= upper, all signed."""
    raw: u64 = 0
    low: i32
    high: i32
    index: i32
    status: cython.int
    if not op.mod_mem:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    status = load_operand(cpu, op, 2 * op.osize, address(raw))
    if status:
        return leave(cpu, op, status)
    if op.osize == 2:
        low = cast(i16, raw)
        high = cast(i16, raw >> 16)
        index = cast(i16, cpu.regs[op.reg])
    else:
        low = cast(i32, raw)
        high = cast(i32, raw >> 32)
        index = cast(i32, cpu.regs[op.reg])
    if index < low or index > high:
        return fault(cpu, op, EXC_BR, NO_ERROR)
    return finish(cpu, op)


# ---- shared with far returns --------------------------------------------------------------


def load_return_flags(cpu, flags, size, cpl):
    """RFLAGS as IRET and POPF load them at privilege `cpl`: `size` says how many bits, IOPL
    needs CPL 0, IF needs CPL <= IOPL. VM, VIF and VIP are not touched."""
    old: u64 = get_rflags(cpu)
    mask: u64 = FLAGS_USER
    if cpl == 0:
        mask |= FLAG_IOPL
    if cpl <= iopl(cpu):
        mask |= FLAG_IF
    if size == 2:
        mask &= 0xFFFF
    set_rflags(cpu, (old & ~mask) | (flags & mask))


def return_code_desc(cpu, selector, desc):
    """The code segment that RETF or IRET returns to, checked at the RPL of its selector."""
    attr: u32
    rpl: u32 = selector & 3
    error: u32 = selector & 0xFFFC
    status: cython.int
    status = fetch_not_null(cpu, selector, EXC_GP, desc)
    if status:
        return status
    attr = desc_attr(desc[0])
    if rpl < cpu.cpl or (attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE):
        return set_fault(cpu, EXC_GP, error)
    if dpl_of(attr) > rpl or (dpl_of(attr) != rpl and not attr & ATTR_CONFORM):
        return set_fault(cpu, EXC_GP, error)
    if in_long(cpu) and (attr & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB):
        return set_fault(cpu, EXC_GP, error)
    if not attr & ATTR_P:
        return set_fault(cpu, EXC_NP, error)
    return 0


def bad_target(cpu, desc, target):
    """Is the offset outside the code segment (legacy) or not canonical (64-bit)?"""
    if in_long(cpu) and desc_attr(desc) & ATTR_L:
        return not canonical(target)
    return target > desc_limit(desc)


def return_stack_desc(cpu, selector, cpl, long_code, desc):
    """SS of a return to `cpl`; null is fine in 64-bit code below privilege 3."""
    status: cython.int
    desc[0] = 0
    if not selector & 0xFFFC:
        if long_code and cpl != 3 and (selector & 3) == cpl:
            return 0
        return set_fault(cpu, EXC_GP, 0)
    status = fetch_descriptor(cpu, selector, EXC_GP, desc)
    if status == 0:
        status = check_stack_desc(cpu, selector, cpl, EXC_GP, desc[0])
    if status == 0:
        status = mark_accessed(cpu, selector, desc)
    return status


def set_return_stack(cpu, selector, desc, sp, size):
    """Commit SS:(R)SP. A 16-bit stack takes only SP (SDM, IRET; known from its leak of ESP's
    upper half)."""
    if desc:
        fill_segment(address(cpu.segs[SEG_SS]), selector, desc)
    else:
        clear_segment(address(cpu.segs[SEG_SS]), selector)
        cpu.segs[SEG_SS].attr = cpu.cpl << 5
    if desc and not desc_attr(desc) & ATTR_DB and not cpu.segs[SEG_CS].attr & ATTR_L:
        write_reg(cpu, 4, 2, sp)
    else:
        cpu.regs[4] = sp & size_mask(size)


# ---- IRET ---------------------------------------------------------------------------------


def h_iret(cpu, op):
    """SDM, IRET/IRETD/IRETQ."""
    serialize()
    if no_selectors(cpu):
        return iret_paragraphs(cpu, op)
    if cpu.sysflags & FLAG_NT:
        if in_long(cpu):
            return fault(cpu, op, EXC_GP, 0)
        return iret_task(cpu, op)
    return iret_protected(cpu, op)


def end_iret(cpu):
    """IRET ends the blocking of NMIs. RF matters only to instruction breakpoints, which would
    need it cleared behind one instruction; without any enabled it is dropped here."""
    nmi_unblock(cpu)
    if not cpu.dr[7] & 0xFF:
        cpu.sysflags &= ~cast(u32, FLAG_RF)
    update_mode(cpu)
    return ST_NEXT


def load_iret_flags(cpu, flags, size):
    """In protected mode CPL 0 also loads VIF and VIP."""
    mask: u32 = FLAG_VIF | FLAG_VIP
    load_return_flags(cpu, flags, size, cpu.cpl)
    if cpu.cpl == 0 and size != 2:
        cpu.sysflags = (cpu.sysflags & ~mask) | (cast(u32, flags) & mask)


def iret_paragraphs(cpu, op):
    """Real-address mode, and virtual-8086 mode with IOPL 3 or (16-bit operands) CR4.VME."""
    s: Stack
    items: u64[3]
    flags: u64
    vme: cython.bint = False
    status: cython.int
    if cpu.mode & MODE_VM86 and iopl(cpu) < 3:
        if not cpu.cr4 & CR4_VME or op.osize != 2:
            return fault(cpu, op, EXC_GP, 0)
        vme = True
    stack_current(cpu, address(s))
    status = stack_pop(cpu, address(s), items, 3, op.osize)
    if status:
        return leave(cpu, op, status)
    flags = items[2]
    if items[0] > 0xFFFF:
        return fault(cpu, op, EXC_GP, 0)
    if vme:
        if flags & FLAG_TF or (flags & FLAG_IF and cpu.sysflags & FLAG_VIP):
            return fault(cpu, op, EXC_GP, 0)
        load_return_flags(cpu, flags, 2, 3)
        cpu.sysflags &= ~cast(u32, FLAG_VIF)
        if flags & FLAG_IF:
            cpu.sysflags |= FLAG_VIF
    elif cpu.mode & MODE_VM86:
        load_return_flags(cpu, flags, op.osize, 3)
    else:
        load_return_flags(cpu, flags, op.osize, 0)
    stack_commit(cpu, address(s))
    real_segment(cpu, SEG_CS, cast(u32, items[1]) & 0xFFFF)
    cpu.rip = items[0]
    return end_iret(cpu)


def iret_task(cpu, op):
    """NT is set: return to the task named by the back link."""
    link: u16 = 0
    task: u16 = cpu.segs[SEG_TR].selector
    status: cython.int = load_system(cpu, cpu.segs[SEG_TR].base, 2, address(link))
    if status:
        return leave(cpu, op, status)
    cpu.rip = next_ip(cpu, op)
    status = task_switch(cpu, link, TASK_RETURN)
    if status == ST_FAULT and cpu.segs[SEG_TR].selector == task:
        return leave(cpu, op, status)
    nmi_unblock(cpu)
    return status


def iret_protected(cpu, op):
    """Pop, and return to the same or an outer privilege, or to virtual-8086 mode."""
    s: Stack
    items: u64[5]
    desc: u64 = 0
    selector: u32
    status: cython.int
    stack_current(cpu, address(s))
    status = stack_pop(cpu, address(s), items, 3, op.osize)
    if status:
        return leave(cpu, op, status)
    if items[2] & FLAG_VM and cpu.cpl == 0 and not in_long(cpu) and op.osize == 4:
        return iret_vm86(cpu, op, address(s), items)
    selector = cast(u32, items[1]) & 0xFFFF
    status = return_code_desc(cpu, selector, address(desc))
    if status:
        return leave(cpu, op, status)
    if in_code64(cpu) or (selector & 3) != cpu.cpl:
        return iret_outer(cpu, op, address(s), items, desc)
    return iret_inner(cpu, op, address(s), items, desc)


def iret_inner(cpu, op, s, items, desc):
    """The same privilege, without SS:ESP on the stack (not from 64-bit mode)."""
    selector: u32 = cast(u32, items[1]) & 0xFFFF
    status: cython.int
    if bad_target(cpu, desc, items[0]):
        return fault(cpu, op, EXC_GP, 0)
    status = mark_accessed(cpu, selector, address(desc))
    if status:
        return leave(cpu, op, status)
    stack_commit(cpu, s)
    load_iret_flags(cpu, items[2], op.osize)
    enter_cs(cpu, selector, desc, cpu.cpl)
    cpu.rip = items[0]
    return end_iret(cpu)


def iret_outer(cpu, op, s, items, desc):
    """SS:RSP follow on the stack: an outer privilege, or any return from 64-bit mode."""
    selector: u32 = cast(u32, items[1]) & 0xFFFF
    cpl: u32 = selector & 3
    old_cpl: u32 = cpu.cpl
    stack_selector: u32
    stack_desc: u64 = 0
    long_code: cython.bint = in_long(cpu) and (desc_attr(desc) & ATTR_L) != 0
    status: cython.int = stack_pop(cpu, s, address(items[3]), 2, op.osize)
    if status:
        return leave(cpu, op, status)
    stack_selector = cast(u32, items[4]) & 0xFFFF
    status = return_stack_desc(cpu, stack_selector, cpl, long_code, address(stack_desc))
    if status:
        return leave(cpu, op, status)
    if bad_target(cpu, desc, items[0]):
        return fault(cpu, op, EXC_GP, 0)
    status = mark_accessed(cpu, selector, address(desc))
    if status:
        return leave(cpu, op, status)
    load_iret_flags(cpu, items[2], op.osize)
    enter_cs(cpu, selector, desc, cpl)
    set_return_stack(cpu, stack_selector, stack_desc, items[3], op.osize)
    cpu.rip = items[0]
    if cpl != old_cpl:
        drop_segments(cpu)
    return end_iret(cpu)


def iret_vm86(cpu, op, s, items):
    """SDM, IRET, "RETURN-TO-VIRTUAL-8086-MODE": all of EFLAGS, then ESP SS ES DS FS GS."""
    rest: u64[6]
    eip: u64 = items[0]
    status: cython.int = stack_pop(cpu, s, rest, 6, 4)
    if status:
        return leave(cpu, op, status)
    if eip > 0xFFFF:
        return fault(cpu, op, EXC_GP, 0)
    set_rflags(cpu, items[2])
    cpu.cpl = 3
    cpu.regs[4] = rest[0]
    real_segment(cpu, SEG_CS, cast(u32, items[1]) & 0xFFFF)
    real_segment(cpu, SEG_SS, cast(u32, rest[1]) & 0xFFFF)
    real_segment(cpu, SEG_ES, cast(u32, rest[2]) & 0xFFFF)
    real_segment(cpu, SEG_DS, cast(u32, rest[3]) & 0xFFFF)
    real_segment(cpu, SEG_FS, cast(u32, rest[4]) & 0xFFFF)
    real_segment(cpu, SEG_GS, cast(u32, rest[5]) & 0xFFFF)
    cpu.rip = eip
    return end_iret(cpu)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "int": entry_of(h_int),
        "int3": entry_of(h_int3),
        "into": entry_of(h_into),
        "int1": entry_of(h_int1),
        "bound": entry_of(h_bound),
        "iret": entry_of(h_iret),
    }
