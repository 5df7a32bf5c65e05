"""Far jumps, calls and returns in every mode (SDM, JMP, CALL, RET; "Call Gates")."""

import cython
from cython import address, cast


def far_operand(cpu, op, target, selector):
    """ptr16:16/32 of the instruction, or m16:16/32/64."""
    raw: u64[2]
    status: cython.int
    if not op.mod_mem:
        target[0] = op.imm & size_mask(op.osize)
        selector[0] = cast(u32, op.imm2) & 0xFFFF
        return 0
    raw[0] = raw[1] = 0
    status = load_operand(cpu, op, op.osize + 2, raw)
    if status:
        return status
    target[0] = raw[0] & size_mask(op.osize)
    selector[0] = cast(u32, raw[1] if op.osize == 8 else raw[0] >> (8 * op.osize)) & 0xFFFF
    return 0


def h_jmp_far(cpu, op):
    return far_transfer(cpu, op, False)


def h_call_far(cpu, op):
    return far_transfer(cpu, op, True)


def far_transfer(cpu, op, call):
    """A code segment, a call gate, a task gate or a TSS."""
    target: u64 = 0
    selector: u32 = 0
    desc: u64 = 0
    status: cython.int = far_operand(cpu, op, address(target), address(selector))
    if status:
        return leave(cpu, op, status)
    if no_selectors(cpu):
        return far_paragraphs(cpu, op, target, selector, call)
    if not selector & 0xFFFC:
        return fault(cpu, op, EXC_GP, 0)
    status = fetch_descriptor(cpu, selector, EXC_GP, address(desc))
    if status:
        return leave(cpu, op, status)
    if not desc_attr(desc) & ATTR_S:
        return far_system(cpu, op, selector, desc, call)
    return far_code(cpu, op, target, selector, desc, call)


def far_status(cpu, op, status):
    """The end of a transfer: a fault restarts it, a store to a device leaves behind it."""
    if status:
        return leave(cpu, op, status)
    return ST_EXIT if cpu.exit_reason else ST_NEXT


def push_return(cpu, op):
    """Where RETF of the running privilege goes on: behind this instruction."""
    items: u64[2]
    items[0] = cpu.segs[SEG_CS].selector
    items[1] = next_ip(cpu, op)
    return push_items(cpu, items, 2, op.osize)


def far_paragraphs(cpu, op, target, selector, call):
    """Real-address and virtual-8086 mode."""
    status: cython.int
    if target > cpu.segs[SEG_CS].limit:
        return fault(cpu, op, EXC_GP, 0)
    if call:
        status = push_return(cpu, op)
        if status:
            return leave(cpu, op, status)
    real_segment(cpu, SEG_CS, selector)
    cpu.rip = target
    update_mode(cpu)
    return far_status(cpu, op, 0)


def far_code(cpu, op, target, selector, desc, call):
    """Straight to a code segment: the privilege stays."""
    attr: u32 = desc_attr(desc)
    error: u32 = selector & 0xFFFC
    status: cython.int
    if not attr & ATTR_CODE:
        return fault(cpu, op, EXC_GP, error)
    if in_long(cpu) and (attr & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB):
        return fault(cpu, op, EXC_GP, error)
    if attr & ATTR_CONFORM:
        if dpl_of(attr) > cpu.cpl:
            return fault(cpu, op, EXC_GP, error)
    elif (selector & 3) > cpu.cpl or dpl_of(attr) != cpu.cpl:
        return fault(cpu, op, EXC_GP, error)
    if not attr & ATTR_P:
        return fault(cpu, op, EXC_NP, error)
    if bad_target(cpu, desc, target):
        return fault(cpu, op, EXC_GP, 0)
    status = mark_accessed(cpu, selector, address(desc))
    if status:
        return leave(cpu, op, status)
    if call:
        status = push_return(cpu, op)
        if status:
            return leave(cpu, op, status)
    enter_cs(cpu, selector, desc, cpu.cpl)
    cpu.rip = target
    update_mode(cpu)
    return far_status(cpu, op, 0)


def far_system(cpu, op, selector, desc, call):
    """A gate or a TSS: the descriptor's DPL must allow both CPL and RPL."""
    kind: u32 = desc_type(desc)
    attr: u32 = desc_attr(desc)
    error: u32 = selector & 0xFFFC
    if dpl_of(attr) < cpu.cpl or dpl_of(attr) < (selector & 3):
        return fault(cpu, op, EXC_GP, error)
    if in_long(cpu):
        if kind != TYPE_CALL32:
            return fault(cpu, op, EXC_GP, error)
    elif kind == TYPE_TSS16 or kind == TYPE_TSS32:
        return far_task(cpu, op, selector, call)
    elif kind != TYPE_CALL16 and kind != TYPE_CALL32 and kind != TYPE_TASK:
        return fault(cpu, op, EXC_GP, error)
    if not attr & ATTR_P:
        return fault(cpu, op, EXC_NP, error)
    if kind == TYPE_TASK:
        return far_task(cpu, op, cast(u32, desc >> 16) & 0xFFFF, call)
    return call_gate(cpu, op, selector, desc, call)


def far_task(cpu, op, selector, call):
    """SDM, "Task Switching": the old task resumes behind this instruction."""
    task: u16 = cpu.segs[SEG_TR].selector
    status: cython.int
    cpu.rip = next_ip(cpu, op)
    status = task_switch(cpu, selector, TASK_CALL if call else TASK_JUMP)
    if status == ST_FAULT and cpu.segs[SEG_TR].selector == task:
        return leave(cpu, op, status)
    return status


# ---- call gates ---------------------------------------------------------------------------


def gate_code(cpu, selector, call, desc, cpl):
    """The gate's code segment and the privilege that it runs at."""
    attr: u32
    error: u32 = selector & 0xFFFC
    status: cython.int
    status = fetch_not_null(cpu, selector, EXC_GP, desc)
    if status:
        return status
    attr = desc_attr(desc[0])
    if (attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE) or dpl_of(attr) > cpu.cpl:
        return set_fault(cpu, EXC_GP, error)
    if in_long(cpu) and (attr & (ATTR_L | ATTR_DB)) != ATTR_L:
        return set_fault(cpu, EXC_GP, error)
    if not attr & ATTR_P:
        return set_fault(cpu, EXC_NP, error)
    cpl[0] = cpu.cpl
    if not attr & ATTR_CONFORM and dpl_of(attr) < cpu.cpl:
        if not call:
            return set_fault(cpu, EXC_GP, error)
        cpl[0] = dpl_of(attr)
    return 0


def gate_long_target(cpu, selector, target):
    """The upper half of a 64-bit call gate."""
    high: u64 = 0
    status: cython.int
    if not in_table(cpu, selector, 16):
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    status = load_system(cpu, table_address(cpu, selector) + 8, 8, address(high))
    if status:
        return status
    if high & (cast(u64, 0x1F) << 40):
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    target[0] |= high << 32
    return 0


def call_gate(cpu, op, selector, gate, call):
    """Through a call gate: 16-bit, 32-bit, or 64-bit in IA-32e mode."""
    s: Stack
    items: u64[2]
    desc: u64 = 0
    cpl: u32 = 0
    code: u32 = cast(u32, gate >> 16) & 0xFFFF
    width: u32 = 8 if in_long(cpu) else 4 if desc_type(gate) == TYPE_CALL32 else 2
    target: u64 = gate & 0xFFFF
    status: cython.int = gate_code(cpu, code, call, address(desc), address(cpl))
    if width != 2:
        target |= (gate >> 32) & cast(u64, 0xFFFF0000)
    if status == 0 and width == 8:
        status = gate_long_target(cpu, selector, address(target))
    if status:
        return leave(cpu, op, status)
    if bad_target(cpu, desc, target):
        return fault(cpu, op, EXC_GP, 0)
    status = mark_accessed(cpu, code, address(desc))
    if status == 0 and cpl != cpu.cpl:
        if width == 8:
            status = gate_inner_long(cpu, cpl, address(s), next_ip(cpu, op))
        else:
            status = gate_inner_legacy(cpu, gate, cpl, next_ip(cpu, op), width, address(s))
    elif status == 0 and call:
        items[0] = cpu.segs[SEG_CS].selector
        items[1] = next_ip(cpu, op)
        stack_current(cpu, address(s))
        if width == 8:
            s.mask = size_mask(8)
        status = stack_push(cpu, address(s), items, 2, width)
    if status:
        return leave(cpu, op, status)
    if cpl != cpu.cpl:
        cpu.segs[SEG_SS] = s.seg
    enter_cs(cpu, code, desc, cpl)
    update_mode(cpu)
    if call:
        stack_commit(cpu, address(s))
    cpu.rip = target
    return far_status(cpu, op, 0)


def gate_inner_legacy(cpu, gate, cpl, back, width, s):
    """Switch to the TSS's stack: old SS:ESP, the gate's parameters, return address."""
    old: Stack
    items: u64[36]
    parameters: u64[32]
    count: u32 = cast(u32, gate >> 32) & 31
    i: u32
    status: cython.int
    stack_current(cpu, address(old))
    status = stack_pop(cpu, address(old), parameters, count, width)
    if status == 0:
        status = inner_stack(cpu, cpl, s)
    if status:
        return status
    items[0] = cpu.segs[SEG_SS].selector
    items[1] = cpu.regs[4]
    for i in range(count):
        items[2 + i] = parameters[count - 1 - i]
    items[2 + count] = cpu.segs[SEG_CS].selector
    items[3 + count] = back
    return stack_push(cpu, s, items, count + 4, width)


def gate_inner_long(cpu, cpl, s, back):
    """IA-32e mode: RSPn of the TSS, a null SS, no parameters."""
    items: u64[4]
    at: u32 = 4 + 8 * cpl
    tss: cython.pointer[Seg] = address(cpu.segs[SEG_TR])
    status: cython.int
    if not tss.usable or at + 7 > tss.limit:
        return set_fault(cpu, EXC_TS, tss.selector & 0xFFFC)
    clear_segment(address(s.seg), cpl)
    s.seg.attr = cpl << 5
    s.mask = size_mask(8)
    s.idx = MMU_SUPERVISOR
    s.error = 0
    status = load_system(cpu, tss.base + at, 8, address(s.sp))
    if status:
        return status
    items[0] = cpu.segs[SEG_SS].selector
    items[1] = cpu.regs[4]
    items[2] = cpu.segs[SEG_CS].selector
    items[3] = back
    return stack_push(cpu, s, items, 4, 8)


# ---- returns ------------------------------------------------------------------------------


def h_retf(cpu, op):
    """SDM, RET (far), with an optional count of bytes to release."""
    s: Stack
    items: u64[4]
    desc: u64 = 0
    selector: u32
    extra: u32 = cast(u32, op.imm) & 0xFFFF if op.opcode == 0xCA else 0
    status: cython.int
    stack_current(cpu, address(s))
    status = stack_pop(cpu, address(s), items, 2, op.osize)
    if status:
        return leave(cpu, op, status)
    selector = cast(u32, items[1]) & 0xFFFF
    if no_selectors(cpu):
        if items[0] > cpu.segs[SEG_CS].limit:
            return fault(cpu, op, EXC_GP, 0)
        s.sp = (s.sp + extra) & s.mask
        stack_commit(cpu, address(s))
        real_segment(cpu, SEG_CS, selector)
        cpu.rip = items[0]
        update_mode(cpu)
        return ST_NEXT
    status = return_code_desc(cpu, selector, address(desc))
    if status:
        return leave(cpu, op, status)
    if (selector & 3) != cpu.cpl:
        return retf_outer(cpu, op, address(s), items, desc, extra)
    if bad_target(cpu, desc, items[0]):
        return fault(cpu, op, EXC_GP, 0)
    status = mark_accessed(cpu, selector, address(desc))
    if status:
        return leave(cpu, op, status)
    s.sp = (s.sp + extra) & s.mask
    stack_commit(cpu, address(s))
    enter_cs(cpu, selector, desc, cpu.cpl)
    cpu.rip = items[0]
    update_mode(cpu)
    return ST_NEXT


def retf_outer(cpu, op, s, items, desc, extra):
    """To an outer privilege: both stacks release the parameters."""
    selector: u32 = cast(u32, items[1]) & 0xFFFF
    cpl: u32 = selector & 3
    stack_desc: u64 = 0
    sp: u64
    long_code: cython.bint = in_long(cpu) and (desc_attr(desc) & ATTR_L) != 0
    status: cython.int
    s.sp = (s.sp + extra) & s.mask
    status = stack_pop(cpu, s, address(items[2]), 2, op.osize)
    if status == 0:
        status = return_stack_desc(
            cpu, cast(u32, items[3]) & 0xFFFF, cpl, long_code, address(stack_desc)
        )
    if status:
        return leave(cpu, op, status)
    if bad_target(cpu, desc, items[0]):
        return fault(cpu, op, EXC_GP, 0)
    status = mark_accessed(cpu, selector, address(desc))
    if status:
        return leave(cpu, op, status)
    sp = items[2] + extra
    enter_cs(cpu, selector, desc, cpl)
    set_return_stack(cpu, cast(u32, items[3]) & 0xFFFF, stack_desc, sp, op.osize)
    cpu.rip = items[0]
    drop_segments(cpu)
    update_mode(cpu)
    return ST_NEXT


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "jmp_far": entry_of(h_jmp_far),
        "call_far": entry_of(h_call_far),
        "retf": entry_of(h_retf),
    }
