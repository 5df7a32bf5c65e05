from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.arch cimport *
from barevisor.cpu.bt.paging cimport ACCESS_READ, pdptes_valid, translate
from barevisor.cpu.bt.tlb cimport tlb_flush, tlb_flush_page
from barevisor.cpu.bt.mode cimport update_mode
from barevisor.cpu.bt.space cimport space_flush_user
from barevisor.cpu.bt.apic cimport apic_get_tpr, apic_set_tpr

cdef enum:
    CR0_VALID_LOW = 0x6005003F   # all defined bits but PG
    DR6_WRITABLE = 0xE00F        # B0-B3 BD BS BT
    DR7_GD = 0x2000
    CR4_PAGING = 0x17200B0       # PSE PAE PGE PCIDE SMEP SMAP PKE PKS: translations depend on them

# Write a control register with every check; 0 or ST_FAULT (#GP). Nothing changes on a fault.
cdef int write_cr0(Cpu* cpu, u64 value) noexcept nogil
cdef int write_cr3(Cpu* cpu, u64 value) noexcept nogil
cdef int write_cr4(Cpu* cpu, u64 value) noexcept nogil
cdef int pdptes_refused(Cpu* cpu, u64 cr0, u64 cr3, u64 cr4) noexcept nogil
cdef int enter_paging(Cpu* cpu) noexcept nogil
cdef int h_mov_cr_r(Cpu* cpu, Op* op) noexcept nogil
cdef int h_mov_r_cr(Cpu* cpu, Op* op) noexcept nogil
cdef int h_rdpkru(Cpu* cpu, Op* op) noexcept nogil
cdef int h_wrpkru(Cpu* cpu, Op* op) noexcept nogil
cdef int h_lmsw(Cpu* cpu, Op* op) noexcept nogil
cdef int h_smsw(Cpu* cpu, Op* op) noexcept nogil
cdef int h_clts(Cpu* cpu, Op* op) noexcept nogil
cdef int check_debug_register(Cpu* cpu, u32* number) noexcept nogil
cdef int h_mov_dr_r(Cpu* cpu, Op* op) noexcept nogil
cdef int h_mov_r_dr(Cpu* cpu, Op* op) noexcept nogil
cdef int h_invlpg(Cpu* cpu, Op* op) noexcept nogil
cdef int h_invpcid(Cpu* cpu, Op* op) noexcept nogil
cdef int h_clflush(Cpu* cpu, Op* op) noexcept nogil
cdef int h_invd(Cpu* cpu, Op* op) noexcept nogil
cdef int h_wbinvd(Cpu* cpu, Op* op) noexcept nogil
