# Model-specific registers: RDMSR and WRMSR after their privilege check.
from barevisor.cpu.bt.state cimport *

# Non-zero: #GP(0), nothing changed.
cdef int msr_read(Cpu* cpu, u32 index, u64* value) noexcept nogil
cdef int msr_write(Cpu* cpu, u32 index, u64 value) noexcept nogil
cdef void msr_reset(Cpu* cpu) noexcept nogil

# --- inside msr.py
cdef enum:
    IA32_TSC = 0x10
    IA32_PLATFORM_ID = 0x17
    IA32_APIC_BASE = 0x1B
    IA32_FEATURE_CONTROL = 0x3A
    IA32_TSC_ADJUST = 0x3B
    IA32_UCODE_WRITE = 0x79
    IA32_BIOS_SIGN_ID = 0x8B
    IA32_PLATFORM_INFO = 0xCE
    IA32_MTRRCAP = 0xFE
    IA32_SYSENTER_CS = 0x174
    IA32_SYSENTER_ESP = 0x175
    IA32_SYSENTER_EIP = 0x176
    IA32_MCG_CAP = 0x179
    IA32_MCG_STATUS = 0x17A
    IA32_MISC_ENABLE = 0x1A0
    IA32_DEBUGCTL = 0x1D9
    IA32_MTRR_BASE0 = 0x200
    IA32_MTRR_MASK7 = 0x20F
    IA32_MTRR_FIX64K = 0x250
    IA32_MTRR_FIX16K_0 = 0x258
    IA32_MTRR_FIX16K_1 = 0x259
    IA32_MTRR_FIX4K_0 = 0x268
    IA32_MTRR_FIX4K_7 = 0x26F
    IA32_PAT = 0x277
    IA32_MTRR_DEF_TYPE = 0x2FF
    IA32_PERF_CAPABILITIES = 0x345
    IA32_TSC_DEADLINE = 0x6E0
    IA32_PKRS = 0x6E1
    X2APIC_FIRST = 0x800
    X2APIC_LAST = 0x8FF
    KVM_WALL_CLOCK_OLD = 0x11
    KVM_SYSTEM_TIME_OLD = 0x12
    KVM_WALL_CLOCK = 0x4B564D00
    KVM_SYSTEM_TIME = 0x4B564D01
    KVM_ASYNC_PF = 0x4B564D02
    KVM_PV_EOI = 0x4B564D04

ctypedef enum Check:
    ANY                      # every value
    NONE                     # read-only
    LOW_32                   # bits 63:32 must be 0
    CANONICAL
    TYPES_PAT                # eight memory types, without the reserved ones
    TYPES_MTRR               # the same for fixed-range MTRRs
    ZERO                     # only 0

cdef u64* field(Cpu* cpu, u32 index, Check* check) noexcept nogil
cdef int mtrr_fixed_number(u32 index) noexcept nogil
cdef int valid_types(u64 value, u32 allowed) noexcept nogil
cdef int valid(u64 value, Check check) noexcept nogil
cdef int write_mtrr_variable(Cpu* cpu, u32 index, u64 value) noexcept nogil
cdef int read_special(Cpu* cpu, u32 index, u64* value) noexcept nogil
cdef int write_special(Cpu* cpu, u32 index, u64 value) noexcept nogil
cdef int write_kvm(Cpu* cpu, u32 index, u64 value) noexcept nogil
cdef int write_efer(Cpu* cpu, u64 value) noexcept nogil
cdef int write_base(Cpu* cpu, u32 segment, u64 value) noexcept nogil
cdef void move_tsc(Cpu* cpu, u64 adjust) noexcept nogil
