"""Native thunks: a guest instruction executed by the host's own, on the guest's register state.

Guest and host have one instruction set, so what carries no privilege need not be
re-implemented: a thunk loads the instruction's operands from the Cpu struct into host registers,
executes the same instruction with the registers renamed, and stores what it wrote. All of SSE,
AVX, AES, BMI and the x87 come that way, with the host's exact results and flags.

Inside a thunk: rdi = Cpu, rsi = Op, rdx = host address of the memory operand (r10 once rdx is
needed). Registers that an instruction names implicitly (MUL, shifts by CL, CMPXCHG) keep their
number; explicit ones are renamed to r8, r9, r11, equal ones to equal ones. A byte register is a
variable of its own, loaded and stored as a byte, which makes AH..BH no special case. Vector
registers keep their number; all are caller-saved. Arithmetic flags travel through Cpu.fl in the
image that LAHF and SETO make.

Every thunk ends by running the next Op: add rsi, sizeof(Op); jmp [rsi].
"""

import cython
from cython.cimports.barevisor.cpu.bt.codemem import CodeMem, code_share
from cython.cimports.barevisor.cpu.bt.decode import *
from cython.cimports.barevisor.cpu.bt.divide import divide_memory, divide_register
from cython.cimports.barevisor.cpu.bt.emit import *
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.libc.string import memcpy, memset

from barevisor.cpu.bt.decode import hint_names

OFF_FL: u32 = cython.declare(u32)
OFF_VEC: u32 = cython.declare(u32)
HINT_LEA: u32 = cython.declare(u32)
AMD: u32 = cython.declare(u32, 0)


@cython.cfunc
def _constants() -> cython.void:
    """Where thunks find the fields of Cpu, and what the table calls things."""
    global OFF_FL, OFF_VEC, HINT_LEA
    none: cython.pointer(Cpu) = cython.NULL
    OFF_FL = cython.cast(u32, cython.cast(cython.size_t, cython.address(none.fl)))
    OFF_VEC = cython.cast(u32, cython.cast(cython.size_t, cython.address(none.vec[0])))
    HINT_LEA = hint_names().index("lea")


_constants()


# ---- the plan: which registers, which flags ----------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pin(plan: cython.pointer(Plan), guest: u32, written: u32) -> cython.void:
    """An implicit operand: the same register in the host."""
    var: cython.pointer(Var) = cython.address(plan.vars[plan.nvars])
    plan.nvars += 1
    plan.pinned |= cython.cast(u32, 1) << guest
    var.guest = var.host = cython.cast(u8, guest)
    var.part = PART_WIDE
    var.written = cython.cast(u8, written)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _name(plan: cython.pointer(Plan), guest: u32, part: u32, written: u32) -> u32:
    """The host register of an explicit operand, the same for the same operand."""
    i: u32
    var: cython.pointer(Var)
    for i in range(plan.nvars):
        var = cython.address(plan.vars[i])
        # The low byte of a pinned register is in that register already.
        if var.guest == guest and (
            var.part == part or (part == PART_LOW and plan.pinned >> guest & 1)
        ):
            var.written |= cython.cast(u8, written)
            return var.host
    var = cython.address(plan.vars[plan.nvars])
    plan.nvars += 1
    var.guest = cython.cast(u8, guest)
    var.part = cython.cast(u8, part)
    var.written = cython.cast(u8, written)
    var.host = R11 if plan.free == 2 else cython.cast(u8, R8 + plan.free)
    plan.free += 1
    return var.host


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _operand(
    plan: cython.pointer(Plan), cls: u32, access: u32, number: u32, byte: u32, rex: u32
) -> u32:
    """The register number to encode for one operand of the guest instruction."""
    part: u32 = PART_WIDE
    written: u32 = (access & ACC_WRITE) >> 1
    if cls == CLS_VEC:
        # A legacy SSE instruction keeps the rest of its destination, so it is always read.
        if access & ACC_READ or plan.width == 0:
            plan.vec_read |= cython.cast(u16, 1 << number)
        if written:
            plan.vec_written |= cython.cast(u16, 1 << number)
        return number
    if cls != CLS_GPR:
        return number
    if byte:
        part = PART_LOW
        if not rex and number >= 4:
            part = PART_HIGH
            number -= 4
    return _name(plan, number, part, written)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _implicit_xmm0(insn: cython.pointer(Insn), f: cython.pointer(RowFacts)) -> u32:
    """ACC_* bits: how the instruction uses XMM0 without naming it in its encoding."""
    if f.attrs & RF_XMM0:
        return ACC_READ
    if insn.map == 3 and (insn.opcode == 0x60 or insn.opcode == 0x62):
        return ACC_WRITE  # PCMPESTRM, PCMPISTRM
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _plan_flags(
    plan: cython.pointer(Plan), insn: cython.pointer(Insn), f: cython.pointer(RowFacts), live: u32
) -> cython.void:
    """Flags are saved when somebody reads one that this instruction may change. They are
    restored when it reads some, or when saving must not lose those that it leaves alone."""
    changed: u32 = f.flags_written | f.flags_undefined
    maybe: cython.bint = False  # a count of zero, or a source of zero, may leave them as they are
    if insn.vex:
        pass
    elif insn.map == 0:
        maybe = insn.opcode in (0xC0, 0xC1, 0xD2, 0xD3)
    elif insn.map == 1:
        maybe = insn.opcode in (0xA4, 0xA5, 0xAC, 0xAD, 0xBC, 0xBD)
    plan.save = (changed & live & FLAGS_ARITH) != 0
    plan.restore = (f.flags_read & FLAGS_ARITH) != 0 or (
        plan.save and (maybe or (changed & FLAGS_ARITH) != FLAGS_ARITH)
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _plan_implicit(
    plan: cython.pointer(Plan), insn: cython.pointer(Insn), f: cython.pointer(RowFacts)
) -> cython.void:
    guest: u32
    access: u32 = _implicit_xmm0(insn, f)
    for guest in range(4):
        if (f.regs_read | f.regs_written) >> guest & 1:
            _pin(plan, guest, f.regs_written >> guest & 1)
    if access:
        _operand(plan, CLS_VEC, access, 0, 0, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _plan_operands(
    plan: cython.pointer(Plan), insn: cython.pointer(Insn), f: cython.pointer(RowFacts)
) -> cython.void:
    """Rename the explicit operands; fills the register fields of the form."""
    form: cython.pointer(Form) = cython.address(plan.form)
    rex: u32 = insn.rex or insn.vex
    number: u32 = _operand(plan, f.reg_class, f.reg_access, insn.reg, f.gpr8 & 1, rex)
    if insn.has_modrm:
        form.reg = cython.cast(u8, number)
    elif f.reg_class == CLS_GPR:
        form.plus_r = 1
        form.rm = cython.cast(u8, number)
    form.vvvv = cython.cast(u8, _operand(plan, f.vvvv_class, f.vvvv_access, insn.vvvv, 0, rex))
    if insn.mem:
        form.mem = 1
    elif insn.has_modrm:
        form.rm = cython.cast(u8, _operand(plan, f.rm_class, f.rm_access, insn.rm, f.gpr8 & 2, rex))
    if f.attrs & RF_IS4:
        _operand(plan, CLS_VEC, ACC_READ, cython.cast(u32, insn.imm >> 4 & 15), 0, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _plan_prefixes(
    form: cython.pointer(Form), insn: cython.pointer(Insn), f: cython.pointer(RowFacts)
) -> cython.void:
    """Only the prefixes that mean something for this row, as 64-bit mode writes them."""
    gpr: cython.bint = f.reg_class == CLS_GPR or f.rm_class == CLS_GPR or f.vvvv_class == CLS_GPR
    form.vex = insn.vex
    form.vex_l = insn.vex_l
    form.lock = (insn.prefixes & PFX_LOCK) != 0
    if insn.vex:
        form.pp = insn.pp
        form.w = insn.vex_w
        # Outside 64-bit mode VEX.W does not widen general registers.
        if gpr and f.osize_rule == OS_Y:
            form.w = insn.osize == 8
        return
    form.w = insn.vex_w
    if f.pp == 2:
        form.rep = 0xF3
    elif f.pp == 3:
        form.rep = 0xF2
    form.opsize = f.pp == 1 or (insn.osize == 2 and f.sized)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _plan_opcode(form: cython.pointer(Form), insn: cython.pointer(Insn)) -> cython.void:
    """Opcode and immediate; encodings that 64-bit mode lacks are replaced by their equals."""
    form.map = insn.map
    form.opcode = insn.opcode
    form.has_modrm = insn.has_modrm
    form.imm = insn.imm
    form.imm_size = insn.imm_size
    if insn.map or insn.vex:
        return
    if (insn.opcode & 0xF0) == 0x40:  # INC, DEC of a register: a REX prefix here
        form.has_modrm = 1
        form.reg = insn.opcode >> 3 & 1
        form.opcode = 0xFF
        form.plus_r = 0
    elif insn.opcode == 0x82:
        form.opcode = 0x80
    elif (insn.opcode & 0xFC) == 0xA0:  # MOV between the accumulator and an absolute address
        form.has_modrm = 1
        form.opcode = (insn.opcode & 3 ^ 2) | 0x88
        form.imm_size = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def plan_form(
    form: cython.pointer(Form), insn: cython.pointer(Insn), f: cython.pointer(RowFacts)
) -> cython.void:
    """See thunk.pxd."""
    _plan_opcode(form, insn)
    _plan_prefixes(form, insn, f)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _plan(
    plan: cython.pointer(Plan), insn: cython.pointer(Insn), f: cython.pointer(RowFacts), live: u32
) -> cython.void:
    memset(plan, 0, cython.sizeof(Plan))
    if insn.vex:
        plan.width = 1 + insn.vex_l
    _plan_implicit(plan, insn, f)
    _plan_opcode(cython.address(plan.form), insn)
    if plan.form.has_modrm and insn.has_modrm:
        plan.form.reg = insn.reg
    _plan_operands(plan, insn, f)
    if (insn.opcode & 0xF0) == 0x40 and insn.map == 0 and not insn.vex:
        plan.form.plus_r = 0
    _plan_prefixes(cython.address(plan.form), insn, f)
    _plan_flags(plan, insn, f, live)


# ---- the code ----------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put_loads(code: cython.pointer(Code), plan: cython.pointer(Plan)) -> cython.void:
    """Flags first: that takes rax."""
    i: u32
    var: cython.pointer(Var)
    if plan.restore:
        restore_flags(code, OFF_FL)
    if plan.pinned >> RBX & 1:
        put8(code, 0x53)  # push rbx
    for i in range(plan.nvars):
        var = cython.address(plan.vars[i])
        if var.part == PART_WIDE:
            load64(code, var.host, var.guest * 8)
        else:
            load8(code, var.host, var.guest * 8 + (var.part == PART_HIGH))
    for i in range(16):
        if plan.vec_read >> i & 1:
            load_vec(code, i, OFF_VEC + i * 32, plan.width)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put_stores(code: cython.pointer(Code), plan: cython.pointer(Plan)) -> cython.void:
    """Moves alone, so the flags survive until they are saved. Pinned registers come first in
    `vars`: CMPXCHG's AH must be stored after the RAX that holds its old value."""
    i: u32
    var: cython.pointer(Var)
    for i in range(plan.nvars):
        var = cython.address(plan.vars[i])
        if not var.written:
            continue
        if var.part == PART_WIDE:
            store64(code, var.host, var.guest * 8)
        else:
            store8(code, var.host, var.guest * 8 + (var.part == PART_HIGH))
    for i in range(16):
        if plan.vec_written >> i & 1:
            # A VEX instruction clears the register above its width: the whole YMM changed.
            store_vec(code, i, OFF_VEC + i * 32, 2 if plan.width else 0)
    if plan.pinned >> RBX & 1:
        put8(code, 0x5B)  # pop rbx
    if plan.save:
        save_flags(code, OFF_FL)
    if plan.width == 2:
        # vzeroupper: dirty upper halves would slow down the SSE code of every other handler
        put8(code, 0xC5)
        put8(code, 0xF8)
        put8(code, 0x77)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put_next(code: cython.pointer(Code)) -> cython.void:
    """add rsi, sizeof(Op); jmp [rsi]"""
    put8(code, 0x48)
    put8(code, 0x83)
    put8(code, 0xC6)
    put8(code, cython.sizeof(Op))
    put8(code, 0xFF)
    put8(code, 0x26)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def build(code: cython.pointer(Code), insn: cython.pointer(Insn), flags_live: u32) -> cython.int:
    """Write the thunk; -1 if the instruction is executed by a handler."""
    plan: Plan
    f: cython.pointer(RowFacts) = facts(insn.row)
    code.size = 0
    code.overflow = 0
    if f.exec != 0 or f.hint == HINT_LEA or is_divide(insn):
        return -1
    _plan(cython.address(plan), insn, f, flags_live)
    if insn.mem:
        plan.form.rm = RDX
        if plan.pinned >> RDX & 1:
            plan.form.rm = R10
            put8(code, 0x49)  # mov r10, rdx
            put8(code, 0x89)
            put8(code, 0xD2)
    _put_loads(code, cython.address(plan))
    put_form(code, cython.address(plan.form))
    _put_stores(code, cython.address(plan))
    _put_next(code)
    return -1 if code.overflow else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_divide(insn: cython.pointer(Insn)) -> cython.bint:
    """DIV and IDIV would raise SIGFPE in this process; they are computed in divide.py."""
    return (
        insn.map == 0
        and not insn.vex
        and (insn.opcode & 0xFE) == 0xF6
        and (insn.modrm & 0x30) == 0x30
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def thunk_for(
    mem: cython.pointer(CodeMem),
    insn: cython.pointer(Insn),
    flags_live: u32,
    why: cython.pointer(u32),
) -> handler_t:
    """See thunk.pxd."""
    code: Code
    why[0] = THUNK_HANDLER
    if facts(insn.row).exec == 0 and is_divide(insn):
        if insn.mem:
            return cython.cast(handler_t, cython.cast(cython.p_void, divide_memory))
        return divide_register
    if build(cython.address(code), insn, flags_live) != 0:
        return cython.NULL
    why[0] = THUNK_FULL
    return cython.cast(handler_t, code_share(mem, cython.address(code.bytes[0]), code.size))


# ---- running one outside its block -------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ret_handler(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """Where a run of scratch ops ends."""
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_thunk(
    cpu: cython.pointer(Cpu), op: cython.pointer(Op), thunk: thunk_t, host: cython.pointer(u8)
) -> cython.int:
    """Run `thunk` on a copy of `op` and come back."""
    memcpy(cython.address(cpu.scratch[0]), op, cython.sizeof(Op))
    cpu.scratch[1].handler = ret_handler
    return thunk(cpu, cython.address(cpu.scratch[0]), host)


# ---- for tests ---------------------------------------------------------------------------


def build_bytes(code: bytes, mode: int, flags_live: int):
    """The thunk for one guest instruction; None if it has a handler instead."""
    insn: Insn
    out: Code
    data: cython.pointer(cython.const[u8]) = code
    if decode(data, len(code), mode, cython.address(insn)) != DEC_OK:
        raise ValueError(f"not an instruction: {code.hex()}")
    if build(cython.address(out), cython.address(insn), flags_live) != 0:
        return None
    return cython.cast(cython.p_char, cython.address(out.bytes[0]))[: out.size]
