"""A vCPU as text, in the order of a Linux oops, for the user of a guest that died."""

from __future__ import annotations

from barevisor.board.ram import GuestRam
from barevisor.cpu.engine import GPR_NAMES, CpuState, Vcpu

CODE_BEFORE, CODE_BYTES = 16, 48


def cpu_report(vcpu: Vcpu, ram: GuestRam) -> str:
    """Registers and code bytes of a vCPU that is not running."""
    state = vcpu.get_state()
    code = code_bytes(vcpu, ram, (state.cs.base + state.regs.rip) & (1 << 64) - 1)
    return f"vCPU {vcpu.index}, {state.mp_state}\n{format_state(state)}\nCode: {code}"


def format_state(state: CpuState) -> str:
    """The registers, several a line."""
    r = state.regs
    values = [(name, int(getattr(r, name))) for name in GPR_NAMES]
    lines = [f"RIP: {state.cs.selector:04x}:{r.rip:016x} RFLAGS: {r.rflags:08x}"]
    for at in range(0, 16, 4):
        lines.append(" ".join(f"{n.upper():>3}: {v:016x}" for n, v in values[at : at + 4]))
    lines.append(
        f"CR0: {state.cr0:08x} CR2: {state.cr2:016x} CR3: {state.cr3:016x} "
        f"CR4: {state.cr4:08x} CR8: {state.cr8:x} EFER: {state.efer:04x}"
    )
    for names in (("cs", "ss", "ds", "es"), ("fs", "gs", "tr", "ldt")):
        lines.append("  ".join(_segment(state, name) for name in names))
    lines.append(
        f"GDT: {state.gdt.base:016x}+{state.gdt.limit:x}  IDT: {state.idt.base:016x}"
        f"+{state.idt.limit:x}  APIC: {state.apic_base:x}"
    )
    return "\n".join(lines)


def _segment(state: CpuState, name: str) -> str:
    s = getattr(state, name)
    bits = "" if s.unusable else f"/{s.limit:x} {'L' if s.long else 'D' if s.db else '-'}{s.dpl}"
    return f"{name.upper()}: {s.selector:04x} {s.base:x}{bits}"


def code_bytes(vcpu: Vcpu, ram: GuestRam, linear: int) -> str:
    """Bytes around `linear`, the one at it in <>; bytes that are not mapped RAM are ??."""
    mask = (1 << 64) - 1
    words = []
    page: int | None = None
    page_of = -1
    for at in range(-CODE_BEFORE, CODE_BYTES - CODE_BEFORE):
        address = (linear + at) & mask
        if address >> 12 != page_of:
            page_of = address >> 12
            page = vcpu.translate(address & ~0xFFF)
        gpa = None if page is None else page + (address & 0xFFF)
        known = gpa is not None and any(r.gpa <= gpa < r.gpa + r.size for r in ram.ranges)
        text = f"{ram.read(gpa, 1)[0]:02x}" if known and gpa is not None else "??"
        words.append(f"<{text}>" if at == 0 else text)
    return " ".join(words)
