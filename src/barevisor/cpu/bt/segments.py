"""Descriptors and segment registers: fetching, checking and loading (SDM, "Protection").

Functions return 0 or ST_FAULT with cpu.fault_* set and nothing changed.
"""

import cython
from cython import address, cast


def in_table(cpu, selector, size):
    """Is the whole descriptor (8 or 16 bytes) within its table?"""
    if selector & 4:
        if not cpu.segs[SEG_LDT].usable:
            return False
        return (selector & 0xFFF8) + size - 1 <= cpu.segs[SEG_LDT].limit
    return (selector & 0xFFF8) + size - 1 <= cpu.gdt_limit


def fetch_descriptor(cpu, selector, vector, desc):
    """Read the selector's descriptor; `vector` with the selector when it is out of the table."""
    if not in_table(cpu, selector, 8):
        return set_fault(cpu, vector, selector & 0xFFFC)
    return load_system(cpu, table_address(cpu, selector), 8, desc)


def fetch_not_null(cpu, selector, vector, desc):
    """The same where a null selector is an error too: `vector` with 0."""
    if not selector & 0xFFFC:
        return set_fault(cpu, vector, 0)
    return fetch_descriptor(cpu, selector, vector, desc)


def mark_accessed(cpu, selector, desc):
    """Set the accessed bit of a code or data descriptor in its table."""
    accessed: u64 = cast(u64, 1) << 40
    if desc[0] & accessed:
        return 0
    desc[0] |= accessed
    return set_system(cpu, table_address(cpu, selector) + 5, 1)


def fill_segment(seg, selector, desc):
    """The hidden part from a descriptor."""
    seg.selector = selector
    seg.base = desc_base(desc)
    seg.limit = desc_limit(desc)
    seg.attr = desc_attr(desc)
    seg.usable = 1


def clear_segment(seg, selector):
    """A null selector: the register cannot be used to address memory."""
    seg.selector = selector
    seg.base = 0
    seg.limit = 0
    seg.attr = 0
    seg.usable = 0


def real_segment(cpu, seg, selector):
    """Real-address and virtual-8086 mode: a paragraph. Real mode keeps limit and size
    ("unreal" mode); virtual-8086 mode fixes them (SDM, "Real-Address Mode Operation")."""
    s: cython.pointer[Seg] = address(cpu.segs[seg])
    s.selector = selector
    s.base = cast(u64, selector & 0xFFFF) << 4
    s.usable = 1
    if cpu.sysflags & FLAG_VM and cpu.cr0 & CR0_PE:
        s.limit = 0xFFFF
        s.attr = 0xF3
    elif not s.attr & ATTR_P or (s.attr & (ATTR_S | ATTR_WRITE)) != (ATTR_S | ATTR_WRITE):
        s.attr = 0x93
        s.limit = 0xFFFF


def use_segment(cpu, seg, selector, desc):
    """Load a segment register with a descriptor that passed its checks. 0 or ST_FAULT."""
    status: cython.int = mark_accessed(cpu, selector, address(desc))
    if status:
        return status
    fill_segment(address(cpu.segs[seg]), selector, desc)
    update_mode(cpu)
    return 0


def load_segment(cpu, seg, selector):
    """Load ES, SS, DS, FS or GS with all checks of the mode (SDM, MOV, "Loading a segment
    register"), and derive the mode again."""
    desc: u64 = 0
    attr: u32
    status: cython.int
    selector &= 0xFFFF
    if no_selectors(cpu):
        real_segment(cpu, seg, selector)
        update_mode(cpu)
        return 0
    if seg == SEG_SS:
        return load_stack_segment(cpu, selector)
    if not selector & 0xFFFC:
        clear_segment(address(cpu.segs[seg]), selector)
        update_mode(cpu)
        return 0
    status = fetch_descriptor(cpu, selector, EXC_GP, address(desc))
    if status:
        return status
    attr = desc_attr(desc)
    if not attr & ATTR_S or (attr & (ATTR_CODE | ATTR_WRITE)) == ATTR_CODE:
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    if (attr & (ATTR_CODE | ATTR_CONFORM)) != (ATTR_CODE | ATTR_CONFORM) and (
        dpl_of(attr) < cpu.cpl or dpl_of(attr) < (selector & 3)
    ):
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    if not attr & ATTR_P:
        return set_fault(cpu, EXC_NP, selector & 0xFFFC)
    return use_segment(cpu, seg, selector, desc)


def check_stack_desc(cpu, selector, cpl, vector, desc):
    """May the descriptor be SS at `cpl`? `vector` (#GP or #TS) or #SS with the selector."""
    attr: u32 = desc_attr(desc)
    if (
        (selector & 3) != cpl
        or dpl_of(attr) != cpl
        or (attr & (ATTR_S | ATTR_CODE | ATTR_WRITE)) != (ATTR_S | ATTR_WRITE)
    ):
        return set_fault(cpu, vector, selector & 0xFFFC)
    if not attr & ATTR_P:
        return set_fault(cpu, EXC_SS, selector & 0xFFFC)
    return 0


def load_stack_segment(cpu, selector):
    """SS in protected, compatibility or 64-bit mode; null only in 64-bit mode below CPL 3."""
    desc: u64 = 0
    status: cython.int
    if not selector & 0xFFFC:
        if not in_code64(cpu) or cpu.cpl == 3 or (selector & 3) != cpu.cpl:
            return set_fault(cpu, EXC_GP, 0)
        clear_segment(address(cpu.segs[SEG_SS]), selector)
        cpu.segs[SEG_SS].attr = cpu.cpl << 5
        update_mode(cpu)
        return 0
    status = fetch_descriptor(cpu, selector, EXC_GP, address(desc))
    if status == 0:
        status = check_stack_desc(cpu, selector, cpu.cpl, EXC_GP, desc)
    return use_segment(cpu, SEG_SS, selector, desc) if status == 0 else status


def enter_cs(cpu, selector, desc, cpl):
    """Commit a checked code segment: CS gets `cpl` as its RPL, and CPL changes. The caller
    calls update_mode once SS is in place too."""
    fill_segment(address(cpu.segs[SEG_CS]), (selector & 0xFFFC) | cpl, desc)
    cpu.cpl = cpl


def drop_segments(cpu):
    """After a return to outer privilege: data segments that it may not use become null (SDM,
    IRET, "RETURN-TO-OUTER-PRIVILEGE-LEVEL")."""
    seg: u32
    attr: u32
    for seg in range(6):
        if seg == SEG_CS or seg == SEG_SS:
            continue
        attr = cpu.segs[seg].attr
        if (attr & (ATTR_CODE | ATTR_CONFORM)) == (ATTR_CODE | ATTR_CONFORM):
            continue
        if cpu.segs[seg].usable and dpl_of(attr) < cpu.cpl:
            # The base stays, as on hardware: a 64-bit program's GS still has one.
            cpu.segs[seg].selector = 0
            cpu.segs[seg].usable = 0


def system_descriptor(cpu, selector, desc, base):
    """A descriptor of an LDT or TSS: 16 bytes in IA-32e mode (SDM, "Segment Descriptor Tables
    in IA-32e Mode")."""
    high: u64 = 0
    status: cython.int = fetch_descriptor(cpu, selector, EXC_GP, desc)
    if status:
        return status
    base[0] = desc_base(desc[0])
    if not in_long(cpu):
        return 0
    if not in_table(cpu, selector, 16):
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    status = load_system(cpu, table_address(cpu, selector) + 8, 8, address(high))
    if status:
        return status
    base[0] |= high << 32
    if high & (cast(u64, 0x1F) << 40) or not canonical(base[0]):
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    return 0


def load_ldt(cpu, selector, vector):
    """LLDT's work, also done by a task switch (which names #TS as `vector`)."""
    desc: u64 = 0
    base: u64 = 0
    status: cython.int
    if not selector & 0xFFFC:
        clear_segment(address(cpu.segs[SEG_LDT]), selector)
        return 0
    if selector & 4:
        return set_fault(cpu, vector, selector & 0xFFFC)
    status = system_descriptor(cpu, selector, address(desc), address(base))
    if status:
        if cpu.fault_vector == EXC_GP:
            cpu.fault_vector = vector
        return status
    if desc_type(desc) != TYPE_LDT:
        return set_fault(cpu, vector, selector & 0xFFFC)
    if not desc_attr(desc) & ATTR_P:
        return set_fault(cpu, EXC_NP if vector == EXC_GP else vector, selector & 0xFFFC)
    fill_segment(address(cpu.segs[SEG_LDT]), selector, desc)
    cpu.segs[SEG_LDT].base = base
    return 0


def load_tr(cpu, selector):
    """LTR's work: an available TSS, which becomes busy."""
    desc: u64 = 0
    base: u64 = 0
    kind: u32
    status: cython.int
    if not selector & 0xFFFC:
        return set_fault(cpu, EXC_GP, 0)
    if selector & 4:
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    status = system_descriptor(cpu, selector, address(desc), address(base))
    if status:
        return status
    kind = desc_type(desc)
    if kind != TYPE_TSS32 and (kind != TYPE_TSS16 or in_long(cpu)):
        return set_fault(cpu, EXC_GP, selector & 0xFFFC)
    if not desc_attr(desc) & ATTR_P:
        return set_fault(cpu, EXC_NP, selector & 0xFFFC)
    desc |= cast(u64, 2) << 40
    status = set_system(cpu, table_address(cpu, selector) + 5, 2)
    if status:
        return status
    fill_segment(address(cpu.segs[SEG_TR]), selector, desc)
    cpu.segs[SEG_TR].base = base
    return 0
