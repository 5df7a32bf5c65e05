"""Engine 1: the host CPU's own virtualization, through /dev/kvm."""
