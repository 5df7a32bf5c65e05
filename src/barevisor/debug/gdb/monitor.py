"""`monitor` commands (qRcmd): what gdb itself has no words for."""

from __future__ import annotations

from collections.abc import Callable

from barevisor.debug.target import Target

HELP = """help            this text
info registers  the whole state of the current thread's CPU
info cpus       every CPU, one a line
"""


def answer(target: Target, cpu: int, words: str) -> str:
    """The text that gdb shows."""
    command = COMMANDS.get(" ".join(words.split()))
    return command(target, cpu) if command else f"no such command; try: monitor help\n{HELP}"


def _cpus(target: Target, cpu: int) -> str:
    lines = []
    for n in range(target.cpus):
        s = target.registers(n)
        mark = "*" if n == cpu else " "
        lines.append(f"{mark} vCPU {n} {s.mp_state} CPL {s.ss.dpl} rip {s.regs.rip:#x}\n")
    return "".join(lines)


COMMANDS: dict[str, Callable[[Target, int], str]] = {
    "help": lambda target, cpu: HELP,
    "info registers": lambda target, cpu: target.report(cpu) + "\n",
    "info cpus": _cpus,
}
