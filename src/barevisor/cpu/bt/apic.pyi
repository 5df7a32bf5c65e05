def hooks() -> tuple[int, int]:
    """Addresses of apic_mmio_read and apic_mmio_write, for mmio.install_hooks."""
