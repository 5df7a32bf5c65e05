# Interrupt messages, what wakes a vCPU, and the bits that both they and the registers of the local APIC
# are made of.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.atomics cimport *

cdef enum:
    LVT_CMCI = 0
    LVT_TIMER = 1
    LVT_THERMAL = 2
    LVT_PERF = 3
    LVT_LINT0 = 4
    LVT_LINT1 = 5
    LVT_ERROR = 6
    LVT_MASKED = 0x10000
    BASE_BSP = 0x100
    BASE_X2APIC = 0x400
    BASE_ENABLED = 0x800
    DELIVER_FIXED = 0
    DELIVER_LOWEST = 1
    DELIVER_SMI = 2
    DELIVER_NMI = 4
    DELIVER_INIT = 5
    DELIVER_SIPI = 6
    DELIVER_EXTINT = 7
    SVR_ENABLED = 0x100
    ESR_SENT_ILLEGAL = 0x20
    ESR_RECEIVED_ILLEGAL = 0x40
    ESR_REGISTER = 0x80

# Any thread: `bits` (ATT_*) for a CPU that may sleep
cdef void wake(Cpu* cpu, u32 bits) noexcept nogil
# Any thread: interrupts from devices, IOAPIC and other CPUs
cdef void apic_accept(Cpu* cpu, u32 mode, u32 vector, u32 level) noexcept nogil
cdef int deliver(Vm* vm, u32 dest, u32 logical, u32 mode, u32 vector, u32 level) noexcept nogil
cdef int deliver_wide(Vm* vm, u32 dest, u32 logical, u32 wide, u32 mode, u32 vector, u32 level) noexcept nogil
cdef void msi_deliver(Vm* vm, u64 address, u32 data) noexcept nogil
# Any thread: INTR of the 8259 pair rose
cdef void lint0_rose(Vm* vm) noexcept nogil
# The CPU's own thread
cdef bint nmi_taken(Cpu* cpu) noexcept nogil
cdef void nmi_unblock(Cpu* cpu) noexcept nogil
cdef void send(Cpu* cpu, u32 low, u32 dest, u32 wide) noexcept nogil
cdef u64 pv_send_ipi(Cpu* cpu, u64 low, u64 high, u64 first, u64 icr) noexcept nogil
cdef void raise_error(Cpu* cpu, u32 bit) noexcept nogil
# Of 256 bits in eight words: the highest or -1; one, atomically
cdef int highest(u32* bits) noexcept nogil
cdef void set_bit(u32* words, u32 n) noexcept nogil
cdef void clear_bit(u32* words, u32 n) noexcept nogil
cdef u32 ppr(Apic* a) noexcept nogil
cdef u32 x2_ldr(Cpu* cpu) noexcept nogil
cdef int matches(Cpu* cpu, u32 dest, u32 logical, u32 wide) noexcept nogil
