def addresses() -> dict[str, int]:
    """trap_register and trap_memory, for the binder."""
