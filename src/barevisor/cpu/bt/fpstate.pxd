# Where the guest's x87, MMX, SSE and AVX state is, and how it gets there.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.native cimport fxsave64, fxrstor64, get_mxcsr, set_mxcsr

cdef enum:                   # offsets in an FXSAVE image (SDM, "FXSAVE")
    FX_FCW = 0
    FX_FSW = 2
    FX_FTW = 4
    FX_FOP = 6
    FX_FIP = 8
    FX_FDP = 16
    FX_MXCSR = 24
    FX_MXCSR_MASK = 28
    FX_ST0 = 32
    FX_XMM0 = 160
    XSAVE_HEADER = 512
    XSAVE_YMM = 576
    XSAVE_SIZE = 832         # x87, SSE and AVX
    FCW_INIT = 0x37F
    FCW_MASKS = 0x3F
    FSW_EXCEPTIONS = 0x3F
    FSW_ES_B = 0x8080
    MXCSR_INIT = 0x1F80
    MXCSR_FLAGS = 0x3F
    MXCSR_MASKS = 0x1F80
    XCR0_X87 = 1
    XCR0_SSE = 2
    XCR0_AVX = 4
    XCR0_KNOWN = 7

cdef void _host_form(Cpu* cpu, u8* image) noexcept nogil
cdef void _guest_form(Cpu* cpu, u8* image) noexcept nogil
# Run handler(cpu, op), and whatever it goes on to, with the guest's FP state in the host's FPU.
cdef int enter(Cpu* cpu, handler_t handler, Op* op) noexcept nogil
# While the guest runs: copy the live x87 state to cpu.fpu (and sticky flags to cpu.mxcsr), as the
# guest should see it: own control word, no host addresses.
cdef void fpu_pull(Cpu* cpu) noexcept nogil
# While the guest runs: cpu.fpu (the guest's view), cpu.fcw and cpu.mxcsr become live.
cdef void fpu_push(Cpu* cpu) noexcept nogil
# The reset state (INIT leaves it alone). Only while the guest does not run.
cdef void fpu_reset(Cpu* cpu) noexcept nogil
# The x87 part of an image in its initial state (FNINIT)
cdef void fpu_init_image(u8* image) noexcept nogil
# MXCSR bits that may be set
cdef u32 mxcsr_mask() noexcept nogil
# The guest's x87, SSE and AVX state (cpu.fpu pulled) as an area in XSAVE's standard format, and the
# `components` (XCR0_*) of one that are in use
cdef void xsave_to(Cpu* cpu, u8* out) noexcept nogil
cdef void xsave_from(Cpu* cpu, u8* data, u64 components) noexcept nogil
# Between Cpu and a standard XSAVE image of XSAVE_SIZE bytes. Only while the guest does not run.
cdef bytes xsave_image(Cpu* cpu)
# 0, or -1 when the image is malformed (too short, compacted, unknown components, bad MXCSR)
cdef int load_xsave_image(Cpu* cpu, bytes image) except -2
