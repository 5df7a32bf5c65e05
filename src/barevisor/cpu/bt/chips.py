"""The engine's own part of the board: IOAPIC, 8259 pair and 8254, and the doorbells.

Everything here runs on a vCPU's thread behind an exit, or on a device's thread. `None` and
False mean "not mine": the access goes on to the VMM.
"""

from __future__ import annotations

from collections.abc import Callable

from barevisor.cpu.bt import ioapic, pit
from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from barevisor.cpu.bt.vmcore import VmCore

PIC_PORTS = frozenset({0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1})
PIT_PORTS = frozenset(pit.PORTS)
TIMER_PINS = (0, 2)
"""GSI n is IOAPIC pin n (KVM's default routing); the PIT's override in the MADT says 2."""
CASCADE = 2


class Chips:
    """`core` is None until the VM exists; without interrupt controllers only doorbells work."""

    def __init__(self, irqchip: bool) -> None:
        self.irqchip = irqchip
        self.core: VmCore | None = None
        self.ioapic = ioapic.IoApic(self._deliver)
        self.pit = pit.Pit(self._timer_line)
        self._bells: dict[int, tuple[int, Callable[[int], None]]] = {}
        self.accesses = self.rung = 0

    def _vm(self) -> VmCore:
        if self.core is None:
            raise RuntimeError("the VM is closed")
        return self.core

    # ---- interrupt lines ----

    def _deliver(self, dest: int, logical: bool, mode: int, vector: int, level: bool) -> int:
        return self._vm().deliver(dest, logical, mode, vector, level)

    def _timer_line(self, level: bool) -> None:
        core = self.core
        if core is not None:  # a last tick of a VM that is being closed
            core.pic_line(0, level)
            for pin in TIMER_PINS:
                self.ioapic.line(pin, level)

    def line(self, gsi: int, level: bool) -> None:
        """See EngineVm.irq_line."""
        if gsi < 16 and gsi != CASCADE:
            self._vm().pic_line(gsi, level)
        self.ioapic.line(gsi, level)

    # ---- ports ----

    def port_read(self, port: int, size: int) -> int | None:
        """One item of `size` bytes; the chips answer bytes and their neighbours float."""
        if not self.irqchip:
            return None
        if port in PIC_PORTS:
            value = self._vm().pic_read(port)
        elif port in PIT_PORTS:
            value = self.pit.read(port)
        else:
            return None
        self.accesses += 1
        return value | ((1 << 8 * size) - 1) & ~0xFF

    def port_write(self, port: int, size: int, data: bytes) -> bool:
        """One or more items of `size` bytes; only the low byte of each reaches a chip."""
        if not self.irqchip or not (port in PIC_PORTS or port in PIT_PORTS):
            return False
        self.accesses += 1
        for value in data[::size]:
            if port in PIC_PORTS:
                self._vm().pic_write(port, value)
            else:
                self.pit.write(port, value)
        return True

    # ---- memory ----

    def mmio_read(self, gpa: int, size: int) -> int | None:
        """Up to 8 bytes at `gpa`."""
        if not self.irqchip or not 0 <= gpa - ioapic.BASE < ioapic.SIZE:
            return None
        self.accesses += 1
        return self.ioapic.read(gpa - ioapic.BASE) & (1 << 8 * size) - 1

    def mmio_write(self, gpa: int, data: bytes) -> bool:
        """Up to 8 bytes at `gpa`."""
        bell = self._bells.get(gpa)
        if bell is not None and bell[0] in (0, len(data)):
            self.rung += 1
            bell[1](int.from_bytes(data, "little"))
            return True
        if not self.irqchip or not 0 <= gpa - ioapic.BASE < ioapic.SIZE:
            return False
        self.accesses += 1
        self.ioapic.write(gpa - ioapic.BASE, int.from_bytes(data[:4], "little"))
        return True

    # ---- doorbells ----

    def add_doorbell(self, gpa: int, size: int, on_write: Callable[[int], None]) -> None:
        """See EngineVm.add_doorbell; `on_write` runs on the vCPU's thread."""
        self._bells[gpa] = (size, on_write)

    def remove_doorbell(self, gpa: int) -> None:
        """Unknown addresses are ignored."""
        self._bells.pop(gpa, None)

    def close(self) -> None:
        """End the timer's thread. Idempotent."""
        self.pit.close()
        self._bells.clear()
        self.core = None
