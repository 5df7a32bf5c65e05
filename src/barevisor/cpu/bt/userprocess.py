"""The process that user code runs in directly: a program of one page, made here (ADR 20).

It gives up what it could do (system calls but mmap and munmap, RDTSC if told to and, where the
host can do that, CPUID), lets its maker trace it and stops. From then on it only makes the calls
of a list.
"""

from __future__ import annotations

import fcntl
import os
import struct

LOW, HIGH = 0x1000_0000_0000, 0x5000_0000_0000
"""Between these it lies, elsewhere each time: addresses that Linux gives nobody unasked (between
heap and libraries), and where user code would have to guess one in 2**34 to meet it."""
TABLE = 0x1000
"""Where the list is, from the start of the page."""
TABLE_BYTES = 0x20000
SPAN = TABLE + TABLE_BYTES
RAM_FD = 3
TABLE_FD = 4

HEADERS = 64 + 2 * 56
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_SECCOMP = 1, 15, 22
PR_SET_TSC, PR_SET_NO_NEW_PRIVS = 26, 38
PR_TSC_ENABLE, PR_TSC_SIGSEGV = 1, 2
ARCH_SET_CPUID = 0x1012  # arch/x86/include/uapi/asm/prctl.h
MMAP, MUNMAP, PTRACE, PRCTL, ARCH_PRCTL, CLOSE_RANGE = 9, 11, 101, 157, 158, 436
SIGKILL = 9
NAME = b"barevisor-user\0\0"
PROT_READ, MAP_SHARED, MAP_FIXED = 1, 1, 0x10

MOVES = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
"""MOV RDI, RSI, RDX, R10, R8, R9 with 64-bit immediates: the arguments of a system call."""

AUDIT_ARCH_X86_64 = 0xC000_003E
FILTER = struct.pack(
    "<" + "HBBI" * 10,
    0x20, 0, 0, 4,  # load seccomp_data.arch
    0x15, 0, 5, AUDIT_ARCH_X86_64,
    0x20, 0, 0, 0,  # load seccomp_data.nr
    0x15, 5, 0, MMAP,
    0x15, 4, 0, MUNMAP,
    0x20, 0, 0, 12,  # load the upper half of seccomp_data.instruction_pointer
    0x15, 1, 0, 0xFFFF_FFFF,
    0x06, 0, 0, 0x8000_0000,  # SECCOMP_RET_KILL_PROCESS
    0x06, 0, 0, 0x0003_0000,  # SECCOMP_RET_TRAP: the kernel's vsyscall page, which is no call
    0x06, 0, 0, 0x7FFF_0000,  # SECCOMP_RET_ALLOW
)  # fmt: skip

SERVICE_CODE = bytes.fromhex(
    "488b03"  # next: mov rax, [rbx]
    "4883f8ff"  # cmp rax, -1
    "7427"  # je done
    "488b7b08"  # mov rdi, [rbx + 8]
    "488b7310"  # mov rsi, [rbx + 16]
    "488b5318"  # mov rdx, [rbx + 24]
    "4c8b5320"  # mov r10, [rbx + 32]
    "4c8b4328"  # mov r8, [rbx + 40]
    "4c8b4b30"  # mov r9, [rbx + 48]
    "4883c340"  # add rbx, 64
    "0f05"  # syscall
    "483d01f0ffff"  # cmp rax, -4095
    "72d1"  # jb next
    "cc"  # int3: RAX is the error
    "31c0"  # done: xor eax, eax
    "cc"  # int3
)


def _call(number: int, *arguments: int) -> bytes:
    """A system call with constant arguments."""
    moves = b"".join(m + struct.pack("<Q", a) for m, a in zip(MOVES, arguments, strict=False))
    return moves + b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"


def _code(image: int, *, traps_tsc: bool) -> bytes:
    """What lies behind the headers at `image`."""
    base = image + HEADERS
    data = FILTER + struct.pack("<HxxxxxxQ", len(FILTER) // 8, base) + NAME
    start = b"".join(
        (
            _call(PRCTL, PR_SET_PDEATHSIG, SIGKILL),
            _call(PRCTL, PR_SET_NAME, base + len(data) - len(NAME)),
            _call(PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            _call(PRCTL, PR_SET_TSC, PR_TSC_SIGSEGV if traps_tsc else PR_TSC_ENABLE),
            _call(MMAP, image + TABLE, TABLE_BYTES, PROT_READ, MAP_SHARED | MAP_FIXED, TABLE_FD, 0),
            _call(CLOSE_RANGE, 0, RAM_FD - 1, 0),
            _call(CLOSE_RANGE, RAM_FD + 1, 0xFFFF_FFFF, 0),
            _call(ARCH_PRCTL, ARCH_SET_CPUID, 0),
            b"\x48\x89\xc3",  # mov rbx, rax: 0 where CPUID faults now
            _call(PTRACE, 0),  # PTRACE_TRACEME
            _call(PRCTL, PR_SET_SECCOMP, 2, base + len(FILTER)),  # SECCOMP_MODE_FILTER
            b"\xcc",
        )
    )
    return data + start + SERVICE_CODE


START = HEADERS + len(FILTER) + 16 + len(NAME)
SERVICE = HEADERS + len(_code(LOW, traps_tsc=True)) - len(SERVICE_CODE)
"""Where the loop begins, from the start of the page."""


def program(image: int, *, traps_tsc: bool) -> bytes:
    """An ELF file of one segment, which is executable and not writable. That it also says what
    stack it wants, keeps old kernels from making all readable memory executable."""
    code = _code(image, traps_tsc=traps_tsc)
    size = HEADERS + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, image + START, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )  # EM_X86_64, ET_EXEC
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, image, image, size, size, 0x1000)
    stack = struct.pack("<IIQQQQQQ", 0x6474_E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK
    return header + segment + stack + code


def spawn(ram: int, table: int, *, traps_tsc: bool) -> tuple[int, int]:
    """Start it, with the files of guest RAM and of its list: its PID, and where it lies. Whoever
    calls is its tracer and must wait for its first stop. `traps_tsc`: RDTSC and RDTSCP fault
    there (which makes each switch to it and back slower). Raises OSError."""
    at = LOW + int.from_bytes(os.urandom(8), "little") % (HIGH - LOW) // 4096 * 4096
    image = os.memfd_create("barevisor-user", os.MFD_CLOEXEC)
    try:
        os.write(image, program(at, traps_tsc=traps_tsc))
        # Clear of the numbers that they get.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (ram, table)]
        try:
            pid = os.posix_spawn(
                f"/proc/self/fd/{image}", ["barevisor-user"], {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, high[0], RAM_FD),
                    (os.POSIX_SPAWN_DUP2, high[1], TABLE_FD),
                ],
                setsigmask=(),
            )  # fmt: skip
            return pid, at
        finally:
            for fd in high:
                os.close(fd)
    finally:
        os.close(image)
