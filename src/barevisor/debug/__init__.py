"""Looking into a running guest: the server for gdb, and traces. Loaded only when asked for."""
