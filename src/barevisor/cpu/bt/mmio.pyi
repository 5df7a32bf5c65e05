def install_hooks(apic_read: int, apic_write: int) -> None:
    """Addresses of apic_mmio_read and apic_mmio_write (mmio.pxd has the types)."""
