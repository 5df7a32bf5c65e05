"""Every instruction handler of the engine, joined into the binder's table once a process."""

from __future__ import annotations

from functools import cache

from barevisor.cpu.bt import (
    analyse,
    bind,
    control,
    far,
    flags,
    fpu,
    iret,
    ops_bits,
    ops_flow,
    ops_legacy,
    ops_memory,
    ops_string,
    portio,
    processor,
    segment_ops,
    stops,
    syscalls,
    tier,
    vector,
    xstate,
)

MODULES = (
    bind, control, far, flags, fpu, iret, ops_bits, ops_flow, ops_legacy, ops_memory, ops_string,
    portio, processor, segment_ops, stops, syscalls, tier, vector, xstate,
)  # fmt: skip


@cache
def install() -> None:
    """Connect the compiled modules. Once a process; the addresses are the process's own."""
    table: dict[str, int] = {}
    for module in MODULES:
        table |= module.handlers()
    missing = bind.install(table)
    if missing:
        raise RuntimeError(f"instructions without a handler: {', '.join(missing)}")
    analyse.install()
