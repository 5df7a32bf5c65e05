from barevisor.cpu.bt.state cimport *

# Translate from the interpreted block `head`, which gets `trace`. 0, or -1: out of memory (drop
# everything and go on interpreting).
cdef int translate_block(Cpu* cpu, Block* head) noexcept nogil
