# Architectural bits of descriptors, and the small inlined helpers that every privileged instruction
# uses.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.registers cimport *
from barevisor.cpu.bt.access cimport *
from barevisor.cpu.bt.mmu cimport check_segment

cdef enum:                   # Seg.attr
    ATTR_ACCESSED = 1
    ATTR_WRITE = 2           # data: writable; code: readable
    ATTR_CONFORM = 4         # code: conforming; data: expand-down
    ATTR_CODE = 8
    ATTR_TYPE = 0xF
    ATTR_S = 0x10
    ATTR_P = 0x80
    ATTR_L = 0x200
    ATTR_DB = 0x400
    ATTR_G = 0x800

cdef enum:                   # system descriptor types (SDM, "System Descriptor Types")
    TYPE_TSS16 = 1
    TYPE_LDT = 2
    TYPE_TSS16_BUSY = 3
    TYPE_CALL16 = 4
    TYPE_TASK = 5
    TYPE_INT16 = 6
    TYPE_TRAP16 = 7
    TYPE_TSS32 = 9
    TYPE_TSS32_BUSY = 11
    TYPE_CALL32 = 12
    TYPE_INT32 = 14
    TYPE_TRAP32 = 15


cdef enum:                   # Cpu.pending_db beside the bits of DR6
    DB_BS = 0x4000           # single step
    DB_NO_STEP = 0x80000000  # this instruction takes no single-step trap after all


cdef extern from * nogil:
    void serialize "__sync_synchronize"()   # SDM, "Serializing Instructions": earlier stores first


cdef inline u64 size_mask(u32 size) noexcept nogil:
    """All ones in `size` (1, 2, 4, 8) bytes."""
    return (<u64> 0xFFFFFFFFFFFFFFFF) >> (64 - 8 * size)


cdef inline bint in_code64(Cpu* cpu) noexcept nogil:
    return (cpu.mode & MODE_CODE_MASK) == MODE_CODE64


cdef inline bint in_long(Cpu* cpu) noexcept nogil:
    """IA-32e mode: 64-bit or compatibility."""
    return (cpu.efer & EFER_LMA) != 0


cdef inline bint no_selectors(Cpu* cpu) noexcept nogil:
    """Real-address or virtual-8086 mode: segment registers hold paragraphs."""
    return (cpu.mode & (MODE_REAL | MODE_VM86)) != 0


cdef inline u32 iopl(Cpu* cpu) noexcept nogil:
    return (cpu.sysflags >> 12) & 3


cdef inline u32 dpl_of(u32 attr) noexcept nogil:
    return (attr >> 5) & 3


cdef inline void write_reg(Cpu* cpu, u32 number, u32 size, u64 value) noexcept nogil:
    """A general register by operand size 2, 4 or 8: 32-bit results clear the upper half."""
    if size == 8:
        cpu.regs[number] = value
    elif size == 4:
        cpu.regs[number] = <u32> value
    else:
        cpu.regs[number] = (cpu.regs[number] & ~<u64> 0xFFFF) | <u16> value


cdef inline void set_zf(Cpu* cpu, bint on) noexcept nogil:
    if on:
        cpu.fl |= FL_ZF
    else:
        cpu.fl &= ~<u32> FL_ZF


cdef inline int check_operand(Cpu* cpu, Op* op, u32 size, u32 write) noexcept nogil:
    """Segment limit and rights of the memory operand, where segments count."""
    if op.flags & OPF_LEGACY:
        return check_segment(cpu, op.seg, offset_of(cpu, op), size, write)
    return 0


cdef inline int load_operand(Cpu* cpu, Op* op, u32 size, void* out) noexcept nogil:
    cdef int status = check_operand(cpu, op, size, 0)
    if status:
        return status
    return load(cpu, linear(cpu, op), size, out)


cdef inline int store_operand(Cpu* cpu, Op* op, u32 size, void* data) noexcept nogil:
    """0 when stored (end with leave_after), else ST_FAULT or ST_EXIT (end with leave)."""
    cdef int status = check_operand(cpu, op, size, 1)
    if status:
        return status
    status = store(cpu, linear(cpu, op), size, data)
    return 0 if status == ST_BREAK else status


cdef inline int store_word(Cpu* cpu, Op* op, u64 value) noexcept nogil:
    """The end of an instruction that gives 16 bits to memory, but the operand size to a register."""
    cdef int status
    if not op.mod_mem:
        write_reg(cpu, op.rm, op.osize, value)
        return finish(cpu, op)
    status = store_operand(cpu, op, 2, &value)
    return leave(cpu, op, status) if status else leave_after(cpu, op)


cdef inline u64 host_writable(Cpu* cpu, u32 idx, u64 va, u32 size) noexcept nogil:
    """Host address where the TLB knows that a store at `va` by mmu index `idx` can go, or 0.
    With alignment checks on (see mode.py) it knows none."""
    cdef TlbEntry* e = &cpu.tlbs[idx][(va >> 12) & (TLB_SIZE - 1)]
    if va - e.wtag > 4096 - size or cpu.tlb == cpu.tlb_blank:
        return 0
    return e.host + (va - e.wtag)


cdef inline u64 host_readable(Cpu* cpu, u32 idx, u64 va, u32 size) noexcept nogil:
    """The same for a load."""
    cdef TlbEntry* e = &cpu.tlbs[idx][(va >> 12) & (TLB_SIZE - 1)]
    if va - e.rtag > 4096 - size or cpu.tlb == cpu.tlb_blank:
        return 0
    return e.host + (va - e.rtag)


cdef inline int read_rm(Cpu* cpu, Op* op, u32 size, u64* out) noexcept nogil:
    """The r/m operand (register or memory), zero-extended from `size` bytes."""
    out[0] = 0
    if op.mod_mem:
        return load_operand(cpu, op, size, out)
    out[0] = cpu.regs[op.rm] & size_mask(size)
    return 0


