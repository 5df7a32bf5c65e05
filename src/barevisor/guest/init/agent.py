"""The agent: commands for the host over one port, several at a time.

One poll loop. Nothing is buffered without bound: what a command writes is read only against
credit from the host; what the host sends for a command's stdin fits a ring of STDIN_WINDOW,
because the host holds as much credit and gets more when the command has read.
Writes to the port block; the host always takes what it gave credit for.
"""

from barevisor.guest.init.command import (
    ends,
    set_window,
    spawn_error,
    spawn_stage,
    start_command,
)
from barevisor.guest.init.linux import (
    CLOCK_BOOTTIME,
    EAGAIN,
    EINTR,
    F_SETFD,
    FD_CLOEXEC,
    POLL_SIZE,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    SIGKILL,
    SIGPIPE,
    SYS_CLOCK_GETTIME,
    SYS_FCNTL,
    SYS_GETPID,
    SYS_POLL,
    SYS_SYNC,
    SYS_WAIT4,
    WNOHANG,
    child_events,
    close,
    default_signal,
    kill,
    read,
    set_signal_mask,
    write,
)
from barevisor.guest.init.machine import (
    addr,
    array,
    buffer,
    copy,
    load16,
    load32,
    load64,
    store16,
    store32,
    store64,
    syscall,
)
from barevisor.guest.init.text import fail
from barevisor.guest.init.wire import (
    CLOSE,
    CREDIT,
    DATA,
    DONE,
    DRAINED,
    EXIT,
    HEADER,
    HELLO,
    MAX_COMMANDS,
    MAX_PAYLOAD,
    OUTPUT_WINDOW,
    POWEROFF,
    RESIZE,
    SIGNAL,
    SPAWN,
    SPAWN_FAILED,
    SPAWNED,
    STDERR,
    STDIN,
    STDIN_WINDOW,
    STDOUT,
    SYNC,
    TO_GROUP,
    TTY,
    VERSION,
)

CHUNK = 32768 - HEADER  # the port sends 32 KiB at a time (drivers/char/virtio_console.c, 6.1)
DRAIN = 1 << 20  # what a pipe can hold at most (/proc/sys/fs/pipe-max-size)
FREE = 0
RUNNING = 1
EXITED = 2  # EXIT sent; what it wrote is still being read
DRY = 3  # descendants may hold its streams

state = array(MAX_COMMANDS)
ids = array(MAX_COMMANDS)
pids = array(MAX_COMMANDS)
terminal = array(MAX_COMMANDS)
fds = array(MAX_COMMANDS * 3)
credit = array(MAX_COMMANDS * 3)
drain = array(MAX_COMMANDS * 3)
ring_start = array(MAX_COMMANDS)
ring_used = array(MAX_COMMANDS)
stdin_ended = array(MAX_COMMANDS)
rings = buffer(MAX_COMMANDS * STDIN_WINDOW)

inbound = buffer(HEADER + MAX_PAYLOAD)
inbound_used = 0
outbound = buffer(32768)
control = buffer(HEADER + 32)
polls = buffer(POLL_SIZE * (MAX_COMMANDS * 3 + 2))
owners = array(MAX_COMMANDS * 3 + 2)
poll_count = 0
port = 0
finished = 0
child_status = buffer(128)
clock = buffer(16)
started = 0


def now() -> int:
    syscall(SYS_CLOCK_GETTIME, CLOCK_BOOTTIME, clock)
    return load64(clock) * 1000000000 + load64(clock + 8)


def start_time() -> None:
    global started
    started = now()


# ---- frames to the host


def send(frame: int, kind: int, flags: int, slot_id: int, count: int) -> None:
    """Send the frame whose payload of `count` bytes is in place; the host is gone on failure."""
    global finished
    store32(frame, count)
    store16(frame + 4, kind)
    store16(frame + 6, flags)
    store32(frame + 8, slot_id)
    at = 0
    while at < HEADER + count:
        done = write(port, frame + at, HEADER + count - at)
        if done <= 0 and done != -EINTR:
            finished = 1
            return
        if done > 0:
            at += done


def tell(kind: int, flags: int, slot_id: int) -> None:
    send(control, kind, flags, slot_id, 0)


def tell_number(kind: int, flags: int, slot_id: int, number: int) -> None:
    store32(control + HEADER, number)
    send(control, kind, flags, slot_id, 4)


def hello() -> None:
    store32(control + HEADER, VERSION)
    store32(control + HEADER + 4, syscall(SYS_GETPID))
    store64(control + HEADER + 8, started)
    store64(control + HEADER + 16, now())
    send(control, HELLO, 0, 0, 24)


# ---- streams


def close_stream(slot: int, stream: int) -> None:
    close(fds[slot * 3 + stream])
    fds[slot * 3 + stream] = -1


def settle(slot: int) -> None:
    """Free the slot when nothing more can come of it."""
    if state[slot] == DRY and fds[slot * 3 + STDOUT] < 0 and fds[slot * 3 + STDERR] < 0:
        close_stream(slot, STDIN)
        state[slot] = FREE
        tell(DONE, 0, ids[slot])


def pump(slot: int, stream: int) -> int:
    """Send what one read gives, within credit. Bytes sent; 0: nothing now, or the end."""
    at = slot * 3 + stream
    room = credit[at] if credit[at] < CHUNK else CHUNK
    count = read(fds[at], outbound + HEADER, room)
    if count > 0:
        credit[at] -= count
        send(outbound, DATA, stream, ids[slot], count)
        return count
    if count == -EAGAIN or count == -EINTR:
        return 0
    close_stream(slot, stream)  # 0, or EIO from a terminal that nobody has open any more
    tell(DATA, stream, ids[slot])
    settle(slot)
    return 0


def drained(slot: int, stream: int) -> int:
    """Read on behalf of a command that ended; 1 once all it wrote was sent.

    Descendants may go on writing, so at most what a pipe can hold is waited for.
    """
    at = slot * 3 + stream
    if fds[at] < 0 or drain[at] <= 0:
        return 1
    if credit[at] <= 0:
        return 0
    count = pump(slot, stream)
    drain[at] = drain[at] - count if count > 0 else 0
    return drain[at] <= 0


def run_dry(slot: int) -> None:
    """DRAINED, once the ended command's own output is on its way."""
    out = drained(slot, STDOUT)
    err = drained(slot, STDERR)
    if out and err:
        state[slot] = DRY
        tell(DRAINED, 0, ids[slot])
        settle(slot)


def lose_stdin(slot: int) -> None:
    """Nobody reads it any more."""
    close_stream(slot, STDIN)
    ring_used[slot] = 0
    tell(CLOSE, STDIN, ids[slot])


def end_stdin(slot: int) -> None:
    if terminal[slot]:
        write(fds[slot * 3 + STDIN], addr(b"\x04"), 1)  # VEOF: a terminal has no other end
        stdin_ended[slot] = 0
    else:
        close_stream(slot, STDIN)


def offer_stdin(slot: int, address: int, count: int) -> int:
    """Write what the command takes now; bytes taken. Credit goes back to the host."""
    done = write(fds[slot * 3 + STDIN], address, count)
    if done == -EAGAIN or done == -EINTR:
        return 0
    if done < 0:
        lose_stdin(slot)
        return 0
    tell_number(CREDIT, STDIN, ids[slot], done)
    return done


def flush_ring(slot: int) -> None:
    start = ring_start[slot]
    count = ring_used[slot]
    if count > STDIN_WINDOW - start:
        count = STDIN_WINDOW - start
    done = offer_stdin(slot, rings + slot * STDIN_WINDOW + start, count)
    if fds[slot * 3 + STDIN] < 0:
        return
    ring_start[slot] = (start + done) & (STDIN_WINDOW - 1)
    ring_used[slot] -= done
    if ring_used[slot] == 0 and stdin_ended[slot]:
        end_stdin(slot)


def keep_in_ring(slot: int, address: int, count: int) -> None:
    if ring_used[slot] + count > STDIN_WINDOW:
        fail(addr(b"protocol"), addr(b"stdin beyond its credit"), 0)
    ring = rings + slot * STDIN_WINDOW
    at = (ring_start[slot] + ring_used[slot]) & (STDIN_WINDOW - 1)
    first = count if count < STDIN_WINDOW - at else STDIN_WINDOW - at
    copy(ring + at, address, first)
    copy(ring, address + first, count - first)
    ring_used[slot] += count


def take_stdin(slot: int, address: int, count: int) -> None:
    if fds[slot * 3 + STDIN] < 0 or stdin_ended[slot]:
        return
    if count == 0:
        stdin_ended[slot] = 1
        if ring_used[slot] == 0:
            end_stdin(slot)
        return
    done = 0
    if ring_used[slot] == 0:
        done = offer_stdin(slot, address, count)
    if done < count and fds[slot * 3 + STDIN] >= 0:
        keep_in_ring(slot, address + done, count - done)


# ---- commands


def find(slot_id: int) -> int:
    for slot in range(MAX_COMMANDS):
        if state[slot] != FREE and ids[slot] == slot_id:
            return slot
    return -1


def free_slot() -> int:
    for slot in range(MAX_COMMANDS):
        if state[slot] == FREE:
            return slot
    return -1


def spawn_failed(slot_id: int, error: int, stage: int) -> None:
    store32(control + HEADER, error)
    store32(control + HEADER + 4, stage)
    send(control, SPAWN_FAILED, 0, slot_id, 8)


def spawn(slot_id: int, flags: int, payload: int, count: int) -> None:
    slot = free_slot()
    if slot < 0 or find(slot_id) >= 0:
        spawn_failed(slot_id, EAGAIN, 0)
        return
    pid = start_command(flags, payload, count)
    if pid < 0:
        spawn_failed(slot_id, spawn_error, spawn_stage)
        return
    state[slot] = RUNNING
    ids[slot] = slot_id
    pids[slot] = pid
    terminal[slot] = flags & TTY
    ring_start[slot] = 0
    ring_used[slot] = 0
    stdin_ended[slot] = 0
    for stream in range(3):
        fds[slot * 3 + stream] = ends[3 + stream]
        credit[slot * 3 + stream] = OUTPUT_WINDOW
        drain[slot * 3 + stream] = DRAIN
    tell_number(SPAWNED, 0, slot_id, pid)


def reap() -> None:
    """Collect every child that ended; those of nobody are orphans that came to process 1."""
    pid = syscall(SYS_WAIT4, -1, child_status, WNOHANG, 0)
    while pid > 0:
        for slot in range(MAX_COMMANDS):
            if state[slot] == RUNNING and pids[slot] == pid:
                state[slot] = EXITED
                tell_number(EXIT, 0, ids[slot], load32(child_status))
        pid = syscall(SYS_WAIT4, -1, child_status, WNOHANG, 0)


def signal_command(slot: int, flags: int, number: int) -> None:
    if flags & TO_GROUP:
        kill(-pids[slot], number)
    elif state[slot] == RUNNING:
        kill(pids[slot], number)


# ---- frames from the host


def to_command(slot: int, kind: int, flags: int, payload: int, count: int) -> None:
    """A frame for a living command."""
    if kind == DATA:
        take_stdin(slot, payload, count)
    elif kind == CREDIT and count == 4 and flags > 0 and flags <= STDERR:
        credit[slot * 3 + flags] += load32(payload)
    elif kind == CLOSE and flags <= STDERR:
        close_stream(slot, flags)
        settle(slot)
    elif kind == SIGNAL and count == 4:
        signal_command(slot, flags, load32(payload))
    elif kind == RESIZE and count == 4:
        if terminal[slot] and fds[slot * 3 + STDOUT] >= 0:
            set_window(fds[slot * 3 + STDOUT], load16(payload), load16(payload + 2))
    else:
        fail(addr(b"protocol"), addr(b"bad frame"), -kind)


def dispatch(kind: int, flags: int, slot_id: int, payload: int, count: int) -> None:
    global finished
    if kind == POWEROFF:
        finished = 1
    elif kind == SPAWN:
        spawn(slot_id, flags, payload, count)
    elif kind == SYNC:
        syscall(SYS_SYNC)
        tell(SYNC, 0, slot_id)
    else:
        slot = find(slot_id)
        if slot >= 0:  # else it crossed our DONE
            to_command(slot, kind, flags, payload, count)


def receive() -> None:
    """Read the port once and handle every whole frame."""
    global inbound_used, finished
    count = read(port, inbound + inbound_used, HEADER + MAX_PAYLOAD - inbound_used)
    if count == -EINTR or count == -EAGAIN:
        return
    if count <= 0:
        finished = 1
        return
    inbound_used += count
    at = inbound
    end = inbound + inbound_used
    while not finished and at + HEADER <= end:
        length = load32(at)
        if length > MAX_PAYLOAD:
            fail(addr(b"protocol"), addr(b"oversized frame"), 0)
        if at + HEADER + length > end:
            copy(inbound, at, end - at)
            inbound_used = end - at
            return
        dispatch(load16(at + 4), load16(at + 6), load32(at + 8), at + HEADER, length)
        at += HEADER + length
    copy(inbound, at, end - at)
    inbound_used = end - at


# ---- the loop


def watch(fd: int, events: int, owner: int) -> None:
    global poll_count
    store32(polls + poll_count * POLL_SIZE, fd)
    store32(polls + poll_count * POLL_SIZE + 4, events)  # revents: 0
    owners[poll_count] = owner
    poll_count += 1


def watch_command(slot: int) -> None:
    """Streams without credit are left out, so that a hang-up on one cannot spin the loop."""
    at = slot * 3
    if fds[at] >= 0:
        if ring_used[slot]:
            watch(fds[at], POLLOUT, at)
        elif not terminal[slot]:
            watch(fds[at], 0, at)  # for POLLERR: the reader went
    for stream in range(1, 3):
        if fds[at + stream] >= 0 and credit[at + stream] > 0:
            watch(fds[at + stream], POLLIN, at + stream)


def serve_stream(owner: int, events: int) -> None:
    slot = owner // 3
    stream = owner % 3
    if fds[owner] < 0 or state[slot] == FREE:
        return
    if stream != STDIN:
        if credit[owner] > 0:
            pump(slot, stream)
    elif ring_used[slot]:
        flush_ring(slot)
    elif events & POLLERR:
        lose_stdin(slot)


def must_not_wait() -> int:
    """An ended command has output that may be read now, or has none left to read."""
    for slot in range(MAX_COMMANDS):
        if state[slot] == EXITED:
            waiting_for_credit = 0
            for stream in range(1, 3):
                at = slot * 3 + stream
                if fds[at] >= 0 and drain[at] > 0:
                    if credit[at] > 0:
                        return 1
                    waiting_for_credit = 1
            if not waiting_for_credit:
                return 1
    return 0


def turn(children: int) -> None:
    """One round of the loop: wait, then children, streams and the host, in this order."""
    global poll_count
    poll_count = 0
    watch(port, POLLIN, -1)
    watch(children, POLLIN, -1)
    for slot in range(MAX_COMMANDS):
        if state[slot] != FREE:
            watch_command(slot)
    ready = syscall(SYS_POLL, polls, poll_count, 0 if must_not_wait() else -1)
    if ready < 0 and ready != -EINTR:
        fail(addr(b"wait for"), addr(b"events"), ready)
    if load16(polls + POLL_SIZE + 6):
        while read(children, child_status, 128) > 0:
            pass
        reap()
    if ready > 0:
        for i in range(2, poll_count):
            events = load16(polls + i * POLL_SIZE + 6)
            if events:
                serve_stream(owners[i], events)
    for slot in range(MAX_COMMANDS):
        if state[slot] == EXITED:
            run_dry(slot)
    events = load16(polls + 6)
    if events & POLLIN:
        receive()
    elif events & (POLLHUP | POLLERR):
        end()


def end() -> None:
    global finished
    finished = 1


def serve(fd: int) -> int:
    """Serve the host on `fd` until it says POWEROFF or goes away, then end what still runs."""
    global port
    port = fd
    for i in range(MAX_COMMANDS * 3):
        fds[i] = -1
    syscall(SYS_FCNTL, port, F_SETFD, FD_CLOEXEC)
    default_signal(SIGPIPE)  # blocked here, so that a closed pipe is an error; not in commands
    set_signal_mask(-1)
    children = child_events()
    if children < 0:
        fail(addr(b"watch"), addr(b"children"), children)
    hello()
    while not finished:
        turn(children)
    for slot in range(MAX_COMMANDS):
        if state[slot] == RUNNING:
            kill(-pids[slot], SIGKILL)
    return 0
