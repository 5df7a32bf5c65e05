"""The instruction table's text, one file a group of the SDM. The notation: see instructions.py."""
