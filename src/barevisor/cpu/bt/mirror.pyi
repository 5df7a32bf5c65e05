"""Nothing here is for Python: C functions of the engine, declared in the .pxd."""
