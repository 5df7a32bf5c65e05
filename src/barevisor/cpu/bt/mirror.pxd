# A process whose address space mirrors the guest's user pages, for direct execution (ADR 20).
#
# Each vCPU has a few, one for each address space (CR3 with its PCID) that has run long without
# entering the kernel. A page is mapped there only if a walk of the guest's page tables allows it at
# that time, from the file that guest RAM lies in, with no right that the guest's entry lacks. Like a
# TLB it may keep what was true since the last flush: flushes mark it stale, and stale pages are
# looked up again before the guest's code goes on there.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.registers cimport space_key

cdef extern from "sys/ptrace.h" nogil:
    long ptrace(int request, int pid, void* address, void* data)
    const int PTRACE_CONT, PTRACE_SETOPTIONS, PTRACE_GETREGS, PTRACE_SETREGS
    const int PTRACE_GETREGSET, PTRACE_SETREGSET, PTRACE_GETSIGINFO, PTRACE_PEEKTEXT
    const int PTRACE_POKEUSER
    const int PTRACE_O_EXITKILL, PTRACE_O_TRACESYSGOOD
cdef extern from "signal.h" nogil:
    int kill(int pid, int number)
    const int SIGKILL, SIGTRAP, SIGSEGV, SIGBUS, SIGSYS
cdef extern from "sys/user.h" nogil:
    struct user_regs_struct:
        unsigned long long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi
        unsigned long long rdi, orig_rax, rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs
cdef extern from "sys/wait.h" nogil:
    int waitpid(int pid, int* status, int options)
    const int __WALL
    bint WIFSTOPPED(int status)
    int WSTOPSIG(int status)

cdef enum:
    MIRRORS = 8              # of one vCPU
    MIRROR_PLACES = 32768    # of its hash table; three quarters may be taken
    MIRROR_FULL = 24576
    MIRROR_BREAKS = 4        # debug registers
    DEBUG_REGISTERS = 848    # in struct user (sys/user.h)
    MIRROR_LISTED = 64       # pages to look up again; more: all of them
    OPS_BYTES = 0x20000      # of the list of calls that the process makes for us
    OP_WORDS = 8             # number, six arguments, padding
    MAX_OPS = 2000
    XSTATE_ROOM = 16384      # an XSAVE area of the host's, whatever it has
    PG_MAPPED = 1            # MirrorPage.gpa, in the low bits
    PG_LARGE = 8             # 2 MiB
    PG_REVOKED = 16          # must go, whatever the page tables say

cdef struct MirrorPage:
    u64 va                   # page | 1; 0: free
    u64 gpa                  # page | PG_*

cdef struct Mirror:
    int pid                  # 0: there is none
    int thread               # whose tracee it is
    int host_cpu             # where it may run
    int traps_cpuid          # CPUID faults there
    int traps_tsc            # RDTSC and RDTSCP do: the guest's TSC is not the host's
    int pad
    u64 key                  # CR3 with its PCID
    u64 used                 # for eviction
    MirrorPage* pages
    u32 count                # places taken
    u32 stale                # every page must be looked up again
    u32 listed               # pages in `list`; over MIRROR_LISTED: as `stale`
    u32 nops
    u64* ops                 # OPS_BYTES, which the process can only read
    u64 stub                 # where it has its own page, and then that list
    u64 list[64]
    u64 breaks[4]            # where sensitive instructions are, in DR0 to DR3 there; 0: free
    u32 breaks_changed
    u32 breaks_pad
    user_regs_struct regs    # of the guest's code, while it is stopped
    u8* xstate               # what it has: XSTATE_ROOM, and as much to make another in
    u64 xstate_size

# The mirror of the present address space, or NULL: a process must be made (mirror_adopt)
cdef Mirror* mirror_find(Cpu* cpu) noexcept nogil
# The place for a new one, free of what was there
cdef Mirror* mirror_place(Cpu* cpu) except NULL
# Make it one of the present address space, with a process that maps the file `ram`, on the thread
# that runs the CPU. 0, or -1: the process is not as it should be. Raises OSError.
cdef int mirror_adopt(Cpu* cpu, Mirror* m, int ram) except -2
cdef void mirror_close(Mirror* m) noexcept nogil
cdef void mirrors_free(Cpu* cpu) noexcept
# Bring it up to date with the guest's page tables. 0, or -1: the process refused.
cdef int mirror_refresh(Cpu* cpu, Mirror* m) noexcept nogil
# Map the page of a fault at `va`, if the guest's page tables allow it. 0; 1: the engine must look
# at the access; -1: the process refused.
cdef int mirror_fault(Cpu* cpu, Mirror* m, u64 va, u64 rip) noexcept nogil
# Before it runs the guest's code: put `breaks` into its debug registers. 0 or -1.
cdef int mirror_set_breaks(Mirror* m) noexcept nogil


# ---- flushes, as the TLB's (space.pxd), on the CPU's own thread ----

cdef inline u32 mirror_place_of(u64 va) noexcept nogil:
    """Where the search for the page of `va` begins."""
    return <u32> (((va >> 12) * <u64> 0x9E3779B97F4A7C15) >> 49)


cdef inline MirrorPage* mirror_page(Mirror* m, u64 va) noexcept nogil:
    """The entry of a page, or NULL."""
    cdef u32 at = mirror_place_of(va)
    while m.pages[at].va:
        if m.pages[at].va == va | 1:
            return &m.pages[at]
        at = (at + 1) & (MIRROR_PLACES - 1)
    return NULL


cdef inline void mirror_list(Mirror* m, u64 va) noexcept nogil:
    """To be looked up again, if it is mapped."""
    cdef MirrorPage* page = mirror_page(m, va)
    if page == NULL or not page.gpa:
        return
    if m.listed < MIRROR_LISTED:
        m.list[m.listed] = va
    if m.listed <= MIRROR_LISTED:
        m.listed += 1


cdef inline void mirrors_flush_user(Cpu* cpu, u64 key) noexcept nogil:
    """`key`: a CR3, or ~0 for all of them."""
    cdef unsigned int n
    if cpu.mirrors == NULL:
        return
    for n in range(MIRRORS):
        if key == ~<u64> 0 or cpu.mirrors[n].key == space_key(key):
            cpu.mirrors[n].stale = 1


cdef inline void mirrors_flush_page(Cpu* cpu, u64 va, u32 large) noexcept nogil:
    """A large page is one entry, whichever of its addresses is flushed."""
    cdef unsigned int n
    cdef Mirror* m
    if cpu.mirrors == NULL or va >> 47:
        return
    for n in range(MIRRORS):
        m = &cpu.mirrors[n]
        if not m.pid or m.stale:
            continue
        if large:
            m.stale = 1
            continue
        mirror_list(m, va & <u64> 0xFFFFFFFFFFFFF000)
        mirror_list(m, va & <u64> 0xFFFFFFFFFFE00000)
