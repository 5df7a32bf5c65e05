def handlers() -> dict[str, int]:
    """Handler addresses by name, for the block builder."""
