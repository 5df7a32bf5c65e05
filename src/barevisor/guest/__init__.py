"""What runs inside: kernels and modules found or fetched, the init and agent program."""
