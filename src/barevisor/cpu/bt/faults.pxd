# Signals that belong to translated code: the host's faults in it, and the guest's timer.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.trace cimport Translator

cdef extern from "signal.h" nogil:
    ctypedef struct siginfo_t:
        int si_signo
        int si_code
        void* si_value "si_value.sival_ptr"
    ctypedef struct sigset_t:
        pass
    struct sigaction_t "sigaction":
        void (*sa_sigaction)(int, siginfo_t*, void*) noexcept nogil
        void (*sa_handler)(int) noexcept nogil
        sigset_t sa_mask
        int sa_flags
    int sigaction(int number, sigaction_t* action, sigaction_t* old)
    int sigemptyset(sigset_t* signals)
    int sigaddset(sigset_t* signals, int number)
    int pthread_sigmask(int how, const sigset_t* to, sigset_t* old)
    int SIG_BLOCK
    void SIG_DFL(int) noexcept nogil
    void SIG_IGN(int) noexcept nogil
    int kill(int pid, int number)
    int SIGUSR1
    int SA_SIGINFO, SA_ONSTACK, SA_RESTART, SIGSEGV, SIGBUS, SIGFPE, SIGRTMIN
    union sigval:
        void* sival_ptr
    struct sigevent:
        int sigev_notify
        int sigev_signo
        sigval sigev_value
        int sigev_tid "_sigev_un._tid"
    int SIGEV_THREAD_ID

cdef extern from "ucontext.h" nogil:
    ctypedef struct mcontext_t:
        long long* gregs
    ctypedef struct ucontext_t:
        mcontext_t uc_mcontext

cdef extern from "time.h" nogil:
    ctypedef void* timer_t
    struct timespec:
        long tv_sec
        long tv_nsec
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int timer_create(int clock, sigevent* event, timer_t* timer)
    int timer_settime(timer_t timer, int flags, itimerspec* value, itimerspec* old)
    int timer_delete(timer_t timer)
    int CLOCK_MONOTONIC

cdef extern from "unistd.h" nogil:
    int gettid()

# Take SIGSEGV, SIGBUS and SIGFPE for faults in translated code (others go to whoever had them), and one
# real-time signal for timers. Once a process; raises EngineError.
cdef int faults_install() except -1
# This VM's code memory may fault, or may not any more
cdef int faults_watch(Translator* tr) except -1
cdef void faults_forget(Translator* tr) noexcept
# Make the guest look up at cpu.timer_deadline (host TSC) although nothing polls: sets cpu.urgent
# from a signal on the calling thread.
cdef void timer_arm(Cpu* cpu) noexcept nogil
cdef void timer_free(Cpu* cpu) noexcept nogil
# This thread's signal mask with the timers' signal: a sleep is not to end by it.
cdef void sleep_mask(sigset_t* signals) noexcept nogil

cdef enum:
    MAX_WATCHED = 256        # translating VMs in one process
