"""C functions only (msr.pxd): for the engine's other modules."""
