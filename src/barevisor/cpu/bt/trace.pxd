# Translations: runs of guest instructions as host code, and the places in them that call the VMM.
#
# A translation ("trace") starts where an interpreted block does and goes on past branches that
# are not taken, within one page. It has three ways in:
#   entry                     S0 = linear address; whoever comes here only guesses that this is
#                             the translation for it, and the window's code pages tell
#   entry + TRACE_INNER       from code of the same page; loads the vector registers if it uses any
#   entry + TRACE_VECTOR      the same when they are loaded already (TRACE_VEC only)
# Between traces the arithmetic flags are in Cpu.fl, the general registers in the host's (RSP in
# R9; R9, R10 and R11 in Cpu.regs), the vector registers wherever Cpu.vec_live says.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.asm cimport Asm
from barevisor.cpu.bt.codemem cimport CodeMem
from barevisor.cpu.bt.decode cimport Insn, RowFacts

cdef enum:
    TRACE_INNER = 32
    TRACE_VECTOR = 48
    TRACE_LIMIT = 48         # instructions
    MAX_FRAGMENTS = 512
    MODE_TRACE = 0x10000     # in Block.mode, so that no interpreted block is taken for a trace
    ALL_FLAGS = 0x8D5        # CF, PF, AF, ZF, SF, OF
    MODE_ONE = 0x20000       # one instruction for a trace: as MODE_STEP, but repetitions go on

cdef enum:                   # rules, in an order that the code uses
    ACT_COPY = 0
    ACT_FLAG = 2             # CLC, STC, CMC
    ACT_LEA = 3
    ACT_NOP = 4
    ACT_PAUSE = 5
    ACT_VZERO = 6
    ACT_PUSH = 8             # from here on, 64-bit operand size or the interpreter
    ACT_PUSH_IMM = 9
    ACT_POP = 10
    ACT_LEAVE = 11
    ACT_PLAIN = 11           # up to here flags are neither read nor changed, or the row tells
    ACT_CALL = 20
    ACT_RET = 21
    ACT_CALL_IND = 22
    ACT_JMP_IND = 23
    ACT_JCC = 12
    ACT_STEP = 13
    ACT_CLI = 14             # at CPL 0; else the interpreter
    ACT_STI = 15
    ACT_SWAPGS = 16
    ACT_LAST = 20            # from here on the trace ends
    ACT_JMP = 24
    ACT_END = 25             # the interpreter, and then the dispatcher

cdef enum:
    IN_MEMORY = 1            # Work.flags: Cpu.fl has the flags
    IN_HOST = 2              # ... the host's EFLAGS have them
    ALIGN_ANY = 0            # test, and find out whether it crosses
    ALIGN_MUST = 1           # not aligned: the interpreter
    ALIGN_KNOWN = 2
    FRAG_CALL = 0            # call the site
    FRAG_UNALIGNED = 1
    FRAG_EDGE = 2
    FRAG_VECTORS = 3
    FRAG_TRAP = 4            # only a fault of the host leads there
    FRAG_DONE = 5
    CROSS_SIZE = 32
    H_STACK_TOP = 254        # look_at: the address is RSP - 8
    MAX_TRACES = 262144

cdef enum:                   # Block.flags of traces
    TRACE_VEC = 1            # uses vector registers
    TRACE_FP = 2             # has an instruction of x87, MMX, SSE or AVX
    TRACE_UNDEFINED = 16     # from this bit on: RFLAGS bits that are undefined at its end

cdef enum:                   # Site.kind
    SITE_MEMORY = 0          # an access found no page-table entry: enter one, or interpret
    SITE_STEP = 1            # an instruction for the interpreter
    SITE_EXIT = 2            # a branch within the page that is not linked yet
    SITE_LEAVE = 3           # go on at `target` through the dispatcher
    SITE_BRANCH = 4          # a branch by linear address, at a time when the guest is to stop
    SITE_MISS = 5            # an indirect branch that the jump table does not know: Cpu.branch
    SITE_CROSS = 6           # a direct branch to another page that is not linked yet
    SITE_PAGE = 7            # entered for another page, or in a window that does not know the page

cdef enum:                   # Site.flags
    SITE_FLAGS = 1           # behind this instruction the flags are in the host's EFLAGS
    SITE_WRITE = 2
    SITE_DISPATCH = 4        # after interpreting, go on through the dispatcher
    SITE_SAVED = 8
    SITE_DIVIDES = 16        # the host's instruction is there; its #DE is for the interpreter
    SITE_DEAD = 32           # the way out of a translation that was dropped

cdef struct Site:            # 48 bytes
    Block* trace
    Block* step              # of SITE_STEP: the interpreter's block of this instruction, once known
    u32 retry                # offset in code memory: where the access is tried again
    u32 next                 # ... where the next instruction starts
    u32 slow                 # ... the call of this site
    u32 patch                # SITE_EXIT, SITE_CROSS: the displacement to replace
    i32 target               # SITE_EXIT, SITE_LEAVE: from the start of the page
    u16 offset               # of the instruction in its page
    u8 kind
    u8 flags
    u8 register              # SITE_MEMORY: the address is this guest register plus `disp`, or
                             # R_NONE: Cpu.missed_va; or with SITE_SAVED: Cpu.target
    u8 length                # of the instruction
    i16 undo                 # of branches by linear address: what RSP was moved by
    u16 size                 # of the access
    i16 disp

cdef struct Fragment:        # code out of line
    u32 kind                 # FRAG_*
    u32 at                   # displacement of the branch that leads here
    u32 back                 # FRAG_UNALIGNED: where to look up
    u32 found                # ... where to go on when that is done
    u32 site
    i32 target
    u8 register              # host register with the linear address
    u8 save                  # FRAG_EDGE: flags must be saved on the way
    u32 size                 # of the access; FRAG_EDGE: the instruction's index

cdef struct Translator:      # one for the VM
    CodeMem* mem
    Site* sites
    u32 count                # sites in use
    u32 limit
    u64 enter                # int enter(host address): runs translated code
    u64 load_gs              # void load_gs(u64)
    u64 call_site            # what a site calls; four bytes with its number follow the call
    u64 load_vectors
    u64 miss                 # calls site 0, a SITE_MISS
    u64 crossing             # called: S1 for a load of up to CROSS_SIZE bytes at S0; ZF: none
    u64 crossing_end
    u64 crossing_fail        # where to go on when the host faults in there
    u64 cold                 # offset in code memory behind the last code out of line
    u64 cold_start           # ... where that begins: apart, so that hot code is dense
    u32 stub_bytes           # code memory that stubs take: stays when the rest is dropped
    u32 lockstep             # 1: compare each run of a trace with the interpreter
    u32 early                # 1: left behind an interpreted instruction, in the middle
    u32 logging              # 1: mmu.py notes stores in `comparison`
    void* comparison         # Comparison* (lockstep.pxd)
    void* compare            # lockstep_run
    u64 compared             # runs of traces that were compared
    u64 traces               # made since the start
    u64 guest_bytes
    u64 host_bytes
    u64 drops                # how often everything was dropped
    u64 ticks                # host TSC spent translating
    u64 calls[8]             # by Site.kind
    u32 steps[2048]          # by row: instructions left to the interpreter
    Block** index            # traces by ascending address, for the host's faults
    u32 indexed
    u32 pages                # the last of Slot.code_numbers
    Asm asm_
    Fragment fragments[MAX_FRAGMENTS]
    u32 nfragments
    u32 pad2

cdef struct Work:            # one translation in the making
    Translator* tr
    Cpu* cpu
    Asm* a
    Block* trace
    u8* page                 # host address of the page
    u32 start                # offset in the page of the first byte
    u32 end                  # ... behind the last
    u32 mode
    u32 count
    u32 stuck                # decoding stopped at something else than a branch
    u32 vec
    u32 fp
    u32 kept
    u32 saved_address        # the next look-up's address is kept in Cpu.target too
    u32 flags                # IN_*: where the guest's flags are, at this point of the code
    u32 stack_aligned        # RSP is known to be a multiple of eight here
    u32 crosses              # the last instruction ends in the next page: its first 15 bytes
    u8 raw[16]
    u8 held[2]               # the spilled registers that S0 and S1 hold at this point, or R_NONE
    u32 unstored             # ... bits: which of them struct Cpu does not have yet
    u32 pinned               # ... which of them the present instruction was given
    u32 newest               # ... which was given last
    u32 needed               # bits of the spilled registers whose old values it needs
    Insn insns[TRACE_LIMIT]
    u8 act[TRACE_LIMIT]
    u16 offset[TRACE_LIMIT]
    u16 live[TRACE_LIMIT]
    u16 live_in[TRACE_LIMIT]
