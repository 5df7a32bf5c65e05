from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.direct cimport direct_wanted

cdef void update_mode(Cpu* cpu) noexcept nogil
cdef u32 code_mode(Cpu* cpu) noexcept nogil
cdef u32 feature_mode(Cpu* cpu) noexcept nogil
