# What translated code sees of one guest address space: a window that GS points to.
#
#   GS - SPACE_BELOW   the jump table: for the low 16 bits of a branch's target a guess which
#                      translation that is, or Translator.miss
#   GS - CODE_BELOW    the code pages: for the number of a page of guest code (Block.page) the
#                      linear page at which it can be executed here, or NO_PAGE. A translation
#                      asks this where it is entered, so guesses and links need not be right
#   GS - CPU_SPAN      struct Cpu itself (the same pages in every window)
#   GS + 0             the linear page table: per page, host address minus guest address, or 0
#
# The table is indexed by the low 29 bits of the page number, because an address-size prefix cuts
# an effective address to 32 bits for nothing; stores look `write_shift` pages further. Addresses
# that share an entry differ by a multiple of 2 TiB, or by `write_shift` pages more or less, and
# so do the host addresses that come out: those are reserved as inaccessible (reserve_aliases),
# so that a wrong entry leads to a fault of the host and never to memory.
from barevisor.cpu.bt.state cimport *

cdef enum:
    JUMP_ROOM = 0x80000      # bytes of the jump table, and of the code pages: 65536 entries
    CPU_SPAN = 0x10000       # room for struct Cpu below GS
    CODE_BELOW = 0x90000
    SPACE_BELOW = 0x110000
    MAX_CODE_PAGES = 65536
    NO_PAGE = 1
    SPACE_USER = 2           # the first of those for CPL 3; before it MMU_SUPERVISOR, then .._AC
    SPACE_COUNT = 10
    FILL_LOG = 16384
    JUMP_LOG = 8192
    CODE_LOG = 4096
    PAGE_INDEX = 0x1FFFFFFF
    ALIAS_BITS = 41

cdef struct Space:
    u64* table               # GS
    u64 key                  # of user spaces: CR3 with its PCID, or ~0 when free
    u64 used                 # for eviction: cpu.space_clock when last selected
    u32 idx                  # MMU_*
    u32 mode                 # Cpu.mode that the branch targets were translated for
    u32 filled               # entries in fill_log; over FILL_LOG: all of the table may be in use
    u32 jumps                # the same for jump_log
    u32 coded                # ... and code_log
    u32 privates             # entries in private_log
    u64 miss                 # what an empty entry of the jump table holds
    u32* fill_log            # places in `table`
    u32* private_log         # those of pages that are not global
    u16* jump_log
    u16* code_log

# Allocate struct Cpu and its windows. NULL: no memory. Cpu is zeroed.
cdef Cpu* space_allocate_cpu() noexcept
cdef void space_free_cpu(Cpu* cpu) noexcept
# Free its windows alone, 43 GiB of addresses: it does not run again
cdef void space_free(Cpu* cpu) noexcept
# Give the CPU its windows. 0, or -1: no address space for them.
cdef int space_create(Cpu* cpu) noexcept
# Make cpu.space the one for the present CR3, privilege and mode; 1 when GS must be loaded.
cdef int space_select(Cpu* cpu) noexcept nogil
# Enter a page into the table: the page of `va` lies at `host` in this process
cdef void space_fill(Space* space, u64 va, u64 host, u32 shift, u32 shared) noexcept nogil
# Enter a guess for branches to `va`
cdef void space_jump(Space* space, u64 va, u64 code) noexcept nogil
# Enter where code page `number` can be executed
cdef void space_code(Space* space, u32 number, u64 va) noexcept nogil
# What empty windows are copied from: a memfd. Raises OSError.
cdef int space_template(u64 miss) except -1
# As the TLB's: all; all but global pages of the present address space; one page; 2 MiB around it
cdef void space_flush(Cpu* cpu) noexcept nogil
cdef void space_flush_private(Cpu* cpu) noexcept nogil
# Entries of the present user address space die as well
cdef void space_flush_user(Cpu* cpu, u64 key) noexcept nogil
cdef void space_flush_page(Cpu* cpu, u64 va, u32 large) noexcept nogil
# The page of `va` must not be written directly any more (any thread). 1 if it could be.
cdef int space_protect(Cpu* cpu, u64 va) noexcept nogil
# Branch targets must be looked up again, in every space
cdef void space_forget_jumps(Cpu* cpu) noexcept nogil
# Take the addresses that wrong table entries could lead to (see above) for memory at
# [host, host + size). 0, or -1: something is there, try another `shift`.
cdef int space_reserve(u64 host, u64 size, u32 shift) noexcept nogil
cdef void space_unreserve(u64 host, u64 size, u32 shift) noexcept nogil
