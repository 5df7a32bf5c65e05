"""The local APIC (SDM, "Advanced Programmable Interrupt Controller (APIC)").

Registers belong to the vCPU's thread; what other threads do to a CPU is in apicbus.py. A register
number is its xAPIC offset / 16, which is also its x2APIC MSR - 0x800. C signatures are in apic.pxd.
"""

import cython
from cython.cimports.barevisor.cpu.bt.clock import guest_ram
from cython.cimports.barevisor.cpu.bt.pic import pic_ack
from cython.cimports.barevisor.cpu.bt.tsc import guest_tsc, host_ticks, host_tsc
from cython.cimports.libc.string import memcpy, memset

NEVER = cython.declare("u64", 0xFFFFFFFFFFFFFFFF)
BASE_ADDRESS = cython.declare("u64", 0xFEE00000)
ALL_32 = cython.declare("u32", 0xFFFFFFFF)
TOP_BYTE = cython.declare("u32", 0xFF000000)
VALID_VECTORS = cython.declare("u32", 0xFFFF0000)  # of the first word: 0 to 15 cannot be taken
ICR_RESERVED = cython.declare("u64", 0xFFF32000)


# ---- reset -----------------------------------------------------------------------------------


def apic_reset(cpu, init):
    """SDM, "Local APIC State After Power-Up or Reset" and, for `init`, "... After an INIT
    Reset"."""
    a: cython.pointer(Apic) = cpu.apic
    memset(a, 0, cython.sizeof(Apic))
    a.id = cpu.index
    a.dfr = ALL_32
    a.svr = 0xFF
    i: cython.int
    for i in range(7):
        a.lvt[i] = LVT_MASKED
    cpu.timer_deadline = NEVER
    if not init:
        cpu.apic_base = BASE_ADDRESS | BASE_ENABLED
        if cpu.index == 0:
            cpu.apic_base |= BASE_BSP
        apic_power_up(cpu)


def apic_power_up(cpu):
    """LINT0 of CPU 0 is ExtINT: the virtual wire that firmware would set up."""
    if cpu.index == 0:
        cpu.apic.lvt[LVT_LINT0] = DELIVER_EXTINT << 8


# ---- delivery and end of interrupt -----------------------------------------------------------


def apic_pending(cpu):
    """An ExtINT comes first: the 8259 pair has no priority among the APIC's vectors."""
    a: cython.pointer(Apic) = cpu.apic
    vector: cython.int
    if a.pv_eoi_armed:
        pv_eoi_sync(cpu)
    if cpu.vm.pic_output:
        if not cpu.apic_base & BASE_ENABLED:
            return APIC_EXTINT if cpu.index == 0 else -1
        if (a.lvt[LVT_LINT0] & (LVT_MASKED | 0x700)) == DELIVER_EXTINT << 8:
            return APIC_EXTINT
    vector = highest(a.irr)
    if vector < 0 or not cpu.apic_base & BASE_ENABLED:
        return -1
    if (vector & 0xF0) <= cython.cast(cython.int, ppr(a) & 0xF0):
        return -1
    return vector


def apic_ack(cpu, pending):
    nested: cython.int
    if pending == APIC_EXTINT:
        return pic_ack(cpu.vm)
    nested = highest(cpu.apic.isr)
    clear_bit(cpu.apic.irr, pending)
    set_bit(cpu.apic.isr, pending)
    if cpu.msr_kvm_pv_eoi & 1 and nested < 0:
        pv_eoi_arm(cpu, pending)
    return pending


def pv_eoi_word(cpu):
    """The guest's flag word (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN), or NULL."""
    return cython.cast(
        cython.pointer(u32), guest_ram(cpu.vm, cpu.msr_kvm_pv_eoi & ~cython.cast(u64, 3), 4)
    )


def pv_eoi_arm(cpu, vector):
    """Let the guest end this interrupt by clearing a bit in its memory: only an edge-triggered
    one, alone in service and with nothing behind it that an EOI would let in."""
    a: cython.pointer(Apic) = cpu.apic
    word: cython.pointer(u32)
    if a.tmr[vector >> 5] >> (vector & 31) & 1 or highest(a.irr) >= 0:
        return
    word = pv_eoi_word(cpu)
    if word != cython.NULL:
        __sync_fetch_and_or(word, 1)
        a.pv_eoi_armed = 1


def pv_eoi_sync(cpu):
    """Has the guest cleared the bit? Then that was its EOI; else it must write the register."""
    word: cython.pointer(u32) = pv_eoi_word(cpu)
    cpu.apic.pv_eoi_armed = 0
    if word == cython.NULL or not __sync_fetch_and_and(word, ~cython.cast(u32, 1)) & 1:
        eoi(cpu)


def eoi(cpu):
    """SDM, "Signaling Interrupt Servicing Completion". A vector that the lower priority hid may
    be deliverable now, so the poll is asked to look."""
    a: cython.pointer(Apic) = cpu.apic
    vector: cython.int
    if a.pv_eoi_armed:
        pv_eoi_sync(cpu)
    vector = highest(a.isr)
    if vector < 0:
        return
    clear_bit(a.isr, vector)
    if a.tmr[vector >> 5] >> (vector & 31) & 1 and cpu.vm.on_eoi != cython.NULL:
        cpu.vm.on_eoi(cpu.vm, vector)
    if highest(a.irr) >= 0 or cpu.vm.pic_output:
        wake(cpu, ATT_INTERRUPT)


def apic_get_tpr(cpu):
    return cpu.apic.tpr


def apic_set_tpr(cpu, tpr):
    lowered: cython.bint = tpr < cpu.apic.tpr
    cpu.apic.tpr = tpr & 0xFF
    if lowered and highest(cpu.apic.irr) >= 0:
        wake(cpu, ATT_INTERRUPT)


# ---- the timer -------------------------------------------------------------------------------


def divided(a):
    """Divide configuration: bits 3, 1 and 0 are 2, 4 .. 128, and 7 means 1."""
    return cython.cast(u64, 1) << (((a.tdcr & 3 | (a.tdcr & 8) >> 1) + 1) & 7)


def count_to_tsc(cpu, count):
    """Timer counts to host TSC ticks; at most 2^32 * 2^7 * 2^23, which 64 bits hold."""
    return count * divided(cpu.apic) * cpu.vm.tsc_khz / BUS_KHZ


def timer_stop(cpu):
    cpu.timer_deadline = NEVER
    cpu.apic.period = 0
    cpu.apic.tsc_deadline = 0


def timer_start(cpu, count):
    """Count down from `count`; 0 stops."""
    a: cython.pointer(Apic) = cpu.apic
    timer_stop(cpu)
    if count == 0 or a.lvt[LVT_TIMER] & TIMER_DEADLINE:
        return
    if a.lvt[LVT_TIMER] & TIMER_PERIODIC:
        # A guest that asks for a shorter period than 50 us would only ever take interrupts.
        a.period = max(count_to_tsc(cpu, a.tmict), cpu.vm.tsc_khz / 20)
    cpu.timer_deadline = host_tsc() + count_to_tsc(cpu, count)
    cpu.budget = -1


def timer_count(cpu):
    """The current-count register, never above the initial count (a period may be longer than
    was asked for)."""
    now: u64 = host_tsc()
    left: u64
    if cpu.apic.lvt[LVT_TIMER] & TIMER_DEADLINE or cpu.timer_deadline == NEVER:
        return 0
    if cpu.timer_deadline <= now:
        return 0
    left = (cpu.timer_deadline - now) * BUS_KHZ / cpu.vm.tsc_khz / divided(cpu.apic)
    return cython.cast(u32, min(left, cython.cast(u64, cpu.apic.tmict)))


def apic_timer_poll(cpu, now):
    a: cython.pointer(Apic) = cpu.apic
    if now < cpu.timer_deadline:
        return 0
    if a.period:
        # Missed periods are one interrupt, as in hardware where IRR holds one.
        cpu.timer_deadline = now + a.period - (now - cpu.timer_deadline) % a.period
    else:
        cpu.timer_deadline = NEVER
        a.tsc_deadline = 0
    if a.lvt[LVT_TIMER] & LVT_MASKED:
        return 0
    apic_accept(cpu, DELIVER_FIXED, a.lvt[LVT_TIMER] & 0xFF, 0)
    return 1


def apic_deadline_read(cpu):
    """SDM, "TSC-Deadline Mode": 0 when disarmed or in another mode."""
    return cpu.apic.tsc_deadline


def apic_deadline_write(cpu, value):
    ahead: u64
    if (cpu.apic.lvt[LVT_TIMER] & TIMER_MODES) != TIMER_DEADLINE:
        return
    timer_stop(cpu)
    if value == 0:
        return
    cpu.apic.tsc_deadline = value
    ahead = value - guest_tsc(cpu)
    cpu.timer_deadline = host_tsc()
    if cython.cast(i64, ahead) > 0:
        cpu.timer_deadline += host_ticks(cpu.vm, ahead)
    cpu.budget = -1


# ---- registers -------------------------------------------------------------------------------


def lvt_writable(entry):
    """Bits that a guest can set (SDM, figure "Local Vector Table")."""
    if entry == LVT_TIMER:
        return 0x700FF
    if entry == LVT_LINT0 or entry == LVT_LINT1:
        return 0x1A7FF
    if entry == LVT_ERROR:
        return 0x100FF
    return 0x107FF


def write_lvt(cpu, entry, value):
    a: cython.pointer(Apic) = cpu.apic
    old: u32 = a.lvt[entry]
    value &= lvt_writable(entry)
    if not a.svr & SVR_ENABLED:
        value |= LVT_MASKED
    if entry == LVT_TIMER:
        apic_timer_poll(cpu, host_tsc())  # what has expired is the old mode's
    a.lvt[entry] = value
    if entry == LVT_TIMER and (old ^ value) & TIMER_DEADLINE:
        timer_stop(cpu)
        a.tmict = 0
    elif entry == LVT_TIMER and (old ^ value) & TIMER_PERIODIC:
        timer_start(cpu, timer_count(cpu))
    if entry == LVT_LINT0 and cpu.vm.pic_output:
        wake(cpu, ATT_INTERRUPT)


def write_svr(cpu, value):
    """Software disable masks every LVT entry (SDM, "Local APIC State After It Has Been Software
    Disabled")."""
    i: cython.int
    cpu.apic.svr = value & 0x1FF
    if not value & SVR_ENABLED:
        for i in range(7):
            cpu.apic.lvt[i] |= LVT_MASKED


def read_register(cpu, number, value):
    """Non-zero: no such register, or write-only."""
    a: cython.pointer(Apic) = cpu.apic
    x2: cython.bint = (cpu.apic_base & BASE_X2APIC) != 0
    if a.pv_eoi_armed:
        pv_eoi_sync(cpu)
    if 0x10 <= number < 0x18:
        value[0] = a.isr[number - 0x10]
    elif 0x18 <= number < 0x20:
        value[0] = a.tmr[number - 0x18]
    elif 0x20 <= number < 0x28:
        value[0] = a.irr[number - 0x20]
    elif 0x32 <= number < 0x38:
        value[0] = a.lvt[number - 0x31]
    elif number == 0x2F:
        value[0] = a.lvt[LVT_CMCI]
    elif number == 0x02:
        value[0] = cpu.index if x2 else a.id << 24
    elif number == 0x03:
        value[0] = APIC_VERSION
    elif number == 0x08:
        value[0] = a.tpr
    elif number == 0x0A:
        value[0] = ppr(a)
    elif number == 0x0D:
        value[0] = x2_ldr(cpu) if x2 else a.ldr
    elif number == 0x0F:
        value[0] = a.svr
    elif number == 0x28:
        value[0] = a.esr
    elif number == 0x30:
        value[0] = a.icr_low
    elif number == 0x38:
        value[0] = a.tmict
    elif number == 0x39:
        value[0] = timer_count(cpu)
    elif number == 0x3E:
        value[0] = a.tdcr
    elif x2:
        return 1
    elif number == 0x09:
        value[0] = ppr(a)
    elif number == 0x0E:
        value[0] = a.dfr
    elif number == 0x31:
        value[0] = a.icr_high
    else:
        return 1
    return 0


def write_register(cpu, number, value):
    """Non-zero: no such register, or read-only."""
    a: cython.pointer(Apic) = cpu.apic
    x2: cython.bint = (cpu.apic_base & BASE_X2APIC) != 0
    if number == 0x0B:
        eoi(cpu)
    elif 0x32 <= number < 0x38:
        write_lvt(cpu, number - 0x31, value)
    elif number == 0x2F:
        write_lvt(cpu, LVT_CMCI, value)
    elif number == 0x08:
        apic_set_tpr(cpu, value & 0xFF)
    elif number == 0x0F:
        write_svr(cpu, value)
    elif number == 0x28:
        a.esr = a.esr_pending
        __sync_fetch_and_and(cython.address(a.esr_pending), 0)
    elif number == 0x38:
        if not a.lvt[LVT_TIMER] & TIMER_DEADLINE:
            a.tmict = value
            timer_start(cpu, value)
    elif number == 0x3E:
        apic_timer_poll(cpu, host_tsc())
        left: u32 = timer_count(cpu)
        a.tdcr = value & 0xB
        if left:
            timer_start(cpu, left)
    elif x2:
        return 1
    elif number == 0x02:
        a.id = value >> 24
    elif number == 0x0D:
        a.ldr = value & TOP_BYTE
    elif number == 0x0E:
        a.dfr = value | 0x0FFFFFFF
    elif number == 0x30:
        a.icr_low = value & 0xCDFFF & ~cython.cast(u32, 0x1000)
        send(cpu, a.icr_low, a.icr_high >> 24, 0)
    elif number == 0x31:
        a.icr_high = value & TOP_BYTE
    else:
        return 1
    return 0


# ---- xAPIC page ------------------------------------------------------------------------------


def apic_mmio_read(cpu, offset):
    """A load of 4 bytes; registers are 16 bytes apart. Undefined ones read as 0."""
    value: u32 = 0
    if offset & 0xF:
        return 0
    if read_register(cpu, (offset & 0xFFF) >> 4, cython.address(value)):
        raise_error(cpu, ESR_REGISTER)
    return value


def apic_mmio_write(cpu, offset, value):
    if offset & 0xF:
        return
    if write_register(cpu, (offset & 0xFFF) >> 4, value):
        raise_error(cpu, ESR_REGISTER)


# ---- x2APIC registers ------------------------------------------------------------------------


def x2_reserved(number):
    """Bits that must be 0 in a WRMSR (SDM, "x2APIC Register Address Space")."""
    if number == 0x0B or number == 0x28:
        return NEVER
    if 0x32 <= number < 0x38:
        return ~cython.cast(u64, lvt_writable(number - 0x31) | 0x1000)
    if number == 0x2F:
        return ~cython.cast(u64, lvt_writable(LVT_CMCI) | 0x1000)
    if number == 0x08 or number == 0x3F:
        return ~cython.cast(u64, 0xFF)
    if number == 0x0F:
        return ~cython.cast(u64, 0x3FF)
    if number == 0x3E:
        return ~cython.cast(u64, 0xB)
    return cython.cast(u64, ALL_32) << 32


def apic_msr_read(cpu, index, value):
    number: u32 = index - 0x800
    low: u32 = 0
    if (cpu.apic_base & (BASE_ENABLED | BASE_X2APIC)) != BASE_ENABLED | BASE_X2APIC:
        return 1
    if read_register(cpu, number, cython.address(low)):
        return 1
    value[0] = low
    if number == 0x30:
        value[0] |= cython.cast(u64, cpu.apic.icr_high) << 32
    return 0


def apic_msr_write(cpu, index, value):
    number: u32 = index - 0x800
    if (cpu.apic_base & (BASE_ENABLED | BASE_X2APIC)) != BASE_ENABLED | BASE_X2APIC:
        return 1
    if number == 0x30:
        if value & ICR_RESERVED:
            return 1
        cpu.apic.icr_low = cython.cast(u32, value) & ~cython.cast(u32, 0x1000)
        cpu.apic.icr_high = cython.cast(u32, value >> 32)
        send(cpu, cpu.apic.icr_low, cpu.apic.icr_high, 1)
        return 0
    if value & x2_reserved(number):
        return 1
    if number == 0x3F:
        send(cpu, 0x40000 | cython.cast(u32, value), 0, 1)
        return 0
    return write_register(cpu, number, cython.cast(u32, value))


def apic_base_write(cpu, value):
    """IA32_APIC_BASE: the transitions of SDM, figure "Local x2APIC State Transitions"."""
    old: u64 = cpu.apic_base & (BASE_ENABLED | BASE_X2APIC)
    new: u64 = value & (BASE_ENABLED | BASE_X2APIC)
    if value & ~(cpu.phys_mask & ~cython.cast(u64, 0xFFF) | BASE_ENABLED | BASE_X2APIC | BASE_BSP):
        return 1
    if new == BASE_X2APIC:
        return 1
    if old == BASE_ENABLED | BASE_X2APIC and new == BASE_ENABLED:
        return 1
    if old == 0 and new == BASE_ENABLED | BASE_X2APIC:
        return 1
    cpu.apic_base = value
    if old != 0 and new == 0:
        apic_reset(cpu, 1)
    return 0


# ---- the register page of KVM_GET_LAPIC ------------------------------------------------------


def apic_save(cpu, page):
    """Fill 1 KiB (api.rst 4.57); in x2APIC mode ICR2 holds the whole destination."""
    a: cython.pointer(Apic) = cpu.apic
    words: cython.pointer(u32) = cython.cast(cython.pointer(u32), page)
    number: u32
    apic_timer_poll(cpu, host_tsc())  # what is due goes into the IRR
    memset(page, 0, PAGE_BYTES)
    for number in range(0x40):
        read_register(cpu, number, cython.address(words[number * 4]))
    words[0x02 * 4] = a.id << 24
    words[0x0E * 4] = a.dfr
    words[0x31 * 4] = a.icr_high


def apic_load(cpu, page):
    """The reverse; the timer goes on from its current count. Bits that a guest could not have
    set are dropped: a snapshot is input like any other."""
    a: cython.pointer(Apic) = cpu.apic
    word = cython.declare(cython.uint[256])
    i: cython.int
    memcpy(word, page, PAGE_BYTES)
    apic_reset(cpu, 1)
    a.id = word[0x02 * 4] >> 24
    a.tpr = word[0x08 * 4] & 0xFF
    a.ldr = word[0x0D * 4]
    a.dfr = word[0x0E * 4] | 0x0FFFFFFF
    a.svr = word[0x0F * 4] & 0x1FF
    for i in range(8):
        a.isr[i] = word[(0x10 + i) * 4]
        a.tmr[i] = word[(0x18 + i) * 4]
        a.irr[i] = word[(0x20 + i) * 4]
    a.irr[0] &= VALID_VECTORS
    a.isr[0] &= VALID_VECTORS
    a.esr = word[0x28 * 4] & 0xFF
    a.icr_low = word[0x30 * 4] & 0xCCFFF
    a.icr_high = word[0x31 * 4]
    a.tdcr = word[0x3E * 4] & 0xB
    for i in range(1, 7):
        a.lvt[i] = word[(0x31 + i) * 4] & lvt_writable(i)
    a.lvt[LVT_CMCI] = word[0x2F * 4] & lvt_writable(LVT_CMCI)
    a.tmict = word[0x38 * 4]
    if word[0x39 * 4] == 0 and a.lvt[LVT_TIMER] & TIMER_PERIODIC:
        word[0x39 * 4] = a.tmict  # saved at the very end of a period
    timer_start(cpu, word[0x39 * 4])
    wake(cpu, ATT_INTERRUPT)
