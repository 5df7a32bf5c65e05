"""Starting one command: pipes or a terminal, vfork, exec.

The child shares the agent's memory until it executes (vfork), so it says what went wrong in
`spawn_error` and `spawn_stage`; the agent runs again once that is settled.
"""

from barevisor.guest.init.linux import (
    E2BIG,
    EACCES,
    EINVAL,
    ENOENT,
    ENOTDIR,
    F_DUPFD_CLOEXEC,
    O_NOCTTY,
    O_NONBLOCK,
    O_RDWR,
    SYS_CHDIR,
    SYS_DUP2,
    SYS_EXECVE,
    SYS_FCNTL,
    SYS_SETGID,
    SYS_SETGROUPS,
    SYS_SETSID,
    SYS_SETUID,
    SYS_VFORK,
    TIOCGPTPEER,
    TIOCSCTTY,
    TIOCSPTLCK,
    TIOCSWINSZ,
    close,
    ioctl,
    leave,
    open_file,
    pipe,
    pipe_reader,
    pipe_writer,
    set_nonblocking,
    set_signal_mask,
)
from barevisor.guest.init.machine import (
    addr,
    array,
    buffer,
    copy,
    load8,
    load32,
    size,
    store8,
    store16,
    store32,
    store64,
    syscall,
)
from barevisor.guest.init.text import has_slash, length, starts_with
from barevisor.guest.init.wire import (
    KEEP_ID,
    MAX_STRINGS,
    MERGE,
    NO_STDIN,
    SPAWN_HEAD,
    STAGE_DIRECTORY,
    STAGE_EXEC,
    STAGE_IDENTITY,
    STAGE_PIPES,
    STAGE_REQUEST,
    STAGE_TERMINAL,
    TTY,
)

PATH_MAX = 4096

vector = buffer(8 * (MAX_STRINGS + 2))
path = buffer(2 * PATH_MAX)
window = buffer(8)
ends = array(6)
"""The child's stdin, stdout, stderr; then the agent's ends. -1: none, or the same as another."""
spawn_error = 0
spawn_stage = 0


def give_up(stage: int, error: int) -> int:
    """Remember why; always -1. `error` is the kernel's negative answer."""
    global spawn_error, spawn_stage
    spawn_error = -error
    spawn_stage = stage
    return -1


def close_ends(first: int, count: int) -> None:
    for i in range(first, first + count):
        close(ends[i])
        ends[i] = -1


def set_window(fd: int, rows: int, columns: int) -> None:
    """struct winsize: rows, columns, two of pixels."""
    store64(window, 0)
    store16(window, rows)
    store16(window + 2, columns)
    ioctl(fd, TIOCSWINSZ, window)


def open_terminal(rows: int, columns: int) -> int:
    master = open_file(addr(b"/dev/ptmx"), O_RDWR | O_NOCTTY | O_NONBLOCK)
    if master < 0:
        return give_up(STAGE_TERMINAL, master)
    ends[4] = master
    store32(window, 0)
    ioctl(master, TIOCSPTLCK, window)
    set_window(master, rows, columns)
    peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | 0o2000000)
    if peer < 0:
        return give_up(STAGE_TERMINAL, peer)
    ends[1] = peer
    second = syscall(SYS_FCNTL, master, F_DUPFD_CLOEXEC, 3)
    if second < 0:
        return give_up(STAGE_TERMINAL, second)
    ends[3] = second
    return 0


def open_output(stream: int) -> int:
    result = pipe()
    if result < 0:
        return give_up(STAGE_PIPES, result)
    ends[stream] = pipe_writer()
    ends[stream + 3] = pipe_reader()
    set_nonblocking(ends[stream + 3])
    return 0


def open_pipes(flags: int) -> int:
    if flags & NO_STDIN:
        ends[0] = open_file(addr(b"/dev/null"), 0)
        if ends[0] < 0:
            return give_up(STAGE_PIPES, ends[0])
    else:
        result = pipe()
        if result < 0:
            return give_up(STAGE_PIPES, result)
        ends[0] = pipe_reader()
        ends[3] = pipe_writer()
        set_nonblocking(ends[3])
    if open_output(1) < 0:
        return -1
    return 0 if flags & MERGE else open_output(2)


def search_path(environment: int) -> int:
    """The value of PATH in the command's environment."""
    at = environment
    while load32(at) or load32(at + 4):
        if starts_with(load32(at), addr(b"PATH=")):
            return load32(at) + size(b"PATH=")
        at += 8
    return addr(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def execute(name: int, arguments: int, environment: int) -> int:
    """execvpe(3), without its fallback to a shell; the negative errno when it comes back."""
    if has_slash(name):
        return syscall(SYS_EXECVE, name, arguments, environment)
    count = length(name)
    if count == 0 or count >= PATH_MAX:
        return -ENOENT
    worst = -ENOENT
    at = search_path(environment)
    more = 1
    while more:
        used = 0
        while load8(at) and load8(at) != 0x3A and used < PATH_MAX - 1:
            store8(path + used, load8(at))
            used += 1
            at += 1
        if used == 0:  # an empty entry is the current directory (POSIX, 8.3)
            store8(path, 0x2E)
            used = 1
        store8(path + used, 0x2F)
        copy(path + used + 1, name, count + 1)
        result = syscall(SYS_EXECVE, path, arguments, environment)
        if result == -EACCES:
            worst = result
        elif result != -ENOENT and result != -ENOTDIR:
            return result
        more = load8(at) == 0x3A
        at += 1
    return worst


def become(head: int, flags: int, arguments: int, environment: int) -> None:
    """The child, until it is the command; does not return."""
    syscall(SYS_SETSID)
    syscall(SYS_DUP2, ends[0] if ends[0] >= 0 else ends[1], 0)
    syscall(SYS_DUP2, ends[1], 1)
    syscall(SYS_DUP2, ends[2] if ends[2] >= 0 else ends[1], 2)
    if flags & TTY:
        ioctl(0, TIOCSCTTY, 0)
    gid = load32(head + 8)
    uid = load32(head + 4)
    result = 0
    if gid != KEEP_ID:
        syscall(SYS_SETGROUPS, 0, 0)
        result = syscall(SYS_SETGID, gid)
    if uid != KEEP_ID and result >= 0:
        result = syscall(SYS_SETUID, uid)
    if result < 0:
        give_up(STAGE_IDENTITY, result)
        leave(127)
    directory = head + SPAWN_HEAD
    if load8(directory):
        result = syscall(SYS_CHDIR, directory)
        if result < 0:
            give_up(STAGE_DIRECTORY, result)
            leave(127)
    set_signal_mask(0)
    give_up(STAGE_EXEC, execute(load32(arguments), arguments, environment))
    leave(127)


def fill_vector(head: int, end: int) -> int:
    """Pointers to the arguments, then to the environment; the environment's place or -1.

    Addresses fit 32 bits here: the program is linked low (guest/compiler.py).
    """
    arguments = load32(head + 12)
    total = arguments + load32(head + 16)
    if arguments == 0:
        return give_up(STAGE_REQUEST, -EINVAL)
    if arguments > MAX_STRINGS or total > MAX_STRINGS:
        return give_up(STAGE_REQUEST, -E2BIG)
    at = head + SPAWN_HEAD
    at += length(at) + 1
    slot = vector
    for i in range(total):
        if i == arguments:
            store64(slot, 0)
            slot += 8
        if at >= end:
            return give_up(STAGE_REQUEST, -EINVAL)
        store64(slot, at)
        slot += 8
        at += length(at) + 1
    store64(slot, 0)
    if total == arguments:
        store64(slot + 8, 0)
    return vector + 8 * (arguments + 1)


def start_command(flags: int, head: int, count: int) -> int:
    """Start what the SPAWN payload at `head` says; its pid, or -1 with `spawn_error` set.

    The agent's ends are in `ends[3]` to `ends[5]`; the caller owns them.
    """
    global spawn_error
    for i in range(6):
        ends[i] = -1
    if count < SPAWN_HEAD + 2 or load8(head + count - 1):
        return give_up(STAGE_REQUEST, -EINVAL)
    environment = fill_vector(head, head + count)
    if environment < 0:
        return -1
    if flags & TTY:
        result = open_terminal(load32(head) & 0xFFFF, load32(head) >> 16)
    else:
        result = open_pipes(flags)
    if result == 0:
        spawn_error = 0
        pid = syscall(SYS_VFORK)
        if pid == 0:
            become(head, flags, vector, environment)
        if pid < 0:
            give_up(STAGE_EXEC, pid)
        result = -1 if spawn_error else pid
    close_ends(0, 3)
    if result < 0:
        close_ends(3, 3)
    return result
