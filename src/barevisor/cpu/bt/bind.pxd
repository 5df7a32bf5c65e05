from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.decode cimport RowFacts

# Room for the Ops of `count` instructions
cdef u64 bind_bytes(u32 count, u32 mode) noexcept nogil
# Turn decoded instructions into the block's Ops; `result` is why decoding stopped (DEC_*).
# 0, or -1 when the thunk memory is full.
cdef int bind_block(Cpu* cpu, Block* block, Insn* insns, u32 count, int result) noexcept nogil

# The handler that refuses this instruction in this state (H_RAISE_*), or -1
cdef int gate(Cpu* cpu, RowFacts* row, u32 mode) noexcept nogil
# Flags that this instruction certainly replaces
cdef u32 overwrites(Insn* insn, RowFacts* row) noexcept nogil

cdef enum:                   # places in the table of handlers that the binder itself names: bind.NAMES
    H_BLOCK_END = 0
    H_RAISE_UD = 1
    H_RAISE_GP = 2
    H_RAISE_NM = 3
    H_SEGMENT_CHECK = 4
    H_NOP = 5
    H_MEM_READ = 6
    H_MEM_WRITE = 7
    H_MEM_ALIGNED = 8
    H_MEM_READ_FLAT = 9
    H_MEM_WRITE_FLAT = 10
    H_LEA16 = 11
    H_LEA32 = 12
    H_LEA64 = 13
    H_PUSH64 = 14
    H_POP64 = 15
    H_PUSH_IMM64 = 16
    H_CALL_REL64 = 17
    H_RET64 = 18
    H_CALL_REG64 = 19
    H_CALL_MEM64 = 20
    H_JMP_REG64 = 21
    H_JMP_MEM64 = 22
    H_LEAVE64 = 23
    H_LOAD8 = 24
    H_LOAD16 = 25
    H_LOAD32 = 26
    H_LOAD64 = 27
    H_STORE8 = 28
    H_STORE16 = 29
    H_STORE32 = 30
    H_STORE64 = 31
    H_STOREI8 = 32
    H_STOREI16 = 33
    H_STOREI32 = 34
    H_STOREI64 = 35
    H_LOADZX8 = 36
    H_LOADZX16 = 37
    H_LOADSX8 = 38
    H_LOADSX16 = 39
    H_LOADSX32 = 40
    H_LOAD8_FLAT = 41
    H_LOAD16_FLAT = 42
    H_LOAD32_FLAT = 43
    H_LOAD64_FLAT = 44
    H_STORE8_FLAT = 45
    H_STORE16_FLAT = 46
    H_STORE32_FLAT = 47
    H_STORE64_FLAT = 48
    H_STOREI8_FLAT = 49
    H_STOREI16_FLAT = 50
    H_STOREI32_FLAT = 51
    H_STOREI64_FLAT = 52
    H_LOADZX8_FLAT = 53
    H_LOADZX16_FLAT = 54
    H_LOADSX8_FLAT = 55
    H_LOADSX16_FLAT = 56
    H_LOADSX32_FLAT = 57
    H_DEBUG_CHECK = 58
    H_COUNT_RUN = 59         # counts; translates when that pays
    H_COUNT = 60
    FLAT = 17                # from a move's handler to its *_flat twin

cdef enum:                   # RowFacts.hint, renumbered: bind.HINTS
    HINT_NONE = 0
    HINT_LEA = 1
    HINT_MOV_A_O = 2
    HINT_MOV_O_A = 3
    HINT_MOV_R_I = 4
    HINT_MOV_R_RM = 5
    HINT_MOV_RM_I = 6
    HINT_MOV_RM_R = 7
    HINT_MOVSX = 8
    HINT_MOVSXD = 9
    HINT_MOVZX = 10

cdef enum:                   # exec names whose Ops the binder completes: bind.SHAPES
    SHAPE_OTHER = 0
    SHAPE_COPY = 1
    SHAPE_JCC = 2
    SHAPE_BRANCH = 3         # jmp_rel, call_rel, jcxz
    SHAPE_LOOP = 4           # imm2 0
    SHAPE_LOOPE = 5
    SHAPE_LOOPNE = 6
    SHAPE_PUSH = 7
    SHAPE_POP = 8
    SHAPE_PUSH_IMM = 9
    SHAPE_CALL_REL = 10
    SHAPE_RET = 11
    SHAPE_CALL_IND = 12
    SHAPE_JMP_IND = 13
    SHAPE_LEAVE = 14
    SHAPE_STRING = 15

cdef struct Exec:            # what the binder knows of an exec name
    handler_t handler
    u32 shape
    u32 pad

cdef handler_t _named[128]   # by H_*
cdef Exec _exec[1024]        # by RowFacts.exec
cdef u8 _hint[64]            # HINT_* by RowFacts.hint
