# Instructions that user mode may execute, and whose result would be the host's and not the guest's.
from barevisor.cpu.bt.state cimport *

cdef enum:
    SENSITIVE_CPUID = 1      # what else is sensitive on this host: CPUID does not fault there
    SENSITIVE_XSAVE = 2      # XCR0 is not the guest's
    SENSITIVE_RDTSCP = 4     # the host's IA32_TSC_AUX is not, but its TSC is
    SENSITIVE_MAX = 4

# Where they start in the page of code at `code`, also those that reach into it or out of it: up to
# SENSITIVE_MAX offsets in `found`, and how many there are, or more than that. `before`, `behind`: the
# pages there, or NULL. Who crosses into a page that is not to be seen, is found with that page.
cdef u32 sensitive(u8* code, u8* before, u8* behind, u32 also, i16* found) noexcept nogil
