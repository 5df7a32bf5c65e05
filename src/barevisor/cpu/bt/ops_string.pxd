# Compiled: handlers of string instructions.
cdef extern from *:
    int __builtin_parity(unsigned int x) nogil
