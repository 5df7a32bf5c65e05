def install_hooks(apic_read: int, apic_write: int, data_break: int) -> None:
    """Addresses of apic_mmio_read, apic_mmio_write and data_breakpoint (mmu.pxd has the types)."""
