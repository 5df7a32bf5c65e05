from barevisor.cpu.bt.state cimport *

cdef extern from *:
    u64 __sync_fetch_and_or_8(u64* at, u64 bits) nogil
    u64 __sync_fetch_and_and_8(u64* at, u64 bits) nogil
    u64 __sync_fetch_and_xor_8(u64* at, u64 bits) nogil
    u32 __sync_fetch_and_or_4(u32* at, u32 bits) nogil
    u32 __sync_fetch_and_and_4(u32* at, u32 bits) nogil
    u32 __sync_fetch_and_xor_4(u32* at, u32 bits) nogil
    u16 __sync_fetch_and_or_2(u16* at, u16 bits) nogil
    u16 __sync_fetch_and_and_2(u16* at, u16 bits) nogil
    u16 __sync_fetch_and_xor_2(u16* at, u16 bits) nogil
