"""The kernel's interface: system call numbers and constants of x86-64, and what wraps them.

Sources: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi, Linux 6.1. Every function
returns the kernel's answer: negative is -errno.
"""

from barevisor.guest.init.machine import addr, buffer, fill, load32, store32, store64, syscall

SYS_READ = 0
SYS_WRITE = 1
SYS_OPEN = 2
SYS_CLOSE = 3
SYS_POLL = 7
SYS_RT_SIGACTION = 13
SYS_RT_SIGPROCMASK = 14
SYS_IOCTL = 16
SYS_DUP2 = 33
SYS_GETPID = 39
SYS_SOCKET = 41
SYS_BIND = 49
SYS_VFORK = 58
SYS_EXECVE = 59
SYS_WAIT4 = 61
SYS_KILL = 62
SYS_FCNTL = 72
SYS_CHDIR = 80
SYS_MKDIR = 83
SYS_UNLINK = 87
SYS_SYMLINK = 88
SYS_SETUID = 105
SYS_SETGID = 106
SYS_SETSID = 112
SYS_SETGROUPS = 116
SYS_MKNOD = 133
SYS_CHROOT = 161
SYS_SYNC = 162
SYS_MOUNT = 165
SYS_REBOOT = 169
SYS_SETHOSTNAME = 170
SYS_GETDENTS64 = 217
SYS_CLOCK_GETTIME = 228
SYS_EXIT_GROUP = 231
SYS_SIGNALFD4 = 289
SYS_PIPE2 = 293
SYS_FINIT_MODULE = 313

ENOENT = 2
EINTR = 4
EIO = 5
E2BIG = 7
EAGAIN = 11
EACCES = 13
EEXIST = 17
ENOTDIR = 20
EINVAL = 22
EPIPE = 32

O_RDWR = 2
O_WRONLY = 1
O_NOCTTY = 0o400
O_NONBLOCK = 0o4000
O_DIRECTORY = 0o200000
O_CLOEXEC = 0o2000000
F_SETFD = 2
FD_CLOEXEC = 1
F_SETFL = 4
F_DUPFD_CLOEXEC = 1030

POLLIN = 1
POLLOUT = 4
POLLERR = 8
POLLHUP = 16
POLL_SIZE = 8  # struct pollfd: i32 fd, i16 events, i16 revents

SIGKILL = 9
SIGPIPE = 13
SIGCHLD_BIT = 1 << 16
SIG_SETMASK = 2
WNOHANG = 1

TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41

MS_MOVE = 8192
CLOCK_BOOTTIME = 7
POWER_OFF_MAGIC1 = 0xFEE1DEAD
POWER_OFF_MAGIC2 = 672274793
POWER_OFF = 0x4321FEDC

signal_words = buffer(32)
fd_pair = buffer(8)


def read(fd: int, address: int, count: int) -> int:
    return syscall(SYS_READ, fd, address, count)


def write(fd: int, address: int, count: int) -> int:
    return syscall(SYS_WRITE, fd, address, count)


def open_file(path: int, flags: int) -> int:
    return syscall(SYS_OPEN, path, flags | O_CLOEXEC, 0)


def close(fd: int) -> int:
    if fd < 0:
        return 0
    return syscall(SYS_CLOSE, fd)


def ioctl(fd: int, request: int, argument: int) -> int:
    return syscall(SYS_IOCTL, fd, request, argument)


def pipe() -> int:
    """Both ends to `fd_pair`: reader, writer."""
    return syscall(SYS_PIPE2, fd_pair, O_CLOEXEC)


def pipe_reader() -> int:
    return load32(fd_pair)


def pipe_writer() -> int:
    return load32(fd_pair + 4)


def set_nonblocking(fd: int) -> None:
    syscall(SYS_FCNTL, fd, F_SETFL, O_NONBLOCK)


def set_signal_mask(mask: int) -> None:
    store64(signal_words, mask)
    syscall(SYS_RT_SIGPROCMASK, SIG_SETMASK, signal_words, 0, 8)


def default_signal(number: int) -> None:
    """SIG_DFL: commands inherit what is ignored."""
    fill(signal_words, 0, 32)
    syscall(SYS_RT_SIGACTION, number, signal_words, 0, 8)


def child_events() -> int:
    """A descriptor that is readable when a child ended; SIGCHLD must be blocked."""
    store64(signal_words, SIGCHLD_BIT)
    return syscall(SYS_SIGNALFD4, -1, signal_words, 8, O_CLOEXEC | O_NONBLOCK)


def kill(pid: int, number: int) -> int:
    return syscall(SYS_KILL, pid, number)


def leave(status: int) -> None:
    syscall(SYS_EXIT_GROUP, status)


def make_directory(path: int) -> int:
    return syscall(SYS_MKDIR, path, 0o755)


def mount(source: int, target: int, kind: int, flags: int, data: int) -> int:
    return syscall(SYS_MOUNT, source, target, kind, flags, data)


def switch_root(path: int) -> int:
    """Make `path`, a mount point, the root of everything (as switch_root(8) does)."""
    result = syscall(SYS_CHDIR, path)
    if result < 0:
        return result
    result = mount(addr(b"."), addr(b"/"), 0, MS_MOVE, 0)
    if result < 0:
        return result
    result = syscall(SYS_CHROOT, addr(b"."))
    if result < 0:
        return result
    return syscall(SYS_CHDIR, addr(b"/"))


interface = buffer(40)


def loopback_up() -> int:
    """struct ifreq: name 16 bytes, then the flags."""
    fd = syscall(SYS_SOCKET, 2, 2 | O_CLOEXEC, 0)
    if fd < 0:
        return fd
    store32(interface, 0x6F6C)  # "lo"
    store32(interface + 16, IFF_UP_RUNNING)
    result = ioctl(fd, SIOCSIFFLAGS, interface)
    close(fd)
    return result
