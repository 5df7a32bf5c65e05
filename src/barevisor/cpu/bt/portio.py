"""IN, OUT, INS and OUTS: rights, and the exits that carry them to a device.

A write leaves behind the instruction; a read leaves at it and runs again once Cpu.io_ready says
that exit_data holds the answer.
"""

import cython
from cython import address, cast

POST_CODES = cython.declare("u32", 0x80)


def check_port(cpu, port, size):
    """SDM, "I/O Privilege Level" and "I/O Permission Bit Map": every bit of the access clear."""
    tss: cython.pointer[Seg] = address(cpu.segs[SEG_TR])
    base: u16 = 0
    bits: u16 = 0
    at: u64
    status: cython.int
    if cpu.mode & MODE_REAL or (not cpu.mode & MODE_VM86 and cpu.cpl <= iopl(cpu)):
        return 0
    if not tss.usable or not (tss.attr & ATTR_TYPE) & 8 or tss.limit < 0x67:
        return set_fault(cpu, EXC_GP, 0)
    status = load_system(cpu, tss.base + 0x66, 2, address(base))
    if status:
        return status
    at = cast(u64, base) + (port >> 3)
    if at + 1 > tss.limit:
        return set_fault(cpu, EXC_GP, 0)
    status = load_system(cpu, tss.base + at, 2, address(bits))
    if status:
        return status
    if (bits >> (port & 7)) & ((1 << size) - 1):
        return set_fault(cpu, EXC_GP, 0)
    return 0


def ask(cpu, op, port, size):
    """Leave for one item; the instruction restarts with the answer."""
    cpu.exit_reason = EXIT_PIO_READ
    cpu.exit_port = port
    cpu.exit_size = size
    cpu.exit_count = 1
    return leave(cpu, op, ST_EXIT)


def h_in(cpu, op):
    """SDM, IN."""
    port: u32 = port_number(cpu, op)
    size: u32 = port_size(op)
    value: u64 = 0
    status: cython.int = check_port(cpu, port, size)
    if status:
        return leave(cpu, op, status)
    if not cpu.io_ready:
        return ask(cpu, op, port, size)
    cpu.io_ready = 0
    memcpy(address(value), cpu.exit_data, size)
    if size == 1:
        cpu.regs[0] = (cpu.regs[0] & ~cast(u64, 0xFF)) | value
    else:
        write_reg(cpu, 0, size, value)
    cpu.pending_db |= io_breakpoint(cpu, port, size)
    return finish(cpu, op)


def h_out(cpu, op):
    """SDM, OUT."""
    port: u32 = port_number(cpu, op)
    size: u32 = port_size(op)
    status: cython.int = check_port(cpu, port, size)
    if status:
        return leave(cpu, op, status)
    if port == POST_CODES and cpu.vm.irqchip:
        # Nobody listens on a PC without firmware: guests write here to wait, and may do so often.
        cpu.pending_db |= io_breakpoint(cpu, port, size)
        return finish(cpu, op)
    cpu.exit_reason = EXIT_PIO_WRITE
    cpu.exit_port = port
    cpu.exit_size = size
    cpu.exit_count = 1
    memcpy(cpu.exit_data, address(cpu.regs[0]), size)
    cpu.pending_db |= io_breakpoint(cpu, port, size)
    return leave_after(cpu, op)


def h_ins(cpu, op):
    """SDM, INS: the destination is checked before the port is read."""
    port: u32 = port_number(cpu, op)
    size: u32 = port_size(op)
    rep: cython.bint = (op.prefixes & (PFX_REP | PFX_REPNE)) != 0
    offset: u64 = cpu.regs[7] & address_mask(op)
    va: u64 = offset + cpu.segbase[SEG_ES]
    down: u64 = size
    status: cython.int = 0
    if rep and not cpu.regs[1] & address_mask(op):
        return finish(cpu, op)
    status = check_port(cpu, port, size)
    if status == 0 and op.flags & OPF_LEGACY:
        va = cast(u32, va)
        status = check_segment(cpu, SEG_ES, offset, size, 1)
    if status == 0:
        status = probe_write(cpu, va, size, cpu.mmu_idx)
    if status:
        return leave(cpu, op, status)
    if not cpu.io_ready:
        return ask(cpu, op, port, size)
    cpu.io_ready = 0
    status = store(cpu, va, size, cpu.exit_data)
    if status == ST_FAULT or status == ST_EXIT:
        return leave(cpu, op, status)
    cpu.pending_db |= io_breakpoint(cpu, port, size)
    advance(cpu, op, 7, 0 - down if cpu.sysflags & FLAG_DF else down)
    if rep:
        advance(cpu, op, 1, ~cast(u64, 0))
        if cpu.regs[1] & address_mask(op):
            return leave(cpu, op, ST_EXIT if cpu.exit_reason else ST_NEXT)
    return leave_after(cpu, op)


def gather(cpu, op, size, count, status):
    """Read up to `count` items from the source into exit_data, and move RSI past them. A fault
    or exit behind the first item waits for its own turn."""
    n: u32 = 0
    offset: u64
    va: u64
    step: u64 = size
    result: cython.int = 0
    if cpu.sysflags & FLAG_DF:
        step = 0 - step
    if op.block.mode & MODE_STEP:
        count = 1
    while n < count and (n + 1) * size <= OUTS_BYTES:
        offset = cpu.regs[6] & address_mask(op)
        va = offset + cpu.segbase[op.seg]
        if op.flags & OPF_LEGACY:
            va = cast(u32, va)
            result = check_segment(cpu, op.seg, offset, size, 0)
        if result == 0:
            result = load(cpu, va, size, address(cpu.exit_data[n * size]))
        if result:
            break
        advance(cpu, op, 6, step)
        n += 1
    status[0] = result if n == 0 else 0
    return n


def h_outs(cpu, op):
    """SDM, OUTS: as many items as one exit carries."""
    port: u32 = port_number(cpu, op)
    size: u32 = port_size(op)
    rep: cython.bint = (op.prefixes & (PFX_REP | PFX_REPNE)) != 0
    count: u64 = cpu.regs[1] & address_mask(op) if rep else 1
    done: u32
    status: cython.int
    if count == 0:
        return finish(cpu, op)
    status = check_port(cpu, port, size)
    if status:
        return leave(cpu, op, status)
    done = gather(cpu, op, size, count, address(status))
    if status:
        return leave(cpu, op, status)
    cpu.exit_reason = EXIT_PIO_WRITE
    cpu.exit_port = port
    cpu.exit_size = size
    cpu.exit_count = done
    cpu.pending_db |= io_breakpoint(cpu, port, size)
    if rep:
        advance(cpu, op, 1, 0 - cast(u64, done))
    if done < count:
        return leave(cpu, op, ST_EXIT)
    return leave_after(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "in": entry_of(h_in),
        "out": entry_of(h_out),
        "ins": entry_of(h_ins),
        "outs": entry_of(h_outs),
    }
