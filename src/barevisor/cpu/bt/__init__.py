"""Engine 2: guest x86 runs on host x86 in software, with no privilege and no /dev/kvm."""
