def install_hooks(data_break: int) -> None:
    """Address of data_breakpoint (mmu.pxd has the type)."""
