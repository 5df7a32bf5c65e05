"""struct kvm_run to the exits of the contract (api.rst, section 5)."""

from __future__ import annotations

from barevisor.cpu import engine
from barevisor.cpu.kvm import abi
from barevisor.records import NamedTuple

IO, HYPERCALL, DEBUG, HLT, MMIO, SHUTDOWN, FAIL_ENTRY, INTR = 2, 3, 4, 5, 6, 8, 9, 10
INTERNAL_ERROR, SYSTEM_EVENT = 17, 24

NAMES = {
    0: "unknown", 1: "exception", 3: "hypercall", 7: "irq-window-open", 11: "set-tpr",
    12: "tpr-access", 16: "nmi", 26: "ioapic-eoi", 27: "hyperv", 29: "x86-rdmsr",
    30: "x86-wrmsr", 31: "dirty-ring-full", 32: "ap-reset-hold", 33: "x86-bus-lock",
    34: "xen", 37: "notify", 39: "memory-fault",
}  # fmt: skip
SUBERRORS = {
    1: "instruction emulation failed",
    2: "exceptions while another was delivered",
    3: "exit while an event was delivered",
    4: "unexpected exit reason",
}
SYSTEM_EVENTS = {1: "shutdown", 2: "reset", 3: "crash", 4: "wakeup", 5: "suspend", 6: "sev-term"}


class Trap(NamedTuple):
    """KVM_EXIT_DEBUG: a debug exception or INT3, a debugger's or the guest's own (debug.py)."""

    pc: int
    dr6: int
    exception: int


def decode(page: memoryview) -> engine.Exit | Trap:
    """The exit that the run page describes. The page may be a copy."""
    (reason,) = abi.RUN_REASON.unpack_from(page, abi.RUN_EXIT_REASON)
    if reason == IO:
        return _io(page)
    if reason == MMIO:
        return _mmio(page)
    if reason == HLT:
        return engine.Halted()
    if reason == SHUTDOWN:
        return engine.Shutdown()
    if reason == INTR:
        return engine.Interrupted()
    if reason == DEBUG:
        exception, pc, dr6, _ = abi.RUN_DEBUG.unpack_from(page, abi.RUN_ARM)
        return Trap(pc, dr6, exception)
    if reason == SYSTEM_EVENT:
        (kind,) = abi.RUN_SYSTEM_EVENT.unpack_from(page, abi.RUN_ARM)
        return engine.SystemEvent(SYSTEM_EVENTS.get(kind, f"type {kind}"))
    return _failure(page, reason)


def _io(page: memoryview) -> engine.Exit:
    out, size, port, count, at = abi.RUN_IO.unpack_from(page, abi.RUN_ARM)
    if not out:
        return engine.PioRead(port, size, count)
    return engine.PioWrite(port, size, bytes(page[at : at + size * count]))


def _mmio(page: memoryview) -> engine.Exit:
    gpa, data, size, store = abi.RUN_MMIO.unpack_from(page, abi.RUN_ARM)
    return engine.MmioWrite(gpa, data[:size]) if store else engine.MmioRead(gpa, size)


def _failure(page: memoryview, reason: int) -> engine.InternalError:
    if reason == FAIL_ENTRY:
        why = abi.RUN_FAIL_ENTRY.unpack_from(page, abi.RUN_ARM)
        return engine.InternalError("KVM: VM entry failed", why)
    if reason == INTERNAL_ERROR:
        suberror, count, *data = abi.RUN_INTERNAL.unpack_from(page, abi.RUN_ARM)
        name = SUBERRORS.get(suberror, f"suberror {suberror}")
        return engine.InternalError(f"KVM: {name}", tuple(data[:count]))
    return engine.InternalError(f"KVM: exit {NAMES.get(reason, reason)} has no handler")
