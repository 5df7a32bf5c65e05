"""Doorbells: guest stores that end in an eventfd (KVM_IOEVENTFD, api.rst 4.59) and a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from barevisor.cpu.kvm import abi, ioctls
from barevisor.errors import EngineError
from barevisor.records import TYPE_CHECKING, NamedTuple
from barevisor.threads import Worker

if TYPE_CHECKING:
    from selectors import BaseSelector

EVENT_READ = 1  # selectors.EVENT_READ
DEASSIGN = 1 << 2  # KVM_IOEVENTFD_FLAG_DEASSIGN


class _Bell(NamedTuple):
    fd: int
    size: int
    on_write: Callable[[int], None]


class Doorbells:
    """All doorbells of a VM and the one thread that answers them (started by the first).

    The kernel does not say which value was stored, so `on_write` gets 0.
    """

    def __init__(self, vm_fd: int) -> None:
        self._vm_fd = vm_fd
        self._bells: dict[int, _Bell] = {}
        self._lock = threading.Lock()
        self._selector: BaseSelector | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None

    def add(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        """Raises EngineError when the kernel refuses, or the address is taken."""
        with self._lock:
            if gpa in self._bells:
                raise EngineError(f"a doorbell at {gpa:#x} exists")
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                ioctls.IOEVENTFD(self._vm_fd, abi.IoEventFd(addr=gpa, len=size, fd=fd))
            except EngineError:
                os.close(fd)
                raise
            self._bells[gpa] = bell = _Bell(fd, size, on_write)
            self._started().register(fd, EVENT_READ, bell)

    def remove(self, gpa: int) -> None:
        """Unknown addresses are ignored. A call already under way may still end after this."""
        with self._lock:
            bell = self._bells.pop(gpa, None)
            if bell is None or self._selector is None:
                return
            ioctls.IOEVENTFD(
                self._vm_fd, abi.IoEventFd(addr=gpa, len=bell.size, fd=bell.fd, flags=DEASSIGN)
            )
            self._selector.unregister(bell.fd)
            os.close(bell.fd)

    def _started(self) -> BaseSelector:
        if self._selector is None:
            from selectors import EpollSelector  # a machine without doorbells needs none

            self._selector = EpollSelector()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._selector.register(self._wake, EVENT_READ, None)
            self._thread = Worker(self._serve, name="kvm-doorbells")
            self._thread.start()
        return self._selector

    def _serve(self) -> None:
        selector = self._selector
        while selector is not None:
            for key, _ in selector.select():
                if key.data is None:
                    return
                if self._took(key.data):
                    key.data.on_write(0)

    def _took(self, bell: _Bell) -> bool:
        """Empty the eventfd; False when the doorbell was removed meanwhile."""
        with self._lock:
            if bell not in self._bells.values():
                return False
            try:
                os.eventfd_read(bell.fd)
            except BlockingIOError:
                return False
        return True

    def close(self) -> None:
        """Remove all and end the thread. Idempotent."""
        for gpa in list(self._bells):
            self.remove(gpa)
        if self._thread is not None and self._selector is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._selector.close()
            os.close(self._wake)
            self._thread = self._selector = None
