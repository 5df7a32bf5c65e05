"""C functions only (apic.pxd): for the engine's other modules."""
