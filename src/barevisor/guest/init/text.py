"""NUL-terminated strings, and the last words of an init that cannot go on."""

from barevisor.guest.init.linux import (
    O_CLOEXEC,
    O_WRONLY,
    POWER_OFF,
    POWER_OFF_MAGIC1,
    POWER_OFF_MAGIC2,
    SYS_GETPID,
    SYS_MKNOD,
    SYS_REBOOT,
    SYS_SYNC,
    leave,
    open_file,
    write,
)
from barevisor.guest.init.machine import addr, buffer, copy, load8, store8, syscall

CHARACTER_DEVICE = 0o020600
KMSG_NUMBER = 1 << 8 | 11  # Documentation/admin-guide/devices.txt
LINE = 256

line = buffer(LINE + 64)
line_used = 0


def length(text: int) -> int:
    at = text
    while load8(at):
        at += 1
    return at - text


def equal(a: int, b: int) -> int:
    while load8(a) == load8(b):
        if load8(a) == 0:
            return 1
        a += 1
        b += 1
    return 0


def starts_with(text: int, prefix: int) -> int:
    while load8(prefix):
        if load8(text) != load8(prefix):
            return 0
        text += 1
        prefix += 1
    return 1


def has_slash(text: int) -> int:
    while load8(text):
        if load8(text) == 0x2F:
            return 1
        text += 1
    return 0


def decimal(text: int) -> int:
    value = 0
    while load8(text) >= 0x30 and load8(text) <= 0x39:
        value = value * 10 + load8(text) - 0x30
        text += 1
    return value


def say(text: int) -> None:
    """Append to the line, cut at its end."""
    global line_used
    count = length(text)
    if line_used + count > LINE:
        count = LINE - line_used
    copy(line + line_used, text, count)
    line_used += count


def say_number(value: int) -> None:
    global line_used
    if value >= 10:
        say_number(value // 10)
    store8(line + line_used, 0x30 + value % 10)
    line_used += 1


def power_off() -> None:
    if syscall(SYS_GETPID) == 1:
        syscall(SYS_SYNC)
        syscall(SYS_REBOOT, POWER_OFF_MAGIC1, POWER_OFF_MAGIC2, POWER_OFF, 0)
    leave(1)


def fail(what: int, which: int, error: int) -> None:
    """Say `barevisor-init: WHAT WHICH: error N` on the kernel's console and power off.

    The kernel log reaches the console at every log level that a quiet boot keeps, and a
    console that is no terminal. `error` is the kernel's negative answer.
    """
    say(addr(b"<2>barevisor-init: "))
    say(what)
    say(addr(b" "))
    say(which)
    say(addr(b": error "))
    say_number(-error)
    say(addr(b"\n"))
    fd = 2
    if syscall(SYS_GETPID) == 1:
        fd = open_file(addr(b"/dev/kmsg"), O_WRONLY)
        if fd < 0:  # before /dev is mounted
            syscall(SYS_MKNOD, addr(b"/kmsg"), CHARACTER_DEVICE, KMSG_NUMBER)
            fd = open_file(addr(b"/kmsg"), O_WRONLY | O_CLOEXEC)
    write(fd, line, line_used)
    power_off()
