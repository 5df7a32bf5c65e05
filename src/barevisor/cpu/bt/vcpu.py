"""One virtual CPU of the software engine: from C state to exits, and back.

`run` enters the dispatcher without the GIL; what comes back and belongs to the engine itself
(its interrupt controllers and timer, doorbells, HLT) is answered here and the guest goes on.
C signatures are in vcpu.pxd.
"""

import os

import cython
from cython.cimports.barevisor.cpu.bt.access import get_rflags, set_rflags
from cython.cimports.barevisor.cpu.bt.apic import (
    __sync_fetch_and_and,
    __sync_synchronize,
    apic_ack,
    apic_get_tpr,
    apic_load,
    apic_mmio_read,
    apic_mmio_write,
    apic_pending,
    apic_reset,
    apic_save,
    apic_set_tpr,
    apic_timer_poll,
    wake,
)
from cython.cimports.barevisor.cpu.bt.blocks import drop_code
from cython.cimports.barevisor.cpu.bt.fpstate import fpu_reset, load_xsave_image, xsave_image
from cython.cimports.barevisor.cpu.bt.interp import execute
from cython.cimports.barevisor.cpu.bt.interrupts import KIND_EXCEPTION, deliver
from cython.cimports.barevisor.cpu.bt.mmu import ACCESS_READ, tlb_flush, translate
from cython.cimports.barevisor.cpu.bt.mode import update_mode
from cython.cimports.barevisor.cpu.bt.msr import msr_read, msr_reset, msr_write
from cython.cimports.barevisor.cpu.bt.tsc import guest_tsc, host_tsc
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.stdlib import posix_memalign

from barevisor.cpu import engine
from barevisor.cpu.x86 import cpuid
from barevisor.errors import EngineError

NS_IN_S = cython.declare("i64", 1_000_000_000)
NEVER = cython.declare("u64", 0xFFFFFFFFFFFFFFFF)
PHYS_MASK = cython.declare("u64", (1 << cpuid.PHYSICAL_BITS) - 1)
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")
"""In the order of SEG_*."""
MP_NAMES = {MP_RUNNABLE: "runnable", MP_WAIT_SIPI: "init", MP_HALTED: "halted"}
MP_STATES = {"runnable": MP_RUNNABLE, "init": MP_WAIT_SIPI, "sipi": MP_WAIT_SIPI, "halted": 2}
MSRS = (
    0x3B,  # IA32_TSC_ADJUST
    0x174, 0x175, 0x176,  # IA32_SYSENTER_CS, _ESP, _EIP
    0x1A0,  # IA32_MISC_ENABLE
    0x277,  # IA32_PAT
    *range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF,  # MTRRs
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084,  # STAR, LSTAR, CSTAR, SFMASK
    0xC0000102, 0xC0000103,  # KERNEL_GS_BASE, TSC_AUX
    0x4B564D00, 0x4B564D01, 0x4B564D04,  # kvm-clock, PV EOI
    0x6E0,  # IA32_TSC_DEADLINE, last: it needs the local APIC and the TSC
)  # fmt: skip
"""The MSRs of a CpuState that are no field of their own."""
GENERAL = engine.GPR_NAMES


# ---- sleeping --------------------------------------------------------------------------------


def wait_readable(fd, ns):
    """At most `ns` nanoseconds (-1: for ever). -1: a signal arrived."""
    wanted: pollfd
    limit: timespec
    wanted.fd = fd
    wanted.events = POLLIN
    limit.tv_sec = ns // NS_IN_S
    limit.tv_nsec = ns % NS_IN_S
    if (
        ppoll(
            cython.address(wanted), 1, cython.NULL if ns < 0 else cython.address(limit), cython.NULL
        )
        < 0
    ):
        return -1 if errno == EINTR else 0
    return 0


def why_awake(cpu):
    """WOKE_* when there is something to do, else -1. Looks at the timer first."""
    apic_timer_poll(cpu, host_tsc())
    if cpu.attention & ATT_KICK:
        return WOKE_KICK
    if cpu.attention & (ATT_INIT | ATT_SIPI):
        return WOKE_INIT
    if cpu.mp_state == MP_WAIT_SIPI:
        return -1
    if cpu.attention & ATT_NMI and not cpu.nmi_masked:
        return WOKE
    if cpu.sysflags & FLAG_IF:
        return WOKE if apic_pending(cpu) >= 0 else -1
    # Interrupts are off: only an NMI or INIT from another CPU could end this.
    return WOKE_NEVER if cpu.vm.ncpus == 1 else -1


def sleep_until_woken(cpu):
    """Sleep in the kernel until why_awake has an answer, which is returned."""
    why: cython.int
    now: u64
    ns: i64
    woken: u64
    while True:
        cpu.sleeping = 1
        __sync_synchronize()
        why = why_awake(cpu)
        if why >= 0:
            cpu.sleeping = 0
            return why
        ns = -1
        if cpu.timer_deadline != NEVER:
            now = host_tsc()
            ns = 0
            if cpu.timer_deadline > now:
                # Up to an hour at once: the product cannot overflow, and the loop goes on.
                ns = min(
                    (cpu.timer_deadline - now) // cpu.vm.tsc_khz, cython.cast(u64, 3_600_000)
                ) * 1_000_000 + (
                    (cpu.timer_deadline - now) % cpu.vm.tsc_khz * 1_000_000 // cpu.vm.tsc_khz
                )
        why = wait_readable(cpu.wake_fd, ns)
        cpu.sleeping = 0
        read(cpu.wake_fd, cython.address(woken), 8)  # non-blocking
        if why < 0:
            return WOKE_SIGNAL


@cython.cclass
class BtVcpu:
    """See vcpu.pyi."""

    def __cinit__(self, core, chips, index, rows, features, cr4, efer):
        self.core = core
        self.board = chips
        self.index = index
        self.waiting = []
        self.exception = -1
        self._allocate()
        cpu: cython.pointer(Cpu) = self.cpu
        cpu.vm = self.core.vm
        cpu.index = index
        cpu.features = features & 0xFFFFFFFF
        cpu.features2 = features >> 32
        cpu.cr4_allowed = cr4
        cpu.efer_allowed = efer
        cpu.phys_mask = PHYS_MASK
        cpu.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        cpu.ncpuid = len(rows)
        cpu.cpuid = cython.cast(
            cython.pointer(CpuidEntry), calloc(len(rows), cython.sizeof(CpuidEntry))
        )
        if cpu.cpuid == cython.NULL:
            raise MemoryError
        for at, row in enumerate(rows):
            entry: cython.pointer(CpuidEntry) = cython.address(cpu.cpuid[at])
            entry.leaf = row.leaf
            entry.subleaf = row.subleaf or 0
            entry.has_subleaf = row.subleaf is not None
            entry.eax, entry.ebx, entry.ecx, entry.edx = row.eax, row.ebx, row.ecx, row.edx
        msr_reset(cpu)
        apic_reset(cpu, 0)
        fpu_reset(cpu)
        self.set_state(_reset_state(index, self.core.vm.irqchip))
        self.core.vm.cpus[index] = cpu
        self.core.vm.ncpus = max(self.core.vm.ncpus, index + 1)

    def _allocate(self):
        """Cpu (its vector fields are accessed aligned), the local APIC and the TLBs."""
        at: cython.p_void = cython.NULL
        n: cython.uint
        if posix_memalign(cython.address(at), 64, cython.sizeof(Cpu)):
            raise MemoryError
        memset(at, 0, cython.sizeof(Cpu))
        self.cpu = cython.cast(cython.pointer(Cpu), at)
        cpu: cython.pointer(Cpu) = self.cpu
        cpu.wake_fd = -1
        cpu.apic = cython.cast(cython.pointer(Apic), calloc(1, cython.sizeof(Apic)))
        # One block: three data TLBs and the blank, two code TLBs and the blank.
        entry: cython.pointer(TlbEntry) = cython.cast(
            cython.pointer(TlbEntry), calloc(7 * TLB_SIZE, cython.sizeof(TlbEntry))
        )
        if cpu.apic == cython.NULL or entry == cython.NULL:
            raise MemoryError
        code: cython.pointer(ItlbEntry) = cython.cast(
            cython.pointer(ItlbEntry), entry + 4 * TLB_SIZE
        )
        for n in range(MMU_COUNT):
            cpu.tlbs[n] = entry + (1 + n) * TLB_SIZE
        cpu.tlb_blank = entry
        cpu.itlb_blank = code
        cpu.itlbs[0] = code + TLB_SIZE
        cpu.itlbs[1] = code + 2 * TLB_SIZE
        for n in range(TLB_SIZE):
            # The tag of a page that cannot lie in this entry never matches.
            entry[n].rtag = entry[n].wtag = cython.cast(u64, n ^ 1) << 12
            code[n].tag = cython.cast(u64, n ^ 1) << 12
        tlb_flush(cpu, 0)
        return 0

    def __dealloc__(self):
        if self.cpu == cython.NULL:
            return
        if self.core is not None and self.core.vm.cpus[self.index] == self.cpu:
            self.core.vm.cpus[self.index] = cython.NULL
        if self.cpu.wake_fd >= 0:
            os.close(self.cpu.wake_fd)
        free(self.cpu.apic)
        free(self.cpu.tlb_blank)
        free(self.cpu.cpuid)
        free(self.cpu)

    def close(self):
        """Interrupts no longer reach this CPU. Idempotent."""
        if self.core.vm.cpus[self.index] == self.cpu:
            self.core.vm.cpus[self.index] = cython.NULL

    # ---- running ----

    def run(self):
        """See Vcpu.run."""
        cpu: cython.pointer(Cpu) = self.cpu
        if self.core.vm.stop:
            raise EngineError("run: the VM is closed")
        if self.waiting:
            return self.waiting.pop(0)
        if self.reading:
            raise EngineError("run: the last read was not answered with complete_read")
        while True:
            self.core.drain()
            if cpu.mp_state != MP_RUNNABLE:
                done = self._wait()
                if done is not None:
                    return done
                continue
            cpu.exit_reason = EXIT_NONE
            if self.exception >= 0:
                vector: u32 = self.exception
                self.exception = -1
                deliver(cpu, vector, self.exception_error, KIND_EXCEPTION)
            if cpu.exit_reason == EXIT_NONE:
                with cython.nogil:
                    execute(cpu)
            done = self._exit()
            if done is not None:
                return done

    def _exit(self):
        """The exit that the dispatcher left with, or None when the engine has answered it."""
        cpu: cython.pointer(Cpu) = self.cpu
        reason: u32 = cpu.exit_reason
        if reason == EXIT_PIO_WRITE:
            return self._pio_write()
        if reason == EXIT_MMIO_WRITE:
            return self._mmio_write()
        if reason == EXIT_PIO_READ:
            return self._pio_read()
        if reason == EXIT_MMIO_READ:
            return self._mmio_read()
        if reason == EXIT_HALTED:
            if cpu.halted:
                cpu.halted = 0
                cpu.mp_state = MP_HALTED
            return self._wait()
        if reason == EXIT_INTERRUPTED:
            kicked, self.kicked = self.kicked, False
            return engine.Interrupted() if kicked else None
        if reason == EXIT_CACHE_FULL:
            drop_code(cpu.vm)
            return None
        if reason == EXIT_SHUTDOWN:
            return engine.Shutdown()
        if reason == EXIT_DEBUG:
            return engine.Debug(cpu.rip + cpu.segbase[SEG_CS], cpu.dr[6], EXC_DB)
        text = bytes(cpu.exit_data[:63]).split(b"\0")[0].decode("ascii", "replace")
        return engine.InternalError(text or f"exit {reason}", (cpu.rip, cpu.exit_gpa))

    def _wait(self):
        """HLT, or a CPU that waits for its start: sleep. None: go on."""
        cpu: cython.pointer(Cpu) = self.cpu
        why: cython.int
        if not cpu.vm.irqchip and cpu.mp_state == MP_HALTED:
            cpu.mp_state = MP_RUNNABLE
            return engine.Halted()
        with cython.nogil:
            why = why_awake(cpu)
            if why < 0:
                why = sleep_until_woken(cpu)
        if why == WOKE:
            cpu.mp_state = MP_RUNNABLE
            wake(cpu, ATT_INTERRUPT)
        elif why == WOKE_NEVER:
            return engine.Halted()
        elif why == WOKE_SIGNAL:
            return engine.Interrupted()
        elif why == WOKE_INIT:
            self._restart()
        elif why == WOKE_KICK:
            __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_KICK))
            kicked, self.kicked = self.kicked, False
            if kicked:
                return engine.Interrupted()
        return None

    def _restart(self):
        """INIT (SDM, "Processor State After INIT") and then SIPI, each if it has arrived."""
        cpu: cython.pointer(Cpu) = self.cpu
        asked: u32 = __sync_fetch_and_and(
            cython.address(cpu.attention), ~cython.cast(u32, ATT_INIT | ATT_SIPI)
        )
        if asked & ATT_INIT:
            old = self.get_state()
            new = _reset_state(self.index, cpu.vm.irqchip)
            new.cr0 |= old.cr0 & 0x60000000
            new.apic_base, new.xsave, new.xcr0 = old.apic_base, old.xsave, old.xcr0
            new.tsc, new.msrs = old.tsc, old.msrs
            self.set_state(new)
            apic_reset(cpu, 1)
        if asked & ATT_SIPI and cpu.mp_state == MP_WAIT_SIPI:
            self._start(cpu.sipi_vector)

    def _start(self, vector):
        cpu: cython.pointer(Cpu) = self.cpu
        cpu.segs[SEG_CS].selector = vector << 8
        cpu.segs[SEG_CS].base = vector << 12
        cpu.rip = 0
        cpu.mp_state = MP_RUNNABLE
        update_mode(cpu)

    # ---- exits that carry data ----

    def _pio_write(self):
        cpu: cython.pointer(Cpu) = self.cpu
        data = bytes(cpu.exit_data[: cpu.exit_size * cpu.exit_count])
        if self.board.port_write(cpu.exit_port, cpu.exit_size, data):
            return None
        return engine.PioWrite(cpu.exit_port, cpu.exit_size, data)

    def _pio_read(self):
        cpu: cython.pointer(Cpu) = self.cpu
        value = self.board.port_read(cpu.exit_port, cpu.exit_size)
        if value is not None:
            answer: u64 = value
            memcpy(cpu.exit_data, cython.address(answer), cpu.exit_size)
            cpu.io_ready = 1
            return None
        self.reading = EXIT_PIO_READ
        return engine.PioRead(cpu.exit_port, cpu.exit_size, cpu.exit_count)

    def _mmio_write(self):
        cpu: cython.pointer(Cpu) = self.cpu
        gpa = cpu.exit_gpa
        data = bytes(cpu.exit_data[: cpu.exit_size])
        while data:
            piece, data = data[:8], data[8:]
            if not self.board.mmio_write(gpa, piece):
                self.waiting.append(engine.MmioWrite(gpa, piece))
            gpa += len(piece)
        return self.waiting.pop(0) if self.waiting else None

    def _mmio_read(self):
        cpu: cython.pointer(Cpu) = self.cpu
        if cpu.mmio_n == MAX_MMIO_DONE:
            return engine.InternalError(
                "one instruction reads too much device memory", (cpu.rip, cpu.exit_gpa)
            )
        value = self.board.mmio_read(cpu.exit_gpa, cpu.exit_size)
        if value is not None:
            self._answer_mmio(cpu.exit_gpa, cpu.exit_size, value)
            return None
        self.reading = EXIT_MMIO_READ
        return engine.MmioRead(cpu.exit_gpa, cpu.exit_size)

    def _answer_mmio(self, gpa, size, value):
        done: cython.pointer(MmioDone) = cython.address(self.cpu.mmio_done[self.cpu.mmio_n])
        done.gpa, done.size, done.value = gpa, size, value
        self.cpu.mmio_n += 1

    def complete_read(self, data: bytes):
        """See Vcpu.complete_read."""
        cpu: cython.pointer(Cpu) = self.cpu
        want = cpu.exit_size * (cpu.exit_count if self.reading == EXIT_PIO_READ else 1)
        if not self.reading or len(data) != want:
            raise EngineError(f"complete_read: {len(data)} bytes for a read of {want}")
        if self.reading == EXIT_PIO_READ:
            memcpy(cpu.exit_data, cython.cast(cython.p_char, data), want)
            cpu.io_ready = 1
        else:
            self._answer_mmio(cpu.exit_gpa, cpu.exit_size, int.from_bytes(data, "little"))
        self.reading = 0

    def kick(self):
        """See Vcpu.kick."""
        self.kicked = True
        wake(self.cpu, ATT_KICK)

    # ---- registers ----

    def get_regs(self):
        """See Vcpu.get_regs."""
        cpu: cython.pointer(Cpu) = self.cpu
        regs = [cpu.regs[i] for i in range(16)]
        return engine.Registers(*regs, cpu.rip, get_rflags(cpu))

    def set_regs(self, regs):
        """See Vcpu.set_regs."""
        cpu: cython.pointer(Cpu) = self.cpu
        for at, name in enumerate(GENERAL):
            cpu.regs[at] = getattr(regs, name)
        cpu.rip = regs.rip
        set_rflags(cpu, regs.rflags)
        update_mode(cpu)

    def translate(self, linear: int):
        """See Vcpu.translate."""
        gpa: u64 = 0
        va: u64 = linear
        if translate(self.cpu, va, ACCESS_READ, MMU_SUPERVISOR_AC, cython.address(gpa)):
            return None
        return gpa

    def instructions(self):
        """See Vcpu.instructions."""
        return self.cpu.icount

    def read_msr(self, index: int):
        """See vcpu.pyi."""
        value: u64 = 0
        return None if msr_read(self.cpu, index, cython.address(value)) else value

    def write_msr(self, index: int, value: int):
        """See vcpu.pyi."""
        return not msr_write(self.cpu, index, value)

    def apic_read(self, offset: int):
        """See vcpu.pyi."""
        return apic_mmio_read(self.cpu, offset)

    def apic_write(self, offset: int, value: int):
        """See vcpu.pyi."""
        apic_mmio_write(self.cpu, offset, value)

    def interrupt(self):
        """See vcpu.pyi."""
        pending: cython.int = apic_pending(self.cpu)
        return None if pending < 0 else apic_ack(self.cpu, pending)

    def poll_timer(self):
        """See vcpu.pyi."""
        return bool(apic_timer_poll(self.cpu, host_tsc()))

    # ---- the whole state ----

    def _segment(self, number):
        raw: cython.pointer(Seg) = cython.address(self.cpu.segs[number])
        attr = raw.attr
        return engine.Segment(
            selector=raw.selector, base=raw.base, limit=raw.limit, type=attr & 15,
            s=bool(attr >> 4 & 1), dpl=attr >> 5 & 3, present=bool(attr >> 7 & 1),
            avl=bool(attr >> 8 & 1), long=bool(attr >> 9 & 1), db=bool(attr >> 10 & 1),
            g=bool(attr >> 11 & 1), unusable=not raw.usable,
        )  # fmt: skip

    def _set_segment(self, number, segment):
        raw: cython.pointer(Seg) = cython.address(self.cpu.segs[number])
        raw.selector, raw.base, raw.limit = segment.selector, segment.base, segment.limit
        raw.attr = (
            segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7
            | segment.avl << 8 | segment.long << 9 | segment.db << 10 | segment.g << 11
        )  # fmt: skip
        raw.usable = not segment.unusable
        return 0

    def _events(self):
        cpu: cython.pointer(Cpu) = self.cpu
        events = engine.Events(
            interrupt_shadow=cpu.shadow,
            nmi_pending=bool(cpu.attention & ATT_NMI),
            nmi_masked=bool(cpu.nmi_masked),
        )
        if self.exception >= 0:
            events.exception = self.exception
            if self.exception_error != NO_ERROR:
                events.exception_error = self.exception_error
        return events

    def _set_events(self, events):
        cpu: cython.pointer(Cpu) = self.cpu
        cpu.shadow = events.interrupt_shadow
        cpu.nmi_masked = events.nmi_masked
        cpu.pending_db = 0
        if events.nmi_pending:
            wake(cpu, ATT_NMI)
        else:
            __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_NMI))
        self.exception = events.exception if events.exception >= 0 else events.interrupt
        self.exception_error = NO_ERROR
        if events.exception >= 0 and events.exception_error is not None:
            self.exception_error = events.exception_error
        if events.exception == EXC_PF:
            cpu.cr2 = events.exception_address or cpu.cr2
        return 0

    def get_state(self):
        """See Vcpu.get_state."""
        cpu: cython.pointer(Cpu) = self.cpu
        s = engine.CpuState(regs=self.get_regs())
        for number, name in enumerate(SEGMENTS):
            setattr(s, name, self._segment(number))
        if not s.ss.unusable:
            s.ss.dpl = cpu.cpl
        s.gdt = engine.DescriptorTable(cpu.gdt_base, cpu.gdt_limit)
        s.idt = engine.DescriptorTable(cpu.idt_base, cpu.idt_limit)
        s.cr0, s.cr2, s.cr3, s.cr4 = cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4
        s.cr8, s.efer, s.xcr0 = apic_get_tpr(cpu) >> 4, cpu.efer, cpu.xcr0
        s.apic_base = cpu.apic_base
        s.dr = [cpu.dr[i] for i in range(4)]
        s.dr6, s.dr7 = cpu.dr[6], cpu.dr[7]
        s.xsave = xsave_image(cpu)
        s.msrs = {m: v for m in MSRS if (v := self.read_msr(m)) is not None}
        s.tsc = guest_tsc(cpu)
        s.events = self._events()
        s.mp_state = MP_NAMES[cpu.mp_state]
        if cpu.vm.irqchip:
            page = bytes(1024)
            apic_save(cpu, cython.cast(cython.pointer(u8), cython.cast(cython.p_char, page)))
            s.lapic = page
        return s

    def set_state(self, s):
        """See Vcpu.set_state. The TSC comes before the deadline MSR, the local APIC too."""
        cpu: cython.pointer(Cpu) = self.cpu
        for number, name in enumerate(SEGMENTS):
            self._set_segment(number, getattr(s, name))
        cpu.gdt_base, cpu.gdt_limit = s.gdt.base, s.gdt.limit
        cpu.idt_base, cpu.idt_limit = s.idt.base, s.idt.limit
        cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4 = s.cr0, s.cr2, s.cr3, s.cr4
        cpu.efer, cpu.xcr0 = s.efer, s.xcr0
        cpu.apic_base = s.apic_base
        for i in range(4):
            cpu.dr[i] = s.dr[i]
        cpu.dr[6], cpu.dr[7] = s.dr6, s.dr7
        cpu.mmio_n = cpu.io_ready = cpu.halted = 0
        self.waiting, self.reading = [], 0
        if load_xsave_image(cpu, s.xsave):
            raise EngineError("the XSAVE image is malformed")
        self.set_regs(s.regs)
        cpu.cpl = 0 if not s.cr0 & 1 else 3 if s.regs.rflags & FLAG_VM else s.ss.dpl
        cpu.mp_state = MP_STATES[s.mp_state]
        if len(s.lapic) not in (0, 1024):
            raise EngineError(f"a local APIC page of {len(s.lapic)} bytes")
        apic_reset(cpu, 1)
        if s.lapic:
            page: bytes = s.lapic
            apic_load(cpu, cython.cast(cython.pointer(u8), cython.cast(cython.p_char, page)))
        else:
            apic_set_tpr(cpu, s.cr8 << 4)
        cpu.tsc_adjust = s.msrs.get(0x3B, 0)
        tsc: u64 = s.tsc
        cpu.vm.tsc_offset = tsc - host_tsc() - cpu.tsc_adjust
        self._set_msrs(s.msrs)
        self._set_events(s.events)
        update_mode(cpu)
        tlb_flush(cpu, 0)

    def _set_msrs(self, msrs):
        for index in sorted(msrs, key=lambda m: (m == 0x6E0, m)):
            if not self.write_msr(index, msrs[index]) and msrs[index]:
                raise EngineError(f"MSR {index:#x} does not take {msrs[index]:#x} on the bt engine")
        return 0


def _reset_state(index, irqchip):
    """SDM, "Processor State After Reset" and "First Instruction Executed"."""
    s = engine.CpuState()
    s.regs.rdx, s.regs.rip = cpuid.SIGNATURE, 0xFFF0
    s.cs.selector, s.cs.base = 0xF000, 0xFFFF0000
    s.apic_base = 0xFEE00800 | (0 if index else 0x100)
    s.mp_state = "init" if index and irqchip else "runnable"
    return s
