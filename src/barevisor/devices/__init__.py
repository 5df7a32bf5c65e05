"""One file a device, named as its specification names it."""
