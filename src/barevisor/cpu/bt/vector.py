"""Vector instructions whose memory accesses depend on a mask, and VZEROUPPER.

An element that its mask leaves out must not be touched: it may lie in a page that is not there.
So these access memory element by element. Loads collect before they change a register; stores
probe every element before the first one is written. A gather, by contrast, keeps the elements it
has (SDM, "VGATHERDPS": faults are delivered from right to left, with the mask telling what is
left to do).
"""

import cython
from cython import address, cast
from cython.cimports.libc.string import memcpy, memset


def h_vzeroupper(cpu, op):
    """SDM, VZEROUPPER: YMM8-15 only in 64-bit mode."""
    i: u32
    for i in range(16 if in_code64(cpu) else 8):
        memset(vec_reg(cpu, i) + 16, 0, 16)
    return next_op(cpu, op)


def h_vzeroall(cpu, op):
    """SDM, VZEROALL."""
    memset(cpu.vec, 0, 512 if in_code64(cpu) else 256)
    return next_op(cpu, op)


# ---- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ --------------------------------------


def masked_load(cpu, op, mask, size, width):
    """Elements without their mask bit become zero, and so does the rest of the register."""
    value: u8[32]
    va: u64 = linear(cpu, op)
    i: u32
    status: cython.int
    memset(value, 0, 32)
    for i in range(width // size):
        if sign(mask, i, size):
            status = load(cpu, va + i * size, size, address(value[i * size]))
            if status:
                return leave(cpu, op, status)
    memcpy(vec_reg(cpu, op.reg), value, 32)
    return finish(cpu, op)


def masked_store(cpu, op, va, data, mask, size, width):
    """All or nothing."""
    i: u32
    status: cython.int
    result: cython.int = 0
    for i in range(width // size):
        if sign(mask, i, size):
            status = probe_write(cpu, va + i * size, size, cpu.mmu_idx)
            if status:
                return leave(cpu, op, status)
    for i in range(width // size):
        if sign(mask, i, size):
            result |= store(cpu, va + i * size, size, data + i * size)
    return after_write(cpu, op, result)


def h_vmaskmov(cpu, op):
    """SDM, VMASKMOV, VPMASKMOV: the mask is VEX.vvvv."""
    mask: cython.pointer(u8) = vec_reg(cpu, cast(u32, op.imm2 & 15))
    width: u32 = 32 if op.imm2 & 0x100 else 16
    size: u32 = 4
    if op.opcode == 0x2D or op.opcode == 0x2F or op.imm2 & 0x200:
        size = 8
    if op.opcode == 0x2C or op.opcode == 0x2D or op.opcode == 0x8C:
        return masked_load(cpu, op, mask, size, width)
    return masked_store(cpu, op, linear(cpu, op), vec_reg(cpu, op.reg), mask, size, width)


# ---- gathers -----------------------------------------------------------------------------


def gather_address(cpu, op, element, index_size):
    """Base, plus the sign-extended element of the index register, scaled."""
    at: cython.pointer(u8) = vec_reg(cpu, op.index) + element * index_size
    index: i64
    va: u64
    if index_size == 8:
        index = cast(cython.pointer(i64), at)[0]
    else:
        index = cast(cython.pointer(i32), at)[0]
    va = (cpu.regs[op.base] + (cast(u64, index) << op.scale) + op.disp) & op.amask
    va += cpu.segbase[op.seg]
    return cast(u32, va) if op.flags & OPF_LEGACY else va


def h_gather(cpu, op):
    """SDM, VPGATHERDD and its kind: opcode bit 0 says quadword indices, VEX.W quadword data."""
    dest: cython.pointer(u8) = vec_reg(cpu, op.reg)
    mask: cython.pointer(u8) = vec_reg(cpu, cast(u32, op.imm2 & 15))
    width: u32 = 32 if op.imm2 & 0x100 else 16
    index_size: u32 = 8 if op.opcode & 1 else 4
    size: u32 = 8 if op.imm2 & 0x200 else 4
    count: u32 = width // max(index_size, size)
    i: u32
    value: u64
    status: cython.int
    for i in range(count):
        if not sign(mask, i, size):
            continue
        status = load(cpu, gather_address(cpu, op, i, index_size), size, address(value))
        if status:
            return leave(cpu, op, status)
        memcpy(dest + i * size, address(value), size)
        memset(mask + i * size, 0, size)
    memset(dest + count * size, 0, 32 - count * size)
    memset(mask, 0, 32)
    return finish(cpu, op)


# ---- MASKMOVDQU, MASKMOVQ ----------------------------------------------------------------


def masked_bytes(cpu, op, data, mask, width):
    """Bytes of `data` whose mask is set go to DS:(R)DI."""
    offset: u64 = cpu.regs[7] & op.amask
    va: u64 = offset + cpu.segbase[op.seg]
    if op.flags & OPF_LEGACY:
        va = cast(u32, va)
        if check_segment(cpu, op.seg, offset, width, 1):
            return leave(cpu, op, ST_FAULT)
    return masked_store(cpu, op, va, data, mask, 1, width)


def h_maskmovdqu(cpu, op):
    """SDM, MASKMOVDQU."""
    return masked_bytes(cpu, op, vec_reg(cpu, op.reg), vec_reg(cpu, op.rm), 16)


def enter_mmx(image):
    """SDM, "Transitions Between x87 FPU and MMX Code": TOP = 0, all tags valid. MMX registers
    are physical ones, an FXSAVE image lists them from TOP."""
    fsw: cython.pointer(u16) = cast(cython.pointer(u16), image + FX_FSW)
    top: u32 = fsw[0] >> 11 & 7
    old: u8[128]
    i: u32
    memcpy(old, image + FX_ST0, 128)
    for i in range(8):
        memcpy(image + FX_ST0 + 16 * i, address(old[16 * ((i - top) & 7)]), 16)
    fsw[0] &= 0xC7FF
    image[FX_FTW] = 0xFF


def h_maskmovq(cpu, op):
    """SDM, MASKMOVQ."""
    data: u8[8]
    mask: u8[8]
    fpu_pull(cpu)
    enter_mmx(cpu.fpu)
    memcpy(data, cpu.fpu + FX_ST0 + 16 * (op.reg & 7), 8)
    memcpy(mask, cpu.fpu + FX_ST0 + 16 * (op.rm & 7), 8)
    fpu_push(cpu)
    return masked_bytes(cpu, op, data, mask, 8)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "vzeroupper": entry_of(h_vzeroupper),
        "vzeroall": entry_of(h_vzeroall),
        "vmaskmov": entry_of(h_vmaskmov),
        "gather": entry_of(h_gather),
        "maskmovdqu": entry_of(h_maskmovdqu),
        "maskmovq": entry_of(h_maskmovq),
    }
