"""The guest's /init: written in the subset of Python that guest/compiler.py makes an ELF of.

These files are never imported: the host compiles them. `machine` declares the language's own
functions for readers and type checkers.
"""
