"""The machine around the CPU: memory map, guest RAM, buses, PCI, ACPI, interrupt routing."""
