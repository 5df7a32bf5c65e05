"""16550A UART (National Semiconductor PC16550D data sheet; register names are its).

Transmission takes no time: a byte written is a byte sent, and THR is always empty. Output goes
to `output(bytes)`, on the vCPU's thread; input comes by `feed` from any thread and waits in a queue
that the FIFO is filled from. In loopback mode (MCR bit 4) bytes come back, and go nowhere else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
THR, DLL, DLM, FCR = 0, 0, 1, 2

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 1, 2, 4, 8
IIR_NONE, IIR_MSI, IIR_THRI, IIR_RDI, IIR_RLSI, IIR_TIMEOUT = 1, 0, 2, 4, 6, 0x0C
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RX = 1, 2
LCR_DLAB = 0x80
MCR_LOOP, MCR_OUT2 = 0x10, 0x08
LSR_DR, LSR_OE, LSR_THRE, LSR_TEMT = 0x01, 0x02, 0x20, 0x40
MSR_CTS_DSR_DCD = 0xB0
FIFO_SIZE = 16
TRIGGERS = (1, 4, 8, 14)
QUEUE_LIMIT = 1 << 20


class Serial:
    """Eight ports. `interrupt(level)` drives the line."""

    def __init__(self, output: Callable[[bytes], None], interrupt: Callable[[bool], None]) -> None:
        self._output = output
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._queue: deque[int] = deque()
        self._fifo: deque[int] = deque()
        self._ier = self._lcr = self._mcr = self._scr = self._fcr = 0
        self._divisor = 1  # 115200 baud
        self._overrun = 0
        self._thre_pending = False
        self._msr_delta = 0

    # ---- the host's side -----------------------------------------------------------------

    def feed(self, data: bytes) -> int:
        """Queue input for the guest; returns how many bytes fitted. Any thread."""
        with self._lock:
            taken = data[: QUEUE_LIMIT - len(self._queue)]
            self._queue.extend(taken)
            self._receive()
            self._update()
        return len(taken)

    def _receive(self) -> None:
        """Move queued input into the FIFO: the line delivers as fast as the guest reads."""
        if self._mcr & MCR_LOOP:
            return
        room = FIFO_SIZE if self._fcr & FCR_ENABLE else 1
        while self._queue and len(self._fifo) < room:
            self._fifo.append(self._queue.popleft())

    # ---- interrupts ----------------------------------------------------------------------

    def _identify(self) -> int:
        """IIR without the FIFO bits: the pending source of highest priority (table 5)."""
        if self._ier & IER_RLSI and self._overrun:
            return IIR_RLSI
        if self._ier & IER_RDI and self._fifo:
            # Below the trigger level a real chip interrupts four characters later; we do now.
            trigger = TRIGGERS[self._fcr >> 6] if self._fcr & FCR_ENABLE else 1
            return IIR_RDI if len(self._fifo) >= trigger else IIR_TIMEOUT
        if self._ier & IER_THRI and self._thre_pending:
            return IIR_THRI
        if self._ier & IER_MSI and self._msr_delta:
            return IIR_MSI
        return IIR_NONE

    def _update(self) -> None:
        # OUT2 gates the line on a PC; in loopback the outputs are held inactive.
        enabled = self._mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        self._interrupt(enabled and self._identify() != IIR_NONE)

    # ---- the guest's side ----------------------------------------------------------------

    def bus_read(self, offset: int, size: int) -> int:
        """One register; wider accesses see the one at `offset`."""
        if offset == LSR and not self._fifo and not self._overrun:
            return LSR_THRE | LSR_TEMT  # what a driver polls before each byte: no lock
        with self._lock:
            value = self._read(offset)
            self._update()
        return value

    def _read(self, offset: int) -> int:
        if self._lcr & LCR_DLAB and offset in (DLL, DLM):
            return self._divisor >> 8 * offset & 0xFF
        if offset == RBR:
            value = self._fifo.popleft() if self._fifo else 0
            self._receive()
            return value
        if offset == IIR:
            identity = self._identify()
            if identity == IIR_THRI:
                self._thre_pending = False
            return identity | (IIR_FIFO if self._fcr & FCR_ENABLE else 0)
        if offset == LSR:
            ready = LSR_DR if self._fifo else 0
            return ready | LSR_THRE | LSR_TEMT | self._take_overrun()
        if offset == MSR:
            return self._modem_status()
        return {IER: self._ier, LCR: self._lcr, MCR: self._mcr, SCR: self._scr}[offset]

    def _take_overrun(self) -> int:
        value, self._overrun = self._overrun, 0
        return value

    def _modem_status(self) -> int:
        delta, self._msr_delta = self._msr_delta, 0
        return self._modem_lines() | delta

    def _modem_lines(self) -> int:
        """In loopback the four outputs are the four inputs: RTS-CTS, DTR-DSR, OUT1-RI, OUT2-DCD."""
        if not self._mcr & MCR_LOOP:
            return MSR_CTS_DSR_DCD
        m = self._mcr
        return (m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """One register; of wider accesses the low byte counts."""
        value &= 0xFF
        sent = b""
        with self._lock:
            if offset == THR and not self._lcr & LCR_DLAB:
                sent = self._transmit(value)
            else:
                self._write(offset, value)
            self._update()
        if sent:
            self._output(sent)

    def late_write(self, offset: int, data: bytes) -> None:
        """Stores to THR, which an engine kept back: sent at once, with one interrupt."""
        if self._lcr & LCR_DLAB or self._mcr & MCR_LOOP:  # not sent
            for value in data:
                self.bus_write(THR, 1, value)
            return
        with self._lock:
            self._transmit(data[-1])
            self._update()
        self._output(data)

    def late_control(self, offset: int, data: bytes) -> None:
        """Stores to FCR and LCR, which no interrupt follows."""
        self.bus_write(FCR + offset, 1, data[0])

    def _transmit(self, value: int) -> bytes:
        if self._thre_pending:
            # THR filled and emptied: an edge-triggered line must see both.
            self._thre_pending = False
            self._update()
        self._thre_pending = True
        if not self._mcr & MCR_LOOP:
            return bytes((value,))
        if len(self._fifo) < (FIFO_SIZE if self._fcr & FCR_ENABLE else 1):
            self._fifo.append(value)
        else:
            self._overrun = LSR_OE
        return b""

    def _write(self, offset: int, value: int) -> None:
        if self._lcr & LCR_DLAB and offset in (DLL, DLM):
            shift = 8 * offset
            self._divisor = self._divisor & ~(0xFF << shift) | value << shift
        elif offset == IER:
            # Enabling THRI with an empty THR interrupts at once (drivers test for it).
            if value & IER_THRI and not self._ier & IER_THRI:
                self._thre_pending = True
            self._ier = value & 0x0F
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            self._lcr = value
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            self._scr = value

    def _write_fcr(self, value: int) -> None:
        # Turning the FIFO on or off clears it (FCR0); the other bits count only when it is on.
        if value & FCR_CLEAR_RX or (value ^ self._fcr) & FCR_ENABLE:
            self._fifo.clear()
        self._fcr = value & 0xC9 if value & FCR_ENABLE else 0
        self._receive()

    def _write_mcr(self, value: int) -> None:
        before = self._modem_lines()
        self._mcr = value
        changed = before ^ self._modem_lines()
        falling_ri = before & changed & 0x40
        self._msr_delta |= changed >> 4 & 0x0B | (4 if falling_ri else 0)
        self._receive()
