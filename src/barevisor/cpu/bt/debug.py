"""Debug registers at work: breakpoints on code, data and ports, and the single-step trap
(SDM, "Debug Registers", "Debug Exceptions")."""

from cython import cast


def matches(cpu, start, size, kinds):
    """DR6 bits of the enabled breakpoints whose R/W field is in the mask `kinds` and whose
    range meets [start, start+size)."""
    i: u32
    hits: u32 = 0
    field: u32
    length: u64
    base: u64
    for i in range(4):
        field = cast(u32, cpu.dr[7] >> (16 + 4 * i)) & 15
        if not (cpu.dr[7] >> (2 * i)) & 3 or not (kinds >> (field & 3)) & 1:
            continue
        length = 1 << (field >> 2)
        if length == 4:
            length = 8
        elif length == 8:
            length = 4
        base = cpu.dr[i] & ~(length - 1)
        if start - base < length or base - start < size:
            hits |= cast(u32, 1) << i
    return hits


def code_breakpoint(cpu, va):
    """SDM, "Instruction-Breakpoint Exception Condition": a fault, once per instruction. An
    instruction that is being restarted after an exit to a device has passed already."""
    hits: u32
    if cpu.sysflags & FLAG_RF:
        cpu.sysflags &= ~cast(u32, FLAG_RF)
        return 0
    if cpu.mmio_n or cpu.io_ready:
        return 0
    hits = matches(cpu, va, 1, 1 << BREAK_EXECUTE)
    if hits:
        cpu.fault_vector = EXC_DB
        cpu.fault_error = NO_ERROR
        cpu.fault_address = hits
    return hits


def data_breakpoint(cpu, va, size, write):
    """SDM, "Data Memory and I/O Breakpoint Exception Conditions": a trap."""
    kinds: u32 = 1 << BREAK_ACCESS
    if write:
        kinds |= 1 << BREAK_WRITE
    return matches(cpu, va, size, kinds)


def io_breakpoint(cpu, port, size):
    """Ports count only with CR4.DE."""
    if not cpu.cr4 & CR4_DE or not cpu.dr[7] & 0xFF:
        return 0
    return matches(cpu, port, size, 1 << BREAK_IO)


def after_step(cpu):
    """Deliver the trap that the last instruction earned."""
    bits: u32 = cpu.pending_db
    cpu.pending_db = 0
    if bits & DB_NO_STEP:
        bits &= ~cast(u32, DB_NO_STEP | DB_BS)
        if not bits:
            return ST_NEXT
    cpu.fault_address = bits
    return deliver(cpu, EXC_DB, NO_ERROR, KIND_EXCEPTION)
