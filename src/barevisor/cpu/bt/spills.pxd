# Guest registers without a host register of their own, while translated code works on them.
from barevisor.cpu.bt.trace cimport *

# The guest registers (bits) whose old value an instruction needs, of those that are spilled.
cdef u32 spills_needed(Insn* insn, RowFacts* f) noexcept nogil
# The scratch register that has spilled register `number`. It is loaded if `load`, and is stored some
# time later if `write`. Not another that this instruction was given (Work.pinned).
cdef u32 spill_use(Work* w, u32 number, bint load, bint write) noexcept nogil
# The same in a scratch register of one's choice, to read; nothing held may be unstored.
cdef void spill_load(Work* w, u32 reg, u32 number) noexcept nogil
# struct Cpu has all of them; the scratch registers still hold what they held.
cdef void spills_store(Work* w) noexcept nogil
# Scratch register `reg` is about to be used for something else.
cdef void spill_lose(Work* w, u32 reg) noexcept nogil
# The scratch registers are about to be used for something else, or to be lost in a call of the VMM.
cdef void spills_forget(Work* w) noexcept nogil
