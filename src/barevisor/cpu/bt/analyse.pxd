from barevisor.cpu.bt.trace cimport *

cdef u8 _rule[1024]          # ACT_* by RowFacts.exec
cdef u32 _condition[8]       # flags that are read, by condition code without its lowest bit

cdef bint is_spilled(u32 number) noexcept nogil
cdef u32 host_of(u32 number) noexcept nogil
cdef u32 spills_of(Insn* insn, RowFacts* f) noexcept nogil
# Is an operand AH, CH, DH or BH?
cdef bint high_byte(Insn* insn, RowFacts* f) noexcept nogil
cdef void gather_code(Work* w) noexcept nogil
cdef i32 branch_target(Work* w, u32 i) noexcept nogil
cdef u32 flags_needed(Work* w, i32 target) noexcept nogil
cdef void find_liveness(Work* w) noexcept nogil
cdef u32 undefined_behind(Work* w) noexcept nogil
