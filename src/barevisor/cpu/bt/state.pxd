# The C structs of the software engine. One Cpu is one virtual CPU; native thunks reach its fields
# by offset, so `regs` stays first. See docs/adr/ for the shape: pre-decoded blocks of Ops, each
# Op's handler ends with a tail call to the next one.

ctypedef unsigned char u8
ctypedef unsigned short u16
ctypedef unsigned int u32
ctypedef unsigned long long u64
ctypedef signed char i8
ctypedef short i16
ctypedef int i32
ctypedef long long i64

cdef struct Cpu
cdef struct Op
cdef struct Block
cdef struct Vm
cdef struct Apic
cdef struct Space
cdef struct Mirror

ctypedef int (*handler_t)(Cpu* cpu, Op* op) noexcept nogil
# A thunk for an instruction with a memory operand: `host` is where the operand lies (in guest
# RAM, or in cpu.bounce). Like a handler it ends with a tail call to op[1].handler.
ctypedef int (*thunk_t)(Cpu* cpu, Op* op, u8* host) noexcept nogil
ctypedef void (*eoi_t)(Vm* vm, u32 vector) noexcept nogil

cdef inline size_t entry_of(handler_t handler) noexcept nogil:
    """The address of a handler, for the binder's table."""
    return <size_t> handler

cdef enum:
    JUMP_SIZE = 1024         # entries of Cpu.jumps
    TLB_SIZE = 1024          # entries per mmu index, direct mapped by page number
    LARGE_COUNT = 512        # places for what was cut from 2 MiB pages
    MMU_SUPERVISOR = 0       # SMAP enforced (if CR4.SMAP)
    MMU_USER = 1
    MMU_SUPERVISOR_AC = 2    # supervisor with RFLAGS.AC = 1: SMAP does not apply
    MMU_COUNT = 3

# How a handler ends (its return value, seen by the dispatcher)
cdef enum:
    ST_NEXT = 0      # cpu.rip is set: look up the next block
    ST_FAULT = 1     # cpu.fault_* is set and cpu.rip is the faulting instruction: deliver it
    ST_EXIT = 2      # cpu.exit_* is set: leave to Python. cpu.rip is where to resume
    ST_BREAK = 3     # from store_slow only: stored, but the block must end after this op

# Where FS, GS and so on lie in Cpu.segs / Cpu.segbase (encoding order), and the flat pseudo one
cdef enum:
    SEG_ES = 0
    SEG_CS = 1
    SEG_SS = 2
    SEG_DS = 3
    SEG_FS = 4
    SEG_GS = 5
    SEG_FLAT = 6     # base 0, never checked: 64-bit mode without FS/GS override
    SEG_LDT = 6      # in Cpu.segs
    SEG_TR = 7       # in Cpu.segs

# Pseudo register numbers in Cpu.regs for effective addresses
cdef enum:
    REG_NONE = 16    # always 0
    REG_RIP = 17     # offset in CS of the running block's first byte (disp counts from there)

# Cpu.mode: part of a block's key; everything that changes how bytes become Ops
cdef enum:
    MODE_CODE16 = 0
    MODE_CODE32 = 1
    MODE_CODE64 = 2
    MODE_CODE_MASK = 3
    MODE_STACK32 = 4         # SS.B, legacy and compatibility mode
    MODE_LEGACY = 8          # segment bases, limits and rights apply (not 64-bit mode)
    MODE_STEP = 16           # one instruction per block
    MODE_FP_TRAP = 32        # guest unmasked an x87/SSE exception: check after each FP op
    MODE_NO_X87 = 64         # CR0.EM or CR0.TS: x87 -> #NM
    MODE_NO_SSE = 128        # CR0.TS -> #NM
    MODE_UD_SSE = 256        # CR0.EM = 1 or CR4.OSFXSR = 0: SSE -> #UD
    MODE_UD_AVX = 512        # CR4.OSXSAVE = 0 or XCR0 lacks YMM, or real/vm86 mode: VEX -> #UD
    MODE_REAL = 1024         # CR0.PE = 0
    MODE_VM86 = 2048

# Cpu.attention bits, set with __sync_fetch_and_or, seen at the next poll: between two blocks once
# Cpu.budget or Cpu.urgent is negative
cdef enum:
    ATT_KICK = 1             # leave with EXIT_INTERRUPTED
    ATT_INTERRUPT = 2        # local APIC or PIC may have something: re-evaluate
    ATT_NMI = 4
    ATT_INIT = 8
    ATT_SIPI = 16
    ATT_FLUSH = 64           # another CPU or the VMM asks for a TLB flush
    ATT_QUIET = 128          # another CPU waits until no store of ours is under way (safepoint.py)
    ATT_STOP = 256           # another CPU stops the VM's CPUs: park (safepoint.py)

# Cpu.guest: what the vCPU's thread does (safepoint.py)
cdef enum:
    GUEST_OUT = 0            # nothing of the guest: asleep, parked, or in Python
    GUEST_IN = 1             # runs blocks, fills TLBs, stores by them
    GUEST_BLOCKED = 2        # waits for vm.lock: between blocks or in one, but no store under way

cdef enum:
    EXIT_NONE = 0
    EXIT_PIO_READ = 1
    EXIT_PIO_WRITE = 2
    EXIT_MMIO_READ = 3
    EXIT_MMIO_WRITE = 4
    EXIT_INTERRUPTED = 5
    EXIT_HALTED = 6          # HLT: the vCPU layer sleeps or reports
    EXIT_SHUTDOWN = 7        # triple fault
    EXIT_INTERNAL = 8        # exit_data holds a reason text
    EXIT_DEBUG = 9           # a debugger's breakpoint or step
    EXIT_CACHE_FULL = 10     # code memory is used up: flush all and go on
    EXIT_NO_MIRROR = 11      # user code could run directly, had it a process (mirror.pxd)

cdef enum:
    EXC_DE = 0
    EXC_DB = 1
    EXC_NMI = 2
    EXC_BP = 3
    EXC_OF = 4
    EXC_BR = 5
    EXC_UD = 6
    EXC_NM = 7
    EXC_DF = 8
    EXC_TS = 10
    EXC_NP = 11
    EXC_SS = 12
    EXC_GP = 13
    EXC_PF = 14
    EXC_MF = 16
    EXC_AC = 17
    EXC_XM = 19
    NO_ERROR = 0xFFFFFFFF    # fault_error when the vector pushes none

cdef enum:
    FLAG_CF = 1
    FLAG_PF = 4
    FLAG_AF = 0x10
    FLAG_ZF = 0x40
    FLAG_SF = 0x80
    FLAG_TF = 0x100
    FLAG_IF = 0x200
    FLAG_DF = 0x400
    FLAG_OF = 0x800
    FLAG_IOPL = 0x3000
    FLAG_NT = 0x4000
    FLAG_RF = 0x10000
    FLAG_VM = 0x20000
    FLAG_AC = 0x40000
    FLAG_VIF = 0x80000
    FLAG_VIP = 0x100000
    FLAG_ID = 0x200000
    FLAGS_ARITH = 0x8D5
    # Bits of Cpu.fl, what LAHF and SETO leave: AH in the high byte, OF in bit 0
    FL_OF = 1
    FL_CF = 0x100
    FL_PF = 0x400
    FL_AF = 0x1000
    FL_ZF = 0x4000
    FL_SF = 0x8000

cdef struct Seg:
    u64 base
    u32 limit                # bytes, granularity applied
    u16 selector
    u16 attr                 # access byte (type 0-3, S 4, DPL 5-6, P 7), then AVL 8, L 9, DB 10, G 11
    u32 usable               # 0: a null selector was loaded
    u32 pad

cdef enum:                   # TlbEntry.gpa, in the low bits
    TLB_GLOBAL = 1
    TLB_CUT = 2              # from a larger page
    TLB_SEEN = 4             # may be stored to, but each store is to be seen: wtag is not set

cdef struct TlbEntry:        # 32 bytes. Hit: va - rtag <= 4096 - size (one compare, also crossing)
    u64 rtag                 # page address, or a page of another index when not readable
    u64 wtag                 # the same for stores; never set for read-only, clean or code pages
    u64 host                 # host address of the page
    u64 gpa                  # guest-physical page | TLB_*

cdef struct ItlbEntry:
    u64 tag
    u64 host
    u64 gpa                  # as in TlbEntry
    u64 pad

cdef struct LargePage:       # what the TLBs may hold of a 2 MiB page
    u64 region               # its number + 1, or ~0: of several; 0: nothing
    u64 parts                # a bit for each 32 KiB of it

cdef struct Jump:            # where a computed branch went: target in CS, and under which stamp
    u64 target
    u64 stamp                # 0: empty
    Block* block

cdef struct Op:              # 96 bytes at most; handlers walk an array of these
    handler_t handler
    thunk_t thunk            # for memory forms of copied instructions
    u64 disp                 # sign-extended; RIP-relative ones count from the block's start
    u64 imm                  # sign-extended to 64 bits (or 2nd operand packed: see Insn.imm2)
    u64 amask                # address-size mask: 0xFFFF, 0xFFFFFFFF or ~0
    u8 base                  # register number, REG_NONE or REG_RIP
    u8 index                 # register number or REG_NONE
    u8 scale                 # 0..3
    u8 seg                   # SEG_*: which base is added (SEG_FLAT in 64-bit mode)
    u8 reg                   # modrm.reg number with REX (or opcode register)
    u8 rm                    # modrm.rm number with REX when a register
    u8 osize                 # effective operand size in bytes (1, 2, 4, 8)
    u8 asize                 # effective address size in bytes (2, 4, 8)
    u16 reg_off              # byte offset of the reg operand in Cpu (AH..BH are +1)
    u16 rm_off               # the same for rm
    u16 msize                # bytes of the memory operand that the instruction touches
    u16 ip                   # this instruction's offset from the block's start
    u8 len                   # its length
    u8 mod_mem               # 1: modrm names memory
    u8 number                # how many instructions of the block came before
    u8 prefixes              # PFX_*
    u16 row                  # row of the instruction table
    u8 opcode                # last opcode byte
    u8 flags                 # OPF_*
    Block* block
    u64 imm2

cdef enum:                   # Op.flags
    OPF_LEGACY = 1           # check segment limit and rights
    OPF_MEM_READ = 2
    OPF_MEM_WRITE = 4
    OPF_STACK = 8            # addressed through SS: a non-canonical address is #SS, not #GP
    OPF_ALIGN = 16           # the operand must be aligned to msize, else #GP(0)

cdef enum:                   # Insn.prefixes and Op.prefixes
    PFX_LOCK = 1
    PFX_REP = 2              # F3
    PFX_REPNE = 4            # F2
    PFX_OPSIZE = 8           # 66
    PFX_ADDRSIZE = 16        # 67
    PFX_SEG = 32             # an effective segment override

cdef struct Insn:            # what the decoder says of one instruction
    u16 row                  # index into the instruction table
    u8 length                # 1..15
    u8 prefixes              # PFX_*
    u8 rex                   # the REX byte, or 0
    u8 vex                   # 0: none, 2 or 3: length of the VEX prefix
    u8 vex_l                 # 0: 128 bits (or LZ), 1: 256
    u8 vex_w                 # VEX.W or REX.W
    u8 vvvv                  # register number (already un-inverted)
    u8 pp                    # 0, 1: 66, 2: F3, 3: F2 (VEX.pp, or mandatory legacy prefix)
    u8 map                   # 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A
    u8 opcode
    u8 has_modrm
    u8 modrm                 # the raw byte
    u8 mod
    u8 reg                   # with REX.R / VEX.R
    u8 rm                    # register number with REX.B when mod == 3
    u8 mem                   # 1: the rm operand is memory
    u8 base                  # register number, REG_NONE or REG_RIP
    u8 index                 # register number or REG_NONE (VSIB: vector register number)
    u8 scale
    u8 seg                   # SEG_* that applies (default or override), also in 64-bit mode
    u8 osize                 # effective operand size in bytes: 2, 4, 8 (1 for byte forms)
    u8 asize                 # 2, 4, 8
    u8 imm_size              # bytes of immediate in the encoding (0, 1, 2, 4, 8; 6 and 10: far)
    u8 imm_off               # where the immediate starts in the instruction
    u8 pad[2]
    u64 disp                 # sign-extended displacement (RIP-relative: as encoded)
    u64 imm                  # sign-extended immediate, or branch displacement
    u64 imm2                 # ENTER's second, far pointer's selector

# Shared by all CPUs. All is written before the block is published in Vm.hash, and later only by
# the holder of vm.lock, except `taken` and `fall`, which any CPU may set to any live successor.
cdef struct Block:
    Op* ops
    u64 host                 # host address of the first byte: key
    u32 mode                 # key
    u16 size                 # guest bytes
    u16 count                # guest instructions
    u32 valid                # 0: dead; whoever still runs it finishes it, nobody enters it again
    u32 crosses              # one instruction that reaches into another page: never linked
    Block* taken             # chained successors, only within the same page; good while ->valid
    Block* fall
    u64 gpa                  # guest-physical address of the first byte
    Block* hash_next         # a dead block keeps it: another CPU may be walking the chain
    Block* page_next         # blocks that start in one page
    u8 raw[16]               # the bytes of a crossing instruction: compared before each run
    Block* trace             # of an interpreted block: its translation, or NULL
    u64 entry                # of a translation: where it is entered (see translate.pxd), or 0
    u32 first_site           # of a translation: its sites
    u32 sites
    u32 flags                # of a translation: TRACE_*
    u32 dead                 # ... offset in code memory of where its ways in go once it is dropped
    u32 page                 # ... Slot.code_numbers of its page
    u32 bytes                # of memory, host code included: free only when all code is dropped

cdef struct Slot:            # guest-physical memory backed by host memory
    u64 gpa
    u64 size
    u64 host
    u32 readonly
    u32 used
    u8* code_pages           # one byte a page: 1 when blocks were made from it
    u8* writers              # one byte a page: bit (index & 7) of each CPU that had it writable in
                             # a TLB since it last became a code page
    Block** page_blocks      # per page: list head of its blocks
    u64* stores              # per page: two linear addresses that translated code stores through
    u32* code_numbers        # per page: its number among those that translations were made from
    u8* mirrored             # one byte a page: as `writers`, of CPUs whose mirrors may hold it with a
                             # right that watching its code, or a store to it, takes away
    u64 file_offset          # where it begins in the file that guest RAM lies in
    u32 has_file
    u32 slot_pad

cdef struct CpuidEntry:
    u32 leaf
    u32 subleaf
    u32 has_subleaf
    u32 eax
    u32 ebx
    u32 ecx
    u32 edx

cdef struct MmioDone:        # a completed MMIO read that the restarted instruction will use
    u64 gpa
    u64 value
    u32 size
    u32 pad

cdef enum:
    MAX_SLOTS = 32
    MAX_MMIO_DONE = 16
    HASH_BITS = 18
    HASH_SIZE = 262144
    MAX_CPUS = 64

cdef struct Apic:            # the local APIC; registers by the names of the SDM
    u32 irr[8]               # set by any thread, with atomics
    u32 isr[8]
    u32 tmr[8]
    u32 lvt[7]               # LVT_*: CMCI (absent), timer, thermal, performance, LINT0, LINT1, error
    u32 id
    u32 tpr
    u32 ldr                  # xAPIC; in x2APIC mode it follows from the ID
    u32 dfr
    u32 svr
    u32 esr
    u32 esr_pending          # latched until the guest writes ESR
    u32 icr_low
    u32 icr_high             # xAPIC: destination in bits 24-31; x2APIC: all 32
    u32 tmict
    u32 tdcr
    u32 pv_eoi_armed         # the flag in guest memory is set for the interrupt in service
    u64 period               # of the timer in host TSC ticks; 0 unless periodic and running
    u64 tsc_deadline         # what the guest wrote, while armed; else 0

cdef struct Pic:             # one 8259A
    u32 irr
    u32 isr
    u32 imr
    u32 lines                # input levels
    u32 elcr                 # 1: level-triggered
    u32 base                 # ICW2
    u32 init_state           # 0 ready, else which ICW comes next
    u32 init4                # ICW1.IC4
    u32 auto_eoi
    u32 rotate_on_aeoi
    u32 lowest               # IRQ with the lowest priority (7 after reset)
    u32 read_isr
    u32 poll
    u32 special_mask
    u32 special_nested

cdef struct Watch:           # a debugger's watchpoint (stops.py), linear
    u64 address
    u64 size
    u32 kinds                # STOP_ON_READ, STOP_ON_WRITE
    u32 pad

cdef struct Traced:          # a block that ran, for --trace blocks
    u64 address              # linear
    u32 size                 # guest bytes
    u16 mode                 # MODE_*
    u16 cpl

cdef struct Pace:            # how an address space uses the CPU (direct.py)
    u64 key                  # CR3 with its PCID
    u64 direct               # 1: it runs long without entering the kernel

cdef enum:
    DIRECT_OFF = 0
    DIRECT_LONG = 1          # where user code runs long at a time
    DIRECT_ALWAYS = 2        # wherever it can: for tests
    DIRECT_NOW = 1           # Cpu.direct
    DIRECT_NEXT = 2          # after one instruction that could not
    PACES = 64
    REVOKED = 32

cdef enum:
    MAX_BREAKS = 1024
    MAX_WATCHES = 64
    TRACE_SIZE = 4096        # records; room is made at TRACE_HIGH
    TRACE_HIGH = 4032

cdef struct Vm:
    Slot slots[32]
    u32 nslots
    u32 ncpus
    Cpu* cpus[64]
    u32 irqchip
    u32 phys_pad
    Block** hash             # HASH_SIZE heads
    u32 nblocks
    u32 pad0
    u8* arena                # Blocks and Ops are cut from here; full -> drop everything
    u64 arena_size
    u64 arena_used
    u64 dead_bytes           # of dead blocks and translations: at a quarter of the arena all is dropped
    void* code               # CodeMem*: where thunks live
    u64 tsc_khz              # the host's
    u64 vm_khz               # what the guest was told
    u64 tsc_ratio            # vm_khz / tsc_khz and the reverse, with TSC_FRACTION (tsc.pxd)
    u64 tsc_inverse
    u64 tsc_offset           # guest TSC = VM's TSC + offset
    u64 clock_base_ns        # kvm-clock when the VM's TSC was clock_base_tsc
    u64 clock_base_tsc
    u32 clock_mul            # ns = ((ticks << shift) * mul) >> 32, negative shifts go right
    i32 clock_shift
    u32 pic_output           # INTR line of the 8259 pair (LINT0, ExtINT)
    u32 stop
    u32 pic_lock
    Pic pics[2]              # master, slave
    void* owner              # the BtVm (borrowed)
    void* translator         # Translator*: NULL when this VM only interprets
    int template_fd          # of a translating VM: space_template
    int template_pad
    u32 write_shift          # pages between an address's load entry and store entry (space.pxd)
    u32 translate_after      # runs of a block before it is translated
    eoi_t on_eoi             # EOI of a level-triggered vector: takes the GIL, tells the IOAPIC
    # --- a debugger, or a trace of blocks (stops.py); changed only while no vCPU runs.
    # 1 from the first breakpoint, watchpoint, step or trace until the debugger has detached: blocks
    # must then come from bind.py, which puts checks into them. All code is dropped at each change.
    u32 debugging
    u32 single               # blocks of one instruction: there are watchpoints, or there were
    u32 tracing              # each block notes that it ran
    u32 nbreaks
    u32 nwatches
    u32 pad1
    u64 break_offsets[64]    # a bit for each offset in a page that had a breakpoint since detach
    u64 breaks[1024]         # linear addresses
    Watch watches[64]
    # --- threads (safepoint.py)
    void* lock               # pthread_mutex_t: code cache, code memory, page lists
    void* stop_lock          # pthread_mutex_t: held from stop_others to resume_others
    u32 stopping             # futex: 1 while CPUs must stay out of the guest
    u32 turn                 # futex: counts changes that `waiters` look for
    u32 waiters
    u32 flushes              # how often all code was dropped
    u32 direct               # DIRECT_*: may user code run directly?
    u32 sensitive_also       # SENSITIVE_* of this host (sensitive.pxd)

cdef struct Cpu:
    u64 regs[18]             # offset 0, encoding order; then [REG_NONE] = 0 and [REG_RIP] = offset
                             # in CS of the running block's first byte
    u32 fl                   # arithmetic flags as LAHF/SETO leave them (FL_*)
    u32 sysflags             # RFLAGS without the arithmetic bits and without bit 1
    i64 budget               # blocks until the next poll; this thread's own
    TlbEntry* tlb            # tlbs[mmu_idx]
    u64 segbase[8]           # bases by SEG_*; [SEG_FLAT] stays 0
    u64 rip                  # offset in CS; exact whenever no block runs
    u32 mode                 # MODE_*
    u32 cpl
    u32 mmu_idx
    u32 attention            # ATT_*
    i64 urgent               # -1: poll before the next block. Set by any thread after `attention`
    Block** link             # where the dispatcher notes the block that it finds next, or NULL
    Block* link_from         # the block that holds `link`
    ItlbEntry* itlb          # itlbs[cpl == 3]
    u32 guest                # GUEST_*
    u32 private_code         # a non-global page of the upper half is in a code TLB
    u64 icount               # instructions retired, counted at block entry
    # --- FP and vector state. x87/MMX is live in the host's FPU while the guest runs.
    u32 mxcsr
    u32 fcw                  # the guest's own control word when MODE_FP_TRAP hides it from the FPU
    u64 xcr0
    u8 bounce[1088]          # operand of an access that crosses pages or is MMIO; 64-byte aligned
    u8 vec[512]              # YMM0-15, 32 bytes each
    u8 fpu[512]              # FXSAVE image: x87 part valid only while the guest does not run
    # --- faults and exits
    u32 fault_vector
    u32 fault_error          # or NO_ERROR
    u64 fault_address        # CR2 for #PF; DR6 bits for #DB
    u32 exit_reason
    u32 exit_size
    u32 exit_count
    u32 exit_port
    u64 exit_gpa
    u8 exit_data[64]
    u32 io_ready             # exit_data answers the PIO read that is being restarted
    u32 mmio_n               # entries in mmio_done
    MmioDone mmio_done[16]
    # --- segments and control
    Seg segs[8]              # ES CS SS DS FS GS LDT TR
    u64 gdt_base
    u64 idt_base
    u32 gdt_limit
    u32 idt_limit
    u64 cr0
    u64 cr2
    u64 cr3
    u64 cr4
    u64 efer
    u64 dr[8]
    u64 star
    u64 lstar
    u64 cstar
    u64 sfmask
    u64 kernel_gs_base
    u64 sysenter_cs
    u64 sysenter_esp
    u64 sysenter_eip
    u64 pat
    u64 tsc_aux
    u64 pkru                 # protection keys (SDM, "Protection Keys"): of user pages
    u64 pkrs                 # and IA32_PKRS: of supervisor pages
    u64 misc_enable
    u64 apic_base
    u64 tsc_adjust
    u64 msr_kvm_wall_clock
    u64 msr_kvm_system_time
    u64 msr_kvm_pv_eoi
    u64 mtrr_def_type
    u64 mtrr_fixed[11]
    u64 mtrr_var[16]
    u64 phys_mask            # guest-physical address bits
    u64 cr4_allowed          # CR4 bits that the CPU model has
    u64 efer_allowed
    u32 features             # CPUF_*: what the decoder may accept (see x86/cpuid.py)
    u32 features2
    u32 shadow               # 1: STI, 2: MOV SS: interrupts wait one instruction
    u32 nmi_masked
    u32 nmi_pending
    u32 halted
    u32 mp_state             # 0 runnable, 1 waits for INIT/SIPI (as "init"), 2 halted
    u32 sipi_vector
    u32 debug_step           # a debugger single-steps: EXIT_DEBUG after each instruction
    u32 pending_db           # DR6 bits of a #DB to deliver after this instruction (TF, data bp)
    u32 index                # CPU number = APIC ID
    u32 ncpuid
    CpuidEntry* cpuid
    Apic* apic
    Vm* vm
    i32 wake_fd              # eventfd that ends a sleep in HLT
    u32 sleeping             # in HLT sleep: wakers must write wake_fd
    u64 timer_deadline       # host TSC value at which the APIC timer fires, or ~0
    Op scratch[2]            # slow paths run a thunk as scratch[0]; scratch[1] returns
    TlbEntry* tlbs[3]        # TLB_SIZE entries each
    ItlbEntry* itlbs[2]      # supervisor, user
    TlbEntry* tlb_blank      # what an empty TLB looks like (tags of a different index)
    ItlbEntry* itlb_blank
    # For branch targets in the lower and upper half: what a Jump must carry to be good. The low 16
    # bits are mode and CPL, the rest counts flushes of that half's translations.
    u64 stamps[2]
    Jump jumps[1024]
    # Which addresses may have TLB entries cut from large pages: a place for each hash of the 2 MiB
    # region, and a bit for the GiB of anything larger; first not global, then global pages
    LargePage large_pages[1024]
    u32 large_held[2]        # whether any place is in use
    u64 tlb_used[48]         # a bit for each TLB place that was filled since the last flush
    u64 itlb_used[32]
    u64 huge_pages[2]
    u32 stop_why             # STOP_*: a debugger's stop that the next poll turns into EXIT_DEBUG
    u32 ntraced
    u64 stop_at              # the linear address that goes with it
    Traced* traced           # TRACE_SIZE records, or NULL
    u32 exclusive            # 1: the next instruction runs while all others stand still; 2: it does
    u32 stops                # how often stop_others was called and not yet resume_others
    u32 pauses               # PAUSEs since the last yield to the host
    u32 dropped              # hold(): blocks died
    u32 gone                 # this CPU's last sleep was one for good
    u32 gone_pad
    # --- translated code reaches these through GS (see space.pxd)
    u64 self                 # address of this struct
    u64 page_va              # linear address of the page whose translation runs
    u64 missed_va            # the linear address that an access, or a branch, is about
    u64 target               # an indirect branch's, while its return address is pushed
    u64 resume               # host address where translated code goes on
    u64 spill                # a host register, for a moment
    u64 crossed[8]           # what a load across two pages finds: the ends of both
    u32 site                 # which place in translated code called
    u32 branch               # the site of the last indirect branch
    u32 status               # ST_*: what translated code ended with
    u32 vec_live             # the guest's vector registers are in the host's, not in `vec`
    u32 resume_vec           # 1: load the vector registers before going on at `resume`
    u32 resume_flags         # 1: load the arithmetic flags as well
    u32 gs_loaded            # since the guest was entered, on this thread
    u32 translator_pad
    Space* space             # the address space whose window GS points to; NULL: none yet
    Space* spaces            # SPACE_COUNT of them, NULL when this CPU only interprets
    u64 space_clock
    Block* hot               # an interpreted block that has run often enough to be translated
    u64 armed_deadline       # what the host timer was last set for
    void* timer              # the host's timer that pokes this CPU (faults.pxd)
    i32 timer_thread         # the thread it signals; 0: there is none yet
    i32 thread               # the thread that runs this CPU now
    i32 memory_fd            # the memfd that this struct lies in
    # --- direct execution (direct.pxd, mirror.pxd)
    u32 direct               # DIRECT_NOW, DIRECT_NEXT or 0: is user code to run directly?
    u32 in_user              # CPL was 3 at the last update_mode
    i32 user_pid             # the process that runs guest code now, or 0: it is stopped for `urgent`
    u32 nrevoked             # entries in `revoked`; over REVOKED: too many. Under vm.lock
    u64 revoked[32]          # guest-physical page | PG_WRITE or PG_EXEC
    Mirror* mirrors          # MIRRORS of them, or NULL
    u64 mirror_clock
    u64 entries              # how often the kernel was entered from user mode
    u64 pace_key             # the address space of the present sample
    u64 pace_since           # host TSC at its start
    u64 pace_entries
    Pace paces[64]
    u32 shorts               # direct runs one after the other that ended soon
    u32 pinned               # this thread is bound to one host CPU, since `pinned_since`
    u64 pinned_since
    u8 affinity[128]         # what it may run on otherwise
    u64 direct_runs          # counters: ways into a mirror, pages mapped, host TSC ticks there
    u64 direct_maps
    u64 direct_ticks
