"""x87 control instructions and MXCSR.

The host's control words are the guest's with every exception masked (fpstate.py), so what shows
or changes them cannot be copied: the guest must read its own masks, and no host address in the
instruction and operand pointers. Those read as zero, like on a CPU that saves them only when an
exception is pending.
"""

import cython
from cython import address, cast
from cython.cimports.libc.string import memcpy, memset

UPPER_HALF: u32 = cython.declare(u32, 0xFFFF0000)

# ---- control and status words ------------------------------------------------------------


def guest_fsw(cpu):
    """See fpu.pxd."""
    fsw: u32 = fnstsw() & 0x7F7F
    if fsw & ~cpu.fcw & FSW_EXCEPTIONS:
        fsw |= FSW_ES_B
    return fsw


def pending(cpu, op):
    """SDM, "x87 FPU Exceptions in Software": with CR0.NE clear the exception is an external
    interrupt (FERR#), which this board does not wire."""
    if cpu.mode & MODE_FP_TRAP and fnstsw() & ~cpu.fcw & FSW_EXCEPTIONS and cpu.cr0 & CR0_NE:
        return fault(cpu, op, EXC_MF, NO_ERROR)
    return 0


def set_control(cpu, fcw):
    """The guest's control word; the host's has the same precision and rounding."""
    env: u32[7]
    fcw = (fcw & 0x1F7F) | 0x40
    if (fcw ^ cpu.fcw) & ~cast(u32, FCW_MASKS):
        fnstenv(env)
        env[ENV_FCW] = (fcw & 0xF3F) | FCW_MASKS | 0x40
        env[ENV_FSW] &= 0x7F7F
        fldenv(env)
    cpu.fcw = fcw
    update_mode(cpu)


def h_fldcw(cpu, op):
    """SDM, FLDCW."""
    value: u16 = 0
    status: cython.int = pending(cpu, op)
    if status:
        return status
    status = load(cpu, linear(cpu, op), 2, address(value))
    if status:
        return leave(cpu, op, status)
    set_control(cpu, value)
    return finish(cpu, op)


def h_fnstcw(cpu, op):
    """SDM, FNSTCW."""
    value: u16 = cast(u16, cpu.fcw)
    return after_write(cpu, op, store(cpu, linear(cpu, op), 2, address(value)))


def h_fnstsw(cpu, op):
    """SDM, FNSTSW: to memory or AX."""
    value: u16 = cast(u16, guest_fsw(cpu))
    if not op.mod_mem:
        cast(cython.pointer(u16), cpu.regs)[0] = value
        return finish(cpu, op)
    return after_write(cpu, op, store(cpu, linear(cpu, op), 2, address(value)))


def h_fnclex(cpu, op):
    """SDM, FNCLEX."""
    fnclex()
    return finish(cpu, op)


def init_x87(cpu):
    """SDM, FNINIT: control, status and tags; the registers keep their bits."""
    env: u32[7]
    memset(env, 0, cython.sizeof(env))
    env[ENV_FCW] = FCW_INIT
    env[ENV_FTW] = 0xFFFF
    fldenv(env)
    cpu.fcw = FCW_INIT
    update_mode(cpu)


def h_fninit(cpu, op):
    """SDM, FNINIT."""
    init_x87(cpu)
    return finish(cpu, op)


def h_fwait(cpu, op):
    """SDM, WAIT: #NM if TS and MP."""
    status: cython.int
    if cpu.cr0 & CR0_TS and cpu.cr0 & CR0_MP:
        return fault(cpu, op, EXC_NM, NO_ERROR)
    status = pending(cpu, op)
    if status:
        return status
    return finish(cpu, op)


def h_emms(cpu, op):
    """SDM, EMMS: all tags empty."""
    env: u32[7]
    status: cython.int = pending(cpu, op)
    if status:
        return status
    fnstenv(env)
    env[ENV_FSW] &= 0x7F7F
    env[ENV_FTW] = 0xFFFF
    fldenv(env)
    return finish(cpu, op)


# ---- the environment and the whole state -------------------------------------------------


def get_environment(cpu, env):
    """FCW, FSW and FTW as the guest sees them, pointers zero."""
    fnstenv(env)
    env[ENV_FCW] = cpu.fcw
    env[ENV_FSW] = guest_fsw(cpu)
    env[ENV_FTW] &= 0xFFFF
    memset(address(env[ENV_FIP]), 0, 16)


def set_environment(cpu, env):
    """The guest's FCW, FSW and FTW become live."""
    cpu.fcw = (env[ENV_FCW] & 0x1F7F) | 0x40
    env[ENV_FCW] = (cpu.fcw & 0xF3F) | FCW_MASKS
    env[ENV_FSW] &= 0x7F7F
    memset(address(env[ENV_FIP]), 0, 16)
    fldenv(env)
    update_mode(cpu)


def pack_environment(env, size, out):
    """SDM, "Protected Mode x87 FPU State Image": 14 bytes of words or 28 of double words, whose
    reserved upper halves are ones."""
    i: u32
    for i in range(ENV_WORDS):
        if size == 14:
            cast(cython.pointer(u16), out)[i] = cast(u16, env[i])
        elif i == ENV_FIP or i == ENV_FIP + 1 or i == ENV_FIP + 2:
            cast(cython.pointer(u32), out)[i] = 0
        else:
            cast(cython.pointer(u32), out)[i] = env[i] | UPPER_HALF


def unpack_environment(data, size, env):
    """The reverse; only FCW, FSW and FTW count."""
    i: u32
    memset(env, 0, 28)
    for i in range(3):
        if size == 14:
            env[i] = cast(cython.pointer(u16), data)[i]
        else:
            env[i] = cast(cython.pointer(u32), data)[i] & 0xFFFF


def h_fnstenv(cpu, op):
    """SDM, FNSTENV: then all exceptions are masked."""
    env: u32[7]
    out: u8[28]
    va: u64 = linear(cpu, op)
    size: u32 = 14 if op.osize == 2 else 28
    status: cython.int = probe_write(cpu, va, size, cpu.mmu_idx)
    if status:
        return leave(cpu, op, status)
    get_environment(cpu, env)
    pack_environment(env, size, out)
    status = write_parts(cpu, op, va, size, out)
    if status == 0 or status == ST_BREAK:
        set_control(cpu, cpu.fcw | FCW_MASKS)
    return after_write(cpu, op, status)


def h_fldenv(cpu, op):
    """SDM, FLDENV."""
    env: u32[7]
    data: u8[28]
    size: u32 = 14 if op.osize == 2 else 28
    status: cython.int = pending(cpu, op)
    if status:
        return status
    status = read_parts(cpu, op, linear(cpu, op), size, data)
    if status:
        return leave(cpu, op, status)
    unpack_environment(data, size, env)
    set_environment(cpu, env)
    return finish(cpu, op)


def h_fnsave(cpu, op):
    """SDM, FNSAVE: environment, then ST0-ST7 of 10 bytes; then FNINIT."""
    env: u32[7]
    out: u8[108]
    i: u32
    va: u64 = linear(cpu, op)
    size: u32 = 14 if op.osize == 2 else 28
    status: cython.int = probe_write(cpu, va, size + 80, cpu.mmu_idx)
    if status:
        return leave(cpu, op, status)
    get_environment(cpu, env)
    # FNSTENV masked all exceptions of the host, which were masked already: nothing to undo.
    pack_environment(env, size, out)
    fpu_pull(cpu)
    for i in range(8):
        memcpy(address(out[size + 10 * i]), cpu.fpu + FX_ST0 + 16 * i, 10)
    status = write_parts(cpu, op, va, size + 80, out)
    if status == 0 or status == ST_BREAK:
        init_x87(cpu)
    return after_write(cpu, op, status)


def h_frstor(cpu, op):
    """SDM, FRSTOR."""
    env: u32[7]
    data: u8[108]
    i: u32
    tags: u32 = 0
    size: u32 = 14 if op.osize == 2 else 28
    status: cython.int = pending(cpu, op)
    if status:
        return status
    status = read_parts(cpu, op, linear(cpu, op), size + 80, data)
    if status:
        return leave(cpu, op, status)
    unpack_environment(data, size, env)
    fpu_pull(cpu)
    for i in range(8):
        memcpy(cpu.fpu + FX_ST0 + 16 * i, address(data[size + 10 * i]), 10)
        if (env[ENV_FTW] >> (2 * i) & 3) != 3:
            tags |= cast(u32, 1) << i
    cpu.fcw = (env[ENV_FCW] & 0x1F7F) | 0x40
    cast(cython.pointer(u16), cpu.fpu + FX_FSW)[0] = cast(u16, env[ENV_FSW])
    cpu.fpu[FX_FTW] = cast(u8, tags)
    fpu_push(cpu)
    update_mode(cpu)
    return finish(cpu, op)


# ---- MXCSR -------------------------------------------------------------------------------


def h_ldmxcsr(cpu, op):
    """SDM, LDMXCSR: #GP(0) for a reserved bit."""
    value: u32 = 0
    status: cython.int = load(cpu, linear(cpu, op), 4, address(value))
    if status:
        return leave(cpu, op, status)
    if value & ~mxcsr_mask():
        return fault(cpu, op, EXC_GP, 0)
    cpu.mxcsr = value
    set_mxcsr(value | MXCSR_MASKS)
    update_mode(cpu)
    return finish(cpu, op)


def h_stmxcsr(cpu, op):
    """SDM, STMXCSR: the flags are live in the host."""
    value: u32 = (cpu.mxcsr & ~cast(u32, MXCSR_FLAGS)) | (get_mxcsr() & MXCSR_FLAGS)
    return after_write(cpu, op, store(cpu, linear(cpu, op), 4, address(value)))


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "fldcw": entry_of(h_fldcw),
        "fnstcw": entry_of(h_fnstcw),
        "fnstsw": entry_of(h_fnstsw),
        "fnclex": entry_of(h_fnclex),
        "fninit": entry_of(h_fninit),
        "fwait": entry_of(h_fwait),
        "emms": entry_of(h_emms),
        "fnstenv": entry_of(h_fnstenv),
        "fldenv": entry_of(h_fldenv),
        "fnsave": entry_of(h_fnsave),
        "frstor": entry_of(h_frstor),
        "ldmxcsr": entry_of(h_ldmxcsr),
        "stmxcsr": entry_of(h_stmxcsr),
    }
