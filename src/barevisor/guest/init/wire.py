"""The words of the agent protocol and of the start plan, for both sides.

guest/protocol.py imports this file and guest/compiler.py compiles it, so host and guest cannot
disagree. A frame is: u32 length of the payload, u16 type, u16 flags, u32 id, payload; all
little-endian. `id` names a command, chosen by the host, never 0.
"""

VERSION = 1
HEADER = 12
MAX_PAYLOAD = 256 << 10
MAX_COMMANDS = 64
MAX_STRINGS = 16384

HELLO = 1  # to host: u32 version, u32 pid, u64 ns since boot at start, u64 ns now
SPAWN = 2  # to guest: SPAWN_HEAD, then cwd, arguments and environment, each with a NUL
SPAWNED = 3  # to host: u32 pid
SPAWN_FAILED = 4  # to host: u32 errno, u32 stage; the id is free again
DATA = 5  # both ways; flags: stream; an empty payload ends the stream
CREDIT = 6  # both ways; flags: stream; u32 bytes more that may be sent
CLOSE = 7  # both ways; flags: stream; nobody reads it any more
SIGNAL = 8  # to guest: u32 signal; flags: TO_GROUP
RESIZE = 9  # to guest: u16 rows, u16 columns
EXIT = 10  # to host: u32 wait status; output may follow
DONE = 11  # to host: exited and every stream closed; the id is free again
POWEROFF = 12  # to guest
DRAINED = 14  # to host: all that the ended command itself wrote was sent
SYNC = 13  # to guest; answered with the same frame once sync(2) is done

STDIN = 0
STDOUT = 1
STDERR = 2

STDIN_WINDOW = 64 << 10
OUTPUT_WINDOW = 256 << 10

SPAWN_HEAD = 20  # u16 rows, u16 columns, u32 uid, u32 gid, u32 arguments, u32 variables
KEEP_ID = 0xFFFFFFFF  # uid or gid: as the agent's own
TTY = 1  # a terminal for stdin, stdout and stderr
MERGE = 2  # stderr goes where stdout goes
NO_STDIN = 4  # /dev/null
TO_GROUP = 1

STAGE_REQUEST = 0
STAGE_PIPES = 1
STAGE_TERMINAL = 2
STAGE_IDENTITY = 3
STAGE_DIRECTORY = 4
STAGE_EXEC = 5

PLAN_SIZE = 64 << 10
PLAN_OPTIONAL = 0x3F  # ?: before a row's letter: its failure is ignored
PLAN_MODULE = 0x4B  # K path
PLAN_DIRECTORY = 0x44  # D path
PLAN_MOUNT = 0x4D  # M source target type flags data
PLAN_SYMLINK = 0x53  # S target path
PLAN_ROOT = 0x52  # R path
PLAN_HOSTNAME = 0x48  # H name
PLAN_LOOPBACK = 0x4C  # L
