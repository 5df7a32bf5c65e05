"""The local APIC (SDM, "Advanced Programmable Interrupt Controller (APIC)").

Registers belong to the vCPU's thread. Other threads only set IRR, TMR and attention bits with
atomic operations, so no lock stands between a device and a running guest. A register number is
its xAPIC offset / 16, which is also its x2APIC MSR - 0x800. C signatures are in apic.pxd.
"""

import cython
from cython.cimports.barevisor.cpu.bt.clock import guest_ram
from cython.cimports.barevisor.cpu.bt.pic import pic_ack
from cython.cimports.barevisor.cpu.bt.safepoint import ask
from cython.cimports.barevisor.cpu.bt.tsc import guest_tsc, host_tsc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.unistd import write

NEVER = cython.declare("u64", 0xFFFFFFFFFFFFFFFF)
BASE_ADDRESS = cython.declare("u64", 0xFEE00000)
ALL_32 = cython.declare("u32", 0xFFFFFFFF)
TOP_BYTE = cython.declare("u32", 0xFF000000)
VALID_VECTORS = cython.declare("u32", 0xFFFF0000)  # of the first word: 0 to 15 cannot be taken
ICR_RESERVED = cython.declare("u64", 0xFFF32000)


# ---- waking a vCPU ---------------------------------------------------------------------------


def wake(cpu, bits):
    """Any thread: `bits` (ATT_*) are seen at the next poll, or end a sleep in HLT."""
    one: u64 = 1
    ask(cpu, bits)
    if cpu.sleeping:
        write(cpu.wake_fd, cython.address(one), 8)


def nmi_taken(cpu):
    """Is there an NMI to deliver? Of several one waits for the handler's IRET: two senders are
    both heard, as on KVM."""
    count: u32
    __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_NMI))
    count = __sync_lock_test_and_set(cython.address(cpu.nmi_pending), 0)
    if count > 1:
        apic_accept(cpu, DELIVER_NMI, 0, 0)
    return count != 0


def nmi_unblock(cpu):
    """IRET: of what arrived in the handler one is left (SDM, "Handling Multiple NMIs")."""
    cpu.nmi_masked = 0
    if cpu.nmi_pending > 1:
        __sync_lock_test_and_set(cython.address(cpu.nmi_pending), 1)


# ---- vectors of 256 bits ---------------------------------------------------------------------


def highest(bits):
    """The highest set bit of eight words, or -1."""
    i: cython.int = 7
    bit: cython.int = 31
    while i >= 0:
        if bits[i]:
            while not (bits[i] >> bit) & 1:
                bit -= 1
            return i * 32 + bit
        i -= 1
    return -1


def set_bit(words, n):
    __sync_fetch_and_or(cython.address(words[n >> 5]), cython.cast(u32, 1) << (n & 31))


def clear_bit(words, n):
    __sync_fetch_and_and(cython.address(words[n >> 5]), ~(cython.cast(u32, 1) << (n & 31)))


def ppr(a):
    """SDM, "Task and Processor Priorities": the higher of TPR and the vector in service."""
    isrv: cython.int = highest(a.isr)
    if isrv >= 0 and (isrv & 0xF0) > cython.cast(cython.int, a.tpr & 0xF0):
        return isrv & 0xF0
    return a.tpr


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


# ---- accepting interrupts --------------------------------------------------------------------


def apic_accept(cpu, mode, vector, level):
    """An interrupt message has arrived (SDM, "Interrupt Acceptance for Fixed Interrupts")."""
    a: cython.pointer(Apic) = cpu.apic
    if mode == DELIVER_FIXED or mode == DELIVER_LOWEST:
        if not cpu.apic_base & BASE_ENABLED or not a.svr & SVR_ENABLED:
            return
        if vector < 16:
            __sync_fetch_and_or(cython.address(a.esr_pending), ESR_RECEIVED_ILLEGAL)
            return
        if level:
            set_bit(a.tmr, vector)
        else:
            clear_bit(a.tmr, vector)
        set_bit(a.irr, vector)
        wake(cpu, ATT_INTERRUPT)
    elif mode == DELIVER_NMI:
        __sync_fetch_and_add(cython.address(cpu.nmi_pending), 1)
        wake(cpu, ATT_NMI)
    elif mode == DELIVER_INIT:
        wake(cpu, ATT_INIT)
    elif mode == DELIVER_SIPI:
        cpu.sipi_vector = vector
        wake(cpu, ATT_SIPI)


def lint0_rose(vm):
    """The 8259 pair's INTR rose, which is wired to LINT0 of CPU 0. As ExtINT it is asked when the
    CPU can take it (apic_pending); in the other modes its edge is a message (SDM, "Local Vector
    Table")."""
    cpu: cython.pointer(Cpu) = vm.cpus[0]
    lvt: u32
    if cpu == cython.NULL:
        return
    lvt = cpu.apic.lvt[LVT_LINT0]
    if not cpu.apic_base & BASE_ENABLED or (lvt >> 8 & 7) == DELIVER_EXTINT:
        wake(cpu, ATT_INTERRUPT)
    elif not lvt & LVT_MASKED:
        apic_accept(cpu, lvt >> 8 & 7, lvt & 0xFF, 0)


def raise_error(cpu, bit):
    """Latch an error of the guest's own doing; deliver the error interrupt if unmasked."""
    a: cython.pointer(Apic) = cpu.apic
    __sync_fetch_and_or(cython.address(a.esr_pending), bit)
    if not a.lvt[LVT_ERROR] & LVT_MASKED:
        apic_accept(cpu, DELIVER_FIXED, a.lvt[LVT_ERROR] & 0xFF, 0)


def x2_ldr(cpu):
    """SDM, "Deriving Logical x2APIC ID from the Local x2APIC ID"."""
    return (cpu.index >> 4) << 16 | cython.cast(u32, 1) << (cpu.index & 15)


def matches(cpu, dest, logical, wide):
    """Is this CPU meant by `dest` (32 bits when `wide`, else 8)? SDM, "Determining IPI
    Destination"."""
    a: cython.pointer(Apic) = cpu.apic
    broadcast: u32 = ALL_32 if wide else 0xFF
    if not cpu.apic_base & BASE_ENABLED:
        return 0
    if dest == broadcast:
        return 1
    if not logical:
        return dest == (cpu.index if cpu.apic_base & BASE_X2APIC else a.id)
    if cpu.apic_base & BASE_X2APIC:
        ldr: u32 = x2_ldr(cpu)
        return (dest >> 16) == (ldr >> 16) and (dest & ldr & 0xFFFF) != 0
    if wide:
        return 0
    mine: u32 = a.ldr >> 24
    if a.dfr >> 28 == 0xF:
        return (dest & mine) != 0
    return (dest >> 4) == (mine >> 4) and (dest & mine & 0xF) != 0


def deliver_wide(vm, dest, logical, wide, mode, vector, level):
    cpu: cython.pointer(Cpu)
    best: cython.pointer(Cpu) = cython.NULL
    count: cython.int = 0
    i: u32
    for i in range(vm.ncpus):
        cpu = vm.cpus[i]
        if cpu == cython.NULL or not matches(cpu, dest, logical, wide):
            continue
        if mode == DELIVER_LOWEST:
            if best == cython.NULL or ppr(cpu.apic) < ppr(best.apic):
                best = cpu
            continue
        apic_accept(cpu, mode, vector, level)
        count += 1
    if best != cython.NULL:
        apic_accept(best, DELIVER_FIXED, vector, level)
        count += 1
    return count


def deliver(vm, dest, logical, mode, vector, level):
    """From an IOAPIC entry or a device; how many CPUs took it."""
    return deliver_wide(vm, dest, logical, 0, mode, vector, level)


def msi_deliver(vm, address, data):
    """SDM, "Message Address Register Format" and "Message Data Register Format"."""
    a: u32 = cython.cast(u32, address)
    mode: u32 = data >> 8 & 7
    if a & 8 and mode == DELIVER_FIXED:
        mode = DELIVER_LOWEST
    deliver_wide(vm, a >> 12 & 0xFF, a >> 2 & 1, 0, mode, data & 0xFF, data >> 15 & 1)


# ---- sending interrupts ----------------------------------------------------------------------


def send(cpu, low, dest, wide):
    """A write to ICR (SDM, "Interrupt Command Register (ICR)")."""
    vm: cython.pointer(Vm) = cpu.vm
    mode: u32 = low >> 8 & 7
    vector: u32 = low & 0xFF
    shorthand: u32 = low >> 18 & 3
    i: u32
    if mode <= DELIVER_LOWEST and vector < 16:
        raise_error(cpu, ESR_SENT_ILLEGAL)
        return
    if mode == DELIVER_INIT and low & 0x8000 and not low & 0x4000:
        return  # INIT level de-assert: only APICs before the Pentium 4 listened
    if shorthand == 0:
        deliver_wide(vm, dest, low >> 11 & 1, wide, mode, vector, 0)
    elif shorthand == 1:
        # Only a fixed interrupt can be sent so (SDM, "Valid Combinations for the ... ICR").
        if mode == DELIVER_FIXED:
            apic_accept(cpu, mode, vector, 0)
    else:
        for i in range(vm.ncpus):
            if vm.cpus[i] != cython.NULL and (shorthand == 2 or vm.cpus[i] != cpu):
                apic_accept(vm.cpus[i], mode, vector, 0)


def pv_send_ipi(cpu, low, high, first, icr):
    """KVM_HC_SEND_IPI (Linux Documentation/virt/kvm/x86/hypercalls.rst): to the CPUs of a bitmap
    that starts at APIC ID `first`. How many took it, or -KVM_EINVAL."""
    vm: cython.pointer(Vm) = cpu.vm
    mode: u32 = cython.cast(u32, icr >> 8) & 7
    count: u64 = 0
    n: u64
    i: u32
    if mode != DELIVER_FIXED and mode != DELIVER_NMI:
        return 0 - cython.cast(u64, 22)
    for i in range(vm.ncpus):
        n = cython.cast(u64, i) - first
        if vm.cpus[i] == cython.NULL or n >= 128:
            continue
        if ((low >> n) if n < 64 else (high >> (n - 64))) & 1:
            apic_accept(vm.cpus[i], mode, cython.cast(u32, icr) & 0xFF, 0)
            count += 1
    return count


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
        cpu.timer_deadline += ahead
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
