"""One virtual CPU of the software engine: from C state to exits, and back.

`run` enters the dispatcher without the GIL; what comes back and belongs to the engine itself
(its interrupt controllers and timer, doorbells, HLT) is answered here and the guest goes on.
C signatures are in vcpu.pxd.
"""

import os

import cython
from cython.cimports.barevisor.cpu.bt.apic import (
    apic_ack,
    apic_mmio_read,
    apic_mmio_write,
    apic_pending,
    apic_reset,
    apic_timer_poll,
)
from cython.cimports.barevisor.cpu.bt.apicbus import wake
from cython.cimports.barevisor.cpu.bt.atomics import __sync_fetch_and_and
from cython.cimports.barevisor.cpu.bt.blocks import drop_code
from cython.cimports.barevisor.cpu.bt.cpustate import (
    load_registers,
    load_state,
    reset_state,
    save_registers,
    save_state,
)
from cython.cimports.barevisor.cpu.bt.faults import timer_free
from cython.cimports.barevisor.cpu.bt.fpstate import fpu_reset
from cython.cimports.barevisor.cpu.bt.interp import execute
from cython.cimports.barevisor.cpu.bt.interrupts import KIND_EXCEPTION, deliver
from cython.cimports.barevisor.cpu.bt.mirror import (
    mirror_adopt,
    mirror_close,
    mirror_place,
    mirrors_free,
)
from cython.cimports.barevisor.cpu.bt.mode import update_mode
from cython.cimports.barevisor.cpu.bt.msr import msr_read, msr_reset, msr_write
from cython.cimports.barevisor.cpu.bt.paging import ACCESS_READ, translate
from cython.cimports.barevisor.cpu.bt.safepoint import (
    guest_enter,
    guest_leave,
    resume_others,
    stop_others,
)
from cython.cimports.barevisor.cpu.bt.space import (
    space_allocate_cpu,
    space_create,
    space_free,
    space_free_cpu,
)
from cython.cimports.barevisor.cpu.bt.stops import (
    STOP_BREAK,
    STOP_NONE,
    STOP_STEP,
    STOP_TRACE,
    linear_ip,
)
from cython.cimports.barevisor.cpu.bt.tlb import tlb_flush
from cython.cimports.barevisor.cpu.bt.tsc import host_tsc
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy

from barevisor.cpu import engine
from barevisor.cpu.x86 import cpuid
from barevisor.errors import EngineError

PHYS_MASK = cython.declare("u64", (1 << cpuid.PHYSICAL_BITS) - 1)


def run_guest(cpu):
    """Execute, and sleep through HLT, until Python is needed; then cpu.exit_reason says why.
    With EXIT_HALTED the result is WOKE_*: what a sleep, or INIT, came to. An idle guest thus
    never waits for the GIL."""
    why: cython.int
    cpu.gone = 0
    while True:
        if cpu.mp_state != MP_RUNNABLE:
            why = sleep_until_woken(cpu)
            if why != WOKE:
                cpu.gone = why == WOKE_NEVER
                cpu.exit_reason = EXIT_HALTED
                return why
            cpu.mp_state = MP_RUNNABLE
            wake(cpu, ATT_INTERRUPT)
        execute(cpu)
        if cpu.exit_reason != EXIT_HALTED:
            return WOKE
        if not cpu.halted:
            return WOKE_INIT
        cpu.halted = 0
        cpu.mp_state = MP_HALTED


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
        if cpu.vm.translator != cython.NULL and space_create(cpu):
            raise EngineError("no address space for a CPU's translations", "BAREVISOR_BT=interpret")
        cpu.index = index
        cpu.features = features & 0xFFFFFFFF
        cpu.features2 = features >> 32
        cpu.cr4_allowed = cr4
        cpu.efer_allowed = efer
        cpu.phys_mask = PHYS_MASK
        cpu.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.set_cpuid(rows)
        msr_reset(cpu)
        apic_reset(cpu, 0)
        fpu_reset(cpu)
        self.set_state(reset_state(index, self.core.vm.irqchip))
        self.core.vm.cpus[index] = cpu
        self.core.vm.ncpus = max(self.core.vm.ncpus, index + 1)

    def _allocate(self):
        """Cpu (its vector fields are accessed aligned), the local APIC and the TLBs."""
        n: cython.uint
        self.cpu = space_allocate_cpu()
        if self.cpu == cython.NULL:
            raise MemoryError
        cpu: cython.pointer(Cpu) = self.cpu
        if cython.cast(cython.size_t, cython.address(cpu.bounce[0])) % 64 or (
            cython.cast(cython.size_t, cython.address(cpu.fpu[0])) % 16
        ):
            # Aligned host instructions run on these: a guest must not find out before we do.
            raise EngineError("struct Cpu: bounce and fpu are not aligned (a field was added?)")
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
        free(self.cpu.traced)
        timer_free(self.cpu)
        mirrors_free(self.cpu)
        space_free_cpu(self.cpu)

    def set_cpuid(self, rows):
        """What CPUID tells from now."""
        cpu: cython.pointer(Cpu) = self.cpu
        entries: cython.pointer(CpuidEntry) = cython.cast(
            cython.pointer(CpuidEntry), calloc(len(rows), cython.sizeof(CpuidEntry))
        )
        if entries == cython.NULL:
            raise MemoryError
        for at, row in enumerate(rows):
            entry: cython.pointer(CpuidEntry) = cython.address(entries[at])
            entry.leaf = row.leaf
            entry.subleaf = row.subleaf or 0
            entry.has_subleaf = row.subleaf is not None
            entry.eax, entry.ebx, entry.ecx, entry.edx = row.eax, row.ebx, row.ecx, row.edx
        free(cpu.cpuid)
        cpu.cpuid, cpu.ncpuid = entries, len(rows)

    def close(self):
        """Interrupts no longer reach this CPU, which does not run again; its state can be read.
        Idempotent. Addresses are freed now: what waits for the collector would be in the way of
        the next VM's memory (space.pxd)."""
        space_free(self.cpu)
        mirrors_free(self.cpu)
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
        why: cython.int = WOKE
        while True:
            cpu.exit_reason = EXIT_NONE
            if self.exception >= 0:
                self._deliver_exception()
            if cpu.exit_reason == EXIT_NONE:
                with cython.nogil:
                    why = run_guest(cpu)
                if cpu.ntraced:
                    self._take_trace()
            done = self._woken(why) if cpu.exit_reason == EXIT_HALTED else self._exit()
            if done is not None:
                return done

    def _deliver_exception(self):
        vector: u32 = self.exception
        self.exception = -1
        error: u32 = self.exception_error
        cpu: cython.pointer(Cpu) = self.cpu
        with cython.nogil:
            guest_enter(cpu)
            deliver(cpu, vector, error, KIND_EXCEPTION)
            guest_leave(cpu)

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
        if reason == EXIT_INTERRUPTED:
            return self._kicked()
        if reason == EXIT_CACHE_FULL:
            with cython.nogil:
                stop_others(cpu.vm, cpu)
                drop_code(cpu.vm)
                resume_others(cpu.vm, cpu)
            return None
        if reason == EXIT_NO_MIRROR:
            return self._make_mirror()
        if reason == EXIT_SHUTDOWN:
            return engine.Shutdown()
        if reason == EXIT_DEBUG:
            return self._debug_stop()
        text = bytes(cpu.exit_data[:63]).split(b"\0")[0].decode("ascii", "replace")
        return engine.InternalError(text or f"exit {reason}", (cpu.rip, cpu.exit_gpa))

    def _make_mirror(self):
        """A process for this address space's user code. Where the host allows none, there is no
        direct execution; asked for by name, that is an error."""
        cpu: cython.pointer(Cpu) = self.cpu
        m: cython.pointer(Mirror) = mirror_place(cpu)
        reason = ""
        try:
            if mirror_adopt(cpu, m, self.core.ram_fd):
                reason = "a process of the engine's own cannot be traced (ptrace) or set up"
        except OSError as e:
            reason = str(e)
        if reason:
            mirror_close(m)
            if cpu.vm.direct == DIRECT_ALWAYS:
                return engine.InternalError(f"BAREVISOR_BT=direct: {reason}", ())
            cpu.vm.direct = DIRECT_OFF
            cpu.direct = 0
        return None

    def direct_counters(self):
        """See vcpu.pyi."""
        return {
            "runs": self.cpu.direct_runs,
            "pages": self.cpu.direct_maps,
            "ms": self.cpu.direct_ticks // self.cpu.vm.tsc_khz,
        }

    def _woken(self, why):
        """A sleep ended with something other than an interrupt. None: go on."""
        cpu: cython.pointer(Cpu) = self.cpu
        if why == WOKE_NEVER:
            if not cpu.vm.irqchip:
                cpu.mp_state = MP_RUNNABLE
            return engine.Halted()
        if why == WOKE_SIGNAL:
            return engine.Interrupted()
        if why == WOKE_INIT:
            self._restart()
            return None
        __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_KICK))
        return self._kicked()

    def _kicked(self):
        """Interrupted, or None when the kick was answered before."""
        kicked, self.kicked = self.kicked, False
        return engine.Interrupted() if kicked else None

    def _restart(self):
        """INIT (SDM, "Processor State After INIT") and then SIPI, each if it has arrived."""
        cpu: cython.pointer(Cpu) = self.cpu
        asked: u32 = __sync_fetch_and_and(
            cython.address(cpu.attention), ~cython.cast(u32, ATT_INIT | ATT_SIPI)
        )
        if asked & ATT_INIT:
            old = self.get_state()
            new = reset_state(self.index, cpu.vm.irqchip)
            new.cr0 |= old.cr0 & 0x60000000
            new.apic_base, new.xsave, new.xcr0 = old.apic_base, old.xsave, old.xcr0
            new.msrs = old.msrs
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

    # ---- a debugger (stops.py) ----

    def set_step(self, on: bool):
        """See Vcpu.set_step."""
        if on:
            self.core.debugging(False)
        elif self.cpu.stop_why == STOP_STEP:
            self.cpu.stop_why = STOP_NONE
        self.cpu.debug_step = bool(on)

    def _debug_stop(self):
        """DebugStop, or None when it was only the trace that needed room."""
        cpu: cython.pointer(Cpu) = self.cpu
        why: u32 = cpu.stop_why
        cpu.stop_why = STOP_NONE
        if why == STOP_TRACE:
            return None
        if why == STOP_STEP:
            return engine.DebugStop("step", linear_ip(cpu, cpu.rip))
        return engine.DebugStop("breakpoint" if why == STOP_BREAK else "watch", cpu.stop_at)

    def set_trace(self, sink):
        """See vcpu.pyi."""
        if self.cpu.traced == cython.NULL:
            self.cpu.traced = cython.cast(
                cython.pointer(Traced), calloc(TRACE_SIZE, cython.sizeof(Traced))
            )
        if self.cpu.traced == cython.NULL:
            raise MemoryError
        self.tracer = sink

    def _take_trace(self):
        """Hand the blocks that ran to the sink."""
        cpu: cython.pointer(Cpu) = self.cpu
        i: cython.uint
        count: cython.uint = cpu.ntraced
        cpu.ntraced = 0
        ran = []
        for i in range(count):
            one: cython.pointer(Traced) = cython.address(cpu.traced[i])
            bits = 16 << (one.mode & MODE_CODE_MASK)
            ran.append((one.address, bits, one.cpl, one.size))
        self.tracer(self.index, ran)

    def rip(self):
        """See Vcpu.rip."""
        return self.cpu.rip

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
        i: cython.uint
        self._mmio_piece(cpu.exit_gpa, bytes(cpu.exit_data[: cpu.exit_size]))
        for i in range(cpu.exit_count):
            more: cython.pointer(MmioDone) = cython.address(cpu.mmio_done[i])
            self._mmio_piece(more.gpa, more.value.to_bytes(8, "little")[: more.size])
        return self.waiting.pop(0) if self.waiting else None

    def _mmio_piece(self, gpa, data):
        """Up to 8 bytes at a time, to the engine's chips or as exits to come."""
        while data:
            piece, data = data[:8], data[8:]
            if not self.board.mmio_write(gpa, piece):
                self.waiting.append(engine.MmioWrite(gpa, piece))
            gpa += len(piece)

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
        return save_registers(self.cpu)

    def set_regs(self, regs):
        """See Vcpu.set_regs."""
        load_registers(self.cpu, regs)

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

    def _settle(self):
        """Complete the instruction that a device's answer waits for, so that the state is that
        after it: no other engine could take the answer over. An access in several parts exits
        again; that exit is kept for the next `run`."""
        cpu: cython.pointer(Cpu) = self.cpu
        if not (cpu.io_ready or cpu.mmio_n) or self.waiting or self.reading:
            return
        stepping: u32 = cpu.debug_step
        kick: u32 = cpu.attention & ATT_KICK
        why: cython.int = WOKE
        self.set_step(True)
        __sync_fetch_and_and(cython.address(cpu.attention), ~cython.cast(u32, ATT_KICK))
        cpu.exit_reason = EXIT_NONE
        with cython.nogil:
            why = run_guest(cpu)
        cpu.debug_step = stepping
        if kick:
            wake(cpu, ATT_KICK)
        if cpu.stop_why == STOP_STEP and not stepping:
            cpu.stop_why = STOP_NONE  # also where the step ended in an exit of its own
            if cpu.exit_reason == EXIT_DEBUG:
                return
        done = self._woken(why) if cpu.exit_reason == EXIT_HALTED else self._exit()
        if done is not None:
            self.waiting.append(done)

    def get_state(self):
        """See Vcpu.get_state."""
        self._settle()
        state = save_state(self.cpu)
        if self.exception >= 0:
            state.events.exception = self.exception
            if self.exception_error != NO_ERROR:
                state.events.exception_error = self.exception_error
        return state

    def set_state(self, state):
        """See Vcpu.set_state. An interrupt that was on its way is delivered like an exception."""
        events = state.events
        self.waiting, self.reading = [], 0
        load_state(self.cpu, state)
        self.exception = events.exception if events.exception >= 0 else events.interrupt
        self.exception_error = NO_ERROR
        if events.exception >= 0 and events.exception_error is not None:
            self.exception_error = events.exception_error
        if events.exception == EXC_PF and events.exception_address:
            self.cpu.cr2 = events.exception_address
