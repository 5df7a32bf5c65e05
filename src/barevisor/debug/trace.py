"""`--trace`: a line for each exit of a vCPU, or for each block of guest code.

Lines are written as they come, so a trace takes no memory that grows; when they cannot be
written, that ends the machine. One that moves to another engine is traced there too. A machine
that is not traced does not know this file.
"""

from __future__ import annotations

import os
import threading
import time

from barevisor.board.machine import Machine
from barevisor.config import Trace
from barevisor.cpu import engine
from barevisor.cpu.engine import EngineVm, Exit, Vcpu
from barevisor.errors import HostError

STDERR = 2
BUFFER = 1 << 16


def attach(machine: Machine, trace: Trace) -> Tracer:
    """Trace a machine that was not started. Raises HostError, EngineError."""
    tracer = Tracer(machine, trace)

    def observe(vm: EngineVm, vcpus: list[Vcpu]) -> list[Vcpu]:
        if trace.kind == "exits":
            return [TracedVcpu(vcpu, tracer) for vcpu in vcpus]
        vm.trace_blocks(tracer.blocks)
        return vcpus

    try:
        machine.observe(observe)
    except BaseException:
        tracer.close()
        raise
    machine.on_close.append(tracer.close)
    return tracer


class Tracer:
    """Where the lines go. Safe for many vCPUs."""

    def __init__(self, machine: Machine, trace: Trace) -> None:
        """Raises HostError."""
        self._machine = machine
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._kept = bytearray()
        self._name = "stderr" if trace.file is None else str(trace.file)
        self._at_once = trace.file is None and trace.kind == "exits"
        self._fd = STDERR
        if trace.file is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            try:
                self._fd = os.open(trace.file, flags, 0o644)
            except OSError as e:
                raise HostError(f"--trace {trace.file}: {e.strerror}") from e

    def now(self) -> float:
        """Seconds since the machine was put together."""
        return time.monotonic() - self._start

    def write(self, text: str) -> None:
        """Whole lines."""
        with self._lock:
            self._kept += text.encode()
            if self._at_once or len(self._kept) >= BUFFER:
                self._flush()

    def _flush(self) -> None:
        try:
            while self._kept and self._fd >= 0:
                del self._kept[: os.write(self._fd, self._kept)]
        except OSError as e:
            self._kept.clear()
            self._release()
            self._machine.stop(f"--trace {self._name}: {e.strerror}")

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd > STDERR:
            os.close(fd)

    def blocks(self, cpu: int, ran: list[tuple[int, int, int, int]]) -> None:
        """An engine.BlockSink."""
        self.write("".join(
            f"cpu{cpu} {address:016x} {bits}-bit cpl{cpl} {size}\n"
            for address, bits, cpl, size in ran
        ))  # fmt: skip

    def close(self) -> None:
        """Write what is left. Idempotent."""
        with self._lock:
            self._flush()
            self._release()


def describe(done: Exit) -> str:
    """An exit without the value of a read, which is not known yet."""
    match done:
        case engine.PioRead(port, size, count):
            return f"pio-read port={port:#x} size={size}" + _times(count)
        case engine.PioWrite(port, size, data):
            return (
                f"pio-write port={port:#x} size={size}" + _times(len(data) // size) + _value(data)
            )
        case engine.MmioRead(gpa, size):
            return f"mmio-read gpa={gpa:#x} size={size}"
        case engine.MmioWrite(gpa, data):
            return f"mmio-write gpa={gpa:#x} size={len(data)}" + _value(data)
        case engine.SystemEvent(kind):
            return f"system-event {kind}"
        case engine.InternalError(reason):
            return f"internal-error {reason!r}"
        case engine.DebugStop(reason, address):
            return f"debug-stop {reason} address={address:#x}"
    return type(done).__name__.lower()


def _times(count: int) -> str:
    return f" count={count}" if count != 1 else ""


def _value(data: bytes) -> str:
    return f" value={int.from_bytes(data, 'little'):#x}"


class TracedVcpu:
    """A vCPU (engine.Vcpu) whose exits are written down."""

    def __init__(self, vcpu: engine.Vcpu, tracer: Tracer) -> None:
        self.index = vcpu.index
        self._vcpu, self._tracer = vcpu, tracer
        self._read = ""
        self.kick = vcpu.kick
        self.get_state = vcpu.get_state
        self.set_state = vcpu.set_state
        self.get_regs = vcpu.get_regs
        self.set_regs = vcpu.set_regs
        self.translate = vcpu.translate
        self.instructions = vcpu.instructions
        self.rip = vcpu.rip
        self.set_step = vcpu.set_step

    def run(self) -> Exit:
        """See engine.Vcpu.run."""
        done = self._vcpu.run()
        rip = self._vcpu.rip()
        line = f"{self._tracer.now():.6f} cpu{self.index} rip={rip:#x} {describe(done)}"
        if isinstance(done, (engine.PioRead, engine.MmioRead)):
            self._read = line
        else:
            self._tracer.write(line + "\n")
        return done

    def complete_read(self, data: bytes) -> None:
        """See engine.Vcpu.complete_read."""
        self._tracer.write(self._read + _value(data) + "\n")
        self._vcpu.complete_read(data)
