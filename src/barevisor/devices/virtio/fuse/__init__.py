"""virtio 1.2: queues, the PCI transport, and the devices behind them."""
