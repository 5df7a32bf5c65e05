# Host machine code of translations: a buffer, and the instructions that a translation is made of.
# Registers are host numbers. `disp` of gs_* is a byte offset of struct Cpu.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.emit cimport Form
from barevisor.cpu.bt.space cimport CPU_SPAN

cdef enum:
    ASM_ROOM = 24576
    R_NONE = 255
    H_RAX = 0
    H_SP = 9                 # the guest's RSP lives in the host's R9
    S1 = 10                  # scratch; the guest's R9, R10 and R11 live in struct Cpu
    S0 = 11                  # scratch; the linear address, where a stub wants one
    CC_O = 0
    CC_E = 4
    CC_NE = 5

cdef struct Asm:
    u32 size
    u32 overflow             # did not fit: the code must not be used
    u64 base                 # host address that byte 0 will have
    u32 split                # from this byte on it will lie elsewhere: `gap` bytes further
    u32 gap
    u8 bytes[24576]

cdef inline void a1(Asm* a, u32 value) noexcept nogil:
    if a.size < ASM_ROOM - 16:
        a.bytes[a.size] = <u8> value
        a.size += 1
    else:
        a.overflow = 1

cdef inline void a4(Asm* a, u32 value) noexcept nogil:
    a1(a, value & 0xFF)
    a1(a, value >> 8 & 0xFF)
    a1(a, value >> 16 & 0xFF)
    a1(a, value >> 24)

cdef inline void a8(Asm* a, u64 value) noexcept nogil:
    a4(a, <u32> value)
    a4(a, <u32> (value >> 32))

cdef inline u32 field_of(void* at) noexcept nogil:
    """The offset of a field, given where it is in a struct at address 0."""
    return <u32> <size_t> at

# opcode reg, gs:[disp] (or the other way round); `w`: 64 bits
cdef void gs_op(Asm* a, u32 opcode, u32 reg, u32 field, u32 w) noexcept nogil
cdef void gs_load(Asm* a, u32 reg, u32 field) noexcept nogil
cdef void gs_store(Asm* a, u32 reg, u32 field) noexcept nogil
# cmp dword gs:[field], 0
cdef void gs_test(Asm* a, u32 field) noexcept nogil
# mov dword gs:[field], imm
cdef void gs_set(Asm* a, u32 field, u32 value) noexcept nogil
cdef void mov_rr(Asm* a, u32 to, u32 source) noexcept nogil
cdef void mov_imm64(Asm* a, u32 to, u64 value) noexcept nogil
# lea to, [base + index * 2**scale + disp]; base or index may be R_NONE
cdef void lea(Asm* a, u32 to, u32 base, u32 index, u32 scale, u32 disp, u32 size) noexcept nogil
# mov to, [base + index], mov [base + index], source; index may be R_NONE
cdef void load_host(Asm* a, u32 to, u32 base, u32 index) noexcept nogil
cdef void store_host(Asm* a, u32 source, u32 base, u32 index) noexcept nogil
cdef void load_at(Asm* a, u32 to, u32 base, u32 disp) noexcept nogil
cdef void cmp_host(Asm* a, u32 reg, u32 base, u32 disp) noexcept nogil
# cmp [base + disp], the 1, 2 or 4 bytes at `value`
cdef void cmp_value(Asm* a, u32 base, u32 disp, u32 size, u8* value) noexcept nogil
# The address of a code TLB's entry (32 bytes each, at *gs:[field]) for the linear address in `reg`
cdef void code_entry(Asm* a, u32 to, u32 reg, u32 field, u32 mask) noexcept nogil
# jmp and jcc with a 32-bit displacement: the offset of that displacement, to be bound later
cdef u32 jmp(Asm* a) noexcept nogil
cdef u32 jcc(Asm* a, u32 condition) noexcept nogil
# The same, the displacement on a multiple of four, so that it can be replaced at one stroke
cdef u32 jmp_aligned(Asm* a) noexcept nogil
cdef u32 jcc_aligned(Asm* a, u32 condition) noexcept nogil
cdef void bind_here(Asm* a, u32 at) noexcept nogil
cdef void bind_to(Asm* a, u32 at, u32 place) noexcept nogil
# call to a host address within 2 GiB
cdef void call_host(Asm* a, u64 target) noexcept nogil
# An empty buffer whose bytes will lie at `base`
cdef void asm_start(Asm* a, u64 base) noexcept nogil
# What follows will lie at `base`
cdef void asm_split(Asm* a, u64 base) noexcept nogil
# Where byte `offset` will lie, from Asm.base
cdef inline u32 placed(Asm* a, u32 offset) noexcept nogil:
    return offset + a.gap if offset >= a.split else offset

# An instruction, its memory operand (if form.mem) being [base + index]
cdef void put(Asm* a, Form* form, u32 base, u32 index) noexcept nogil
# S1 = a register rotated right; no flag changes
cdef void rotated(Asm* a, u32 reg, u32 count) noexcept nogil
# The page-table entry of the address in `reg`: S1 = delta, ZF set when there is none
cdef void look_up(Asm* a, u32 reg, u32 table_disp) noexcept nogil
# Arithmetic flags between the host's EFLAGS and Cpu.fl. Saving changes S0, loading no register.
cdef void save_flags(Asm* a) noexcept nogil
cdef void restore_flags(Asm* a) noexcept nogil
