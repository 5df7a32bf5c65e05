"""From decoded instructions to Ops: which handler or thunk executes each one.

A copied instruction in register form becomes its thunk; in memory form a memory handler over the
thunk, or a specialized move; all others become the handler that the instruction table names.
Flags that a later instruction overwrites, with nothing between that could fault or read them,
are not saved. Outside 64-bit mode an extra Op before each memory operand checks the segment.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.blocks import OPF_FALL_LOCAL, OPF_LOCAL
from cython.cimports.barevisor.cpu.bt.codemem import CodeMem
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.fptrap import trap_memory, trap_register
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.stops import block_checks
from cython.cimports.barevisor.cpu.bt.thunk import THUNK_FULL, thunk_for
from cython.cimports.barevisor.cpu.bt.trace import MODE_ONE
from cython.cimports.barevisor.cpu.bt.vector import vex_fields

from barevisor.cpu.bt import decode as decoder

ALL_FLAGS: cython.uint = cython.declare(cython.uint, 0x8D5)

NAMES = (
    "block_end", "raise_ud", "raise_gp", "raise_nm", "segment_check", "nop", "mem_read",
    "mem_write", "mem_aligned", "mem_read_flat", "mem_write_flat", "lea16", "lea32", "lea64",
    "push64", "pop64", "push_imm64", "call_rel64", "ret64", "call_reg64", "call_mem64",
    "jmp_reg64", "jmp_mem64", "leave64", "load8", "load16", "load32", "load64", "store8",
    "store16", "store32", "store64", "storei8", "storei16", "storei32", "storei64", "loadzx8",
    "loadzx16", "loadsx8", "loadsx16", "loadsx32", "load8_flat", "load16_flat", "load32_flat",
    "load64_flat", "store8_flat", "store16_flat", "store32_flat", "store64_flat",
    "storei8_flat", "storei16_flat", "storei32_flat", "storei64_flat", "loadzx8_flat",
    "loadzx16_flat", "loadsx8_flat", "loadsx16_flat", "loadsx32_flat", "debug_check", "count_run"
)  # fmt: skip
"""Handlers that the binder itself names, in the order of the H_* enum."""
HINTS = (
    "",
    "lea", "mov_a_o", "mov_o_a", "mov_r_i", "mov_r_rm", "mov_rm_i", "mov_rm_r", "movsx",
    "movsxd", "movzx"
)  # fmt: skip
"""Hints of the instruction table, in the order of the HINT_* enum."""
SHAPES = {
    "copy": SHAPE_COPY, "jcc": SHAPE_JCC, "jmp_rel": SHAPE_BRANCH, "jcxz": SHAPE_BRANCH,
    "loop": SHAPE_LOOP, "loope": SHAPE_LOOPE, "loopne": SHAPE_LOOPNE, "push": SHAPE_PUSH,
    "pop": SHAPE_POP, "push_imm": SHAPE_PUSH_IMM, "call_rel": SHAPE_CALL_REL, "ret": SHAPE_RET,
    "call_ind": SHAPE_CALL_IND, "jmp_ind": SHAPE_JMP_IND, "leave": SHAPE_LEAVE,
    "movs": SHAPE_STRING, "stos": SHAPE_STRING, "lods": SHAPE_STRING, "scas": SHAPE_STRING,
    "cmps": SHAPE_STRING, "ins": SHAPE_STRING, "outs": SHAPE_STRING,
}  # fmt: skip
"""Exec names that need more than their handler's address."""


def install(handlers: dict[str, int]) -> list[str]:
    """Take the handler addresses by name; the names of the table that no handler has."""
    missing = []
    for place, name in enumerate(NAMES):
        _named[place] = cython.cast(handler_t, cython.cast(cython.size_t, handlers[name]))
    for place, name in enumerate(decoder.exec_names()):
        _exec[place].shape = SHAPES.get(name, SHAPE_OTHER)
        _exec[place].handler = _named[H_RAISE_UD]
        if name in handlers:
            _exec[place].handler = cython.cast(
                handler_t, cython.cast(cython.size_t, handlers[name])
            )
        elif name != "copy":
            missing.append(name)
    for place, name in enumerate(decoder.hint_names()):
        _hint[place] = HINTS.index(name) if name in HINTS else 0
    return missing


# ---- which flags must be saved -----------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def overwrites(insn: cython.pointer(Insn), row: cython.pointer(RowFacts)) -> u32:
    """Flags that this instruction certainly replaces (a shift by 0 replaces none)."""
    if insn.map == 0 and not insn.vex:
        if insn.opcode == 0xD2 or insn.opcode == 0xD3:
            return 0
        if (insn.opcode == 0xC0 or insn.opcode == 0xC1) and not (
            insn.imm & (63 if insn.osize == 8 else 31)
        ):
            return 0
    if insn.map == 1 and not insn.vex and (insn.opcode & 0xF6) == 0xA4:
        return 0  # SHLD, SHRD
    return row.flags_written | row.flags_undefined


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _live_flags(insns: cython.pointer(Insn), count: u32, live: cython.pointer(u32)) -> cython.void:
    """live[i]: flags that somebody may look at behind instruction i. A fault looks at all."""
    now: u32 = ALL_FLAGS
    row: cython.pointer(RowFacts)
    i: cython.int = cython.cast(cython.int, count) - 1
    while i >= 0:
        live[i] = now
        row = facts(insns[i].row)
        if row.exec or (insns[i].mem and row.mem) or _may_fault(cython.address(insns[i]), row):
            now = ALL_FLAGS
        else:
            now = (now & ~overwrites(cython.address(insns[i]), row)) | row.flags_read
        i -= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _may_fault(insn: cython.pointer(Insn), row: cython.pointer(RowFacts)) -> cython.int:
    """Copied register forms that may fault: DIV, IDIV, and whatever uses FP state."""
    if row.unit != UNIT_NONE:
        return 1
    return insn.map == 0 and not insn.vex and (insn.opcode & 0xFE) == 0xF6 and insn.reg >= 6


# ---- operands ----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _offset(insn: cython.pointer(Insn), number: u32, byte: u32) -> u16:
    """Where a general register lies in Cpu; AH..BH are the second byte of the first four."""
    if byte and 4 <= number < 8 and not insn.rex and not insn.vex:
        return cython.cast(u16, (number - 4) * 8 + 1)
    return cython.cast(u16, number * 8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _operands(
    op: cython.pointer(Op),
    insn: cython.pointer(Insn),
    row: cython.pointer(RowFacts),
    mode: u32,
    ip: u32,
) -> cython.void:
    """The fields that every handler may read."""
    op.reg = insn.reg
    op.rm = insn.rm
    if not insn.has_modrm:
        op.rm = insn.reg
    op.osize = insn.osize
    op.asize = insn.asize
    op.imm = insn.imm
    op.imm2 = vex_fields(insn) if insn.vex else insn.imm2
    op.disp = insn.disp
    op.base = insn.base
    op.index = insn.index
    op.scale = insn.scale
    op.opcode = insn.opcode
    op.prefixes = insn.prefixes
    op.mod_mem = insn.mem
    op.ip = cython.cast(u16, ip)
    op.len = insn.length
    op.row = insn.row
    op.reg_off = _offset(insn, op.reg, row.gpr8 & 1)
    op.rm_off = _offset(insn, op.rm, row.gpr8 & 2)
    op.msize = cython.cast(u16, mem_size(insn))
    op.amask = cython.cast(u64, 0xFFFFFFFFFFFFFFFF) >> (64 - 8 * insn.asize)
    op.flags = 0
    if row.mem & ACC_READ:
        op.flags |= OPF_MEM_READ
    if row.mem & ACC_WRITE:
        op.flags |= OPF_MEM_WRITE
    op.seg = insn.seg
    if (mode & MODE_CODE_MASK) == MODE_CODE64:
        if insn.seg == SEG_SS:
            op.flags |= OPF_STACK
        if insn.seg != SEG_FS and insn.seg != SEG_GS:
            op.seg = SEG_FLAT
    else:
        op.flags |= OPF_LEGACY
    if row.attrs & RF_ALIGN:
        op.flags |= OPF_ALIGN
    if insn.mem and insn.base == REG_RIP:
        op.disp += ip + insn.length


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _branch(
    op: cython.pointer(Op), insn: cython.pointer(Insn), page_offset: u64, mode: u32
) -> cython.void:
    """Target relative to the block, its width, and whether both ways stay in the page."""
    target: u64
    op.disp = op.ip + op.len + insn.imm
    op.amask = cython.cast(u64, 0xFFFFFFFFFFFFFFFF) >> (64 - 8 * insn.osize)
    op.flags &= 0x3F
    if (mode & MODE_CODE_MASK) == MODE_CODE16 or insn.osize == 2:
        return
    target = page_offset + op.disp
    if target < 4096:
        op.flags |= OPF_LOCAL
    if page_offset + op.ip + op.len < 4096:
        op.flags |= OPF_FALL_LOCAL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _condition(op: cython.pointer(Op)) -> cython.void:
    """What ops_flow.jcc tests, from the condition code (SDM, "EFLAGS Condition Codes")."""
    kind: u32 = (op.opcode & 15) >> 1
    op.rm = op.opcode & 1
    op.imm2 = 0
    if kind == 0:
        op.imm = FL_OF
    elif kind == 1:
        op.imm = FL_CF
    elif kind == 2:
        op.imm = FL_ZF
    elif kind == 3:
        op.imm = FL_CF | FL_ZF
    elif kind == 4:
        op.imm = FL_SF
    elif kind == 5:
        op.imm = FL_PF
    else:
        op.imm = FL_SF if kind == 6 else FL_SF | FL_ZF
        op.imm2 = FL_SF


# ---- handlers ----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def gate(cpu: cython.pointer(Cpu), row: cython.pointer(RowFacts), mode: u32) -> cython.int:
    """The handler that refuses this instruction in this state (H_RAISE_*), or -1."""
    if row.feature:
        if row.feature < 32:
            if not (cpu.features >> row.feature) & 1:
                return H_RAISE_UD
        elif not (cpu.features2 >> (row.feature - 32)) & 1:
            return H_RAISE_UD
    if row.unit == UNIT_MMX and mode & MODE_NO_X87 and not mode & MODE_NO_SSE:
        return H_RAISE_UD  # CR0.EM alone (SDM, "Emulation of the MMX Instruction Set")
    if row.unit == UNIT_X87 or row.unit == UNIT_MMX:
        return H_RAISE_NM if mode & MODE_NO_X87 else -1
    if row.unit == UNIT_SSE and mode & MODE_UD_SSE:
        return H_RAISE_UD
    if row.unit == UNIT_AVX and mode & MODE_UD_AVX:
        return H_RAISE_UD
    if row.unit != UNIT_NONE and mode & MODE_NO_SSE:
        return H_RAISE_NM
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _move(op: cython.pointer(Op), insn: cython.pointer(Insn), hint: u32) -> cython.int:
    """The specialized handler of a move with a memory operand, or -1."""
    size: u32 = insn.osize
    log: cython.int = 0 if size == 1 else 1 if size == 2 else 2 if size == 4 else 3
    if hint == HINT_MOV_R_RM or hint == HINT_MOV_A_O:
        return H_LOAD8 + log
    if hint == HINT_MOV_RM_R or hint == HINT_MOV_O_A:
        return H_STORE8 + log
    if hint == HINT_MOV_RM_I:
        return H_STOREI8 + log
    if hint == HINT_MOVZX and size >= 4:
        return H_LOADZX8 if op.msize == 1 else H_LOADZX16
    if hint == HINT_MOVSX and size >= 4:
        op.imm2 = cython.cast(u64, 0xFFFFFFFFFFFFFFFF) >> (64 - 8 * size)
        return H_LOADSX8 if op.msize == 1 else H_LOADSX16
    if hint == HINT_MOVSXD and size == 8:
        return H_LOADSX32
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _copy(
    cpu: cython.pointer(Cpu),
    op: cython.pointer(Op),
    insn: cython.pointer(Insn),
    row: cython.pointer(RowFacts),
    live: u32,
    mode: u32,
) -> cython.int:
    """A copied instruction. 0, or -1 when the thunk memory is full."""
    why: u32 = 0
    choice: cython.int
    flat: cython.bint = op.seg == SEG_FLAT and insn.asize == 8
    hint: u32 = _hint[row.hint]
    thunk: handler_t
    if hint == HINT_LEA:
        op.handler = _named[H_LEA16 if insn.osize == 2 else H_LEA32 if insn.osize == 4 else H_LEA64]
        return 0
    thunk = thunk_for(
        cython.cast(cython.pointer(CodeMem), cpu.vm.code), insn, live, cython.address(why)
    )
    if thunk == cython.NULL:
        op.handler = _named[H_RAISE_UD]
        return -1 if why == THUNK_FULL else 0
    trapping: cython.bint = mode & MODE_FP_TRAP and row.unit != UNIT_NONE
    if trapping:
        op.imm2 = cython.cast(u64, thunk)
    if not insn.mem:
        op.handler = trap_register if trapping else thunk
        return 0
    op.thunk = trap_memory if trapping else cython.cast(thunk_t, thunk)
    choice = _move(op, insn, hint)
    if choice >= 0:
        choice = choice + FLAT if flat else choice
    elif op.flags & OPF_ALIGN:
        choice = H_MEM_ALIGNED
    elif op.flags & OPF_MEM_WRITE:
        choice = H_MEM_WRITE_FLAT if flat else H_MEM_WRITE
    else:
        choice = H_MEM_READ_FLAT if flat else H_MEM_READ
    op.handler = _named[choice]
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flow(
    op: cython.pointer(Op), insn: cython.pointer(Insn), shape: u32, page_offset: u64, mode: u32
) -> cython.void:
    """Branches and the stack: targets, conditions, and the fast handlers of 64-bit mode."""
    fast: cython.bint = (mode & MODE_CODE_MASK) == MODE_CODE64 and insn.osize == 8
    if (
        shape == SHAPE_JCC
        or shape == SHAPE_BRANCH
        or shape == SHAPE_CALL_REL
        or (SHAPE_LOOP <= shape <= SHAPE_LOOPNE)
    ):
        _branch(op, insn, page_offset, mode)
    if shape == SHAPE_JCC:
        _condition(op)
    elif SHAPE_LOOP <= shape <= SHAPE_LOOPNE:
        op.imm2 = shape - SHAPE_LOOP
    if not fast:
        return
    if shape == SHAPE_PUSH and not insn.mem:
        op.handler = _named[H_PUSH64]
    elif shape == SHAPE_POP and not insn.mem:
        op.handler = _named[H_POP64]
    elif shape == SHAPE_PUSH_IMM:
        op.handler = _named[H_PUSH_IMM64]
    elif shape == SHAPE_CALL_REL:
        op.handler = _named[H_CALL_REL64]
    elif shape == SHAPE_RET:
        op.handler = _named[H_RET64]
    elif shape == SHAPE_CALL_IND:
        op.handler = _named[H_CALL_MEM64 if insn.mem else H_CALL_REG64]
    elif shape == SHAPE_JMP_IND:
        op.handler = _named[H_JMP_MEM64 if insn.mem else H_JMP_REG64]
    elif shape == SHAPE_LEAVE:
        op.handler = _named[H_LEAVE64]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bind_bytes(count: u32, mode: u32) -> u64:
    """Each instruction may need a segment check; one Op more ends the block, and one may come
    before it: a check for a debugger, or the count of its runs."""
    return (2 * count + 3 if mode & MODE_LEGACY else count + 3) * cython.sizeof(Op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _translatable(vm: cython.pointer(Vm), block: cython.pointer(Block)) -> cython.bint:
    """64-bit code. Single steps and whatever a debugger looks at stay interpreted."""
    return (
        vm.translator != cython.NULL
        and (block.mode & MODE_CODE_MASK) == MODE_CODE64
        and not block.mode & (MODE_STEP | MODE_ONE)
        and not vm.debugging
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bind_block(
    cpu: cython.pointer(Cpu),
    block: cython.pointer(Block),
    insns: cython.pointer(Insn),
    count: u32,
    result: cython.int,
) -> cython.int:
    """Fill block.ops. 0, or -1 when the thunk memory is full."""
    live: cython.uint[32]
    op: cython.pointer(Op) = block.ops
    i: u32
    ip: u32 = 0
    row: cython.pointer(RowFacts) = cython.NULL
    _live_flags(insns, count, live)
    op.block = block
    op.base = REG_NONE
    op.index = REG_NONE
    if cpu.vm.debugging and block_checks(cpu.vm, block):
        op.handler = _named[H_DEBUG_CHECK]
        op += 1
    elif _translatable(cpu.vm, block):
        op.handler = _named[H_COUNT_RUN]
        op.imm = cpu.vm.translate_after
        op += 1
    for i in range(count):
        row = facts(insns[i].row)
        if row.fallback and gate(cpu, row, block.mode) == H_RAISE_UD:
            insns[i].row = row.fallback
            row = facts(insns[i].row)
        op = _bind_one(cpu, block, op, cython.address(insns[i]), row, live[i], ip, i)
        if op == cython.NULL:
            return -1
        ip += insns[i].length
    op.block = block
    op.ip = cython.cast(u16, ip)
    op.number = cython.cast(u8, count)
    op.base = REG_NONE
    op.index = REG_NONE
    if result:
        op.handler = _named[H_RAISE_GP if result == DEC_TOOLONG else H_RAISE_UD]
    else:
        op.handler = _named[H_BLOCK_END]
        op.number = cython.cast(u8, count - 1)
        if (block.gpa & 0xFFF) + ip < 4096 and (block.mode & MODE_CODE_MASK) != MODE_CODE16:
            op.flags = OPF_FALL_LOCAL
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _bind_one(
    cpu: cython.pointer(Cpu),
    block: cython.pointer(Block),
    op: cython.pointer(Op),
    insn: cython.pointer(Insn),
    row: cython.pointer(RowFacts),
    live: u32,
    ip: u32,
    number: u32,
) -> cython.pointer(Op):
    """One instruction; the place of the next Op, or NULL when the thunk memory is full."""
    refused: cython.int = gate(cpu, row, block.mode)
    shape: u32 = _exec[row.exec].shape
    _operands(op, insn, row, block.mode, ip)
    op.block = block
    op.number = cython.cast(u8, number)
    if refused >= 0:
        op.handler = _named[refused]
        return op + 1
    if op.flags & OPF_LEGACY and insn.mem and row.exec == 0 and row.mem and op.msize:
        op[1] = op[0]
        op.handler = _named[H_SEGMENT_CHECK]
        op += 1
    if shape == SHAPE_COPY:
        if _copy(cpu, op, insn, row, live, block.mode):
            return cython.NULL
        return op + 1
    op.handler = _exec[row.exec].handler
    if shape == SHAPE_STRING:
        op.flags &= 0xFF ^ OPF_STACK
    _flow(op, insn, shape, block.gpa & 0xFFF, block.mode)
    return op + 1


# ---- refusals ----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def raise_ud(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """#UD: no such instruction, or the CPU model does not have it."""
    return fault(cpu, op, EXC_UD, NO_ERROR)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def raise_gp(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """#GP(0): longer than 15 bytes."""
    return fault(cpu, op, EXC_GP, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def raise_nm(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """#NM: CR0.TS or CR0.EM keeps FP state from being used."""
    return fault(cpu, op, EXC_NM, NO_ERROR)


def handlers() -> dict[str, int]:
    """Handler addresses by name."""
    return {
        "raise_ud": entry_of(raise_ud),
        "raise_gp": entry_of(raise_gp),
        "raise_nm": entry_of(raise_nm),
    }
