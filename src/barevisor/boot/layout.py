"""Where loaders put what they add to an image: clear of it, page-aligned, inside low RAM."""

from __future__ import annotations

from collections.abc import Iterable

from barevisor.board import map as board_map
from barevisor.board.ram import PAGE, GuestRam
from barevisor.errors import ConfigError, GuestError
from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from barevisor.boot.elf import Elf

LOW_SPOT = 0x9_F000
"""Under the EBDA: free on every PC, and no image is linked there."""


def low_ram_end(ram: GuestRam) -> int:
    """End of the RAM that begins at 0."""
    return min(ram.ranges[0].size, board_map.LOW_RAM_MAX)


def page_up(address: int) -> int:
    """The next page boundary."""
    return (address + PAGE - 1) & ~(PAGE - 1)


def store(ram: GuestRam, gpa: int, data: bytes | memoryview, what: str) -> None:
    """Write, or say that the memory is too small for `what`. Raises ConfigError."""
    check(ram, gpa, len(data), what)
    ram.write(gpa, data)


def check(ram: GuestRam, gpa: int, size: int, what: str) -> None:
    """Raises ConfigError unless [gpa, gpa+size) is RAM."""
    try:
        ram.host(gpa, size)
    except GuestError as e:
        raise ConfigError(
            f"{what} needs memory at {gpa:#x}..{gpa + size:#x}, which the machine has not",
            "give more --memory",
        ) from e


def load_segments(ram: GuestRam, elf: Elf, data: memoryview) -> list[tuple[int, int]]:
    """Copy every segment to its physical address; returns the (start, end) they fill.

    The rest of a segment is zero because the RAM is: a machine is loaded once."""
    spans = []
    for s in elf.loads:
        check(ram, s.physical, s.memory_size, "the image")
        ram.write(s.physical, data[s.offset : s.offset + s.file_size])
        spans.append((s.physical, s.physical + s.memory_size))
    return spans


def clear_spot(spans: Iterable[tuple[int, int]], size: int, preferred: int, limit: int) -> int:
    """`preferred` if [preferred, +size) ends by `limit` and touches no span; else the first page
    after all spans and above 1 MiB."""
    spans = list(spans)
    fits = preferred + size <= limit
    if fits and all(end <= preferred or preferred + size <= start for start, end in spans):
        return preferred
    return page_up(max([board_map.LEGACY_HOLE_END, *(end for _, end in spans)]))


def top_spot(ram: GuestRam, size: int, floor: int, ceiling: int, what: str) -> int:
    """The highest page-aligned place for `size` bytes under `ceiling`. Raises ConfigError."""
    at = (min(low_ram_end(ram), ceiling) - size) & ~(PAGE - 1)
    if at < page_up(floor):
        raise ConfigError(
            f"{what} of {size >> 10} KiB does not fit above the kernel", "give more --memory"
        )
    return at


def c_string(text: str, limit: int) -> bytes:
    """A command line as the guest reads it. Raises ConfigError when it is too long."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) >= limit or b"\0" in raw:
        raise ConfigError(f"the kernel command line has {len(raw)} bytes, the limit is {limit - 1}")
    return raw + b"\0"
