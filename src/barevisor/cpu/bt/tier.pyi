def handlers() -> dict[str, int]: ...

class TranslatorOwner:
    """Owns a VM's translator and its code memory of `code_bytes`; blocks are translated when
    they ran `after` times. Raises EngineError."""

    def __init__(self, code_bytes: int, after: int, lockstep: bool = False) -> None: ...
    def stats(self) -> dict[str, int]:
        """What was translated since the start: counts, bytes, host TSC ticks; and how often
        translations called, by why."""
    def steps(self) -> dict[str, int]:
        """How often translations left an instruction to the interpreter, by mnemonic."""
