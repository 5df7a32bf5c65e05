"""Can a stock kernel run on this /dev/kvm? Ask it, by running what such kernels run in ring 0.

Some hosts offer a /dev/kvm that has no hardware beneath it and emulates privileged code one
instruction at a time; small guests run there and kernels die. Each row is one instruction in a
64-bit ring 0 guest of its own, so that the failing one can be named.
"""

from __future__ import annotations

import ctypes
import mmap
import threading

from barevisor.cpu import engine
from barevisor.errors import EngineError

LIMIT_SECONDS = 1.0
HUNG = f"not done after {LIMIT_SECONDS:g} s"
DONE_PORT = 0xF4
RAM = 0x200000
PML4, PDPT, PD, CODE, DATA = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000

GROUPS = (
    ("cpuid", "31c0 0fa2"),  # xor eax, eax
    ("cmpxchg16b", "bf00500000 f0480fc70f"),  # mov edi, DATA
    ("movaps", "bf00500000 0f2807 0f2947f0"),
    ("movdqu", "bf00500000 f30f6f4701 f30f7f4711"),
    ("xsave", "bf00500000 b807000000 31d2 0fae27"),
    ("xrstor", "bf00500000 b807000000 31d2 0fae27 0fae2f"),
    ("fxsave", "bf00500000 0fae07 0fae0f"),
    ("wbinvd", "0f09"),
    ("wrmsr", "b9020100c0 31c0 31d2 0f30"),  # KERNEL_GS_BASE
    ("rdtsc", "0f31"),
    ("invlpg", "bf00500000 0f013f"),
    ("swapgs", "0f01f8"),
    ("lock xadd", "bf00500000 31c0 f0480fc107"),
    ("rep movsb", "bf00500000 be00600000 b940000000 f3a4"),
)
"""(name, code) rows; every row is followed by an OUT to DONE_PORT."""
DONE = bytes.fromhex("e6f4")


def probe(kvm: engine.Engine) -> str:
    """ "" or the reason in one line."""
    ram = mmap.mmap(-1, RAM)
    anchor = ctypes.c_char.from_buffer(ram)
    try:
        vm = kvm.create_vm(engine.MachineSpec(irqchip=False))
    except EngineError as e:
        return str(e)
    try:
        # JUSTIFICATION: the probe guest's memory; `ram` outlives the VM.
        vm.set_memory(0, 0, RAM, ctypes.addressof(anchor))
        vcpu = vm.create_vcpu(0)
        ram[:] = _tables().ljust(RAM, b"\0")
        failed = _run_all(vcpu, ram)
    except EngineError as e:
        return str(e)
    finally:
        vm.close()
        del anchor
    if not failed:
        return ""
    return f"/dev/kvm here cannot run a stock kernel: in ring 0 it fails at {', '.join(failed)}"


def _run_all(vcpu: engine.Vcpu, ram: mmap.mmap) -> list[str]:
    """The groups that fail, each with why; a guest that hangs ends the probe."""
    failed = []
    for name, code in GROUPS:
        why = _try(vcpu, ram, code)
        if why:
            failed.append(f"{name} ({why})")
        if why == HUNG:
            break
    return failed


def _try(vcpu: engine.Vcpu, ram: mmap.mmap, code: str) -> str:
    body = bytes.fromhex(code) + DONE
    ram[CODE : CODE + len(body)] = body
    vcpu.set_state(long_mode_state())
    timer = threading.Timer(LIMIT_SECONDS, vcpu.kick)
    timer.start()
    done = vcpu.run()
    timer.cancel()
    timer.join()
    match done:
        case engine.PioWrite(port=0xF4):
            return ""
        case engine.Interrupted():
            return HUNG
        case engine.Shutdown():
            return "it faults"
        case engine.InternalError(reason=reason):
            return reason
    return f"exit {done}"


def _tables() -> bytes:
    """Identity map of the first 2 MiB: present, writable; the last level is a large page."""
    ram = bytearray(CODE)
    for table, entry in ((PML4, PDPT | 3), (PDPT, PD | 3), (PD, 0x83)):
        ram[table : table + 8] = entry.to_bytes(8, "little")
    return bytes(ram)


def long_mode_state() -> engine.CpuState:
    """64-bit ring 0 with SSE and XSAVE on, as a kernel has them (SDM, "IA-32e Mode")."""
    code = engine.Segment(selector=8, limit=0xFFFFFFFF, type=11, long=True, g=True)
    data = engine.Segment(selector=16, limit=0xFFFFFFFF, type=3, db=True, g=True)
    return engine.CpuState(
        regs=engine.Registers(rip=CODE, rsp=DATA),
        cs=code, ds=data, es=data, fs=data, gs=data, ss=data,
        cr0=0x80050033,  # PG, AM, WP, NE, ET, MP, PE
        cr3=PML4,
        cr4=0x40620,  # OSXSAVE, OSXMMEXCPT, OSFXSR, PAE
        efer=0x501,  # LMA, LME, SCE
        xcr0=7,
    )  # fmt: skip
