def encode(**fields: int) -> bytes:
    """The bytes of a Form (emit.pxd) given by its fields: for tests."""

def pieces(reg: int, disp: int) -> dict[str, bytes]:
    """What every load, store and flag helper emits for `reg` and `disp`: for tests."""
