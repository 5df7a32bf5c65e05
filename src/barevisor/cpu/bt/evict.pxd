from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.trace cimport Translator

cdef enum:
    SITE_CALL_BYTES = 9      # of a site's call with its number

# All translations are gone (no CPU runs any): code memory holds only the stubs.
cdef void evict_all(Vm* vm) noexcept nogil
# The ways into one translation lead out again: its code was overwritten.
cdef void evict_trace(Vm* vm, Block* trace) noexcept nogil
# They lead to the translation that took its place
cdef void evict_forward(Translator* tr, Block* dead, Block* trace) noexcept nogil
