# A vCPU that has nothing to execute.
from barevisor.cpu.bt.state cimport *

cdef extern from "poll.h":
    struct pollfd:
        int fd
        short events
    struct timespec:
        long tv_sec
        long tv_nsec
    int POLLIN
    int ppoll(pollfd* fds, unsigned long count, timespec* timeout, void* signals) nogil

cdef extern from "immintrin.h":
    void _mm_pause() nogil

cdef enum:                   # why a sleep ended
    WOKE = 0                 # an interrupt or NMI is deliverable: execute
    WOKE_KICK = 1
    WOKE_INIT = 2            # INIT or SIPI
    WOKE_SIGNAL = 3
    WOKE_NEVER = 4           # nothing can end this sleep

# Until there is something to do, which is returned: WOKE_*
cdef int sleep_until_woken(Cpu* cpu) noexcept nogil
cdef int wait_readable(int fd, i64 ns) noexcept nogil
cdef i64 until_timer(Cpu* cpu) noexcept nogil
cdef int spin(Cpu* cpu) noexcept nogil
cdef int for_good(Cpu* cpu) noexcept nogil
cdef int why_awake(Cpu* cpu) noexcept nogil
