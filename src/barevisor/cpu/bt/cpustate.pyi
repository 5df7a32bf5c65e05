"""C functions only (cpustate.pxd): for the engine's other modules."""
