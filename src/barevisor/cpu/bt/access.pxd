# The fast paths that must be inlined into every handler: effective addresses, the TLB hit, the
# step to the next Op. Everything slower is a call into mmu.py.
#
# A handler that goes on with next_op() must be a tail call: it has no local whose address is
# taken. Handlers that need such locals (load() and store() with &local) end with finish(), which
# goes through the dispatcher; that is right for every rare instruction.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.mmu cimport load_slow, stack_fault, store_slow
from libc.string cimport memcpy


cdef inline u64 linear(Cpu* cpu, Op* op) noexcept nogil:
    """The linear address of the memory operand (no limit check)."""
    cdef u64 va = ((cpu.regs[op.base] + (cpu.regs[op.index] << op.scale) + op.disp) & op.amask) \
        + cpu.segbase[op.seg]
    if op.flags & OPF_LEGACY:
        va = <u32> va
    return va


cdef inline u64 linear_flat(Cpu* cpu, Op* op) noexcept nogil:
    """The same in 64-bit mode without FS, GS or an address-size prefix."""
    return cpu.regs[op.base] + (cpu.regs[op.index] << op.scale) + op.disp


cdef inline u64 offset_of(Cpu* cpu, Op* op) noexcept nogil:
    """The effective address (LEA): no segment base."""
    return (cpu.regs[op.base] + (cpu.regs[op.index] << op.scale) + op.disp) & op.amask


cdef inline u8* read_fast(Cpu* cpu, u64 va, u32 size) noexcept nogil:
    """Host address of a readable operand within one page, or NULL: then use load()."""
    cdef TlbEntry* e = &cpu.tlb[(va >> 12) & (TLB_SIZE - 1)]
    cdef u64 off = va - e.rtag
    if off <= 4096 - size:
        return <u8*> (e.host + off)
    return NULL


cdef inline u8* write_fast(Cpu* cpu, u64 va, u32 size) noexcept nogil:
    """The same for a store (or read-modify-write: writable implies readable)."""
    cdef TlbEntry* e = &cpu.tlb[(va >> 12) & (TLB_SIZE - 1)]
    cdef u64 off = va - e.wtag
    if off <= 4096 - size:
        return <u8*> (e.host + off)
    return NULL


cdef inline int next_op(Cpu* cpu, Op* op) noexcept nogil:
    """Go on with the next Op of the block (a tail call)."""
    return op[1].handler(cpu, &op[1])


cdef inline u64 ip_mask(Cpu* cpu) noexcept nogil:
    """RIP is 64 bits wide in 64-bit mode, else 32 (16-bit code wraps at its own branches)."""
    if (cpu.mode & MODE_CODE_MASK) == MODE_CODE64:
        return <u64> 0xFFFFFFFFFFFFFFFF
    return <u64> 0xFFFFFFFF


cdef inline u64 this_ip(Cpu* cpu, Op* op) noexcept nogil:
    return (cpu.regs[REG_RIP] + op.ip) & ip_mask(cpu)


cdef inline u64 next_ip(Cpu* cpu, Op* op) noexcept nogil:
    return (cpu.regs[REG_RIP] + op.ip + op.len) & ip_mask(cpu)


cdef inline int finish(Cpu* cpu, Op* op) noexcept nogil:
    """The instruction is complete; go on through the dispatcher (also in mid-block)."""
    cpu.rip = next_ip(cpu, op)
    cpu.icount -= op.block.count - op.number - 1
    return ST_NEXT


cdef inline int fault(Cpu* cpu, Op* op, u32 vector, u32 error) noexcept nogil:
    """Raise an exception at this instruction; nothing of it may have been committed."""
    cpu.rip = this_ip(cpu, op)
    cpu.icount -= op.block.count - op.number
    cpu.fault_vector = vector
    cpu.fault_error = error
    return ST_FAULT


cdef inline int leave(Cpu* cpu, Op* op, int status) noexcept nogil:
    """A load or store returned ST_FAULT or ST_EXIT: stop at this instruction (it restarts)."""
    if op.flags & OPF_STACK and status == ST_FAULT and cpu.fault_vector == EXC_GP:
        stack_fault(cpu, linear(cpu, op))
    cpu.rip = this_ip(cpu, op)
    cpu.icount -= op.block.count - op.number
    return status


cdef inline int leave_after(Cpu* cpu, Op* op) noexcept nogil:
    """A store returned ST_BREAK: the instruction is complete, the block must end behind it."""
    cpu.rip = next_ip(cpu, op)
    cpu.icount -= op.block.count - op.number - 1
    if cpu.exit_reason:
        return ST_EXIT
    return ST_NEXT


cdef inline int load(Cpu* cpu, u64 va, u32 size, void* out) noexcept nogil:
    """Copy `size` (1..64) bytes from linear `va`, current privilege. 0, ST_FAULT or ST_EXIT."""
    cdef u8* p = read_fast(cpu, va, size)
    if p != NULL:
        memcpy(out, p, size)
        return 0
    return load_slow(cpu, va, size, out, cpu.mmu_idx)


cdef inline int store(Cpu* cpu, u64 va, u32 size, void* data) noexcept nogil:
    """Copy `size` bytes to linear `va`. 0, ST_FAULT, ST_EXIT, or ST_BREAK (stored; use
    leave_after instead of next_op)."""
    cdef u8* p = write_fast(cpu, va, size)
    if p != NULL:
        memcpy(p, data, size)
        return 0
    return store_slow(cpu, va, size, data, cpu.mmu_idx)


cdef inline bint want_alone(Cpu* cpu, Op* op) noexcept nogil:
    """Must this read-modify-write, which does not go to RAM in one step, run while the other CPUs
    stand still? Then leave with ST_NEXT: the dispatcher runs it again so."""
    if cpu.vm.ncpus == 1 or cpu.exclusive == 2:
        return False
    # LOCK, or XCHG, which needs none
    if op.prefixes & PFX_LOCK or (op.opcode & 0xFE) == 0x86:
        cpu.exclusive = 1
        return True
    return False


cdef inline u64 get_rflags(Cpu* cpu) noexcept nogil:
    return ((cpu.fl >> 8) & 0xD5) | ((cpu.fl & 1) << 11) | cpu.sysflags | 2


cdef inline void set_arith(Cpu* cpu, u64 rflags) noexcept nogil:
    """CF PF AF ZF SF OF from an RFLAGS image."""
    cpu.fl = <u32> (((rflags & 0xD5) << 8) | ((rflags >> 11) & 1) | 0x200)


cdef inline void set_rflags(Cpu* cpu, u64 rflags) noexcept nogil:
    """All of RFLAGS, unchecked. The caller calls update_mode when AC, TF, VM or IF changed."""
    set_arith(cpu, rflags)
    cpu.sysflags = <u32> (rflags & 0x3F7F2A & ~<u64> FLAGS_ARITH & ~<u64> 2)
