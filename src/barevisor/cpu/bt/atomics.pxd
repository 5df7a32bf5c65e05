# What several threads change at once: GCC's builtins, each a full barrier. By operand size where the
# size is the guest's.
from barevisor.cpu.bt.state cimport *

cdef extern from * nogil:
    u32 __sync_fetch_and_or(u32* at, u32 bits)
    u32 __sync_fetch_and_and(u32* at, u32 bits)
    u32 __sync_fetch_and_add(u32* at, u32 value)
    u32 __sync_lock_test_and_set(u32* at, u32 value)
    void __sync_lock_release(u32* at)
    void __sync_synchronize()
    u8 __sync_fetch_and_or_1(u8* at, u8 bits)
    u16 __sync_fetch_and_or_2(u16* at, u16 bits)
    u16 __sync_fetch_and_and_2(u16* at, u16 bits)
    u16 __sync_fetch_and_xor_2(u16* at, u16 bits)
    u32 __sync_fetch_and_or_4(u32* at, u32 bits)
    u32 __sync_fetch_and_and_4(u32* at, u32 bits)
    u32 __sync_fetch_and_xor_4(u32* at, u32 bits)
    u64 __sync_fetch_and_or_8(u64* at, u64 bits)
    u64 __sync_fetch_and_and_8(u64* at, u64 bits)
    u64 __sync_fetch_and_xor_8(u64* at, u64 bits)
    bint __sync_bool_compare_and_swap_4(u32* at, u32 old, u32 new)
    bint __sync_bool_compare_and_swap_8(u64* at, u64 old, u64 new)
