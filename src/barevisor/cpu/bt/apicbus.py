"""Interrupt messages: from devices, IOAPIC and CPUs to the CPUs that they are for (SDM, "Advanced
Programmable Interrupt Controller (APIC)").

Any thread may send. Only IRR, TMR and attention bits of the receiver are set, with atomic
operations, so no lock stands between a device and a running guest. C signatures are in apicbus.pxd.
"""

import cython
from cython.cimports.barevisor.cpu.bt.safepoint import ask
from cython.cimports.posix.unistd import write

ALL_32 = cython.declare("u32", 0xFFFFFFFF)


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
