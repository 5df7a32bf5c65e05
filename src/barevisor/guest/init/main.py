"""Where the program starts: process 1 of a guest, or the agent alone on a given descriptor."""

from barevisor.guest.init.agent import serve, start_time
from barevisor.guest.init.boot import agent_port, follow_plan
from barevisor.guest.init.linux import O_RDWR, SYS_GETPID, close, open_file
from barevisor.guest.init.machine import addr, load64, syscall
from barevisor.guest.init.text import decimal, power_off


def main(stack: int) -> int:
    """`/init` as process 1; elsewhere `init FD` serves the protocol on descriptor FD."""
    start_time()
    if syscall(SYS_GETPID) != 1:
        if load64(stack) != 2:
            return 2
        return serve(decimal(load64(stack + 16)))
    follow_plan()
    fd = open_file(addr(b"/dev/null"), O_RDWR)
    while fd >= 0 and fd <= 2:  # a kernel without console leaves the first three unused
        fd = open_file(addr(b"/dev/null"), O_RDWR)
    close(fd)
    serve(agent_port())
    power_off()
    return 0
