# Bits of the control registers, and what every check of them needs. Knows no other module, so that
# those beneath arch.pxd (paging, the TLBs) share it.
from barevisor.cpu.bt.state cimport *

cdef enum:                   # SDM, "Control Registers"
    CR0_PE = 1
    CR0_MP = 2
    CR0_EM = 4
    CR0_TS = 8
    CR0_ET = 0x10
    CR0_NE = 0x20
    CR0_WP = 0x10000
    CR0_AM = 0x40000
    CR0_NW = 0x20000000
    CR0_CD = 0x40000000
    CR0_PG = 0x80000000
    CR4_VME = 1
    CR4_PVI = 2
    CR4_TSD = 4
    CR4_DE = 8
    CR4_PSE = 0x10
    CR4_PAE = 0x20
    CR4_PGE = 0x80
    CR4_PCE = 0x100
    CR4_OSFXSR = 0x200
    CR4_UMIP = 0x800
    CR4_FSGSBASE = 0x10000
    CR4_PCIDE = 0x20000
    CR4_OSXSAVE = 0x40000
    CR4_SMEP = 0x100000
    CR4_SMAP = 0x200000
    CR4_PKE = 0x400000
    CR4_PKS = 0x1000000
    EFER_SCE = 1
    EFER_LME = 0x100
    EFER_LMA = 0x400
    EFER_NXE = 0x800


cdef inline int set_fault(Cpu* cpu, u32 vector, u32 error) noexcept nogil:
    """Name the exception; whoever started the instruction says where (fault(), leave())."""
    cpu.fault_vector = vector
    cpu.fault_error = error
    return ST_FAULT


cdef inline u64 space_key(u64 cr3) noexcept nogil:
    """What tells address spaces apart: CR3 with its PCID, without the bit that keeps a TLB."""
    return cr3 & <u64> 0x000FFFFFFFFFFFFF


cdef inline bint canonical(u64 va) noexcept nogil:
    """SDM, "Canonical Addressing", with 48-bit linear addresses."""
    return (<u64> ((<i64> (va << 16)) >> 16)) == va
