def handlers() -> dict[str, int]:
    """Handler addresses by name."""
