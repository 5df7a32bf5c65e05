from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.access cimport *

cdef extern from * nogil:
    void publish "__atomic_store_n"(Block** at, Block* block, int order)
    Block* acquire "__atomic_load_n"(Block** at, int order)

cdef enum:
    ACQUIRE = 2              # __ATOMIC_ACQUIRE
    RELEASE = 3              # __ATOMIC_RELEASE

cdef enum:                   # Op.flags of branches, set by the block builder
    OPF_LOCAL = 64           # the target lies in the block's own page: it may be linked
    OPF_FALL_LOCAL = 128     # the same for the instruction behind the branch

cdef struct Start:           # where a block begins
    u64 va                   # linear
    u64 host
    u64 gpa
    u32 mode

# Go on at `target` (offset in CS), in whatever block that is: a tail call, or ST_NEXT
cdef int go(Cpu* cpu, u64 target) noexcept nogil
# The block for cpu.rip in `mode`, built if need be. 0, ST_FAULT or ST_EXIT
cdef int find_or_build(Cpu* cpu, u32 mode, Block** out) noexcept nogil
# Forget every block and thunk. No other CPU may be in a block (stop_others), nor this one
cdef void drop_code(Vm* vm) noexcept nogil
# The block made from the code at `host`, or NULL
cdef Block* lookup_block(Vm* vm, u64 host, u32 mode) noexcept nogil


cdef inline int follow(Cpu* cpu, Op* op, Block** link, u64 target) noexcept nogil:
    """Go on at `target` in the same page, through the link once the dispatcher has set it.

    Same page and same mode mean same translation and same rights, so a link outlives TLB
    flushes; it ends with the block that it names."""
    cdef Block* found
    cpu.budget -= 1
    if (cpu.budget | cpu.urgent) >= 0:
        found = link[0]
        if found != NULL and found.valid:
            cpu.regs[REG_RIP] = target
            cpu.icount += found.count
            return found.ops[0].handler(cpu, found.ops)
    cpu.rip = target
    cpu.link = link
    cpu.link_from = op.block
    return ST_NEXT


cdef inline int fall_through(Cpu* cpu, Op* op) noexcept nogil:
    """Go on behind the block's last instruction `op`."""
    cdef u64 target = next_ip(cpu, op)
    if op.flags & OPF_FALL_LOCAL:
        return follow(cpu, op, &op.block.fall, target)
    return go(cpu, target)
