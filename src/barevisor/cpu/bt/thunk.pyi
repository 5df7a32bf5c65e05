def build_bytes(code: bytes, mode: int, flags_live: int) -> bytes | None:
    """The thunk for one guest instruction; None if it has a handler instead. For tests."""
