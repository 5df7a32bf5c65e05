"""What Linux gives the VM process."""
