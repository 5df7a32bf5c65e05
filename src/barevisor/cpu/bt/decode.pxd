# The decoder: bytes -> Insn, and what the instruction table says of each row as small integers.
from barevisor.cpu.bt.state cimport *

cdef enum:                   # what decode() returns
    DEC_OK = 0
    DEC_MORE = 1             # the instruction is longer than `avail` (which is under 15)
    DEC_UD = 2               # no such instruction: #UD
    DEC_TOOLONG = 3          # over 15 bytes: #GP(0)

cdef enum:                   # RowFacts.unit: whose CR0/CR4/XCR0 rules apply
    UNIT_NONE = 0
    UNIT_X87 = 1
    UNIT_MMX = 2
    UNIT_SSE = 3
    UNIT_AVX = 4

cdef enum:                   # register classes of operands
    CLS_NONE = 0
    CLS_GPR = 1
    CLS_VEC = 2              # XMM or YMM
    CLS_MMX = 3
    CLS_SREG = 4
    CLS_CR = 5
    CLS_DR = 6

cdef enum:                   # access bits of operands and of memory
    ACC_READ = 1
    ACC_WRITE = 2

cdef enum:                   # size rules; 0..16 and 32 are themselves
    SZ_NONE = 0
    SZ_T = 10
    SZ_V = 64                # operand size
    SZ_Z = 65                # operand size, at most 4
    SZ_Y = 66                # 8 if operand size 8, else 4
    SZ_X = 67                # 16 or 32 by VEX.L
    SZ_H = 68                # half of SZ_X
    SZ_F = 69                # a fourth
    SZ_E = 70                # an eighth
    SZ_P = 71                # far pointer: operand size + 2
    SZ_S = 72                # GDTR image: 6, in 64-bit mode 10
    SZ_ENV = 73              # FNSTENV: 14 or 28
    SZ_FSAVE = 74            # FNSAVE: 94 or 108
    SZ_FX = 75               # 512
    SZ_2V = 76               # BOUND: two operands
    SZ_A = 77                # address size (the register is a 16/32/64-bit address)

cdef enum:                   # how the effective operand size comes about
    OS_V = 0
    OS_B = 1
    OS_Z = 2
    OS_Y = 3
    OS_D64 = 4
    OS_F64 = 5
    OS_N64 = 6

cdef enum:                   # immediates
    IMM_NONE = 0
    IMM_B = 1                # sign-extended
    IMM_UB = 2               # zero-extended
    IMM_UW = 3
    IMM_Z = 4
    IMM_V = 5
    IMM_J = 6                # branch displacement of 2 or 4 bytes
    IMM_FAR = 7              # imm offset, imm2 selector
    IMM_ENTER = 8            # imm 16 bits, imm2 8 bits
    IMM_MOFFS = 9            # no immediate: disp is the address

cdef enum:                   # RowFacts.attrs
    RF_ENDS = 1              # ends a block
    RF_LOCK = 2              # LOCK allowed (with a memory operand)
    RF_VSIB = 4
    RF_NOMOD = 8
    RF_PROT = 16             # #UD in real and virtual-8086 mode
    RF_ALIGN = 32            # memory operand must be aligned to its size, else #GP(0)
    RF_MODRM = 64
    RF_MEM_ONLY = 128
    RF_REG_ONLY = 256
    RF_STRING = 512          # REP prefixes mean repetition
    RF_CS_UD = 1024          # MOV to CS
    RF_IS4 = 2048            # imm bits 7:4 name a vector register
    RF_PREFIXED = 4096       # the row fixes the mandatory prefix (Insn.pp); else 66, F2, F3 are
                             # the operand size and repeat prefixes or ignored
    RF_XMM0 = 8192           # reads XMM0 without naming it

cdef struct RowFacts:
    u16 exec                 # index in exec_names(); 0 = "copy"
    u16 mnemonic             # index in mnemonic_names()
    u16 fallback             # row that applies when the feature is missing (TZCNT -> BSF); 0: #UD
    u16 attrs                # RF_*
    u16 flags_read           # RFLAGS bits
    u16 flags_written        # to a defined value (perhaps depending on the operands)
    u16 flags_undefined
    u16 regs_read            # implicit GPRs, bit n = register n
    u16 regs_written
    u8 feature               # number in instructions.FEATURES; 0 = every CPU has it
    u8 unit                  # UNIT_*
    u8 hint                  # index in hint_names(); 0 = none
    u8 mem                   # ACC_*: what happens to the memory operand (0: address only)
    u8 mem_rule              # SZ_*
    u8 osize_rule            # OS_*
    u8 imm_rule              # IMM_*
    u8 reg_class             # CLS_* of Insn.reg (ModRM.reg, or the opcode's low bits)
    u8 reg_access            # ACC_*
    u8 reg_rule              # SZ_*
    u8 rm_class              # CLS_* of Insn.rm when the operand is a register
    u8 rm_access
    u8 rm_rule
    u8 vvvv_class
    u8 vvvv_access
    u8 vvvv_rule
    u8 gpr8                  # 1: reg, 2: rm is a byte register (AH..BH without REX)
    u8 pp                    # mandatory legacy prefix: 0 none, 1: 66, 2: F3, 3: F2
    u8 sized                 # 66 selects 16-bit operands

cdef int decode(const u8* code, u32 avail, u32 mode, Insn* insn) noexcept nogil
# The facts of a row; valid for the life of the process.
cdef RowFacts* facts(u32 row) noexcept nogil
# Bytes of the memory operand (0: address only, or only the handler knows: XSAVE)
cdef u32 mem_size(Insn* insn) noexcept nogil
# Bytes that an SZ_* rule means for this instruction
cdef u32 size_of(u32 rule, Insn* insn) noexcept nogil

cdef enum:
    MAX_ROWS = 2048
    MAX_MATCHES = 16384
    MAX_CELLS = 8192         # [VEX][map][opcode][pp]
    KEY_REG = 0x100          # Match keys: the ModRM byte, then ModRM.mod == 3
    KEY_64 = 0x200           # 64-bit mode
    KEY_L = 0x400
    KEY_W = 0x800
    KEY_B = 0x1000           # REX.B

cdef struct Match:           # one row's pattern within a cell: (key & mask) == value
    u32 mask
    u32 value
    u32 row

cdef struct Cell:            # the candidates of one (VEX, map, opcode, prefix)
    u16 start
    u8 count
    u8 modrm

cdef struct Reader:          # the byte cursor
    const u8* code
    u32 pos
    u32 limit                # min(avail, 15)
    u32 error                # DEC_* of the first failed fetch

cdef inline u32 fetch(Reader* r) noexcept nogil:
    if r.pos < r.limit:
        r.pos += 1
        return r.code[r.pos - 1]
    r.error = DEC_TOOLONG if r.limit == 15 else DEC_MORE
    return 0
