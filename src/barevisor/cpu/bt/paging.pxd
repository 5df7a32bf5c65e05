from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.atomics cimport *

cdef enum:
    WALK_AGAIN = 100         # beside ST_*: an entry changed under the walk

cdef enum:                   # access kinds
    ACCESS_READ = 0
    ACCESS_WRITE = 1
    ACCESS_EXEC = 2

cdef enum:                   # SDM, "Paging": an entry
    PTE_P = 1
    PTE_RW = 2
    PTE_US = 4
    PTE_A = 0x20
    PTE_D = 0x40
    PTE_PS = 0x80            # a page where another table could follow
    PTE_G = 0x100

cdef enum:                   # ... and the error code of #PF
    PF_P = 1
    PF_WRITE = 2
    PF_USER = 4
    PF_RSVD = 8
    PF_FETCH = 16
    PF_KEY = 32

cdef struct Walk:            # what a page walk found
    u64 gpa                  # of the byte
    u32 writable             # a store may skip the walk from now on (also dirty already)
    u32 global_page          # 1 or 0
    u32 large                # 0, or log2 of the page's size when above 4 KiB

cdef enum:                   # rights of a user page; also those of a mirror's page and Cpu.revoked
    PG_WRITE = 2             # writable, and dirty already
    PG_EXEC = 4

cdef struct Leaf:            # what the guest's page tables say of a user page
    u64 gpa                  # of its first byte
    u32 rights               # PG_*
    u32 large                # the entry maps 2 MiB or more; gpa: that of the 2 MiB around it

cdef struct Level:           # how far a walk is
    u64 table
    u64 entry                # the entry read last
    u64 host                 # where it lies in this process, 0 if its bits cannot be set
    u64 reserved             # bits that must be 0
    u64 allowed              # R/W and U/S, if every level grants them
    u64 no_exec              # NX, if any level has it
    u32 wide                 # entries of 8 bytes, else of 4
    int level                # of the table: 4 to 1
    int shift                # log2 of what one entry maps

# All take linear addresses and an mmu index (MMU_*); they set cpu.fault_* (not cpu.rip) on ST_FAULT
cdef int page_walk(Cpu* cpu, u64 va, u32 access, u32 idx, Walk* out) noexcept nogil
cdef int translate(Cpu* cpu, u64 va, u32 access, u32 idx, u64* gpa) noexcept nogil
# Look a user page up in IA-32e mode without setting bits or a fault. -1: user code may not read it,
# or none of it was accessed yet, so that page_walk must set the bit first.
cdef int peek_user(Cpu* cpu, u64 va, Leaf* out) noexcept nogil
# Would a store to all of [va, va+size) succeed? 0 or ST_FAULT. For checks before a commit.
cdef int probe_write(Cpu* cpu, u64 va, u32 size, u32 idx) noexcept nogil
# The four entries that MOV to CR3 loads in PAE mode: 0 when one has reserved bits set
cdef int pdptes_valid(Cpu* cpu, u64 cr3) noexcept nogil
