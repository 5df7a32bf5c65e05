# The local APIC, xAPIC and x2APIC (SDM, "Advanced Programmable Interrupt Controller"). All of it is for
# the vCPU's own thread.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.atomics cimport *
from barevisor.cpu.bt.apicbus cimport *

cdef enum:
    TIMER_PERIODIC = 0x20000
    TIMER_DEADLINE = 0x40000
    TIMER_MODES = 0x60000
    APIC_EXTINT = 256        # apic_pending: the 8259 pair asks; apic_ack finds out the vector

cdef void apic_reset(Cpu* cpu, int init) noexcept nogil
cdef void apic_power_up(Cpu* cpu) noexcept nogil
# Is this guest-physical address in the page of the enabled xAPIC?
cdef inline int apic_mmio_hit(Cpu* cpu, u64 gpa) noexcept nogil:
    return (cpu.vm.irqchip
            and (cpu.apic_base & (BASE_ENABLED | BASE_X2APIC)) == BASE_ENABLED
            and (gpa >> 12) == (cpu.apic_base & cpu.phys_mask) >> 12)
cdef u32 apic_mmio_read(Cpu* cpu, u32 offset) noexcept nogil
cdef void apic_mmio_write(Cpu* cpu, u32 offset, u32 value) noexcept nogil
# x2APIC MSRs 0x800..0x8FF; non-zero: #GP
cdef int apic_msr_read(Cpu* cpu, u32 index, u64* value) noexcept nogil
cdef int apic_msr_write(Cpu* cpu, u32 index, u64 value) noexcept nogil
cdef int apic_base_write(Cpu* cpu, u64 value) noexcept nogil
cdef u64 apic_deadline_read(Cpu* cpu) noexcept nogil
cdef void apic_deadline_write(Cpu* cpu, u64 value) noexcept nogil
cdef u32 apic_get_tpr(Cpu* cpu) noexcept nogil
cdef void apic_set_tpr(Cpu* cpu, u32 tpr) noexcept nogil
# The interrupt to deliver now if RFLAGS.IF allows: a vector, APIC_EXTINT, or -1.
cdef int apic_pending(Cpu* cpu) noexcept nogil
# Take what apic_pending returned; the vector to deliver.
cdef int apic_ack(Cpu* cpu, int pending) noexcept nogil
# Fire the timer if `now` (host TSC) has reached cpu.timer_deadline. 1: an interrupt was queued.
cdef int apic_timer_poll(Cpu* cpu, u64 now) noexcept nogil
# The register page of KVM_GET_LAPIC: 1 KiB
cdef void apic_save(Cpu* cpu, u8* page) noexcept nogil
cdef void apic_load(Cpu* cpu, const u8* page) noexcept nogil

# --- inside apic.py
cdef enum:
    APIC_VERSION = 0x60014   # integrated, LVT entries 0 to 6
    BUS_KHZ = 1000000        # timer input clock, as leaf 0x40000010 announces
    PAGE_BYTES = 1024

cdef void eoi(Cpu* cpu) noexcept nogil
cdef u32* pv_eoi_word(Cpu* cpu) noexcept nogil
cdef void pv_eoi_arm(Cpu* cpu, u32 vector) noexcept nogil
cdef void pv_eoi_sync(Cpu* cpu) noexcept nogil
cdef u64 divided(Apic* a) noexcept nogil
cdef u64 count_to_tsc(Cpu* cpu, u64 count) noexcept nogil
cdef void timer_start(Cpu* cpu, u32 count) noexcept nogil
cdef void timer_stop(Cpu* cpu) noexcept nogil
cdef u32 timer_count(Cpu* cpu) noexcept nogil
cdef u32 lvt_writable(u32 entry) noexcept nogil
cdef void write_lvt(Cpu* cpu, u32 entry, u32 value) noexcept nogil
cdef void write_svr(Cpu* cpu, u32 value) noexcept nogil
cdef int read_register(Cpu* cpu, u32 number, u32* value) noexcept nogil
cdef int write_register(Cpu* cpu, u32 number, u32 value) noexcept nogil
cdef u64 x2_reserved(u32 number) noexcept nogil
