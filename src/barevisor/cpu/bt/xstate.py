"""FXSAVE, FXRSTOR, the XSAVE family, XGETBV and XSETBV.

State components are x87, SSE and AVX, at the offsets of SDM, "XSAVE-Managed Features": 512 bytes
of legacy region, 64 of header, the upper halves of YMM0-15 at 576 in both formats (AVX is the
first extended component, so compaction does not move it). Whether a component is in use is
decided by its contents, which the manual allows and which makes it deterministic.
"""

import cython
from cython import address, cast
from cython.cimports.libc.string import memcpy, memset

from barevisor.cpu.x86.instructions import FEATURES

COMPACT_BIT: u64 = cython.declare(u64, 1 << 63)
HAS_AVX: u64 = cython.declare(u64, 1 << FEATURES.index("avx"))
HAS_XSAVEC: u64 = cython.declare(u64, 1 << FEATURES.index("xsavec"))


# ---- guest memory in parts ---------------------------------------------------------------


def read_parts(cpu, op, va, size, out):
    """See xstate.pxd."""
    done: u32 = 0
    status: cython.int
    part: u32
    while done < size:
        part = min(size - done, cast(u32, PART))
        status = load(cpu, va + done, part, cast(cython.pointer(u8), out) + done)
        if status:
            return status
        done += part
    return 0


def write_parts(cpu, op, va, size, data):
    """See xstate.pxd."""
    done: u32 = 0
    status: cython.int
    result: cython.int = 0
    part: u32
    while done < size:
        part = min(size - done, cast(u32, PART))
        status = store(cpu, va + done, part, cast(cython.pointer(u8), data) + done)
        if status == ST_BREAK:
            result = ST_BREAK
        elif status:
            return status
        done += part
    return result


def after_write(cpu, op, status):
    """See xstate.pxd."""
    if status == 0:
        return finish(cpu, op)
    if status == ST_BREAK:
        return leave_after(cpu, op)
    return leave(cpu, op, status)


# ---- FXSAVE, FXRSTOR ---------------------------------------------------------------------


def vector_count(cpu):
    """XMM8-15 exist in 64-bit mode only."""
    return 16 if in_code64(cpu) else 8


def legacy_image(cpu, image):
    """The 416 bytes that FXSAVE writes, from live state."""
    i: u32
    fpu_pull(cpu)
    memcpy(image, cpu.fpu, FX_XMM0)
    cast(cython.pointer(u32), image + FX_MXCSR)[0] = cpu.mxcsr
    cast(cython.pointer(u32), image + FX_MXCSR_MASK)[0] = mxcsr_mask()
    for i in range(16):
        memcpy(image + FX_XMM0 + 16 * i, cpu.vec + 32 * i, 16)


def h_fxsave(cpu, op):
    """SDM, FXSAVE: #NM if EM or TS; 16-byte alignment or #GP(0)."""
    image: u8[512]
    va: u64 = linear(cpu, op)
    status: cython.int
    if cpu.cr0 & (CR0_EM | CR0_TS):
        return fault(cpu, op, EXC_NM, NO_ERROR)
    if va & 15:
        return fault(cpu, op, EXC_GP, 0)
    status = probe_write(cpu, va, 512, cpu.mmu_idx)
    if status:
        return leave(cpu, op, status)
    legacy_image(cpu, image)
    status = write_parts(cpu, op, va, FX_XMM0 + 16 * vector_count(cpu), image)
    return after_write(cpu, op, status)


def h_fxrstor(cpu, op):
    """SDM, FXRSTOR: as FXSAVE, and #GP(0) for reserved bits of MXCSR."""
    image: u8[512]
    va: u64 = linear(cpu, op)
    status: cython.int
    mxcsr: u32
    if cpu.cr0 & (CR0_EM | CR0_TS):
        return fault(cpu, op, EXC_NM, NO_ERROR)
    if va & 15:
        return fault(cpu, op, EXC_GP, 0)
    status = read_parts(cpu, op, va, 512, image)
    if status:
        return leave(cpu, op, status)
    mxcsr = cast(cython.pointer(u32), address(image[FX_MXCSR]))[0]
    if mxcsr & ~mxcsr_mask():
        return fault(cpu, op, EXC_GP, 0)
    cpu.mxcsr = mxcsr
    load_x87(cpu, image)
    load_vectors(cpu, address(image[FX_XMM0]), 0)
    fpu_push(cpu)
    update_mode(cpu)
    return finish(cpu, op)


# ---- XSAVE -------------------------------------------------------------------------------


def any_set(data, size):
    """Is any byte nonzero?"""
    i: u32
    for i in range(size):
        if data[i]:
            return True
    return False


def components_in_use(cpu):
    """XINUSE (SDM, "Processor Tracking of XSAVE-Managed State"), from the contents."""
    use: u64 = 0
    i: u32
    if (
        cpu.fcw != FCW_INIT
        or any_set(cpu.fpu + FX_FSW, FX_MXCSR - FX_FSW)
        or any_set(cpu.fpu + FX_ST0, FX_XMM0 - FX_ST0)
    ):
        use = XCR0_X87
    if cpu.mxcsr != MXCSR_INIT:
        use |= XCR0_SSE
    for i in range(16):
        if any_set(cpu.vec + 32 * i, 16):
            use |= XCR0_SSE
        if any_set(cpu.vec + 32 * i + 16, 16):
            use |= XCR0_AVX
    return use


def requested(cpu):
    """RFBM: EDX:EAX and XCR0."""
    wanted: u64 = cast(u32, cpu.regs[2])
    return (wanted << 32 | cast(u32, cpu.regs[0])) & cpu.xcr0


def refuse_xsave(cpu, op, va, how):
    """The checks that all XSAVE and XRSTOR instructions make first: a fault's status, or 0."""
    if not cpu.cr4 & CR4_OSXSAVE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cpu.cr0 & CR0_TS:
        return fault(cpu, op, EXC_NM, NO_ERROR)
    if how & SUPERVISOR and cpu.cpl != 0:
        return fault(cpu, op, EXC_GP, 0)
    if va & 63:
        return fault(cpu, op, EXC_GP, 0)
    return 0


def save_components(cpu, op, va, what, image):
    """Write the state components in `what`; the range is known to be writable."""
    upper: u8[256]
    i: u32
    result: cython.int = 0
    count: u32 = vector_count(cpu)
    if what & XCR0_X87:
        result |= write_parts(cpu, op, va, FX_MXCSR, image)
        result |= write_parts(cpu, op, va + FX_ST0, FX_XMM0 - FX_ST0, image + FX_ST0)
    if what & XCR0_SSE:
        result |= write_parts(cpu, op, va + FX_XMM0, 16 * count, image + FX_XMM0)
    if what & XCR0_AVX:
        for i in range(16):
            memcpy(address(upper[16 * i]), cpu.vec + 32 * i + 16, 16)
        result |= write_parts(cpu, op, va + XSAVE_YMM, 16 * count, upper)
    return result


def save(cpu, op, how):
    """SDM, XSAVE, XSAVEOPT, XSAVEC, XSAVES (with IA32_XSS = 0)."""
    image: u8[512]
    header: u64[2]
    va: u64 = linear(cpu, op)
    rfbm: u64 = requested(cpu)
    used: u64
    status: cython.int = refuse_xsave(cpu, op, va, how)
    if status:
        return status
    status = probe_write(cpu, va, XSAVE_SIZE if rfbm & XCR0_AVX else XSAVE_YMM, cpu.mmu_idx)
    if status == 0:
        status = read_parts(cpu, op, va + XSAVE_HEADER, 16, header)
    if status:
        return leave(cpu, op, status)
    legacy_image(cpu, image)
    used = components_in_use(cpu) & rfbm
    status = save_components(cpu, op, va, used if how & KEEP_INIT else rfbm, image)
    # MXCSR belongs to SSE in the compacted format, to SSE and AVX in the standard one.
    if (used & XCR0_SSE) if how & COMPACT else (rfbm & (XCR0_SSE | XCR0_AVX)):
        status |= write_parts(cpu, op, va + FX_MXCSR, 8, address(image[FX_MXCSR]))
    if how & COMPACT:
        header[0] = used
        header[1] = rfbm | COMPACT_BIT
    else:
        header[0] = (header[0] & ~rfbm) | used
    status |= write_parts(cpu, op, va + XSAVE_HEADER, 16 if how & COMPACT else 8, header)
    return after_write(cpu, op, status)


def h_xsave(cpu, op):
    """SDM, XSAVE."""
    return save(cpu, op, 0)


def h_xsaveopt(cpu, op):
    """SDM, XSAVEOPT: without the modified optimization, which is optional."""
    return save(cpu, op, KEEP_INIT)


def h_xsavec(cpu, op):
    """SDM, XSAVEC."""
    return save(cpu, op, KEEP_INIT | COMPACT)


def h_xsaves(cpu, op):
    """SDM, XSAVES."""
    return save(cpu, op, KEEP_INIT | COMPACT | SUPERVISOR)


# ---- XRSTOR ------------------------------------------------------------------------------


def header_ok(cpu, header, how):
    """SDM, XRSTOR, "protected mode exceptions": what in the header is #GP(0)."""
    i: u32
    if header[1] & COMPACT_BIT:
        if header[1] & ~COMPACT_BIT & ~cpu.xcr0 or header[0] & ~header[1]:
            return False
        for i in range(2, 8):
            if header[i]:
                return False
        return True
    if how & COMPACT:
        return False
    return not (header[0] & ~cpu.xcr0 or header[1] or header[2])


def load_x87(cpu, image):
    """The x87 part of an image becomes cpu.fpu and cpu.fcw; not live before fpu_push."""
    memcpy(cpu.fpu, image, FX_MXCSR)
    memset(cpu.fpu + FX_FOP, 0, FX_MXCSR - FX_FOP)
    memcpy(cpu.fpu + FX_ST0, image + FX_ST0, FX_XMM0 - FX_ST0)
    cpu.fcw = (cast(cython.pointer(u16), image)[0] & 0x1F7F) | 0x40


def load_vectors(cpu, data, half):
    """Lower (0) or upper (1) halves of the YMM registers; NULL: zero."""
    i: u32
    for i in range(vector_count(cpu)):
        if data == cython.NULL:
            memset(cpu.vec + 32 * i + 16 * half, 0, 16)
        else:
            memcpy(cpu.vec + 32 * i + 16 * half, data + 16 * i, 16)


def restore_components(cpu, what, given, image):
    """Load or initialize each component in `what`; `image` is a standard one."""
    if what & XCR0_X87:
        if not given & XCR0_X87:
            memset(image, 0, FX_MXCSR)
            memset(image + FX_ST0, 0, FX_XMM0 - FX_ST0)
            fpu_init_image(image)
        load_x87(cpu, image)
    if what & XCR0_SSE:
        load_vectors(cpu, image + FX_XMM0 if given & XCR0_SSE else cython.NULL, 0)
    if what & XCR0_AVX:
        load_vectors(cpu, image + XSAVE_YMM if given & XCR0_AVX else cython.NULL, 1)


def restore(cpu, op, how):
    """SDM, XRSTOR and XRSTORS. Everything is read before anything changes."""
    image: u8[832]
    header: cython.pointer(u64) = cast(cython.pointer(u64), address(image[XSAVE_HEADER]))
    mxcsr: cython.pointer(u32) = cast(cython.pointer(u32), address(image[FX_MXCSR]))
    va: u64 = linear(cpu, op)
    rfbm: u64 = requested(cpu)
    status: cython.int = refuse_xsave(cpu, op, va, how)
    if status:
        return status
    status = read_parts(cpu, op, va, XSAVE_YMM, image)
    if status:
        return leave(cpu, op, status)
    if not header_ok(cpu, header, how):
        return fault(cpu, op, EXC_GP, 0)
    if rfbm & header[0] & XCR0_AVX:
        status = read_parts(cpu, op, va + XSAVE_YMM, XSAVE_SIZE - XSAVE_YMM, address(image[576]))
        if status:
            return leave(cpu, op, status)
    if header[1] and not header[0] & XCR0_SSE:
        mxcsr[0] = MXCSR_INIT
    fpu_pull(cpu)
    if rfbm & XCR0_SSE or (rfbm & XCR0_AVX and not header[1]):
        if mxcsr[0] & ~mxcsr_mask():
            return fault(cpu, op, EXC_GP, 0)
        cpu.mxcsr = mxcsr[0]
    restore_components(cpu, rfbm, header[0], image)
    fpu_push(cpu)
    update_mode(cpu)
    return finish(cpu, op)


def h_xrstor(cpu, op):
    """SDM, XRSTOR."""
    return restore(cpu, op, 0)


def h_xrstors(cpu, op):
    """SDM, XRSTORS: the compacted format alone."""
    return restore(cpu, op, COMPACT | SUPERVISOR)


# ---- XCR0 --------------------------------------------------------------------------------


def h_xgetbv(cpu, op):
    """SDM, XGETBV: XCR0, or with ECX = 1 the components of it in use."""
    value: u64 = cpu.xcr0
    if not cpu.cr4 & CR4_OSXSAVE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if cast(u32, cpu.regs[1]) == 1 and features_of(cpu) & HAS_XSAVEC:
        fpu_pull(cpu)
        value &= components_in_use(cpu)
    elif cast(u32, cpu.regs[1]):
        return fault(cpu, op, EXC_GP, 0)
    cpu.regs[0] = cast(u32, value)
    cpu.regs[2] = value >> 32
    return finish(cpu, op)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def features_of(cpu: cython.pointer(Cpu)) -> u64:
    """FEATURES as one word."""
    return cast(u64, cpu.features2) << 32 | cpu.features


def h_xsetbv(cpu, op):
    """SDM, XSETBV: CPL 0, ECX 0; x87 always on, AVX only with SSE, nothing unknown."""
    value: u64 = cast(u32, cpu.regs[2])
    allowed: u64 = XCR0_KNOWN if features_of(cpu) & HAS_AVX else XCR0_X87 | XCR0_SSE
    value = value << 32 | cast(u32, cpu.regs[0])
    if not cpu.cr4 & CR4_OSXSAVE:
        return fault(cpu, op, EXC_UD, NO_ERROR)
    if (
        cpu.cpl != 0
        or cast(u32, cpu.regs[1]) != 0
        or value & ~allowed
        or not value & XCR0_X87
        or (value & XCR0_AVX and not value & XCR0_SSE)
    ):
        return fault(cpu, op, EXC_GP, 0)
    cpu.xcr0 = value
    update_mode(cpu)
    return finish(cpu, op)


def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
    return {
        "fxsave": entry_of(h_fxsave),
        "fxrstor": entry_of(h_fxrstor),
        "xsave": entry_of(h_xsave),
        "xsaveopt": entry_of(h_xsaveopt),
        "xsavec": entry_of(h_xsavec),
        "xsaves": entry_of(h_xsaves),
        "xrstor": entry_of(h_xrstor),
        "xrstors": entry_of(h_xrstors),
        "xgetbv": entry_of(h_xgetbv),
        "xsetbv": entry_of(h_xsetbv),
    }
