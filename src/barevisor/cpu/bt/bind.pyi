NAMES: tuple[str, ...]
HINTS: tuple[str, ...]

def install(handlers: dict[str, int]) -> list[str]:
    """Take the handler addresses by name; the names of the table that no handler has."""

def handlers() -> dict[str, int]:
    """Handler addresses by name, for the block builder."""
