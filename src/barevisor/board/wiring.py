"""What an engine's VM is told of the machine around it: memory, doorbells, ports.

It is kept, so that a VM of another engine can be told the same (`Machine.move`).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

from barevisor.board.ram import GuestRam
from barevisor.cpu.engine import EngineVm
from barevisor.errors import AddressTaken

RESIDENT = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
PLACES = 8
"""How many addresses an engine may refuse for one piece of memory."""


class Wiring:
    """One machine's."""

    def __init__(self, ranges: list[tuple[int, int]], *, file: bool = False) -> None:
        """`ranges`: of RAM, (address, size); `file`: see Engine.file_memory. Raises HostError."""
        self._ranges, self._file = ranges, file
        self.ram = GuestRam(ranges, file=file)
        self._readonly: list[tuple[int, int, int, mmap.mmap]] = []
        self._bells: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._late: dict[int, tuple[int, Callable[[int, bytes], None]]] = {}
        self._ignored: list[tuple[int, int]] = []

    # ---- memory --------------------------------------------------------------------------

    def place_memory(self, vm: EngineVm) -> None:
        """As map_memory, before anybody holds `ram`: it is another one where the engine cannot use
        the addresses of this one. Raises EngineError."""
        refused: list[GuestRam] = []  # kept until another address is found
        try:
            while True:
                try:
                    self.map_memory(vm)
                    return
                except AddressTaken:
                    if len(refused) == PLACES:
                        raise
                    refused.append(self.ram)
                    self.ram = GuestRam(self._ranges, file=self._file)
        finally:
            for ram in refused:
                ram.close()

    def map_memory(self, vm: EngineVm) -> None:
        """Tell `vm` of all memory. Raises EngineError."""
        for slot, r in enumerate(self.ram.ranges):
            address = self.ram.host_address + r.offset
            vm.set_memory(slot, r.gpa, r.size, address, file=self.ram.file(r.offset))
        for slot, (gpa, size, address, _) in enumerate(self._readonly, len(self.ram.ranges)):
            vm.set_memory(slot, gpa, size, address, readonly=True)

    def add_readonly(self, vm: EngineVm, gpa: int, size: int) -> memoryview:
        """See Machine.add_readonly."""
        slot = len(self.ram.ranges) + len(self._readonly)
        refused: list[mmap.mmap] = []  # kept until another address is found
        while True:
            pages = mmap.mmap(-1, size, flags=RESIDENT)
            # JUSTIFICATION: engines map this address into the guest; `pages` outlives the VM.
            address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
            try:
                vm.set_memory(slot, gpa, size, address, readonly=True)
            except AddressTaken:
                if len(refused) == PLACES:
                    raise
                refused.append(pages)
            else:
                self._readonly.append((gpa, size, address, pages))
                return memoryview(pages)

    # ---- doorbells and ports -------------------------------------------------------------

    def add_doorbell(
        self, vm: EngineVm, gpa: int, size: int, on_write: Callable[[int], None]
    ) -> None:
        """See EngineVm.add_doorbell."""
        self._bells[gpa] = (size, on_write)
        vm.add_doorbell(gpa, size, on_write)

    def remove_doorbell(self, vm: EngineVm, gpa: int) -> None:
        """See EngineVm.remove_doorbell."""
        self._bells.pop(gpa, None)
        vm.remove_doorbell(gpa)

    def add_late_ports(
        self, vm: EngineVm, base: int, size: int, on_write: Callable[[int, bytes], None]
    ) -> None:
        """See EngineVm.add_late_ports."""
        self._late[base] = (size, on_write)
        vm.add_late_ports(base, size, on_write)

    def ignore_port(self, vm: EngineVm, port: int, size: int) -> None:
        """See EngineVm.ignore_port."""
        self._ignored.append((port, size))
        vm.ignore_port(port, size)

    def connect(self, vm: EngineVm) -> None:
        """Tell `vm` of all doorbells and ports. Raises EngineError."""
        for gpa, (size, on_bell) in self._bells.items():
            vm.add_doorbell(gpa, size, on_bell)
        for base, (size, on_write) in self._late.items():
            vm.add_late_ports(base, size, on_write)
        for port, size in self._ignored:
            vm.ignore_port(port, size)

    def ring_all(self) -> None:
        """As if every doorbell had rung."""
        for _, on_write in list(self._bells.values()):
            on_write(0)
