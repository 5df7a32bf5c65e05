# Compiled: handlers that exist only outside 64-bit mode.
cdef extern from *:
    int __builtin_parity(unsigned int x) nogil
