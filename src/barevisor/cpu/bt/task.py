"""Hardware task switches through 16-bit and 32-bit TSSs (SDM, "Task Management").

Checks up to the commit leave the old task untouched; faults from there on are the new task's,
as on hardware (SDM, "Exception Conditions Checked During a Task Switch").
"""

import cython
from cython import address, cast


def task_descriptor(cpu, selector, reason, desc):
    """The TSS descriptor, available (or busy, for IRET). The caller has checked privilege."""
    vector: u32 = EXC_TS if reason == TASK_RETURN else EXC_GP
    error: u32 = selector & 0xFFFC
    kind: u32
    status: cython.int
    if selector & 4 or not error:
        return set_fault(cpu, vector, error)
    status = fetch_descriptor(cpu, selector, vector, desc)
    if status:
        return status
    kind = desc_type(desc[0])
    if (kind & 0x15) != TYPE_TSS16:
        return set_fault(cpu, vector, error)
    if ((kind & 2) != 0) != (reason == TASK_RETURN):
        return set_fault(cpu, vector, error)
    if not desc_attr(desc[0]) & ATTR_P:
        return set_fault(cpu, EXC_NP, error)
    if desc_limit(desc[0]) < (0x67 if kind & 8 else 0x2B):
        return set_fault(cpu, EXC_TS, error)
    return 0


def read_tss(cpu, base, wide, out, trap):
    """Read the dynamic and static fields that a switch loads, as 32-bit items (T_*)."""
    raw: u8[104]
    i: u32
    size: u32 = 4 if wide else 2
    start: u32 = 0x20 if wide else 0x0E
    segments: u32 = 6 if wide else 4
    status: cython.int = load_system(cpu, base, 52 if wide else 44, raw)
    if status == 0 and wide:
        status = load_system(cpu, base + 52, 52, address(raw[52]))
    if status:
        return status
    for i in range(T_COUNT):
        out[i] = 0
    for i in range(10 + segments):
        out[i] = cast(u32, raw[start + i * size]) | cast(u32, raw[start + i * size + 1]) << 8
        if wide and i < T_ES:
            out[i] |= cast(u32, raw[start + i * 4 + 2]) << 16
            out[i] |= cast(u32, raw[start + i * 4 + 3]) << 24
    i = 0x60 if wide else 0x2A
    out[T_LDT] = cast(u32, raw[i]) | cast(u32, raw[i + 1]) << 8
    trap[0] = 0
    if wide:
        trap[0] = raw[0x64] & 1
        for i in range(4):
            out[T_CR3] |= cast(u32, raw[0x1C + i]) << (8 * i)
    return 0


def save_task(cpu, reason):
    """Store the outgoing task's state into its TSS (SDM, "Task Switching", step 8)."""
    items: u32[16]
    i: u32
    wide: cython.bint = (cpu.segs[SEG_TR].attr & ATTR_TYPE) & 8
    base: u64 = cpu.segs[SEG_TR].base + (0x20 if wide else 0x0E)
    size: u32 = 4 if wide else 2
    flags: u64 = get_rflags(cpu)
    status: cython.int = probe_write(cpu, base, 64 if wide else 28, MMU_SUPERVISOR)
    if status:
        return status
    if reason == TASK_RETURN:
        flags &= ~cast(u64, FLAG_NT)
    items[T_EIP] = cast(u32, cpu.rip)
    items[T_EFLAGS] = cast(u32, flags)
    for i in range(8):
        items[T_EAX + i] = cast(u32, cpu.regs[i])
    for i in range(6):
        items[T_ES + i] = cpu.segs[i].selector
    for i in range(16 if wide else 14):
        # Segment slots are 16 bits wide in both formats; their upper halves stay.
        status = store_system(cpu, base + i * size, size if i < T_ES else 2, address(items[i]))
        if status:
            return status
    return 0


def set_busy(cpu, selector, busy):
    """The busy bit of a TSS descriptor in the GDT."""
    byte: u8 = 0
    at: u64 = cpu.gdt_base + (selector & 0xFFF8) + 5
    status: cython.int = load_system(cpu, at, 1, address(byte))
    if status:
        return status
    byte = (byte | 2) if busy else (byte & 0xFD)
    return store_system(cpu, at, 1, address(byte))


def task_switch(cpu, selector, reason):
    """SDM, "Task Switching". Only legacy protected mode and virtual-8086 mode switch tasks."""
    t: u32[18]
    desc: u64 = 0
    link: u16 = cpu.segs[SEG_TR].selector
    trap: u16 = 0
    wide: cython.bint
    status: cython.int = task_descriptor(cpu, selector, reason, address(desc))
    if status:
        return status
    wide = desc_type(desc) & 8
    status = read_tss(cpu, desc_base(desc), wide, t, address(trap))
    if status == 0:
        status = save_task(cpu, reason)
    if status == 0 and (reason == TASK_JUMP or reason == TASK_RETURN):
        status = set_busy(cpu, link, False)
    if status == 0 and (reason == TASK_CALL or reason == TASK_INTERRUPT):
        status = store_system(cpu, desc_base(desc), 2, address(link))
    if status == 0 and reason != TASK_RETURN:
        status = set_busy(cpu, selector, True)
    if status:
        return status
    if reason == TASK_CALL or reason == TASK_INTERRUPT:
        t[T_EFLAGS] |= FLAG_NT
    fill_segment(address(cpu.segs[SEG_TR]), selector, desc | (cast(u64, 2) << 40))
    cpu.cr0 |= CR0_TS
    cpu.dr[7] &= ~cast(u64, 0x155)
    load_task_state(cpu, wide, t)
    status = load_task_segments(cpu, t)
    if status == 0 and trap:
        cpu.pending_db |= 1 << 15
    update_mode(cpu)
    return status


def load_task_state(cpu, wide, t):
    """Registers, flags, CR3 and the selectors of the incoming task; segments are unusable
    until load_task_segments has checked them."""
    i: u32
    high: u32 = 0 if wide else cast(u32, 0xFFFF0000)
    if wide and cpu.cr0 & CR0_PG:
        cpu.cr3 = t[T_CR3]
        tlb_flush(cpu, 1)
        space_flush_user(cpu, cpu.cr3)
    cpu.rip = t[T_EIP]
    for i in range(8):
        cpu.regs[i] = t[T_EAX + i] | high
    set_rflags(cpu, t[T_EFLAGS])
    if not wide:
        cpu.sysflags &= 0xFFFF
    for i in range(6):
        clear_segment(address(cpu.segs[i]), t[T_ES + i])
    clear_segment(address(cpu.segs[SEG_LDT]), t[T_LDT])


def load_task_segments(cpu, t):
    """LDTR, then CS, SS and the data segments, each with #TS for what is wrong."""
    i: u32
    status: cython.int
    if cpu.sysflags & FLAG_VM:
        cpu.cpl = 3
        for i in range(6):
            real_segment(cpu, i, t[T_ES + i])
        return load_ldt(cpu, t[T_LDT], EXC_TS)
    cpu.cpl = t[T_ES + SEG_CS] & 3
    status = load_ldt(cpu, t[T_LDT], EXC_TS)
    if status == 0:
        status = load_task_code(cpu, t[T_ES + SEG_CS])
    if status == 0:
        status = load_task_data(cpu, SEG_SS, t[T_ES + SEG_SS])
    for i in range(6):
        if status == 0 and i != SEG_CS and i != SEG_SS:
            status = load_task_data(cpu, i, t[T_ES + i])
    if status == 0 and cpu.rip > cpu.segs[SEG_CS].limit:
        return set_fault(cpu, EXC_GP, 0)
    return status


def load_task_code(cpu, selector):
    """CS of the incoming task: its RPL is the new CPL."""
    desc: u64 = 0
    attr: u32
    error: u32 = selector & 0xFFFC
    status: cython.int
    status = fetch_not_null(cpu, selector, EXC_TS, address(desc))
    if status:
        return status
    attr = desc_attr(desc)
    if (attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE):
        return set_fault(cpu, EXC_TS, error)
    if attr & ATTR_CONFORM:
        if dpl_of(attr) > cpu.cpl:
            return set_fault(cpu, EXC_TS, error)
    elif dpl_of(attr) != cpu.cpl:
        return set_fault(cpu, EXC_TS, error)
    if not attr & ATTR_P:
        return set_fault(cpu, EXC_NP, error)
    return use_segment(cpu, SEG_CS, selector, desc)


def load_task_data(cpu, seg, selector):
    """SS or a data segment; #GP of an ordinary load is #TS here."""
    status: cython.int
    if seg == SEG_SS and not selector & 0xFFFC:
        return set_fault(cpu, EXC_TS, 0)
    status = load_segment(cpu, seg, selector)
    if status and cpu.fault_vector == EXC_GP:
        cpu.fault_vector = EXC_TS
    return status


def push_task_error(cpu, error):
    """An exception's error code, on the new task's stack, at the width of its TSS."""
    value: u64 = error
    return push_items(cpu, address(value), 1, 4 if (cpu.segs[SEG_TR].attr & ATTR_TYPE) & 8 else 2)
