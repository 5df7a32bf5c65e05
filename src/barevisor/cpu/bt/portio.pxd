from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.debug cimport io_breakpoint
from barevisor.cpu.bt.mmu cimport load_system
from barevisor.cpu.bt.paging cimport probe_write
from libc.string cimport memcpy

cdef enum:
    OUTS_BYTES = 64          # most that one exit carries (Cpu.exit_data)

cdef int check_port(Cpu* cpu, u32 port, u32 size) noexcept nogil
cdef int h_in(Cpu* cpu, Op* op) noexcept nogil
cdef int h_out(Cpu* cpu, Op* op) noexcept nogil
cdef int h_ins(Cpu* cpu, Op* op) noexcept nogil
cdef int h_outs(Cpu* cpu, Op* op) noexcept nogil
cdef int ask(Cpu* cpu, Op* op, u32 port, u32 size) noexcept nogil
cdef u32 gather(Cpu* cpu, Op* op, u32 size, u64 count, int* status) noexcept nogil


cdef inline u32 port_size(Op* op) noexcept nogil:
    """Even opcodes move a byte; 64-bit operands do not exist."""
    if not op.opcode & 1:
        return 1
    return 2 if op.osize == 2 else 4


cdef inline u32 port_number(Cpu* cpu, Op* op) noexcept nogil:
    """E4..E7 name the port; the others take DX."""
    if (op.opcode & 0xFC) == 0xE4:
        return <u32> op.imm & 0xFF
    return <u16> cpu.regs[2]


cdef inline u64 address_mask(Op* op) noexcept nogil:
    return size_mask(op.asize)


cdef inline void advance(Cpu* cpu, Op* op, u32 number, u64 delta) noexcept nogil:
    """Move RSI, RDI or RCX at the address size."""
    write_reg(cpu, number, op.asize, cpu.regs[number] + delta)
