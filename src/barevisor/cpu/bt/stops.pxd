from barevisor.cpu.bt.state cimport *

cdef enum:                   # Cpu.stop_why
    STOP_NONE = 0
    STOP_BREAK = 1
    STOP_STEP = 2
    STOP_WATCH = 3
    STOP_TRACE = 4           # Cpu.traced is nearly full: take the records and go on

cdef enum:                   # Watch.kinds
    STOP_ON_READ = 1
    STOP_ON_WRITE = 2


cdef inline u32 break_offset(Vm* vm, u64 address) noexcept nogil:
    """Had this offset of some page a breakpoint since the debugger came?"""
    return <u32> (vm.break_offsets[(address >> 6) & 63] >> (address & 63)) & 1


cdef u64 linear_ip(Cpu* cpu, u64 ip) noexcept nogil
# Before the instruction at `ip` (offset in CS): 1 when a breakpoint is there, with EXIT_DEBUG set
cdef int stop_here(Cpu* cpu, u64 ip) noexcept nogil
# A load or store touches [va, va+size): note a watchpoint's hit, for the end of the instruction
cdef void watch_access(Cpu* cpu, u64 va, u32 size, u32 kind) noexcept nogil
# Does a watchpoint lie in the page? Then the TLB must not have it
cdef int watch_page(Vm* vm, u64 page) noexcept nogil
# Must this block, which is about to be bound, begin with the Op debug_check?
cdef int block_checks(Vm* vm, Block* block) noexcept nogil
