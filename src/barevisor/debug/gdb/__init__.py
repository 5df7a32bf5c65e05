"""A server of gdb's remote serial protocol (gdb manual, "Remote Protocol").

packets.py frames, registers.py and features.py say what a CPU is to gdb, session.py answers
packets, server.py has the sockets. Of the machine it knows what `target.Target` says, no more.
"""
