# Direct execution: user code that runs long at a time runs as it is, in a process of its own.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.registers cimport space_key
from barevisor.cpu.bt.tsc cimport host_tsc
from barevisor.cpu.bt.mirror cimport Mirror, user_regs_struct

cdef extern from "sched.h" nogil:
    int sched_getcpu()
    int sched_setaffinity(int pid, size_t size, void* mask)
    int sched_getaffinity(int pid, size_t size, void* mask)
cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
cdef extern from "elf.h" nogil:
    const int NT_X86_XSTATE

cdef extern from "signal.h" nogil:
    ctypedef struct siginfo_t:
        int si_code
        void* si_addr
        void* si_call_addr
    const int SIGSYS, SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE
    const int SEGV_MAPERR, SEGV_ACCERR, SI_KERNEL, TRAP_HWBKPT

cdef enum:
    PTRACE_SYSEMU = 31
    SYSCALL_STOP = 0x85      # SIGTRAP with PTRACE_O_TRACESYSGOOD's bit

# Run user code from cpu.rip on. ST_NEXT: the engine goes on at cpu.rip, with whatever is there or
# has come up; ST_EXIT with EXIT_NO_MIRROR or EXIT_INTERNAL.
cdef int direct_run(Cpu* cpu) noexcept nogil
# At an interrupt: learn how long this address space runs at a time
cdef void direct_sample(Cpu* cpu) noexcept nogil
# This thread may run anywhere again
cdef void direct_unpin(Cpu* cpu) noexcept nogil


# What is known of an address space, if its key says so
cdef inline Pace* pace_of(Cpu* cpu, u64 key) noexcept nogil:
    return &cpu.paces[(key >> 12 ^ key) & (PACES - 1)]


# A sample begins: see direct_sample
cdef inline void pace_begin(Cpu* cpu, u64 key) noexcept nogil:
    cpu.pace_key = key
    cpu.pace_since = host_tsc()
    cpu.pace_entries = cpu.entries


# CPL 3 begins: is this address space one that runs long?
cdef inline u32 direct_wanted(Cpu* cpu) noexcept nogil:
    cdef Pace* pace
    cdef u64 key = space_key(cpu.cr3)
    if cpu.vm.direct == DIRECT_OFF:
        return 0
    if cpu.vm.direct == DIRECT_ALWAYS:
        return DIRECT_NOW
    if key != cpu.pace_key:
        pace_begin(cpu, key)
    pace = pace_of(cpu, key)
    return DIRECT_NOW if pace.key == key and pace.direct else 0
