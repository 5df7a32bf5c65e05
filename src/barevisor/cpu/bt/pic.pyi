"""C functions only (pic.pxd): for the engine's other modules."""
