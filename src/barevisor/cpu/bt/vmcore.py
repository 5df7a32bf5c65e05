"""The C half of a VM (struct Vm): slots, block cache, and the ways in for interrupts.

Threads. `set_memory` and `close` need every vCPU outside `run`. Interrupts and `memory_written`
come from any thread while the guest runs.
"""

import cython
from cython.cimports.barevisor.cpu.bt.apicbus import deliver, msi_deliver, wake
from cython.cimports.barevisor.cpu.bt.blocks import drop_code
from cython.cimports.barevisor.cpu.bt.clock import clock_ns, clock_set
from cython.cimports.barevisor.cpu.bt.codemem import CodeMemory
from cython.cimports.barevisor.cpu.bt.codepages import code_written
from cython.cimports.barevisor.cpu.bt.fpstate import XCR0_KNOWN
from cython.cimports.barevisor.cpu.bt.pic import (
    pic_line,
    pic_read,
    pic_reset,
    pic_write,
    settle,
)
from cython.cimports.barevisor.cpu.bt.safepoint import threads_free, threads_init
from cython.cimports.barevisor.cpu.bt.sensitive import SENSITIVE_XSAVE
from cython.cimports.barevisor.cpu.bt.space import space_reserve, space_unreserve
from cython.cimports.barevisor.cpu.bt.stops import break_offset
from cython.cimports.barevisor.cpu.bt.tier import TranslatorOwner
from cython.cimports.barevisor.cpu.bt.tsc import vm_tsc
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.posix.mman import (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from barevisor.cpu.bt.clock import clock_scale, tsc_rates
from barevisor.cpu.x86 import hostcpuid
from barevisor.errors import AddressTaken, EngineError

FIRST_SHIFT = 0x0D600000
SHIFT_STEP = 0x00051000
NO_RESERVE = "the translator finds no free addresses around guest memory in this process"
NO_RESERVE_HINT = "start again (addresses are random), or BAREVISOR_BT=interpret"


def _level_eoi(vm, vector):
    """A vCPU ended a level-triggered interrupt: tell the IOAPIC."""
    core: VmCore = cython.cast(VmCore, vm.owner)
    core.level_eoi(vector)


@cython.cclass
class VmCore:
    """Owns struct Vm and all that hangs on it, except the vCPUs."""

    def __cinit__(self, irqchip, khz, level_eoi, translator, direct=DIRECT_OFF):
        self.vm = cython.cast(cython.pointer(Vm), calloc(1, cython.sizeof(Vm)))
        if self.vm == cython.NULL:
            raise MemoryError
        self.code = CodeMemory()
        self.level_eoi = level_eoi
        if threads_init(self.vm):
            raise MemoryError
        self.vm.code = cython.address(self.code.mem)
        self.vm.owner = cython.cast(cython.p_void, self)
        self.translator = translator
        if translator is not None:
            self.vm.translator = cython.cast(TranslatorOwner, translator).tr
            self.vm.template_fd = cython.cast(TranslatorOwner, translator).template_fd
            self.vm.translate_after = cython.cast(TranslatorOwner, translator).after
        self.ram_fd = -1
        self.direct = direct
        if hostcpuid.cpuid(13, 0)[0] & ~XCR0_KNOWN:
            self.vm.sensitive_also = SENSITIVE_XSAVE
        self.vm.on_eoi = _level_eoi
        self.vm.irqchip = bool(irqchip)
        self.vm.hash = cython.cast(
            cython.pointer(cython.pointer(Block)), calloc(HASH_SIZE, cython.sizeof(cython.p_void))
        )
        # JUSTIFICATION: raw mmap. The arena must be reserved whole and cost only what is touched.
        arena: cython.p_void = mmap(
            cython.NULL, VM_ARENA, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
        )  # fmt: skip
        if arena == MAP_FAILED or self.vm.hash == cython.NULL:
            raise MemoryError
        self.vm.arena = cython.cast(cython.pointer(u8), arena)
        self.vm.arena_size = VM_ARENA
        pic_reset(self.vm)
        self.vm.tsc_khz = khz
        self.set_tsc_khz(khz)

    def __dealloc__(self):
        if self.vm == cython.NULL:
            return
        i: cython.int
        for i in range(MAX_SLOTS):
            self._free_slot(cython.address(self.vm.slots[i]))
        if self.vm.arena != cython.NULL:
            munmap(self.vm.arena, VM_ARENA)
        free(self.vm.hash)
        threads_free(self.vm)
        free(self.vm)

    # ---- memory ----

    def _free_slot(self, slot):
        self._unreserve(slot)
        free(slot.code_pages)
        free(slot.writers)
        free(slot.page_blocks)
        free(slot.stores)
        free(slot.code_numbers)
        free(slot.mirrored)
        slot.mirrored = cython.NULL
        slot.has_file = 0
        slot.code_numbers = cython.NULL
        slot.stores = cython.NULL
        slot.code_pages = cython.NULL
        slot.writers = cython.NULL
        slot.page_blocks = cython.NULL
        slot.size = 0
        slot.used = 0

    def _quiesce(self):
        """The memory map changes: no block and no translation stays."""
        i: cython.uint
        drop_code(self.vm)
        for i in range(self.vm.ncpus):
            if self.vm.cpus[i] != cython.NULL:
                wake(self.vm.cpus[i], ATT_FLUSH)

    def set_memory(self, slot: int, gpa: int, size: int, host: int, readonly: bool, file=None):
        """See EngineVm.set_memory. Raises EngineError."""
        if not 0 <= slot < MAX_SLOTS:
            raise EngineError(f"memory slot {slot}: the bt engine has {MAX_SLOTS}")
        if gpa % PAGE_BYTES or size % PAGE_BYTES or host % PAGE_BYTES or gpa < 0 or size < 0:
            raise EngineError(f"memory slot {slot}: [{gpa:#x}, +{size:#x}) is not page-aligned")
        i: cython.uint
        one: cython.pointer(Slot) = cython.address(self.vm.slots[slot])
        for i in range(MAX_SLOTS):
            other: cython.pointer(Slot) = cython.address(self.vm.slots[i])
            if i != slot and other.size and gpa < other.gpa + other.size and other.gpa < gpa + size:
                raise EngineError(f"memory slot {slot} overlaps slot {i}")
        self._quiesce()
        self._free_slot(one)
        if size == 0:
            return
        pages = size // PAGE_BYTES
        one.code_pages = cython.cast(cython.pointer(u8), calloc(pages, 1))
        one.writers = cython.cast(cython.pointer(u8), calloc(pages, 1))
        one.page_blocks = cython.cast(
            cython.pointer(cython.pointer(Block)), calloc(pages, cython.sizeof(cython.p_void))
        )
        one.stores = cython.cast(cython.pointer(u64), calloc(2 * pages, 8))
        one.code_numbers = cython.cast(cython.pointer(u32), calloc(pages, 4))
        one.mirrored = cython.cast(cython.pointer(u8), calloc(pages, 1))
        if (
            one.mirrored == cython.NULL
            or one.code_numbers == cython.NULL
            or one.code_pages == cython.NULL
            or one.writers == cython.NULL
            or one.stores == cython.NULL
            or one.page_blocks == cython.NULL
        ):
            self._free_slot(one)
            raise MemoryError
        self._reserve(host, size)
        one.gpa, one.host, one.readonly = gpa, host, readonly
        one.used, one.size = 1, size
        if file is not None and self.ram_fd in (-1, file[0]):
            self.ram_fd, one.file_offset = file
            one.has_file = 1
            self.vm.direct = self.direct
        self.vm.nslots = max(self.vm.nslots, slot + 1)

    def _unreserve(self, slot):
        if slot.used and self.vm.translator != cython.NULL:
            space_unreserve(slot.host, slot.size, self.vm.write_shift)
        slot.used = 0

    def _reserve(self, host, size):
        """No wrong entry of a page table may lead to memory (space.pxd). The distance between
        load and store entries is chosen with the first slot: 1 TiB less a bit, so that the
        regions of a Linux kernel do not meet."""
        i: cython.uint
        if self.vm.translator == cython.NULL:
            return
        if self.vm.write_shift:
            if space_reserve(host, size, self.vm.write_shift):
                raise AddressTaken(NO_RESERVE, NO_RESERVE_HINT)
            return
        for i in range(64):
            if space_reserve(host, size, FIRST_SHIFT + i * SHIFT_STEP) == 0:
                self.vm.write_shift = FIRST_SHIFT + i * SHIFT_STEP
                return
        raise AddressTaken(NO_RESERVE, NO_RESERVE_HINT)

    def memory_written(self, gpa: int, size: int):
        """See EngineVm.memory_written. Pages without code cost a look at one byte each."""
        at: u64 = gpa
        length: u64 = size
        vm: cython.pointer(Vm) = self.vm
        with cython.nogil:
            code_written(vm, cython.NULL, at, length)

    def limit_code(self, size: int):
        """For tests: room for blocks, below VM_ARENA."""
        self.vm.arena_size = min(size, VM_ARENA)

    def flushes(self):
        """How often all code was dropped."""
        return self.vm.flushes

    # ---- a debugger (stops.py) ----

    def set_debug(self, breaks: list, watches: list):
        """Breakpoints by linear address, and (address, size, kinds) of watchpoints. Raises
        EngineError when there are too many."""
        vm: cython.pointer(Vm) = self.vm
        if len(breaks) > MAX_BREAKS or len(watches) > MAX_WATCHES:
            raise EngineError(
                f"{len(breaks)} breakpoints and {len(watches)} watchpoints: "
                f"the bt engine has {MAX_BREAKS} and {MAX_WATCHES}"
            )
        stale: cython.bint = bool(watches) and not vm.single
        i: cython.uint
        for i, address in enumerate(breaks):
            vm.breaks[i] = address
            stale = stale or not break_offset(vm, vm.breaks[i])
            vm.break_offsets[(vm.breaks[i] >> 6) & 63] |= cython.cast(u64, 1) << (vm.breaks[i] & 63)
        for i, (address, size, kinds) in enumerate(watches):
            vm.watches[i].address, vm.watches[i].size, vm.watches[i].kinds = address, size, kinds
        changed = watches or vm.nwatches
        vm.nbreaks, vm.nwatches = len(breaks), len(watches)
        vm.single |= bool(watches)
        self.debugging(stale)
        for i in range(vm.ncpus if changed else 0):
            if vm.cpus[i] != cython.NULL:
                wake(vm.cpus[i], ATT_FLUSH)

    def debugging(self, stale: bool):
        """From now on blocks are built for a debugger; those that were not are dropped."""
        if stale or not self.vm.debugging:
            drop_code(self.vm)
        self.vm.debugging = 1

    def trace(self):
        """From now on each block notes that it runs."""
        self.vm.tracing = 1
        self.debugging(True)

    def end_debug(self):
        """The debugger is gone, and every trace of it."""
        self.set_debug([], [])
        memset(self.vm.break_offsets, 0, cython.sizeof(self.vm.break_offsets))
        self.vm.single = 0
        self.vm.debugging = self.vm.tracing
        drop_code(self.vm)

    # ---- interrupts ----

    def deliver(self, dest: int, logical: bool, mode: int, vector: int, level: bool):
        """An IOAPIC's message; how many CPUs took it."""
        return deliver(self.vm, dest, logical, mode, vector, level)

    def msi(self, address: int, data: int):
        """A device's message."""
        msi_deliver(self.vm, address, data)

    def pic_line(self, irq: int, level: bool):
        """Drive an input of the 8259 pair."""
        pic_line(self.vm, irq, level)

    def pic_read(self, port: int):
        """One byte."""
        return pic_read(self.vm, port)

    def pic_write(self, port: int, value: int):
        """One byte."""
        pic_write(self.vm, port, value)

    # ---- state (see cpu/vmstate.py); no vCPU runs ----

    def get_pic(self, number: int):
        """The 8259 `number`, 0 the master."""
        from barevisor.cpu.vmstate import PicState

        p: cython.pointer(Pic) = cython.address(self.vm.pics[number])
        return PicState(
            irr=p.irr, isr=p.isr, imr=p.imr, lines=p.lines, elcr=p.elcr, base=p.base,
            lowest=p.lowest, initialising=p.init_state, icw4=bool(p.init4),
            auto_eoi=bool(p.auto_eoi), rotate=bool(p.rotate_on_aeoi),
            nested=bool(p.special_nested), read_isr=bool(p.read_isr), poll=bool(p.poll),
            special_mask=bool(p.special_mask),
        )  # fmt: skip

    def set_pic(self, number: int, state):
        """A snapshot is input: every field is cut to what the guest could have set."""
        p: cython.pointer(Pic) = cython.address(self.vm.pics[number])
        p.irr, p.isr, p.imr = state.irr & 0xFF, state.isr & 0xFF, state.imr & 0xFF
        p.lines, p.base, p.lowest = state.lines & 0xFF, state.base & 0xF8, state.lowest & 7
        p.elcr = state.elcr & (0xDE if number else 0xF8)
        p.init_state = state.initialising if 2 <= state.initialising <= 4 else 0
        p.init4, p.auto_eoi, p.rotate_on_aeoi = state.icw4, state.auto_eoi, state.rotate
        p.special_nested, p.read_isr, p.poll = state.nested, state.read_isr, state.poll
        p.special_mask = state.special_mask
        settle(self.vm)

    def get_clock(self):
        """kvm-clock now, in ns."""
        return clock_ns(self.vm, vm_tsc(self.vm))

    def set_clock(self, ns: int):
        """kvm-clock goes on from `ns`; vCPUs whose state is set after this see it."""
        clock_set(self.vm, ns)

    def set_tsc_khz(self, khz: int):
        """The guest's TSC runs at `khz` from now; no vCPU has run yet. kvm-clock starts anew."""
        self.vm.vm_khz = khz
        self.vm.tsc_ratio, self.vm.tsc_inverse = tsc_rates(self.vm.tsc_khz, khz)
        self.vm.clock_mul, self.vm.clock_shift = clock_scale(khz)
        clock_set(self.vm, 0)

    def close(self):
        """Nothing runs any more: callbacks end, and guest memory may go."""
        i: cython.int
        for i in range(MAX_SLOTS):
            self._unreserve(cython.address(self.vm.slots[i]))
        self.vm.stop = 1
        self.vm.on_eoi = cython.NULL
        self.level_eoi = None
