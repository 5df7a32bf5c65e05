# Host instructions that C reaches through compiler builtins.
from barevisor.cpu.bt.state cimport u32, u64

cdef extern from *:
    u64 rdtsc "__builtin_ia32_rdtsc"() noexcept nogil
    void pause "__builtin_ia32_pause"() noexcept nogil
    # 512 bytes, 16-byte aligned: x87, XMM0-15 and MXCSR, with 64-bit pointers
    void fxsave64 "__builtin_ia32_fxsave64"(void* image) noexcept nogil
    void fxrstor64 "__builtin_ia32_fxrstor64"(void* image) noexcept nogil
    u32 get_mxcsr "__builtin_ia32_stmxcsr"() noexcept nogil
    void set_mxcsr "__builtin_ia32_ldmxcsr"(u32 value) noexcept nogil
    u32 fnstsw "__builtin_ia32_fnstsw"() noexcept nogil
    void fnclex "__builtin_ia32_fnclex"() noexcept nogil
    # The 28-byte protected-mode environment
    void fnstenv "__builtin_ia32_fnstenv"(void* env) noexcept nogil
    void fldenv "__builtin_ia32_fldenv"(void* env) noexcept nogil
