"""Who executes the guest: the contract (engine.py) and the two engines behind it."""
