"""The device's side of a split queue, driven by rings that the tests write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest

from barevisor.board.ram import GuestRam
from barevisor.devices.virtio.queue import DESC, INDIRECT, NEXT, WRITE, Queue
from barevisor.errors import GuestError

SIZE, TABLE, AVAIL, USED, DATA, SPARE = 8, 0x1000, 0x2000, 0x3000, 0x4000, 0x6000
RAM = 0x10000


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    ram = GuestRam([(0, RAM)])
    yield ram
    ram.close()


class Rig:
    """A queue of 8 and its interrupts."""

    def __init__(self, ram: GuestRam, *, indirect: bool = True, event_idx: bool = True) -> None:
        self.ram = ram
        self.interrupts: list[int] = []
        self.queue = Queue(
            ram,
            0,
            SIZE,
            (TABLE, AVAIL, USED),
            indirect=indirect,
            event_idx=event_idx,
            interrupt=self.interrupts.append,
        )

    def descriptors(self, *rows: tuple[int, int, int, int], at: int = TABLE) -> None:
        for i, row in enumerate(rows):
            self.ram.write(at + 16 * i, DESC.pack(*row))

    def u16(self, gpa: int, value: int | None = None) -> int:
        if value is not None:
            self.ram.write(gpa, struct.pack("<H", value))
        return int.from_bytes(self.ram.read(gpa, 2), "little")

    def offer(self, *heads: int) -> None:
        idx = self.u16(AVAIL + 2)
        for head in heads:
            self.u16(AVAIL + 4 + 2 * (idx % SIZE), head)
            idx = idx + 1 & 0xFFFF
        self.u16(AVAIL + 2, idx)


@pytest.fixture
def rig(ram: GuestRam) -> Iterator[Rig]:
    rig = Rig(ram)
    yield rig
    rig.queue.close()


def test_a_chain_comes_back_in_order(rig: Rig) -> None:
    rig.ram.write(DATA, b"question")
    rig.descriptors((DATA, 8, NEXT, 1), (DATA + 64, 4, NEXT | WRITE, 2), (DATA + 128, 2, WRITE, 0))
    rig.offer(0)
    chain = rig.queue.pop()
    assert chain is not None
    assert chain.read(100) == b"question"
    assert chain.read(3) == b"que"
    assert chain.room == 6
    assert chain.write(b"answer!") == 6
    rig.queue.push(chain, 6)
    assert rig.ram.read(DATA + 64, 4) + rig.ram.read(DATA + 128, 2) == b"answer"
    assert struct.unpack("<HHII", rig.ram.read(USED, 12)) == (0, 1, 0, 6)
    assert rig.queue.pop() is None


def test_an_indirect_table_may_end_a_chain(rig: Rig) -> None:
    rig.ram.write(DATA, b"abcd")
    rig.descriptors((DATA, 2, NEXT, 3), (0, 0, 0, 0), (0, 0, 0, 0), (SPARE, 32, INDIRECT, 0))
    rig.descriptors((DATA + 2, 2, NEXT, 1), (DATA + 9, 1, WRITE, 0), at=SPARE)
    rig.offer(0)
    chain = rig.queue.pop()
    assert chain is not None
    assert (chain.read(9), chain.room) == (b"abcd", 1)


def test_what_the_device_stored_is_reported_to_the_engine(rig: Rig) -> None:
    seen: list[tuple[int, int]] = []
    rig.ram.on_write = lambda gpa, size: seen.append((gpa, size))
    rig.descriptors(
        (DATA, 4, NEXT | WRITE, 1), (DATA + 64, 4, NEXT | WRITE, 2), (DATA, 9, WRITE, 0)
    )
    seen.clear()
    rig.offer(0)
    chain = rig.queue.pop()
    assert chain is not None
    seen.clear()
    rig.queue.push(chain, 6)
    rig.queue.signal()
    assert seen == [(DATA, 4), (DATA + 64, 2), (USED, 6 + 8 * SIZE)]


def test_indices_wrap(rig: Rig) -> None:
    rig.descriptors((DATA, 1, WRITE, 0))
    start = 0xFFFC
    rig.queue._next_avail = rig.queue._next_used = rig.queue._signalled = start
    rig.u16(AVAIL + 2, start)
    for done in range(1, 12):
        rig.u16(AVAIL + 4 + 2 * SIZE, start + done - 1 & 0xFFFF)
        rig.offer(0)
        chain = rig.queue.pop()
        assert chain is not None
        rig.queue.push(chain, 1)
        rig.queue.signal()
        assert rig.u16(USED + 2) == start + done & 0xFFFF
        assert len(rig.interrupts) == done
        assert rig.queue.pop() is None


def test_event_index_suppresses_interrupts(rig: Rig) -> None:
    rig.descriptors((DATA, 1, WRITE, 0))
    for used_event, expected in [(0, 1), (0, 1), (2, 2), (5, 2), (5, 2), (5, 3)]:
        rig.u16(AVAIL + 4 + 2 * SIZE, used_event)
        rig.offer(0)
        chain = rig.queue.pop()
        assert chain is not None
        rig.queue.push(chain, 1)
        rig.queue.signal()
        rig.queue.signal()
        assert len(rig.interrupts) == expected
    assert rig.u16(USED + 4 + 8 * SIZE) == 0
    assert rig.queue.pop() is None
    assert rig.u16(USED + 4 + 8 * SIZE) == 6  # avail_event: kick us at the next


def test_flags_suppress_interrupts_without_event_index(ram: GuestRam) -> None:
    rig = Rig(ram, event_idx=False)
    rig.descriptors((DATA, 1, WRITE, 0))
    for flags, expected in [(1, 0), (0, 1), (1, 1)]:
        rig.u16(AVAIL, flags)
        rig.offer(0)
        chain = rig.queue.pop()
        assert chain is not None
        rig.queue.push(chain, 1)
        rig.queue.signal()
        assert len(rig.interrupts) == expected
    rig.queue.close()


def test_a_stopped_queue_yields_nothing(rig: Rig) -> None:
    rig.descriptors((DATA, 1, 0, 0))
    rig.offer(0)
    rig.queue.stopped = True
    assert rig.queue.pop() is None


def test_adjacent_descriptors_become_one_view(rig: Rig) -> None:
    rig.ram.write(DATA, b"abcdef")
    rig.descriptors(
        (DATA, 2, NEXT, 1),
        (DATA + 2, 4, NEXT, 2),
        (DATA + 6, 10, NEXT | WRITE, 3),
        (DATA + 16, 10, NEXT | WRITE, 4),
        (DATA + 64, 1, WRITE, 0),
    )
    rig.offer(0)
    chain = rig.queue.pop()
    assert chain is not None
    assert [bytes(view) for view in chain.readable] == [b"abcdef"]
    assert chain.places == [(DATA + 6, 20), (DATA + 64, 1)]
    assert (chain.size, chain.room) == (6, 21)


def test_buffers_in_the_second_range(ram: GuestRam) -> None:
    split = GuestRam([(0, 0x8000), (1 << 32, 0x1000)])
    rig = Rig(split)
    rig.descriptors((1 << 32, 3, NEXT, 1), ((1 << 32) + 0x800, 3, WRITE, 0))
    split.write(1 << 32, b"far")
    rig.offer(0)
    chain = rig.queue.pop()
    assert chain is not None
    assert (chain.read(9), chain.write(b"yes")) == (b"far", 3)
    rig.queue.push(chain, 3)
    assert split.read((1 << 32) + 0x800, 3) == b"yes"
    rig.queue.close()
    del chain
    split.close()


HOSTILE = [
    ("run across the end of RAM", [(RAM - 8, 8, NEXT, 1), (RAM, 8, 0, 0)], [0], "not guest RAM"),
    ("head past the table", [], [8], "descriptor 8"),
    ("loop onto itself", [(DATA, 1, NEXT, 0)], [0], "longer than its table"),
    ("loop of two", [(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)], [0], "longer than its table"),
    ("next past the table", [(DATA, 1, NEXT, 999)], [0], "descriptor 999"),
    ("buffer past RAM", [(RAM - 1, 2, 0, 0)], [0], "not guest RAM"),
    ("address wraps 64 bits", [(2**64 - 1, 2, 0, 0)], [0], "not guest RAM"),
    ("4 GiB", [(0, 2**32 - 1, WRITE, 0)], [0], "not guest RAM"),
    ("readable after writable", [(DATA, 1, NEXT | WRITE, 1), (DATA, 1, 0, 0)], [0], "after a"),
    ("indirect with next", [(SPARE, 16, INDIRECT | NEXT, 0)], [0], "with a next"),
    ("indirect of nothing", [(SPARE, 0, INDIRECT, 0)], [0], "table of 0 bytes"),
    ("indirect of odd size", [(SPARE, 17, INDIRECT, 0)], [0], "table of 17 bytes"),
    ("indirect too long", [(SPARE, 16 * 1025, INDIRECT, 0)], [0], "table of 16400"),
    ("indirect outside RAM", [(RAM, 16, INDIRECT, 0)], [0], "not guest RAM"),
    ("indirect in indirect", [(TABLE, 16, INDIRECT, 0)], [0], "inside another"),
    ("more chains than entries", [(DATA, 1, 0, 0)], [0] * 9, "9 chains"),
]


@pytest.mark.parametrize(
    ("name", "rows", "heads", "message"), HOSTILE, ids=[row[0] for row in HOSTILE]
)
def test_a_hostile_ring_is_refused(
    rig: Rig, name: str, rows: list[tuple[int, int, int, int]], heads: list[int], message: str
) -> None:
    rig.descriptors(*rows)
    rig.offer(*heads)
    with pytest.raises(GuestError, match=message):
        rig.queue.pop()


def test_indirect_needs_to_be_negotiated(ram: GuestRam) -> None:
    rig = Rig(ram, indirect=False)
    rig.descriptors((SPARE, 16, INDIRECT, 0))
    rig.offer(0)
    with pytest.raises(GuestError, match="not negotiated"):
        rig.queue.pop()
    rig.queue.close()


BAD_SETUP = [
    ("size 0", 0, (TABLE, AVAIL, USED)),
    ("size 3", 3, (TABLE, AVAIL, USED)),
    ("size 2048", 2048, (TABLE, AVAIL, USED)),
    ("table misaligned", 8, (TABLE + 8, AVAIL, USED)),
    ("driver area misaligned", 8, (TABLE, AVAIL + 1, USED)),
    ("device area misaligned", 8, (TABLE, AVAIL, USED + 2)),
    ("table outside RAM", 8, (RAM - 16, AVAIL, USED)),
    ("driver area outside RAM", 8, (TABLE, RAM, USED)),
    ("device area outside RAM", 8, (TABLE, AVAIL, 1 << 60)),
]


@pytest.mark.parametrize(("name", "size", "rings"), BAD_SETUP, ids=[row[0] for row in BAD_SETUP])
def test_a_bad_setup_is_refused(
    ram: GuestRam, name: str, size: int, rings: tuple[int, int, int]
) -> None:
    with pytest.raises(GuestError):
        Queue(ram, 0, size, rings, indirect=True, event_idx=True, interrupt=lambda q: None)


def test_a_total_of_4_gib_is_refused(rig: Rig) -> None:
    # One table of 1024 descriptors, each 4 MiB of the same memory, would sum up to 4 GiB.
    big = GuestRam([(0, 8 << 20)])
    other = Rig(big)
    rows = [(1 << 20, 4 << 20, NEXT if i < 1023 else 0, i + 1) for i in range(1024)]
    other.descriptors(*rows, at=7 << 20)
    other.descriptors((7 << 20, 16 * 1024, INDIRECT, 0))
    other.offer(0)
    with pytest.raises(GuestError, match="4 GiB"):
        other.queue.pop()
    other.queue.close()
    big.close()


def test_pairs_of_pushes_keep_their_order(rig: Rig) -> None:
    rig.descriptors(*[(DATA + i, 1, WRITE, 0) for i in range(SIZE)])
    rig.offer(*range(SIZE))
    chains = [rig.queue.pop() for _ in range(SIZE)]
    for chain in reversed(chains):
        assert chain is not None
        rig.queue.push(chain, 1)
    heads = struct.unpack_from("<" + "II" * SIZE, rig.ram.read(USED + 4, 8 * SIZE))[::2]
    assert all(a == b + 1 for a, b in pairwise(heads))
