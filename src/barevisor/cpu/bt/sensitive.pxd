# Instructions that user mode may execute, and whose result would be the host's and not the guest's.
from barevisor.cpu.bt.state cimport *

cdef enum:
    SENSITIVE_CPUID = 1      # what else is sensitive on this host: CPUID does not fault there
    SENSITIVE_XSAVE = 2      # XCR0 is not the guest's

# Does one of them start in the page of code at `code`? `behind`: the page behind it, or NULL.
cdef bint sensitive(u8* code, u8* behind, u32 also) noexcept nogil
