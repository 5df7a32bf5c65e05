def handlers() -> dict[str, int]:
    """Handler addresses by the names of the instruction table."""
