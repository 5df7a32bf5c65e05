"""The 8259A pair (Intel 8259A data sheet; the edge/level registers 0x4D0 and 0x4D1 are those of
Intel's PIIX3). Ports: 0x20, 0x21 master; 0xA0, 0xA1 slave on the master's IRQ 2.
C signatures are in pic.pxd.
"""

import cython
from cython.cimports.barevisor.cpu.bt.apicbus import lint0_rose
from cython.cimports.barevisor.cpu.bt.atomics import __sync_lock_release, __sync_lock_test_and_set
from cython.cimports.barevisor.cpu.bt.safepoint import sched_yield
from cython.cimports.libc.string import memset


def lock(vm):
    while __sync_lock_test_and_set(cython.address(vm.pic_lock), 1):
        # Held for a few dozen instructions, never across a call that can block: whoever has it
        # wants this host CPU.
        sched_yield()


def unlock(vm):
    __sync_lock_release(cython.address(vm.pic_lock))


def reset_one(p):
    """State after ICW1, which leaves the trigger modes and input levels alone."""
    lines: u32 = p.lines
    elcr: u32 = p.elcr
    memset(p, 0, cython.sizeof(Pic))
    p.lines = lines
    p.elcr = elcr
    p.lowest = 7


def pic_reset(vm):
    memset(vm.pics, 0, cython.sizeof(vm.pics))
    vm.pics[0].lowest = vm.pics[1].lowest = 7
    vm.pic_lock = 0
    vm.pic_output = 0


# ---- priority --------------------------------------------------------------------------------


def best(p, bits):
    """The IRQ of `bits` with the highest priority, or -1."""
    i: u32
    n: u32
    for i in range(8):
        n = (p.lowest + 1 + i) & 7
        if bits >> n & 1:
            return n
    return -1


def request(p, is_master):
    """The IRQ that may interrupt what is in service, or -1."""
    wanted: u32 = p.irr & ~p.imr & 0xFF
    serving: u32 = p.isr
    irq: cython.int = best(p, wanted)
    if irq < 0:
        return -1
    if p.special_mask:
        serving &= ~p.imr
    if is_master and p.special_nested and irq == 2:
        serving &= ~cython.cast(u32, 4)
    if serving == 0:
        return irq
    current: cython.int = best(p, serving)
    if ((irq - p.lowest - 1) & 7) < ((current - p.lowest - 1) & 7):
        return irq
    return -1


def settle(vm):
    """Recompute the cascade and INTR, with the lock held. 1: INTR rose."""
    old: u32 = vm.pic_output
    set_line(cython.address(vm.pics[0]), 2, request(cython.address(vm.pics[1]), 0) >= 0)
    vm.pic_output = request(cython.address(vm.pics[0]), 1) >= 0
    return vm.pic_output and not old


def set_line(p, irq, level):
    """An edge is remembered until it is acknowledged, even if the line falls before (as in KVM;
    a real 8259A would then answer with a spurious IRQ 7)."""
    bit: u32 = cython.cast(u32, 1) << irq
    if p.elcr & bit:
        p.irr = p.irr | bit if level else p.irr & ~bit
    elif level and not p.lines & bit:
        p.irr |= bit
    p.lines = p.lines | bit if level else p.lines & ~bit


def pic_line(vm, irq, level):
    rose: cython.int
    lock(vm)
    set_line(cython.address(vm.pics[irq >> 3 & 1]), irq & 7, level)
    rose = settle(vm)
    unlock(vm)
    if rose:
        lint0_rose(vm)


# ---- acknowledge and end ---------------------------------------------------------------------


def take(p, irq):
    """INTA for `irq`: into service, or at once out of it in automatic EOI mode."""
    bit: u32 = cython.cast(u32, 1) << irq
    if not p.elcr & bit:
        p.irr &= ~bit
    if not p.auto_eoi:
        p.isr |= bit
    elif p.rotate_on_aeoi:
        p.lowest = irq


def pic_ack(vm):
    """IRQ 7 of a chip is what it answers when the request went away (a spurious interrupt)."""
    master: cython.pointer(Pic) = cython.address(vm.pics[0])
    slave: cython.pointer(Pic) = cython.address(vm.pics[1])
    irq: cython.int
    vector: cython.int
    lock(vm)
    irq = request(master, 1)
    if irq < 0:
        vector = master.base + 7
    elif irq == 2:
        take(master, 2)
        irq = request(slave, 0)
        vector = slave.base + (irq if irq >= 0 else 7)
        if irq >= 0:
            take(slave, irq)
    else:
        take(master, irq)
        vector = master.base + irq
    settle(vm)
    unlock(vm)
    return vector


def end(p, command, irq):
    """OCW2 (8259A, "Operation Command Words"): `command` is R, SL, EOI."""
    n: cython.int = irq
    if command == 0 or command == 4:
        p.rotate_on_aeoi = command == 4
        return
    if command == 6:
        p.lowest = irq
        return
    if command == 1 or command == 5:
        n = best(p, p.isr)
    if n < 0 or command == 2:
        return
    p.isr &= ~(cython.cast(u32, 1) << n)
    if command & 4:
        p.lowest = n


# ---- ports -----------------------------------------------------------------------------------


def write_command(p, value):
    if value & 0x10:  # ICW1
        reset_one(p)
        p.init4 = value & 1
        p.init_state = 2
    elif value & 8:  # OCW3
        if value & 2:
            p.read_isr = value & 1
        if value & 4:
            p.poll = 1
        if value & 0x40:
            p.special_mask = value >> 5 & 1
    else:
        end(p, value >> 5, value & 7)


def write_data(p, value):
    if p.init_state == 0:
        p.imr = value
    elif p.init_state == 2:
        p.base = value & 0xF8
        p.init_state = 3
    elif p.init_state == 3:
        p.init_state = 4 if p.init4 else 0
    else:
        p.special_nested = value >> 4 & 1
        p.auto_eoi = value >> 1 & 1
        p.init_state = 0


def read_chip(p, is_master, data):
    irq: cython.int
    if p.poll:
        p.poll = 0
        irq = request(p, is_master)
        if irq < 0:
            return 0
        take(p, irq)
        return 0x80 | irq
    if data:
        return p.imr
    return p.isr if p.read_isr else p.irr


def pic_read(vm, port):
    value: u32
    which: u32 = port >> 7 & 1
    if port == 0x4D0 or port == 0x4D1:
        return vm.pics[port & 1].elcr
    lock(vm)
    value = read_chip(cython.address(vm.pics[which]), which == 0, port & 1)
    settle(vm)
    unlock(vm)
    return value


def pic_write(vm, port, value):
    """ELCR: IRQ 0, 1, 2, 8 and 13 are edge-triggered for ever."""
    which: u32 = port >> 7 & 1
    rose: cython.int
    value &= 0xFF
    lock(vm)
    if port == 0x4D0 or port == 0x4D1:
        vm.pics[port & 1].elcr = value & (0xDE if port & 1 else 0xF8)
    elif port & 1:
        write_data(cython.address(vm.pics[which]), value)
    else:
        write_command(cython.address(vm.pics[which]), value)
    rose = settle(vm)
    unlock(vm)
    if rose:
        lint0_rose(vm)
