"""The `bare` command: one typer command per file. Parses, calls the library once, shows."""
