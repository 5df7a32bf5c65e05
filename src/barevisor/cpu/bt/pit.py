"""The 8254 timer and port 0x61 (Intel 8254 data sheet; port 0x61 as in a PC's chipset).

Counters are computed from the clock when they are read. Only channel 0 makes interrupts, and a
thread exists only while it must; a guest with the TSC-deadline timer never starts it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from barevisor.records import TYPE_CHECKING, dataclass, field
from barevisor.threads import Worker

if TYPE_CHECKING:
    from barevisor.cpu.vmstate import PitState

HZ = 1_193_182
CONTROL = 0x43
SPEAKER = 0x61
PORTS = (0x40, 0x41, 0x42, 0x43, SPEAKER)
MIN_PERIOD_NS = 200_000
"""A hostile guest could ask for an interrupt every 838 ns; KVM has the same floor."""

ONE_SHOT, RATE, SQUARE = 0, 2, 3  # modes that software uses; 1, 4 and 5 count like mode 0
GATE2, SPEAKER_DATA, OUT2, REFRESH = 1, 2, 1 << 5, 1 << 4  # port 0x61


def monotonic_ns() -> int:
    return time.monotonic_ns()


@dataclass(slots=True)
class Channel:
    """One counter. `start`: when it was loaded, ns; `paused`: ticks counted while the gate is 0."""

    reload: int = 0x10000
    mode: int = ONE_SHOT
    bcd: bool = False
    access: int = 3  # 1 low byte, 2 high byte, 3 low then high
    start: int = 0
    running: bool = False
    write_low: int | None = None
    read_high: bool = False
    latch: list[int] = field(default_factory=list)
    status: int | None = None
    over: bool = False  # a restored one-shot whose interrupt has been

    def ticks(self, now: int) -> int:
        """Input clocks since the counter was loaded."""
        return (now - self.start) * HZ // 1_000_000_000 if self.running else 0

    @property
    def periodic(self) -> bool:
        return self.mode in (RATE, SQUARE)

    def count(self, now: int) -> int:
        """The 16 bits that a read returns."""
        ticks = self.ticks(now)
        if self.mode == SQUARE:
            left = self.reload - (2 * ticks) % self.reload
        elif self.periodic:
            left = self.reload - ticks % self.reload
        else:
            left = self.reload - ticks
        left &= 0xFFFF
        return _to_bcd(left) if self.bcd else left

    def out(self, now: int) -> bool:
        """The OUT pin."""
        if not self.running:
            return self.mode != ONE_SHOT
        ticks = self.ticks(now)
        if self.mode == SQUARE:
            return ticks % self.reload < (self.reload + 1) // 2
        if self.mode == RATE:
            return ticks % self.reload != self.reload - 1
        return ticks >= self.reload


class Pit:
    """Three channels. `line(level)` is IRQ 0."""

    def __init__(
        self, line: Callable[[bool], None], clock: Callable[[], int] = monotonic_ns
    ) -> None:
        self._line = line
        self._clock = clock
        self._channels = (Channel(), Channel(), Channel())
        self._speaker = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._generation = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    # ---- ports ----

    def read(self, port: int) -> int:
        """One byte."""
        with self._lock:
            now = self._clock()
            if port == SPEAKER:
                return self._read_speaker(now)
            if port == CONTROL:
                return 0xFF  # write-only
            return self._read_counter(self._channels[port & 3], now)

    def write(self, port: int, value: int) -> None:
        """One byte."""
        with self._lock:
            now = self._clock()
            if port == SPEAKER:
                self._write_speaker(value, now)
            elif port == CONTROL:
                self._control(value, now)
            else:
                self._write_counter(port & 3, value & 0xFF, now)

    def _control(self, value: int, now: int) -> None:
        number = value >> 6
        if number == 3:
            self._read_back(value, now)
            return
        channel = self._channels[number]
        access = value >> 4 & 3
        if access == 0:
            if not channel.latch:
                channel.latch = _bytes_of(channel, channel.count(now))
            return
        mode = value >> 1 & 7
        channel.access, channel.mode = access, mode & 3 if mode > 5 else mode
        channel.bcd = bool(value & 1)
        channel.running, channel.write_low, channel.read_high = False, None, False
        channel.latch, channel.status = [], None
        if number == 0:
            self._reprogram()

    def _read_back(self, value: int, now: int) -> None:
        """8254 data sheet, "Read-Back Command"."""
        for number, channel in enumerate(self._channels):
            if not value >> (number + 1) & 1:
                continue
            if not value & 0x20 and not channel.latch:
                channel.latch = _bytes_of(channel, channel.count(now))
            if not value & 0x10 and channel.status is None:
                out, null = channel.out(now), not channel.running
                channel.status = (
                    out << 7 | null << 6 | channel.access << 4 | channel.mode << 1 | channel.bcd
                )

    def _read_counter(self, channel: Channel, now: int) -> int:
        if channel.status is not None:
            status, channel.status = channel.status, None
            return status
        if channel.latch:
            return channel.latch.pop(0)
        count = channel.count(now)
        if channel.access != 3:
            return count >> 8 if channel.access == 2 else count & 0xFF
        channel.read_high = not channel.read_high
        return count & 0xFF if channel.read_high else count >> 8

    def _write_counter(self, number: int, value: int, now: int) -> None:
        channel = self._channels[number]
        if channel.access == 3 and channel.write_low is None:
            channel.write_low = value
            return
        if channel.access == 3:
            value = value << 8 | (channel.write_low or 0)
            channel.write_low = None
        elif channel.access == 2:
            value <<= 8
        if channel.bcd:
            value = _from_bcd(value)
        channel.reload = value or (10_000 if channel.bcd else 0x10000)
        channel.start = now
        channel.running = number != 2 or bool(self._speaker & GATE2)
        channel.over = False
        if number == 0:
            self._reprogram()

    def _read_speaker(self, now: int) -> int:
        refresh = REFRESH if now // 15_085 & 1 else 0  # a toggle every 15.085 us
        out = OUT2 if self._channels[2].out(now) else 0
        return self._speaker & (GATE2 | SPEAKER_DATA) | refresh | out

    def _write_speaker(self, value: int, now: int) -> None:
        rising = value & GATE2 and not self._speaker & GATE2
        self._speaker = value & (GATE2 | SPEAKER_DATA)
        if rising:
            self._channels[2].start = now
            self._channels[2].running = True

    # ---- state ----

    def get_state(self) -> PitState:
        """A copy."""
        from barevisor.cpu.vmstate import PitChannel, PitState

        with self._lock:
            now = self._clock()
            channels = [
                PitChannel(
                    c.reload, c.mode, c.bcd, c.access, n != 2 or bool(self._speaker & GATE2),
                    c.running, max(now - c.start, 0) if c.running else 0, c.write_low,
                    c.read_high, list(c.latch), c.status,
                )
                for n, c in enumerate(self._channels)
            ]  # fmt: skip
            return PitState(channels, bool(self._speaker & SPEAKER_DATA))

    def set_state(self, state: PitState) -> None:
        """Replace it. What a guest could not have set is cut off."""
        with self._lock:
            now = self._clock()
            for to, c in zip(self._channels, state.channels, strict=False):
                to.reload, to.mode, to.bcd = min(max(c.reload, 1), 0x10000), c.mode % 6, c.bcd
                to.access = c.access if c.access in (1, 2, 3) else 3
                to.start, to.running = now - max(c.elapsed, 0), c.running
                to.over = not to.periodic and to.ticks(now) >= to.reload
                to.write_low = None if c.low is None else c.low & 0xFF
                to.read_high, to.latch = c.high_next, [b & 0xFF for b in c.latch[:2]]
                to.status = None if c.status is None else c.status & 0xFF
            gate = GATE2 if state.channels[2].gate else 0
            self._speaker = gate | (SPEAKER_DATA if state.speaker else 0)
            self._reprogram()

    # ---- IRQ 0 ----

    def _reprogram(self) -> None:
        """With the lock held: channel 0 changed; the thread looks again."""
        self._generation += 1
        if self._channels[0].running and self._thread is None and not self._closed:
            self._thread = Worker(self._ticker, name="pit")
            self._thread.start()
        self._changed.notify_all()

    def _ticker(self) -> None:
        while True:
            with self._lock:
                generation = self._generation
                channel = self._channels[0]
                if self._closed:
                    return
                if not channel.running or channel.over:
                    self._changed.wait()
                    continue
                period = max(channel.reload * 1_000_000_000 // HZ, MIN_PERIOD_NS)
                periodic, due = channel.periodic, channel.start + period
            while self._sleep_until(due, generation):
                self._line(True)
                self._line(False)
                if not periodic:
                    self._rest(generation)
                    break
                # Ticks that nobody could take are lost, not queued.
                due += max(1, (self._clock() - due) // period + 1) * period

    def _sleep_until(self, due: int, generation: int) -> bool:
        """False when channel 0 was programmed anew, or the timer is closed."""
        with self._lock:
            while generation == self._generation and not self._closed:
                left = due - self._clock()
                if left <= 0:
                    return True
                self._changed.wait(left / 1e9)
            return False

    def _rest(self, generation: int) -> None:
        with self._lock:
            while generation == self._generation and not self._closed:
                self._changed.wait()

    def close(self) -> None:
        """End the thread. Idempotent."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _bytes_of(channel: Channel, count: int) -> list[int]:
    low, high = count & 0xFF, count >> 8
    return {1: [low], 2: [high]}.get(channel.access, [low, high])


def _to_bcd(value: int) -> int:
    value %= 10_000
    return int(f"{value:04d}", 16)


def _from_bcd(value: int) -> int:
    """A digit above 9 is the guest's mistake: it counts as 9."""
    return sum(min(value >> 4 * n & 0xF, 9) * 10**n for n in range(4))
