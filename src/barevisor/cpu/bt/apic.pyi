def hooks() -> tuple[int, int]:
    """Addresses of apic_mmio_read and apic_mmio_write, for mmu.install_hooks."""
