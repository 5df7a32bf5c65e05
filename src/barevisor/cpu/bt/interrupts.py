"""Delivery of exceptions and interrupts (SDM, "Interrupt and Exception Handling"; INT n).

One attempt checks everything and stores its frame before it changes the CPU, so a fault on the
way leaves the state as it was and is delivered in its place.
"""

import cython
from cython import address, cast


def deliver_fault(cpu):
    """Deliver the exception in cpu.fault_*; cpu.rip is the instruction that raised it. For
    direct.py a page fault of user code counts twice: to map the page there is one more turn."""
    if cpu.fault_vector == EXC_PF and cpu.in_user:
        cpu.entries += 1
    return deliver(cpu, cpu.fault_vector, cpu.fault_error, KIND_EXCEPTION)


def deliver(cpu, vector, error, kind):
    """Deliver and whatever follows from it (SDM, "Double Fault Exception (#DF)")."""
    status: cython.int
    second: u32
    _attempt: u32
    for _attempt in range(8):
        if kind == KIND_EXCEPTION:
            note_exception(cpu, vector)
        status = deliver_once(cpu, vector, error, kind)
        if status != ST_FAULT:
            cpu.shadow = 0
            cpu.halted = 0
            if kind == KIND_NMI:
                cpu.nmi_masked = 1
            return ST_EXIT if status or cpu.exit_reason else ST_NEXT
        second = cpu.fault_vector
        error = cpu.fault_error
        if kind == KIND_EXCEPTION and combines(vector, second):
            if second == EXC_PF:
                cpu.cr2 = cpu.fault_address
            if vector == EXC_DF:
                break
            second = EXC_DF
            error = 0
        vector = second
        kind = KIND_EXCEPTION
    cpu.exit_reason = EXIT_SHUTDOWN
    return ST_EXIT


def contributory(vector):
    """SDM, table "Interrupt and Exception Classes"."""
    return vector == EXC_DE or (EXC_TS <= vector and vector <= EXC_GP)


def combines(first, second):
    """Do two exceptions make a double fault (or, after #DF, a shutdown)?"""
    if first == EXC_PF or first == EXC_DF:
        return second == EXC_PF or contributory(second)
    return contributory(first) and contributory(second)


def note_exception(cpu, vector):
    """What an exception leaves beside its frame: CR2, or DR6 and DR7.GD."""
    bits: u64 = 0xF
    if vector == EXC_PF:
        cpu.cr2 = cpu.fault_address
    elif vector == EXC_DB:
        # SDM, "Debug Status Register (DR6)": B0-B3 are replaced, the rest accumulates.
        cpu.dr[6] = (cpu.dr[6] & ~bits) | cpu.fault_address | cast(u64, 0xFFFF0FF0)
        cpu.dr[7] &= ~cast(u64, 1 << 13)


def deliver_once(cpu, vector, error, kind):
    """One attempt, by mode. Faults met carry EXT unless the event was a software interrupt."""
    status: cython.int
    if cpu.mode & MODE_REAL or kind == KIND_SOFT_VME:
        return deliver_real(cpu, vector, kind)
    if in_long(cpu):
        status = deliver_long(cpu, vector, error, kind)
    else:
        status = deliver_protected(cpu, vector, error, kind)
    if (
        status == ST_FAULT
        and kind != KIND_SOFT
        and EXC_TS <= cpu.fault_vector
        and cpu.fault_vector <= EXC_GP
    ):
        cpu.fault_error |= 1
    return status


def flags_image(cpu, vector, kind):
    """RFLAGS as pushed: faults set RF, instruction breakpoints and traps do not (SDM,
    "Instruction-Breakpoint Exception Condition")."""
    if kind == KIND_EXCEPTION and vector != EXC_DB and vector != EXC_BP and vector != EXC_OF:
        return get_rflags(cpu) | FLAG_RF
    return get_rflags(cpu)


# ---- real-address mode --------------------------------------------------------------------


def deliver_real(cpu, vector, kind):
    """SDM, "Interrupt and Exception Handling" in "8086 Emulation": IP, CS and FLAGS, no error
    code. Also INT n in virtual-8086 mode with CR4.VME: the table is at linear address 0, and
    below IOPL 3 the guest sees VIF as its IF."""
    items: u64[3]
    entry: u32 = 0
    vme: cython.bint = kind == KIND_SOFT_VME
    flags: u64 = get_rflags(cpu)
    status: cython.int
    if not vme and vector * 4 + 3 > cpu.idt_limit:
        return set_fault(cpu, EXC_GP, vector * 8 + 2)
    if vme:
        status = load_slow(cpu, vector * 4, 4, address(entry), cpu.mmu_idx)
        if iopl(cpu) < 3:
            flags = (flags & ~cast(u64, FLAG_IF)) | FLAG_IOPL
            if cpu.sysflags & FLAG_VIF:
                flags |= FLAG_IF
    else:
        status = load_system(cpu, cpu.idt_base + vector * 4, 4, address(entry))
    if status:
        return status
    items[0] = flags
    items[1] = cpu.segs[SEG_CS].selector
    items[2] = cpu.rip
    status = push_items(cpu, items, 3, 2)
    if status:
        return status
    if vme and iopl(cpu) < 3:
        cpu.sysflags &= ~cast(u32, FLAG_TF | FLAG_VIF | FLAG_NT)
    else:
        cpu.sysflags &= ~cast(u32, FLAG_TF | FLAG_IF | FLAG_RF | FLAG_AC)
    real_segment(cpu, SEG_CS, entry >> 16)
    cpu.rip = entry & 0xFFFF
    update_mode(cpu)
    return 0


# ---- IA-32e mode --------------------------------------------------------------------------


def long_gate(cpu, vector, kind, gate, desc):
    """Fetch and check the 16-byte gate and its code segment."""
    error: u32 = vector * 8 + 2
    kind_bits: u32
    attr: u32
    selector: u32
    status: cython.int
    if vector * 16 + 15 > cpu.idt_limit:
        return set_fault(cpu, EXC_GP, error)
    status = load_system(cpu, cpu.idt_base + vector * 16, 16, gate)
    if status:
        return status
    kind_bits = desc_type(gate[0])
    if kind_bits != TYPE_INT32 and kind_bits != TYPE_TRAP32:
        return set_fault(cpu, EXC_GP, error)
    if kind == KIND_SOFT and dpl_of(desc_attr(gate[0])) < cpu.cpl:
        return set_fault(cpu, EXC_GP, error)
    if not desc_attr(gate[0]) & ATTR_P:
        return set_fault(cpu, EXC_NP, error)
    selector = cast(u32, gate[0] >> 16) & 0xFFFF
    status = fetch_not_null(cpu, selector, EXC_GP, desc)
    if status:
        return status
    attr = desc_attr(desc[0])
    if (
        (attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE)
        or dpl_of(attr) > cpu.cpl
        or (attr & (ATTR_L | ATTR_DB)) != ATTR_L
    ):
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    if not attr & ATTR_P:
        return set_fault(cpu, EXC_NP, selector & 0xFFFC)
    return 0


def long_stack(cpu, ist, cpl, sp):
    """Top of the handler's stack: an IST entry, RSPn of the TSS, or the running stack."""
    at: u32
    status: cython.int = 0
    sp[0] = cpu.regs[4]
    if not in_code64(cpu) and cpl == cpu.cpl:
        sp[0] &= cast(u64, 0xFFFF_FFFF)
    if ist or cpl != cpu.cpl:
        at = 28 + 8 * ist if ist else 4 + 8 * cpl
        if not cpu.segs[SEG_TR].usable or at + 7 > cpu.segs[SEG_TR].limit:
            return set_fault(cpu, EXC_TS, cpu.segs[SEG_TR].selector & 0xFFFC)
        status = load_system(cpu, cpu.segs[SEG_TR].base + at, 8, sp)
        if status:
            return status
    if not canonical(sp[0]):
        return set_fault(cpu, EXC_SS, 0)
    sp[0] &= ~cast(u64, 15)
    return 0


def deliver_long(cpu, vector, error, kind):
    """SDM, "64-Bit Mode Stack Frame", "Stack Switching in IA-32e Mode"."""
    gate: u64[2]
    frame: u64[6]
    desc: u64 = 0
    sp: u64 = 0
    target: u64
    n: u32 = 1
    cpl: u32 = cpu.cpl
    status: cython.int = long_gate(cpu, vector, kind, gate, address(desc))
    if status:
        return status
    if not desc_attr(desc) & ATTR_CONFORM:
        cpl = dpl_of(desc_attr(desc))
    status = long_stack(cpu, cast(u32, gate[0] >> 32) & 7, cpl, address(sp))
    if status:
        return status
    target = (gate[0] & 0xFFFF) | ((gate[0] >> 32) & cast(u64, 0xFFFF0000)) | (gate[1] << 32)
    if not canonical(target):
        return set_fault(cpu, EXC_GP, 0)
    if error == NO_ERROR:
        n = 0
    frame[0] = error
    frame[n] = cpu.rip
    frame[n + 1] = cpu.segs[SEG_CS].selector
    frame[n + 2] = flags_image(cpu, vector, kind)
    frame[n + 3] = cpu.regs[4]
    frame[n + 4] = cpu.segs[SEG_SS].selector
    status = mark_accessed(cpu, cast(u32, gate[0] >> 16) & 0xFFFF, address(desc))
    if status == 0:
        status = store_frame(cpu, address(sp), frame, (n + 5) * 8, cpl)
    if status:
        return status
    if cpl != cpu.cpl:
        clear_segment(address(cpu.segs[SEG_SS]), cpl)
        cpu.segs[SEG_SS].attr = cpl << 5
    cpu.regs[4] = sp
    cpu.rip = target
    enter_handler(cpu, gate[0], desc, cpl)
    return 0


def store_frame(cpu, sp, frame, size, cpl):
    """Store the frame, in one piece, below sp[0] at the handler's privilege, and lower sp[0]."""
    idx: u32 = cpu.mmu_idx
    host: u64
    top: u64
    status: cython.int
    if cpl != cpu.cpl:
        idx = MMU_USER if cpl == 3 else MMU_SUPERVISOR
    sp[0] -= size
    if not canonical(sp[0]):
        return set_fault(cpu, EXC_SS, 0)
    host = host_writable(cpu, idx, sp[0], size)
    if host:
        memcpy(cast(cython.p_void, host), frame, size)
        return 0
    status = store_slow(cpu, sp[0], size, frame, idx)
    if status == ST_FAULT and cpu.fault_vector == EXC_PF:
        # CR2 as the CPU leaves it, which pushes from the top: the first item in that page.
        top = (cpu.fault_address | 0xFFF) + 1
        if top > sp[0] + size:
            top = sp[0] + size
        cpu.fault_address = top - 8
    return 0 if status == ST_BREAK else status


def enter_handler(cpu, gate, desc, cpl):
    """Load CS, and clear the flags that the handler must not inherit; the frame is stored."""
    enter_cs(cpu, cast(u32, gate >> 16) & 0xFFFF, desc, cpl)
    cpu.sysflags &= ~cast(u32, FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM)
    if not desc_type(gate) & 1:
        cpu.sysflags &= ~cast(u32, FLAG_IF)
    update_mode(cpu)


# ---- protected mode -----------------------------------------------------------------------


def deliver_protected(cpu, vector, error, kind):
    """SDM, INT n, "PROTECTED-MODE"; the gate may be 16-bit, 32-bit or a task gate."""
    gate: u64 = 0
    gate_error: u32 = vector * 8 + 2
    type_bits: u32
    status: cython.int
    if vector * 8 + 7 > cpu.idt_limit:
        return set_fault(cpu, EXC_GP, gate_error)
    status = load_system(cpu, cpu.idt_base + vector * 8, 8, address(gate))
    if status:
        return status
    type_bits = desc_type(gate)
    if type_bits != TYPE_TASK and (type_bits & 0x16) != TYPE_INT16:
        return set_fault(cpu, EXC_GP, gate_error)
    if kind == KIND_SOFT and dpl_of(desc_attr(gate)) < cpu.cpl:
        return set_fault(cpu, EXC_GP, gate_error)
    if not desc_attr(gate) & ATTR_P:
        return set_fault(cpu, EXC_NP, gate_error)
    if type_bits == TYPE_TASK:
        cpu.sysflags |= cast(u32, flags_image(cpu, vector, kind) & FLAG_RF)
        status = task_switch(cpu, cast(u32, gate >> 16) & 0xFFFF, TASK_INTERRUPT)
        if status == 0 and error != NO_ERROR:
            status = push_task_error(cpu, error)
        return status
    return through_gate(cpu, gate, error, flags_image(cpu, vector, kind))


def gate_target(cpu, gate, desc, cpl):
    """The gate's code segment, and the privilege that the handler runs at."""
    selector: u32 = cast(u32, gate >> 16) & 0xFFFF
    attr: u32
    status: cython.int
    status = fetch_not_null(cpu, selector, EXC_GP, desc)
    if status:
        return status
    attr = desc_attr(desc[0])
    if (attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE) or dpl_of(attr) > cpu.cpl:
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    if not attr & ATTR_P:
        return set_fault(cpu, EXC_NP, selector & 0xFFFC)
    cpl[0] = cpu.cpl if attr & ATTR_CONFORM else dpl_of(attr)
    if cpu.mode & MODE_VM86 and cpl[0] != 0:
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    return 0


def through_gate(cpu, gate, error, flags):
    """An interrupt or trap gate: push onto this stack or the inner one, and enter."""
    s: Stack
    items: u64[10]
    n: u32 = 0
    seg: u32
    desc: u64 = 0
    cpl: u32 = 0
    width: u32 = 4 if desc_type(gate) & 8 else 2
    target: u64 = gate & 0xFFFF
    vm86: cython.bint = (cpu.mode & MODE_VM86) != 0
    status: cython.int = gate_target(cpu, gate, address(desc), address(cpl))
    if status:
        return status
    if cpl != cpu.cpl:
        status = inner_stack(cpu, cpl, address(s))
        if status:
            return status
        if vm86:
            for seg in range(4):
                items[n] = cpu.segs[vm86_order(seg)].selector
                n += 1
        items[n] = cpu.segs[SEG_SS].selector
        items[n + 1] = cpu.regs[4]
        n += 2
    else:
        stack_current(cpu, address(s))
    items[n] = flags
    items[n + 1] = cpu.segs[SEG_CS].selector
    items[n + 2] = cpu.rip
    n += 3
    if error != NO_ERROR:
        items[n] = error
        n += 1
    if width == 4:
        target |= (gate >> 32) & cast(u64, 0xFFFF0000)
    if target > desc_limit(desc):
        return set_fault(cpu, EXC_GP, 0)
    status = mark_accessed(cpu, cast(u32, gate >> 16) & 0xFFFF, address(desc))
    if status == 0:
        status = stack_push(cpu, address(s), items, n, width)
    if status:
        return status
    if cpl != cpu.cpl:
        cpu.segs[SEG_SS] = s.seg
    stack_commit(cpu, address(s))
    if vm86:
        for seg in range(4):
            clear_segment(address(cpu.segs[vm86_order(seg)]), 0)
    cpu.rip = target
    enter_handler(cpu, gate, desc, cpl)
    return 0
