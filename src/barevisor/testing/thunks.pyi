class ThunkCpu:
    """A CPU without memory or an interpreter, for differential tests of native thunks."""

    regs: list[int]
    rflags: int
    vectors: bytes
    xsave: bytes
    def __init__(self) -> None: ...
    def run(self, code: bytes, mode: int, *, host: int = ..., flags_live: int = ...) -> int:
        """Execute one instruction; `host` is the address of its memory operand. The status
        (0: done, 1: fault, then `fault` has the vector). ValueError if no thunk executes it."""
    @property
    def fault(self) -> int: ...
