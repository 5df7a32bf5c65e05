"""The block cache: guest code decoded once, found again by where it lies in host memory.

A block is a run of instructions within one page, keyed by the host address of its first byte and
by the mode that its bytes were read in, so page tables may map it anywhere and as often as they
like. Its Ops are cut from one arena; when that or the thunk memory is full, everything is
dropped at once (drop_code). Stores to a page that holds blocks take mmu.py's slow path, which
drops what they overlap. An instruction that crosses into another page is a block of its own
that keeps a copy of its bytes and compares them before each run.

All CPUs share the cache. Looking up takes no lock: a block is complete before it is hashed, and a
dead one keeps its place in the chain that a reader may stand at. codepages.py says why a CPU
never runs what is not there any more, safepoint.py how the lock works.

bind.py turns each decoded instruction into an Op; this file finds, builds and drops blocks.
"""

import cython
from cython.cimports.barevisor.cpu.bt.access import *
from cython.cimports.barevisor.cpu.bt.bind import bind_block, bind_bytes
from cython.cimports.barevisor.cpu.bt.codemem import CodeMem, code_reset
from cython.cimports.barevisor.cpu.bt.codepages import (
    arena_full,
    block_hash,
    find_slot,
    unhash,
    watch_code_page,
)
from cython.cimports.barevisor.cpu.bt.decode import DEC_MORE, DEC_OK, RF_ENDS, decode, facts
from cython.cimports.barevisor.cpu.bt.evict import evict_all
from cython.cimports.barevisor.cpu.bt.mirror import mirrors_flush_user
from cython.cimports.barevisor.cpu.bt.registers import set_fault
from cython.cimports.barevisor.cpu.bt.safepoint import (
    resume_others,
    stop_others,
    vm_lock,
    vm_unlock,
)
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.stops import break_offset
from cython.cimports.barevisor.cpu.bt.tlb import fetch as fetch_code
from cython.cimports.barevisor.cpu.bt.tlb import forget_jumps
from cython.cimports.barevisor.cpu.bt.trace import MODE_ONE
from cython.cimports.libc.string import memcmp, memcpy, memset

PAGE_MASK: u64 = cython.declare(u64, 0xFFFFFFFFFFFFF000)
NO_KEY: u64 = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)


def lookup_block(vm, host, mode):
    block: cython.pointer(Block) = acquire(cython.address(vm.hash[block_hash(host)]), ACQUIRE)
    while block != cython.NULL and (block.host != host or block.mode != mode):
        block = block.hash_next
    return block


def go(cpu, target):
    """Run the block at `target` if this branch was looked up before; else look it up."""
    place: u64 = (target ^ (target >> 11)) & (JUMP_SIZE - 1)
    jump: cython.pointer(Jump) = cython.address(cpu.jumps[place])
    cpu.budget -= 1
    if (
        jump.target == target
        and jump.stamp == cpu.stamps[target >> 63]
        and (cpu.budget | cpu.urgent) >= 0
        and jump.block.valid
    ):
        cpu.regs[REG_RIP] = target
        cpu.icount += jump.block.count
        return jump.block.ops[0].handler(cpu, jump.block.ops)
    return _go_slow(cpu, target, jump)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _go_slow(cpu: cython.pointer(Cpu), target: u64, jump: cython.pointer(Jump)) -> cython.int:
    """Note the block at `target` and run it, if the code TLB and the cache know it; else
    ST_NEXT. Crossing instructions are not noted: their second page may change."""
    va: u64 = target + cpu.segbase[SEG_CS]
    entry: cython.pointer(ItlbEntry) = cython.address(cpu.itlb[(va >> 12) & (TLB_SIZE - 1)])
    block: cython.pointer(Block)
    cpu.rip = target
    if (cpu.budget | cpu.urgent) < 0 or va - entry.tag > 0xFFF or cpu.mode & MODE_LEGACY:
        return ST_NEXT
    block = lookup_block(cpu.vm, entry.host + (va & 0xFFF), cpu.mode)
    if block == cython.NULL or block.crosses:
        return ST_NEXT
    jump.target = target
    jump.stamp = cpu.stamps[target >> 63]
    jump.block = block
    cpu.regs[REG_RIP] = target
    cpu.icount += block.count
    return block.ops[0].handler(cpu, block.ops)


def find_or_build(cpu, mode, out):
    """The block at cpu.rip: 0, ST_FAULT (the fetch faults) or ST_EXIT (code outside RAM)."""
    start: Start
    status: cython.int
    block: cython.pointer(Block)
    start.va = cpu.rip + cpu.segbase[SEG_CS]
    start.mode = mode
    if cpu.mode & MODE_LEGACY:
        start.va = cython.cast(u32, start.va)
        if cpu.rip > cpu.segs[SEG_CS].limit:
            return set_fault(cpu, EXC_GP, 0)
    status = fetch_code(cpu, start.va, cython.address(start.host), cython.address(start.gpa))
    if status:
        return status
    block = lookup_block(cpu.vm, start.host, mode)
    if block != cython.NULL:
        changed: cython.int = block.crosses and _changed(cpu, block, start.va)
        if changed == 0:
            out[0] = block
            return 0
        if changed < 0:  # the second page is not executable any more, or not RAM
            return ST_EXIT if cpu.exit_reason else ST_FAULT
    return _make(cpu, cython.address(start), block, out)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _make(
    cpu: cython.pointer(Cpu),
    start: cython.pointer(Start),
    old: cython.pointer(Block),
    out: cython.pointer(cython.pointer(Block)),
) -> cython.int:
    """Build what was not found (`old`: or found changed), and drop all code where it must be."""
    vm: cython.pointer(Vm) = cpu.vm
    flushes: u32 = vm.flushes
    status: cython.int = _build_locked(cpu, start, old, out)
    if status == ST_EXIT and cpu.exit_reason == EXIT_CACHE_FULL:
        cpu.exit_reason = EXIT_NONE
        stop_others(vm, cpu)
        if vm.flushes == flushes:
            drop_code(vm)
        resume_others(vm, cpu)
        status = _build_locked(cpu, start, cython.NULL, out)
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _build_locked(
    cpu: cython.pointer(Cpu),
    start: cython.pointer(Start),
    old: cython.pointer(Block),
    out: cython.pointer(cython.pointer(Block)),
) -> cython.int:
    """Another CPU may have been quicker."""
    vm: cython.pointer(Vm) = cpu.vm
    slot: cython.pointer(Slot) = find_slot(vm, start.gpa)
    block: cython.pointer(Block)
    status: cython.int = 0
    vm_lock(vm, cpu)
    if old != cython.NULL:
        # A crossing block whose bytes changed; it stays in its page's list until that is dropped.
        unhash(vm, old)
        vm.dead_bytes += old.bytes
    block = lookup_block(vm, start.host, start.mode)
    if block != cython.NULL and not block.crosses:
        out[0] = block
    else:
        watch_code_page(cpu, slot, (start.gpa - slot.gpa) >> 12)
        status = _build(cpu, start, out)
    vm_unlock(vm)
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _second_page(cpu: cython.pointer(Cpu), va: u64) -> u64:
    """Linear address of the page behind the one that holds `va`."""
    va = (va & PAGE_MASK) + 4096
    return cython.cast(u64, cython.cast(u32, va)) if cpu.mode & MODE_LEGACY else va


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _changed(cpu: cython.pointer(Cpu), block: cython.pointer(Block), va: u64) -> cython.int:
    """Are a crossing instruction's bytes other than they were? -1: its second page faults, or is
    not RAM."""
    host: u64 = 0
    gpa: u64 = 0
    first: u32 = cython.cast(u32, 4096 - (va & 0xFFF))
    if fetch_code(cpu, _second_page(cpu, va), cython.address(host), cython.address(gpa)):
        return -1
    if memcmp(cython.cast(cython.p_void, block.host), cython.address(block.raw[0]), first):
        return 1
    return (
        memcmp(
            cython.cast(cython.p_void, host),
            cython.address(block.raw[first]),
            block.size - first,
        )
        != 0
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _gather(
    cpu: cython.pointer(Cpu),
    start: cython.pointer(Start),
    raw: cython.pointer(u8),
    avail: cython.pointer(u32),
) -> cython.int:
    """Up to 15 bytes at `start` across the page boundary; what lies behind a bad page is cut."""
    va: u64 = _second_page(cpu, start.va)
    next_host: u64 = 0
    gpa: u64 = 0
    first: u32 = cython.cast(u32, 4096 - (start.va & 0xFFF))
    status: cython.int
    memcpy(raw, cython.cast(cython.p_void, start.host), first)
    status = fetch_code(cpu, va, cython.address(next_host), cython.address(gpa))
    avail[0] = first if status else 15
    if status == 0:
        memcpy(raw + first, cython.cast(cython.p_void, next_host), 15 - first)
    return status


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _build(
    cpu: cython.pointer(Cpu),
    start: cython.pointer(Start),
    out: cython.pointer(cython.pointer(Block)),
) -> cython.int:
    """Decode from `start` up to 32 instructions, a branch or the end of the page, and bind."""
    insns: Insn[32]
    raw: cython.uchar[16]
    room: u32 = cython.cast(u32, 4096 - (start.va & 0xFFF))
    pos: u32 = 0
    count: u32 = 0
    limit: u32 = 1 if start.mode & (MODE_STEP | MODE_ONE) or cpu.vm.single else 32
    result: cython.int = DEC_OK
    crossing: u32 = 0
    status: cython.int = 0
    code: cython.pointer(u8) = cython.cast(cython.pointer(u8), start.host)
    while count < limit and pos < room:
        result = decode(code + pos, room - pos, start.mode, cython.address(insns[count]))
        if result:
            break
        pos += insns[count].length
        count += 1
        if facts(insns[count - 1].row).attrs & RF_ENDS:
            break
        if cpu.vm.debugging and break_offset(cpu.vm, start.va + pos):
            break
    if result == DEC_MORE and count == 0:
        status = _gather(cpu, start, raw, cython.address(room))
        result = decode(raw, room, start.mode, cython.address(insns[0]))
        if result == DEC_MORE:
            return status
        crossing = 1
        if result == DEC_OK:
            count = 1
            pos = insns[0].length
            if status:  # the second page is bad, but the instruction ends before it
                crossing = 0
        cpu.fault_vector = 0
        cpu.exit_reason = EXIT_NONE
    elif result == DEC_MORE:
        result = DEC_OK
    return _finish_block(
        cpu, start, insns, count, result, pos, raw if crossing else cython.NULL, out
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _finish_block(
    cpu: cython.pointer(Cpu),
    start: cython.pointer(Start),
    insns: cython.pointer(Insn),
    count: u32,
    result: cython.int,
    size: u32,
    raw: cython.pointer(u8),
    out: cython.pointer(cython.pointer(Block)),
) -> cython.int:
    """Cut a Block and its Ops from the arena and enter it into hash and page list."""
    vm: cython.pointer(Vm) = cpu.vm
    slot: cython.pointer(Slot) = find_slot(vm, start.gpa)
    page: u64 = (start.gpa - slot.gpa) >> 12
    block: cython.pointer(Block)
    need: u64 = cython.sizeof(Block) + bind_bytes(count, start.mode)
    if arena_full(vm, need):
        cpu.exit_reason = EXIT_CACHE_FULL
        return ST_EXIT
    block = cython.cast(cython.pointer(Block), vm.arena + vm.arena_used)
    memset(block, 0, need)
    block.ops = cython.cast(cython.pointer(Op), block + 1)
    block.host = start.host
    block.gpa = start.gpa
    block.mode = start.mode
    block.size = size if size else 1
    block.bytes = cython.cast(u32, need)
    block.count = count + (1 if result else 0)
    block.valid = 1
    if raw != cython.NULL:
        block.crosses = 1
        memcpy(cython.address(block.raw[0]), raw, 15)
    if bind_block(cpu, block, insns, count, result):
        cpu.exit_reason = EXIT_CACHE_FULL
        return ST_EXIT
    vm.arena_used += need
    vm.nblocks += 1
    block.page_next = slot.page_blocks[page]
    slot.page_blocks[page] = block
    block.hash_next = vm.hash[block_hash(start.host)]
    publish(cython.address(vm.hash[block_hash(start.host)]), block, RELEASE)
    out[0] = block
    return 0


def drop_code(vm):
    """See blocks.pxd."""
    i: cython.uint
    slot: cython.pointer(Slot)
    evict_all(vm)
    memset(vm.hash, 0, HASH_SIZE * cython.sizeof(cython.p_void))
    for i in range(vm.nslots):
        slot = cython.address(vm.slots[i])
        memset(slot.code_pages, 0, slot.size >> 12)
        memset(slot.code_numbers, 0, (slot.size >> 12) * cython.sizeof(u32))
        memset(slot.page_blocks, 0, (slot.size >> 12) * cython.sizeof(cython.p_void))
    vm.arena_used = 0
    vm.dead_bytes = 0
    vm.nblocks = 0
    vm.flushes += 1
    code_reset(cython.cast(cython.pointer(CodeMem), vm.code))
    for i in range(vm.ncpus):
        if vm.cpus[i] != cython.NULL:
            mirrors_flush_user(vm.cpus[i], NO_KEY)  # their code is not watched any more
            vm.cpus[i].link = cython.NULL
            forget_jumps(vm.cpus[i], 0)
            forget_jumps(vm.cpus[i], 1)
