# Native thunks: one guest instruction, executed by the host on the guest's register state.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.codemem cimport CodeMem
from barevisor.cpu.bt.decode cimport Insn, RowFacts
from barevisor.cpu.bt.emit cimport Code, Form

cdef enum:                   # why thunk_for returned NULL
    THUNK_FULL = 0           # no space: drop all code and start again
    THUNK_HANDLER = 1        # not a copied instruction: the interpreter has a handler for it

cdef enum:
    PART_WIDE = 0            # a whole register
    PART_LOW = 1             # its low byte
    PART_HIGH = 2            # AH, CH, DH, BH

cdef struct Var:             # a guest general register (or byte of one) in a host register
    u8 guest
    u8 part                  # PART_*
    u8 host
    u8 written

cdef struct Plan:            # what one thunk will do
    Form form
    Var vars[6]
    u32 nvars
    u32 free                 # the next of the registers that explicit operands are renamed to
    u32 pinned               # guest registers that keep their number (implicit operands)
    u16 vec_read             # bit n: xmm n
    u16 vec_written
    u32 width                # 0 legacy SSE, 1 VEX.128, 2 VEX.256
    u32 restore              # flags are an input, or some of them stay
    u32 save

# The thunk that executes `insn`: a handler_t when it has no memory operand, else a thunk_t.
# `flags_live`: FLAG_* bits whose value somebody reads later. NULL: *why says it.
cdef handler_t thunk_for(CodeMem* mem, Insn* insn, u32 flags_live, u32* why) noexcept nogil
# What thunk_for does for instructions that become native code: 0, or -1 if this is not one.
cdef int build(Code* code, Insn* insn, u32 flags_live) noexcept nogil
# Opcode, prefixes and immediate of a copied instruction; its registers are for the caller
cdef void plan_form(Form* form, Insn* insn, RowFacts* f) noexcept nogil
# DIV or IDIV
cdef bint is_divide(Insn* insn) noexcept nogil
# Ends a run of scratch ops.
cdef int ret_handler(Cpu* cpu, Op* op) noexcept nogil
# Run a thunk for its effect alone, outside its block; `host` as for a thunk_t (or NULL). The
# fields of `op` that a thunk may look at are copied.
cdef int run_thunk(Cpu* cpu, Op* op, thunk_t thunk, u8* host) noexcept nogil
