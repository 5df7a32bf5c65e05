from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.mmu cimport load_system, store_system
from barevisor.cpu.bt.paging cimport probe_write
from barevisor.cpu.bt.tlb cimport tlb_flush
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.space cimport space_flush_user
from barevisor.cpu.bt.segments cimport *
from barevisor.cpu.bt.stack cimport *

cdef enum:                   # why a task is switched to
    TASK_JUMP = 0
    TASK_CALL = 1
    TASK_RETURN = 2          # IRET with NT: the selector is the back link
    TASK_INTERRUPT = 3

cdef enum:                   # a TSS in memory, normalized to 32-bit items
    T_EIP = 0
    T_EFLAGS = 1
    T_EAX = 2                # then the other registers in encoding order
    T_ES = 10                # then CS SS DS FS GS
    T_LDT = 16
    T_CR3 = 17
    T_COUNT = 18

# Switch to the task whose TSS descriptor `selector` names; cpu.rip must be what the old task
# resumes at. 0, or ST_FAULT (before the switch: nothing changed; after it: in the new task).
cdef int task_switch(Cpu* cpu, u32 selector, u32 reason) noexcept nogil
cdef int push_task_error(Cpu* cpu, u32 error) noexcept nogil
cdef int task_descriptor(Cpu* cpu, u32 selector, u32 reason, u64* desc) noexcept nogil
cdef int read_tss(Cpu* cpu, u64 base, bint wide, u32* out, u16* trap) noexcept nogil
cdef int save_task(Cpu* cpu, u32 reason) noexcept nogil
cdef int set_busy(Cpu* cpu, u32 selector, bint busy) noexcept nogil
cdef void load_task_state(Cpu* cpu, bint wide, u32* t) noexcept nogil
cdef int load_task_segments(Cpu* cpu, u32* t) noexcept nogil
cdef int load_task_code(Cpu* cpu, u32 selector) noexcept nogil
cdef int load_task_data(Cpu* cpu, u32 seg, u32 selector) noexcept nogil
