# A CPU without memory or an interpreter: runs one thunk at a time.
from barevisor.cpu.bt.codemem cimport CodeMemory
from barevisor.cpu.bt.decode cimport RowFacts, decode, facts
from barevisor.cpu.bt.fpstate cimport enter, fpu_reset, xsave_image, load_xsave_image
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.thunk cimport thunk_for, ret_handler

cdef class ThunkCpu:
    cdef void* room
    cdef Cpu* cpu
    cdef Block block
    cdef Op ops[3]
    cdef CodeMemory code
    cdef thunk_t thunk
    cdef u8* host
    cdef int prepare(self, bytes code, u32 mode, u32 flags_live) except -1
