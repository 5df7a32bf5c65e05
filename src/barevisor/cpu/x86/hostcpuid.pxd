cdef extern from "cpuid.h":
    # A macro that assigns to its last four arguments.
    void __cpuid_count(unsigned int leaf, unsigned int subleaf, unsigned int eax,
                       unsigned int ebx, unsigned int ecx, unsigned int edx) nogil
