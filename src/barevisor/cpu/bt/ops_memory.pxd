from barevisor.cpu.bt.access cimport *
from barevisor.cpu.bt.state cimport *

cdef int mem_read_slow(Cpu* cpu, Op* op) noexcept nogil
cdef int mem_write_slow(Cpu* cpu, Op* op) noexcept nogil

# What a handler and its *_flat twin do once each has its address. For moves `size` is a constant
# everywhere: of peek and poke one line is left.

cdef inline int read_thunk(Cpu* cpu, Op* op, u64 va) noexcept nogil:
    cdef u8* host = read_fast(cpu, va, op.msize)
    if host == NULL:
        return mem_read_slow(cpu, op)
    return op.thunk(cpu, op, host)


cdef inline int write_thunk(Cpu* cpu, Op* op, u64 va) noexcept nogil:
    cdef u8* host = write_fast(cpu, va, op.msize)
    if host == NULL:
        return mem_write_slow(cpu, op)
    return op.thunk(cpu, op, host)


cdef inline u64 peek(u8* host, u32 size) noexcept nogil:
    if size == 8:
        return (<u64*> host)[0]
    if size == 4:
        return (<u32*> host)[0]
    if size == 2:
        return (<u16*> host)[0]
    return host[0]


cdef inline void poke(u8* host, u32 size, u64 value) noexcept nogil:
    if size == 8:
        (<u64*> host)[0] = value
    elif size == 4:
        (<u32*> host)[0] = <u32> value
    elif size == 2:
        (<u16*> host)[0] = <u16> value
    else:
        host[0] = <u8> value


cdef inline u8* part(Cpu* cpu, Op* op) noexcept nogil:
    """An 8-bit register, AH to BH among them."""
    return (<u8*> cpu) + op.reg_off


cdef inline int load_whole(Cpu* cpu, Op* op, u64 va, u32 size) noexcept nogil:
    """The register's upper bits become 0."""
    cdef u8* host = read_fast(cpu, va, size)
    if host == NULL:
        return mem_read_slow(cpu, op)
    cpu.regs[op.reg] = peek(host, size)
    return next_op(cpu, op)


cdef inline int load_signed(Cpu* cpu, Op* op, u64 va, u32 size) noexcept nogil:
    """1 or 2 bytes, cut by imm2; 4 bytes."""
    cdef u8* host = read_fast(cpu, va, size)
    if host == NULL:
        return mem_read_slow(cpu, op)
    if size == 4:
        cpu.regs[op.reg] = <u64> <i64> (<i32*> host)[0]
    elif size == 2:
        cpu.regs[op.reg] = <u64> <i64> (<i16*> host)[0] & op.imm2
    else:
        cpu.regs[op.reg] = <u64> <i64> (<i8*> host)[0] & op.imm2
    return next_op(cpu, op)


cdef inline int load_part(Cpu* cpu, Op* op, u64 va, u32 size) noexcept nogil:
    """1 or 2 bytes: the register keeps the others."""
    cdef u8* host = read_fast(cpu, va, size)
    if host == NULL:
        return mem_read_slow(cpu, op)
    if size == 2:
        (<u16*> &cpu.regs[op.reg])[0] = (<u16*> host)[0]
    else:
        part(cpu, op)[0] = host[0]
    return next_op(cpu, op)


cdef inline int store_value(Cpu* cpu, Op* op, u64 va, u32 size, u64 value) noexcept nogil:
    cdef u8* host = write_fast(cpu, va, size)
    if host == NULL:
        return mem_write_slow(cpu, op)
    poke(host, size, value)
    return next_op(cpu, op)


cdef int mem_read_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int mem_read(Cpu* cpu, Op* op) noexcept nogil
cdef int mem_write_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int mem_write(Cpu* cpu, Op* op) noexcept nogil
cdef int load64_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int load64(Cpu* cpu, Op* op) noexcept nogil
cdef int load32_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int load32(Cpu* cpu, Op* op) noexcept nogil
cdef int load16_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int load16(Cpu* cpu, Op* op) noexcept nogil
cdef int load8_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int load8(Cpu* cpu, Op* op) noexcept nogil
cdef int loadzx16_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int loadzx16(Cpu* cpu, Op* op) noexcept nogil
cdef int loadzx8_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int loadzx8(Cpu* cpu, Op* op) noexcept nogil
cdef int loadsx32_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int loadsx32(Cpu* cpu, Op* op) noexcept nogil
cdef int loadsx16_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int loadsx16(Cpu* cpu, Op* op) noexcept nogil
cdef int loadsx8_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int loadsx8(Cpu* cpu, Op* op) noexcept nogil
cdef int store64_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int store64(Cpu* cpu, Op* op) noexcept nogil
cdef int store32_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int store32(Cpu* cpu, Op* op) noexcept nogil
cdef int store16_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int store16(Cpu* cpu, Op* op) noexcept nogil
cdef int store8_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int store8(Cpu* cpu, Op* op) noexcept nogil
cdef int storei64_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int storei64(Cpu* cpu, Op* op) noexcept nogil
cdef int storei32_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int storei32(Cpu* cpu, Op* op) noexcept nogil
cdef int storei16_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int storei16(Cpu* cpu, Op* op) noexcept nogil
cdef int storei8_flat(Cpu* cpu, Op* op) noexcept nogil
cdef int storei8(Cpu* cpu, Op* op) noexcept nogil
