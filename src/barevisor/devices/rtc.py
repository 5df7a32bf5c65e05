"""MC146818A real-time clock with CMOS RAM (Motorola data sheet; a PC's ports 0x70 and 0x71).

The time is the host's UTC plus what the guest set. UIP is set for the 244 us before an update,
which itself takes no time.
Alarm and update interrupts come from a thread that exists only while one is enabled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from barevisor.records import TYPE_CHECKING
from barevisor.threads import Worker

if TYPE_CHECKING:
    from typing import Any

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D = range(6, 14)
CENTURY = 0x32
TIME_REGISTERS = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)
PLACES = {SECONDS: 5, MINUTES: 4, DAY: 2, MONTH: 1}
"""Of the plain ones in a struct_time."""

A_DIVIDER_1_024, A_UIP = 0x26, 0x80
UPDATE_AHEAD = 244e-6
"""Seconds that UIP is set before an update."""
B_SET, B_PIE, B_AIE, B_UIE, B_BINARY, B_24H = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
C_IRQF, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
D_VALID = 0x80
PM = 0x80
CMOS_SIZE = 128

FIRST, LAST = -62_135_596_800, 253_402_300_799
"""The first second of the year 1, the last of 9999: what a date can be, as seconds since 1970."""


class Rtc:
    """Two ports: index, data. `interrupt(level)` drives line 8."""

    def __init__(
        self,
        interrupt: Callable[[bool], None] = lambda level: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._interrupt = interrupt
        self._clock = clock
        self._offset = 0.0
        self._frozen: float | None = None
        self._index = 0
        self._cmos = bytearray(CMOS_SIZE)
        self._cmos[REG_A] = A_DIVIDER_1_024
        self._cmos[REG_B] = B_24H
        self._cmos[REG_D] = D_VALID
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._closed = False

    # ---- the guest's side ----------------------------------------------------------------

    def bus_read(self, offset: int, size: int) -> int:
        """Port 0x70 is write-only; 0x71 reads the selected register."""
        if offset != 1:
            return 0xFF
        with self._lock:
            at = self._index
            if at in TIME_REGISTERS:
                return self._time_register(at)
            if at == REG_A:
                return self._cmos[at] | self._updating()
            if at == REG_C:
                flags, self._cmos[REG_C] = self._cmos[REG_C], 0
                self._interrupt(False)
                return flags
            return self._cmos[at]

    def bus_write(self, offset: int, size: int, value: int) -> None:
        """Index (bit 7 is the PC's NMI mask), or the selected register."""
        if offset == 0:
            self._index = value & 0x7F
            return
        with self._lock:
            self._write(self._index, value & 0xFF)

    def late_index(self, offset: int, data: bytes) -> None:
        """Stores to the index port, which an engine kept back: the last one counts."""
        self._index = data[-1] & 0x7F

    def _write(self, at: int, value: int) -> None:
        if at in TIME_REGISTERS:
            self._set_time_register(at, value)
        elif at == REG_A:
            self._cmos[at] = value & 0x7F
        elif at == REG_B:
            self._write_b(value)
        elif at not in (REG_C, REG_D):
            self._cmos[at] = value
        self._schedule()

    def _write_b(self, value: int) -> None:
        if value & B_SET:
            if self._frozen is None:
                self._frozen = self._now()
            value &= ~B_UIE
        elif self._frozen is not None:
            self._offset = self._frozen - self._clock()
            self._frozen = None
        self._cmos[REG_B] = value

    # ---- time ----------------------------------------------------------------------------

    def _now(self) -> float:
        return self._frozen if self._frozen is not None else self._clock() + self._offset

    def _updating(self) -> int:
        """UIP, once an update is near (data sheet, "Update Cycle")."""
        frozen = self._frozen is not None
        return A_UIP if not frozen and self._now() % 1 >= 1 - UPDATE_AHEAD else 0

    @property
    def alarmed(self) -> bool:
        """Whether the alarm has come since register C was read."""
        return bool(self._cmos[REG_C] & C_AF)

    def _date(self) -> time.struct_time:
        return time.gmtime(min(max(int(self._now()), FIRST), LAST))  # the guest sets any date

    def _encode(self, value: int) -> int:
        return value if self._cmos[REG_B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._cmos[REG_B] & B_BINARY else (value >> 4) * 10 + (value & 0xF)

    def _encode_hour(self, hour: int) -> int:
        if self._cmos[REG_B] & B_24H:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self._cmos[REG_B] & B_24H:
            return self._decode(value)
        return self._decode(value & ~PM) % 12 + (12 if value & PM else 0)

    def _time_register(self, at: int) -> int:
        now = self._date()
        if at == HOURS:
            return self._encode_hour(now.tm_hour)
        if at == WEEKDAY:
            return self._encode((now.tm_wday + 1) % 7 + 1)
        if at in (YEAR, CENTURY):
            return self._encode(now.tm_year % 100 if at == YEAR else now.tm_year // 100)
        return self._encode(now[PLACES[at]])

    def _set_time_register(self, at: int, value: int) -> None:
        """A value that makes no date is ignored: the guest may write anything."""
        from datetime import datetime  # a Linux that only reads the clock needs none

        now = datetime(*self._date()[:6])
        plain = self._decode_hour(value) if at == HOURS else self._decode(value)
        change: dict[str, Any] = {
            SECONDS: {"second": plain}, MINUTES: {"minute": plain}, HOURS: {"hour": plain},
            DAY: {"day": plain}, MONTH: {"month": plain}, WEEKDAY: {},
            YEAR: {"year": now.year // 100 * 100 + plain % 100},
            CENTURY: {"year": plain * 100 + now.year % 100},
        }[at]  # fmt: skip
        try:
            moved = now.replace(**change)
        except ValueError:
            return
        shift = (moved - now).total_seconds()
        if self._frozen is not None:
            self._frozen += shift
        else:
            self._offset += shift

    # ---- interrupts ----------------------------------------------------------------------

    def _schedule(self) -> None:
        """Start the thread when an interrupt is enabled; tell it when something changed."""
        if self._cmos[REG_B] & (B_PIE | B_AIE | B_UIE) and not self._thread and not self._closed:
            self._thread = Worker(self._tick, name="rtc")
            self._thread.start()
        self._wake.notify()

    def _period(self) -> float | None:
        """Seconds between periodic interrupts (table 5), no shorter than 1/1024."""
        rate = self._cmos[REG_A] & 0xF
        if not self._cmos[REG_B] & B_PIE or not rate:
            return None
        return float(max(1 << (rate + 7 if rate < 3 else rate) - 1, 32)) / 32768

    def _tick(self) -> None:
        with self._lock:
            second = int(self._now())
            due: float | None = None
            while not self._closed and self._cmos[REG_B] & (B_PIE | B_AIE | B_UIE):
                due = self._tick_periodic(due)
                if (now := int(self._now())) != second:
                    second = now
                    self._raise(C_UF, B_UIE)
                    if self._alarm_matches():
                        self._raise(C_AF, B_AIE)
                wait = 1.001 - self._now() % 1
                if due is not None:
                    wait = min(wait, due - time.monotonic())
                self._wake.wait(max(wait, 0))
            self._thread = None

    def _tick_periodic(self, due: float | None) -> float | None:
        """Raise the periodic interrupt when it is due; when the next one is, if any."""
        period, now = self._period(), time.monotonic()
        if period is None:
            return None
        if due is None or now < due:
            return min(due or now + period, now + period)
        self._raise(C_PF, B_PIE)
        return max(due + period, now)

    def _alarm_matches(self) -> bool:
        """Bits 7 and 6 both set in an alarm register: any value."""
        pairs = (
            (SECONDS, SECONDS_ALARM), (MINUTES, MINUTES_ALARM), (HOURS, HOURS_ALARM),
        )  # fmt: skip
        return all(
            self._cmos[alarm] & 0xC0 == 0xC0 or self._cmos[alarm] == self._time_register(at)
            for at, alarm in pairs
        )

    def _raise(self, flag: int, enable: int) -> None:
        self._cmos[REG_C] |= flag
        if self._cmos[REG_B] & enable:
            self._cmos[REG_C] |= C_IRQF
            self._interrupt(True)

    def close(self) -> None:
        """End the thread. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._wake.notify()
        if thread:
            thread.join()
