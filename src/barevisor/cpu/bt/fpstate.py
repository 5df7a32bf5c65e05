"""Where the guest's floating-point and vector state is.

While the guest runs, its x87 and MMX registers are live in the host's FPU, so that an x87
instruction is executed as it is; YMM registers lie in cpu.vec and are loaded by each thunk. The
host's control words hold what the guest wrote, with every exception masked: an unmasked one would
be a SIGFPE of this process. cpu.fcw and cpu.mxcsr have the guest's own masks, and MODE_FP_TRAP
tells the binder to check after each instruction when some are unmasked. The sticky flags of
MXCSR are live in the host; cpu.mxcsr gets them in fpu_pull and when the guest stops.

The pointers to the last x87 instruction and operand would be host addresses; they read as zero.
"""

import cython
from cython import address, cast
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.libc.string import memcpy, memset


def _host_form(cpu, image):
    """Make an x87 image loadable: all exceptions masked, nothing pending, guest's MXCSR."""
    fsw: cython.pointer(u16) = cast(cython.pointer(u16), image + FX_FSW)
    cast(cython.pointer(u16), image + FX_FCW)[0] = cast(u16, (cpu.fcw & 0xF3F) | FCW_MASKS | 0x40)
    fsw[0] &= cast(u16, ~FSW_ES_B & 0xFFFF)
    cast(cython.pointer(u32), image + FX_MXCSR)[0] = (cpu.mxcsr & mxcsr_mask()) | MXCSR_MASKS


def _guest_form(cpu, image):
    """What fxsave64 stored, as the guest would have seen it. Collects the sticky SSE flags."""
    fsw: cython.pointer(u16) = cast(cython.pointer(u16), image + FX_FSW)
    mxcsr: cython.pointer(u32) = cast(cython.pointer(u32), image + FX_MXCSR)
    cpu.mxcsr = (cpu.mxcsr & ~cast(u32, MXCSR_FLAGS)) | (mxcsr[0] & MXCSR_FLAGS)
    mxcsr[0] = cpu.mxcsr
    cast(cython.pointer(u16), image + FX_FCW)[0] = cast(u16, cpu.fcw)
    fsw[0] &= cast(u16, ~FSW_ES_B & 0xFFFF)
    if fsw[0] & ~cpu.fcw & FSW_EXCEPTIONS:
        fsw[0] |= FSW_ES_B
    memset(image + FX_FOP, 0, FX_MXCSR - FX_FOP)


def enter(cpu, handler, op):
    """See fpstate.pxd. The vector registers need no care: a call may change them all."""
    room: u8[528]
    host: cython.p_void = cast(cython.p_void, (cast(u64, address(room[0])) + 15) & ~cast(u64, 15))
    status: cython.int
    fxsave64(host)
    _host_form(cpu, cpu.fpu)
    fxrstor64(cpu.fpu)
    status = handler(cpu, op)
    fxsave64(cpu.fpu)
    fxrstor64(host)
    _guest_form(cpu, cpu.fpu)
    return status


def fpu_pull(cpu):
    """See fpstate.pxd."""
    fxsave64(cpu.fpu)
    _guest_form(cpu, cpu.fpu)


def fpu_push(cpu):
    """See fpstate.pxd."""
    _host_form(cpu, cpu.fpu)
    fxrstor64(cpu.fpu)


def fpu_init_image(image):
    """SDM, FINIT: FCW 37F, everything else zero, all registers empty (abridged tag 0)."""
    memset(image, 0, FX_MXCSR)
    cast(cython.pointer(u16), image + FX_FCW)[0] = FCW_INIT


def fpu_reset(cpu):
    """SDM, "Processor State After Reset". The reset tag word is 5555 (all zero), not empty; FCW
    is 40: every exception unmasked. Systems run FNINIT first; we start there, like KVM."""
    fpu_init_image(cpu.fpu)
    memset(cpu.fpu + FX_ST0, 0, 512 - FX_ST0)
    memset(cpu.vec, 0, 512)
    cpu.fcw = FCW_INIT
    cpu.mxcsr = MXCSR_INIT


def mxcsr_mask():
    """All bits of MXCSR that x86-64 CPUs have had since SSE2 (DAZ included)."""
    return 0xFFFF


# ---- CpuState ----------------------------------------------------------------------------


def xsave_to(cpu, out):
    """See fpstate.pxd."""
    i: cython.int
    memcpy(out, cpu.fpu, FX_XMM0)
    cast(cython.pointer(u16), out + FX_FCW)[0] = cast(u16, cpu.fcw)
    cast(cython.pointer(u32), out + FX_MXCSR)[0] = cpu.mxcsr
    cast(cython.pointer(u32), out + FX_MXCSR_MASK)[0] = mxcsr_mask()
    for i in range(16):
        memcpy(out + FX_XMM0 + 16 * i, cpu.vec + 32 * i, 16)
        memcpy(out + XSAVE_YMM + 16 * i, cpu.vec + 32 * i + 16, 16)
    memset(out + XSAVE_HEADER, 0, XSAVE_YMM - XSAVE_HEADER)
    out[XSAVE_HEADER] = XCR0_KNOWN


def xsave_image(cpu):
    """x87, SSE and AVX in the standard format, all three marked as in use."""
    image = bytes(XSAVE_SIZE)
    xsave_to(cpu, cast(cython.pointer(u8), PyBytes_AS_STRING(image)))
    return image


def xsave_from(cpu, data, components):
    """See fpstate.pxd."""
    i: cython.int
    if components & XCR0_X87:
        memcpy(cpu.fpu, data, FX_MXCSR)
        memcpy(cpu.fpu + FX_ST0, data + FX_ST0, FX_XMM0 - FX_ST0)
        cpu.fcw = cast(cython.pointer(u16), data)[0]
    if components & (XCR0_SSE | XCR0_AVX):
        cpu.mxcsr = cast(cython.pointer(u32), data + FX_MXCSR)[0]
    for i in range(16):
        if components & XCR0_SSE:
            memcpy(cpu.vec + 32 * i, data + FX_XMM0 + 16 * i, 16)
        if components & XCR0_AVX:
            memcpy(cpu.vec + 32 * i + 16, data + XSAVE_YMM + 16 * i, 16)


def load_xsave_image(cpu, image):
    """A component whose XSTATE_BV bit is clear takes its initial state, as XRSTOR does."""
    data: cython.pointer(u8) = cast(cython.pointer(u8), PyBytes_AS_STRING(image))
    size: cython.Py_ssize_t = PyBytes_GET_SIZE(image)
    if size == 0:
        fpu_reset(cpu)
        return 0
    if size < XSAVE_HEADER + 64:
        return -1
    header: cython.pointer(u64) = cast(cython.pointer(u64), data + XSAVE_HEADER)
    mxcsr: u32 = cast(cython.pointer(u32), data + FX_MXCSR)[0]
    if header[0] & ~cast(u64, XCR0_KNOWN) or header[1] or mxcsr & ~mxcsr_mask():
        return -1
    if header[0] & XCR0_AVX and size < XSAVE_SIZE:
        return -1
    fpu_reset(cpu)
    xsave_from(cpu, data, header[0])
    return 0
