# The threads of one VM: the lock over its code, and how one CPU makes the others stand still.
from barevisor.cpu.bt.state cimport *

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_trylock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)
cdef extern from "sys/syscall.h" nogil:
    const long SYS_futex
    const long SYS_rt_tgsigqueueinfo
cdef extern from "signal.h" nogil:
    ctypedef struct siginfo_t:
        int si_code
        void* si_value "si_value.sival_ptr"
    const int SI_QUEUE
    int SIGRTMIN
cdef extern from "linux/futex.h" nogil:
    const int FUTEX_WAIT_PRIVATE
    const int FUTEX_WAKE_PRIVATE
cdef extern from "sched.h" nogil:
    int sched_yield()
cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
cdef extern from * nogil:
    u32 load32 "__atomic_load_n"(u32* at, int order)
    u32 swap32 "__atomic_exchange_n"(u32* at, u32 value, int order)
    i64 swap64 "__atomic_exchange_n"(i64* at, i64 value, int order)
    u32 add32 "__atomic_fetch_add"(u32* at, u32 value, int order)
    u32 or32 "__atomic_fetch_or"(u32* at, u32 bits, int order)
    u32 and32 "__atomic_fetch_and"(u32* at, u32 bits, int order)
    void fence "__atomic_thread_fence"(int order)
    void cpu_relax "__builtin_ia32_pause"()

cdef enum:
    SEQ_CST = 5              # __ATOMIC_SEQ_CST

# 0, or -1 without memory
cdef int threads_init(Vm* vm)
cdef void threads_free(Vm* vm)

# --- the lock. `cpu` is the vCPU whose thread this is, NULL for any other thread. Never take the
# GIL while holding it; let go of the GIL before asking for it.
cdef void vm_lock(Vm* vm, Cpu* cpu) noexcept nogil
cdef void vm_unlock(Vm* vm) noexcept nogil

# --- in and out of the guest, on the vCPU's thread
cdef void guest_enter(Cpu* cpu) noexcept nogil
cdef void guest_leave(Cpu* cpu) noexcept nogil
# Between two blocks, when ATT_QUIET or ATT_STOP is set: what ran before is over. May park; when it
# returns all code may have been dropped.
cdef void guest_poll(Cpu* cpu) noexcept nogil

# Any thread: make `cpu` poll before its next block, if it is in the guest
cdef void ask(Cpu* cpu, u32 bits) noexcept nogil
# Stop the process that runs this CPU's user code, if one does (direct.pxd)
cdef void poke(Cpu* cpu) noexcept nogil
# With the lock held: every CPU of `mask` has ended the instruction that it was in, and whatever
# this thread wrote before is seen by its next one
cdef void wait_quiet(Cpu* cpu, u64 mask) noexcept nogil
# Every other vCPU stands between two blocks and stays there until resume_others. `cpu`, or NULL
# from a thread that is no vCPU's, must itself be between blocks and not hold the lock: another
# CPU may stop the world first, and drop all code, before this returns. Nests on one CPU. Without
# the GIL (a CPU may be waiting for it in the guest).
cdef void stop_others(Vm* vm, Cpu* cpu) noexcept nogil
cdef void resume_others(Vm* vm, Cpu* cpu) noexcept nogil

# --- inside safepoint.py
cdef void futex_wait(u32* at, u32 value) noexcept nogil
cdef void futex_wake(u32* at) noexcept nogil
cdef void notify(Vm* vm) noexcept nogil
cdef int busy(Cpu* cpu, bint stop) noexcept nogil
cdef void wait_while_busy(Vm* vm, Cpu* other, bint stop) noexcept nogil
