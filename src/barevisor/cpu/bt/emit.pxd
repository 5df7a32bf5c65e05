# Host machine code, byte by byte: what a thunk consists of.
from barevisor.cpu.bt.state cimport *

cdef enum:
    CODE_ROOM = 384          # the longest thunk is well under 300 bytes; put8 checks all the same
    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11

cdef struct Code:
    u32 size
    u32 overflow             # did not fit: the code must not be used
    u8 bytes[384]

cdef struct Form:            # an instruction in 64-bit mode, with the host's register numbers
    u8 lock
    u8 opsize                # 66, as operand size or mandatory
    u8 rep                   # F2, F3 or 0
    u8 vex
    u8 vex_l
    u8 w
    u8 vvvv
    u8 pp
    u8 map
    u8 opcode
    u8 plus_r                # the opcode's low bits are a register
    u8 has_modrm
    u8 mem                   # the rm operand is [rm]
    u8 reg
    u8 rm
    u8 rex                   # a REX prefix is needed whatever the registers (SPL..DIL)
    u8 imm_size
    u64 imm

cdef void put8(Code* code, u32 value) noexcept nogil
cdef void put32(Code* code, u32 value) noexcept nogil
# mov between a register and [rdi + disp]
cdef void load64(Code* code, u32 reg, u32 disp) noexcept nogil
cdef void load8(Code* code, u32 reg, u32 disp) noexcept nogil
cdef void store64(Code* code, u32 reg, u32 disp) noexcept nogil
cdef void store8(Code* code, u32 reg, u32 disp) noexcept nogil
# movups between xmm/ymm `reg` and [rdi + disp]; `vex`: 0 movups, 1 vmovups xmm, 2 vmovups ymm
cdef void load_vec(Code* code, u32 reg, u32 disp, u32 vex) noexcept nogil
cdef void store_vec(Code* code, u32 reg, u32 disp, u32 vex) noexcept nogil
cdef void restore_flags(Code* code, u32 disp) noexcept nogil
cdef void save_flags(Code* code, u32 disp) noexcept nogil
# What stands before the opcode byte, REX or VEX and the map included: how many bytes of out[8].
# `rex`: R, X and B as REX has them
cdef u32 form_prefixes(Form* form, u32 rex, u8* out) noexcept nogil
cdef void put_form(Code* code, Form* form) noexcept nogil
