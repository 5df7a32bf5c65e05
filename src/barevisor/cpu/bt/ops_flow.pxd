# Compiled: handlers of control flow and the stack. Nothing here is cimported.
