"""Accesses outside RAM: the local APIC answers, or the run ends with an exit.

Memory-mapped reads restart: the first attempt leaves with EXIT_MMIO_READ, the answer is kept in
cpu.mmio_done, and the instruction runs again from its start. A memory-mapped store is the last
thing an instruction does, so it leaves afterwards.
"""

import cython
from cython.cimports.barevisor.cpu.bt.apic import apic_mmio_hit, apic_mmio_read, apic_mmio_write
from cython.cimports.barevisor.cpu.bt.lockstep import note_done
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.libc.string import memcpy, memset


def mmio_load(cpu, gpa, size, out):
    """A read outside RAM in pieces of at most 8 bytes: from the APIC, answered, or an exit."""
    piece: u32
    value: u32
    note_done(cpu.vm)
    while size:
        piece = 8 if size > 8 else size
        if apic_mmio_hit(cpu, gpa):
            value = apic_mmio_read(cpu, cython.cast(u32, gpa & 0xFF0))
            memset(out, 0, piece)
            memcpy(
                out,
                cython.cast(cython.pointer(u8), cython.address(value)),
                4 if piece > 4 else piece,
            )
        elif not _answered(cpu, gpa, piece, out):
            cpu.exit_reason = EXIT_MMIO_READ
            cpu.exit_gpa = gpa
            cpu.exit_size = piece
            return ST_EXIT
        gpa += piece
        out += piece
        size -= piece
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _answered(
    cpu: cython.pointer(Cpu), gpa: u64, size: u32, out: cython.pointer(u8)
) -> cython.bint:
    """Did an earlier attempt of this instruction get the answer?"""
    i: cython.uint
    for i in range(cpu.mmio_n):
        if cpu.mmio_done[i].gpa == gpa and cpu.mmio_done[i].size == size:
            memcpy(out, cython.address(cpu.mmio_done[i].value), size)
            return True
    return False


def mmio_store(cpu, gpa, size, data):
    """A store outside RAM (or to read-only memory): the APIC takes it, or it is an exit."""
    value: u32 = 0
    note_done(cpu.vm)
    if apic_mmio_hit(cpu, gpa):
        memcpy(
            cython.cast(cython.pointer(u8), cython.address(value)), data, 4 if size > 4 else size
        )
        apic_mmio_write(cpu, cython.cast(u32, gpa & 0xFF0), value)
        return ST_BREAK
    if cpu.exit_reason == EXIT_MMIO_WRITE:
        return _mmio_store_more(cpu, gpa, size, data)
    if cpu.exit_reason or size > cython.sizeof(cpu.exit_data):
        # XSAVE to a device: hostile, and more than one exit can carry.
        internal_error(cpu, b"one store writes too much device memory", gpa)
        return ST_BREAK
    cpu.exit_reason = EXIT_MMIO_WRITE
    cpu.exit_gpa = gpa
    cpu.exit_size = size
    cpu.exit_count = 0
    memcpy(cython.address(cpu.exit_data[0]), data, size)
    return ST_BREAK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _mmio_store_more(
    cpu: cython.pointer(Cpu), gpa: u64, size: u32, data: cython.pointer(u8)
) -> cython.int:
    """An instruction stores more than once to devices (a frame on a stack there, two pages): what
    does not follow the first piece goes to mmio_done, exit_count entries of it. The reads that
    were there have been used: stores come last."""
    more: cython.pointer(MmioDone)
    piece: u32
    if (
        cpu.exit_count == 0
        and cpu.exit_gpa + cpu.exit_size == gpa
        and cpu.exit_size + size <= cython.sizeof(cpu.exit_data)
    ):
        memcpy(cython.address(cpu.exit_data[cpu.exit_size]), data, size)
        cpu.exit_size += size
        return ST_BREAK
    while size:
        if cpu.exit_count == MAX_MMIO_DONE:
            internal_error(cpu, b"one instruction stores too much to device memory", gpa)
            return ST_BREAK
        more = cython.address(cpu.mmio_done[cpu.exit_count])
        piece = 8 if size > 8 else size
        more.gpa = gpa
        more.size = piece
        more.value = 0
        memcpy(cython.address(more.value), data, piece)
        cpu.exit_count += 1
        gpa += piece
        data += piece
        size -= piece
    return ST_BREAK


def internal_error(cpu, reason, gpa):
    """EXIT_INTERNAL: the text in exit_data, an address in exit_gpa."""
    i: cython.uint
    memset(cython.address(cpu.exit_data[0]), 0, 64)
    for i in range(63):
        if reason[i] == 0:
            break
        cpu.exit_data[i] = cython.cast(u8, reason[i])
    cpu.exit_reason = EXIT_INTERNAL
    cpu.exit_gpa = gpa
