"""Pushes and pops of several items that take effect together, on this stack or another.

Far transfers and interrupts touch a stack several times and may fault at any of them; nothing
of the CPU changes before stack_commit, so a fault leaves the instruction restartable.
"""

import cython
from cython import address, cast


def stack_current(cpu, s):
    """The running stack: SS:(E/R)SP at the current privilege."""
    s.seg = cpu.segs[SEG_SS]
    s.idx = cpu.mmu_idx
    s.error = 0
    s.mask = 0xFFFF
    if in_code64(cpu):
        s.mask = cast(u64, 0xFFFF_FFFF_FFFF_FFFF)
    elif cpu.mode & MODE_STACK32:
        s.mask = cast(u64, 0xFFFF_FFFF)
    s.sp = cpu.regs[4] & s.mask


def stack_of(cpu, s, seg, sp, cpl):
    """Another legacy stack, `seg` with its pointer, as seen from privilege `cpl`."""
    s.seg = seg[0]
    s.mask = cast(u64, 0xFFFF_FFFF) if seg.attr & ATTR_DB else 0xFFFF
    s.sp = sp & s.mask
    s.idx = MMU_USER if cpl == 3 else MMU_SUPERVISOR
    s.error = seg.selector & 0xFFFC


def seg_covers(seg, offset, size):
    """Does the segment hold [offset, offset+size) (SDM, "Limit Checking")?"""
    last: u64 = offset + size - 1
    top: u64 = cast(u64, 0xFFFF_FFFF) if seg.attr & ATTR_DB else 0xFFFF
    if seg.attr & ATTR_S and (seg.attr & (ATTR_CODE | ATTR_CONFORM)) == ATTR_CONFORM:
        return offset > seg.limit and last <= top
    return last <= seg.limit


def stack_address(cpu, s, sp, size, va):
    """Linear address of a stack slot, or ST_FAULT with #SS."""
    if s.mask == cast(u64, 0xFFFF_FFFF_FFFF_FFFF):
        va[0] = sp
        if not canonical(sp) or not canonical(sp + size - 1):
            return set_fault(cpu, EXC_SS, s.error)
        return 0
    va[0] = (s.seg.base + sp) & cast(u64, 0xFFFF_FFFF)
    if not s.seg.usable or not seg_covers(address(s.seg), sp, size):
        return set_fault(cpu, EXC_SS, s.error)
    return 0


def stack_push(cpu, s, items, n, width):
    """Push items[0..n) of `width` bytes each; all slots are checked before the first store
    (a single store checks itself)."""
    sp: u64 = s.sp
    va: u64 = 0
    i: u32
    _i: u32
    host: u64
    status: cython.int = 0
    for _i in range(n):
        sp = (sp - width) & s.mask
        status = stack_address(cpu, s, sp, width, address(va))
        if status == 0 and n > 1 and not host_writable(cpu, s.idx, va, width):
            status = probe_write(cpu, va, width, s.idx)
        if status:
            return status
    sp = s.sp
    for i in range(n):
        sp = (sp - width) & s.mask
        stack_address(cpu, s, sp, width, address(va))
        host = host_writable(cpu, s.idx, va, width)
        if host:
            memcpy(cast(cython.p_void, host), address(items[i]), width)
            continue
        status = store_slow(cpu, va, width, address(items[i]), s.idx)
        if status != 0 and status != ST_BREAK:
            return status
    s.sp = sp
    return 0


def stack_pop(cpu, s, out, n, width):
    """Pop n items of `width` bytes, zero-extended, into out[0..n)."""
    va: u64 = 0
    i: u32
    host: u64
    status: cython.int = 0
    for i in range(n):
        out[i] = 0
        status = stack_address(cpu, s, s.sp, width, address(va))
        if status:
            return status
        host = host_readable(cpu, s.idx, va, width)
        if host:
            memcpy(address(out[i]), cast(cython.p_void, host), width)
        else:
            status = load_slow(cpu, va, width, address(out[i]), s.idx)
            if status:
                return status
        s.sp = (s.sp + width) & s.mask
    return 0


def stack_commit(cpu, s):
    """Write the stack pointer back at its own width."""
    if s.mask == 0xFFFF:
        cpu.regs[4] = (cpu.regs[4] & ~cast(u64, 0xFFFF)) | s.sp
    else:
        cpu.regs[4] = s.sp


def push_items(cpu, items, n, width):
    """stack_push on the running stack, and the commit. 0 or ST_FAULT."""
    s: Stack
    status: cython.int
    stack_current(cpu, address(s))
    status = stack_push(cpu, address(s), items, n, width)
    if status == 0:
        stack_commit(cpu, address(s))
    return status


def inner_stack(cpu, cpl, s):
    """SDM, "Stack Switching": SSn and (E)SPn of a 16-bit or 32-bit TSS."""
    seg: Seg
    tss: cython.pointer[Seg] = address(cpu.segs[SEG_TR])
    error: u32 = tss.selector & 0xFFFC
    wide: cython.bint = (tss.attr & ATTR_TYPE) & 8
    at: u32 = 4 + 8 * cpl if wide else 2 + 4 * cpl
    size: u32 = 4 if wide else 2
    sp: u64 = 0
    selector: u32 = 0
    desc: u64 = 0
    status: cython.int
    if not tss.usable or at + size + 1 > tss.limit:
        return set_fault(cpu, EXC_TS, error)
    status = load_system(cpu, tss.base + at, size, address(sp))
    if status == 0:
        status = load_system(cpu, tss.base + at + size, 2, address(selector))
    if status:
        return status
    if not selector & 0xFFFC:
        return set_fault(cpu, EXC_TS, 0)
    status = fetch_descriptor(cpu, selector, EXC_TS, address(desc))
    if status == 0:
        status = check_stack_desc(cpu, selector, cpl, EXC_TS, desc)
    if status == 0:
        status = mark_accessed(cpu, selector, address(desc))
    if status:
        return status
    fill_segment(address(seg), selector, desc)
    stack_of(cpu, s, address(seg), sp, cpl)
    return 0
