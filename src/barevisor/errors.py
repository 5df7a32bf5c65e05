"""The error tree.

Every error that a user, a host or a guest can cause is a BarevisorError: one clear line, an
optional hint that says what to do next, and an exit code of its own. Anything else that escapes
is a bug of ours and keeps its traceback.

    BarevisorError            120
      ConfigError             121   a flag, a path or a value that the user gave
      HostError               122   what the host lacks: permission, memory, /dev/kvm, network
        EngineError           123   no engine can run here, or /dev/kvm refused
      GuestTimeout            124   --timeout ended it (the code that timeout(1) uses)
      GuestError              125   the guest died or broke a specification
        GuestCrash            125   triple fault, panic, or an exit no device could answer
      CommandNotExecutable    126   as shells say it
      CommandNotFound         127   as shells say it

With --testdev the guest chooses the exit code, so every error of our own exits with 250.
Codes from 120 up leave a command's own small codes alone; 124, 126 and 127 mean what they
mean in a shell.
"""

from __future__ import annotations

TESTDEV_ERROR = 250
"""Of every error of ours with --testdev; see above."""


class BarevisorError(Exception):
    """Base of every expected failure. `message` is one line; `hint` says what to do next."""

    exit_code = 120

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(BarevisorError):
    """The user's flag, path or value cannot be used."""

    exit_code = 121


class HostError(BarevisorError):
    """The host lacks something: a permission, memory, a device, the network."""

    exit_code = 122


class EngineError(HostError):
    """An engine cannot run here; the message names the ioctl or the probe that failed."""

    exit_code = 123


class AddressTaken(EngineError):
    """An engine needs addresses of this process that are in use: memory elsewhere may do."""


class GuestTimeout(BarevisorError):
    """The guest did not finish in the time that the user allowed."""

    exit_code = 124


class GuestError(BarevisorError):
    """The guest broke a specification: an injected fault, or a device that needs reset."""

    exit_code = 125


class GuestCrash(GuestError):
    """The guest cannot go on. `report` holds the vCPU's state and the last console lines."""

    def __init__(self, message: str, hint: str = "", report: str = "") -> None:
        super().__init__(message, hint)
        self.report = report


class CommandNotExecutable(BarevisorError):
    """The command exists in the guest and cannot be executed."""

    exit_code = 126


class CommandNotFound(BarevisorError):
    """The command does not exist in the guest."""

    exit_code = 127
