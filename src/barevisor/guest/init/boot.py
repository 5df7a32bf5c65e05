"""Process 1 until the agent serves: the host's plan, row by row, then the agent's port.

The plan is a file of NUL-terminated strings that guest/initrd.py wrote: a row's letter, then
its operands. All policy is there; this file only knows how to do each thing.
"""

from barevisor.guest.init.linux import (
    EEXIST,
    ENOENT,
    O_DIRECTORY,
    O_RDWR,
    POLL_SIZE,
    POLLIN,
    SYS_BIND,
    SYS_FINIT_MODULE,
    SYS_GETDENTS64,
    SYS_POLL,
    SYS_SETHOSTNAME,
    SYS_SOCKET,
    SYS_SYMLINK,
    SYS_UNLINK,
    close,
    loopback_up,
    make_directory,
    mount,
    open_file,
    read,
    switch_root,
)
from barevisor.guest.init.machine import (
    addr,
    buffer,
    copy,
    load8,
    load16,
    size,
    store8,
    store16,
    store32,
    syscall,
)
from barevisor.guest.init.text import decimal, equal, fail, length
from barevisor.guest.init.wire import (
    PLAN_DIRECTORY,
    PLAN_HOSTNAME,
    PLAN_LOOPBACK,
    PLAN_MODULE,
    PLAN_MOUNT,
    PLAN_OPTIONAL,
    PLAN_ROOT,
    PLAN_SIZE,
    PLAN_SYMLINK,
)

PORT_WAIT_MS = 30000
UEVENT_SOCKET = 2 | 0o2000000 | 0o4000  # SOCK_DGRAM, close on exec, non-blocking
AF_NETLINK = 16
NETLINK_KOBJECT_UEVENT = 15
DIRENT_LENGTH = 16  # struct linux_dirent64: u64 ino, i64 off, u16 reclen, u8 type, name
DIRENT_NAME = 19
NAME_MAX = 64
SCRATCH = 8192

plan = buffer(PLAN_SIZE)
cursor = 0
scratch = buffer(SCRATCH)
port_path = buffer(256)
port_name = buffer(NAME_MAX + 8)
netlink_address = buffer(16)
waiting = buffer(POLL_SIZE)


def word() -> int:
    """The next string of the plan."""
    global cursor
    text = cursor
    cursor += length(text) + 1
    return text


def load_module(path: int) -> int:
    """The file is of no more use then, and its memory is the guest's."""
    fd = open_file(path, 0)
    if fd < 0:
        return fd
    result = syscall(SYS_FINIT_MODULE, fd, addr(b""), 0)
    close(fd)
    syscall(SYS_UNLINK, path)
    return result


def mount_row(target: int) -> int:
    source = target
    target = word()
    kind = word()
    flags = decimal(word())
    return mount(source, target, kind, flags, word())


def row(letter: int, operand: int) -> int:
    """Do one row; the kernel's answer."""
    if letter == PLAN_MODULE:
        return load_module(operand)
    if letter == PLAN_DIRECTORY:
        return make_directory(operand)
    if letter == PLAN_MOUNT:
        return mount_row(operand)
    if letter == PLAN_SYMLINK:
        return syscall(SYS_SYMLINK, operand, word())
    if letter == PLAN_ROOT:
        return switch_root(operand)
    if letter == PLAN_HOSTNAME:
        return syscall(SYS_SETHOSTNAME, operand, length(operand))
    if letter == PLAN_LOOPBACK:
        return loopback_up()
    fail(addr(b"unknown row in the plan"), operand, 0)
    return 0


def follow_plan() -> None:
    global cursor
    fd = open_file(addr(b"/plan"), 0)
    if fd < 0:
        fail(addr(b"open"), addr(b"/plan"), fd)
    count = read(fd, plan, PLAN_SIZE - 1)
    close(fd)
    cursor = plan
    while cursor < plan + count:
        name = word()
        letter = load8(name)
        optional = letter == PLAN_OPTIONAL
        if optional:
            letter = load8(name + 1)
        operand = word()
        result = row(letter, operand)
        if result < 0 and result != -EEXIST and not optional:
            fail(name, operand, result)


def port_file(entry: int) -> int:
    """Open /dev/ENTRY when the port's name is the agent's; -ENOENT when it is not."""
    count = length(entry)
    if count > NAME_MAX:
        return -ENOENT
    folder = size(b"/sys/class/virtio-ports/")
    copy(port_path, addr(b"/sys/class/virtio-ports/"), folder)
    copy(port_path + folder, entry, count)
    copy(port_path + folder + count, addr(b"/name"), size(b"/name") + 1)
    fd = open_file(port_path, 0)
    if fd < 0:
        return -ENOENT
    got = read(fd, port_name, NAME_MAX)
    close(fd)
    store8(port_name + (got if got > 0 else 0), 0)
    if not equal(port_name, addr(b"barevisor.agent\n")):
        return -ENOENT
    copy(port_path, addr(b"/dev/"), size(b"/dev/"))
    copy(port_path + size(b"/dev/"), entry, count + 1)
    return open_file(port_path, O_RDWR)


def find_port() -> int:
    folder = open_file(addr(b"/sys/class/virtio-ports"), O_DIRECTORY)
    if folder < 0:
        return -ENOENT
    found = -ENOENT
    count = syscall(SYS_GETDENTS64, folder, scratch, SCRATCH)
    while count > 0 and found < 0:
        at = 0
        while at < count and found < 0:
            found = port_file(scratch + at + DIRENT_NAME)
            at += load16(scratch + at + DIRENT_LENGTH)
        count = syscall(SYS_GETDENTS64, folder, scratch, SCRATCH)
    close(folder)
    return found


def agent_port() -> int:
    """The agent's port. Its name reaches the guest by a control message after the driver came
    up, so wait for device events, not for time."""
    events = syscall(SYS_SOCKET, AF_NETLINK, UEVENT_SOCKET, NETLINK_KOBJECT_UEVENT)
    store16(netlink_address, AF_NETLINK)
    store32(netlink_address + 8, 1)  # struct sockaddr_nl: groups
    if events < 0 or syscall(SYS_BIND, events, netlink_address, 12) < 0:
        fail(addr(b"socket"), addr(b"device events"), events)
    port = find_port()
    while port < 0:
        store32(waiting, events)
        store32(waiting + 4, POLLIN)
        if syscall(SYS_POLL, waiting, 1, PORT_WAIT_MS) <= 0:
            fail(addr(b"no port named"), addr(b"barevisor.agent"), port)
        while read(events, scratch, SCRATCH) > 0:
            pass
        port = find_port()
    close(events)
    return port
