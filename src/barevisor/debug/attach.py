"""What a VM's config asks for beside the guest: the server for gdb, a trace."""

from __future__ import annotations

from barevisor.board.machine import Machine
from barevisor.config import GdbListen, Trace


def attach(machine: Machine, gdb: GdbListen | None, trace: Trace | None) -> str | None:
    """Before the machine starts; the address for gdb, if there is one. Both end with the
    machine. Raises HostError, EngineError."""
    if trace is not None:
        from barevisor.debug import trace as tracing

        tracing.attach(machine, trace)
    if gdb is None:
        return None
    from barevisor.debug.gdb.server import GdbServer
    from barevisor.debug.target import MachineTarget

    server = GdbServer(MachineTarget(machine), gdb)
    machine.on_close.append(server.close)
    server.start()
    return server.address
