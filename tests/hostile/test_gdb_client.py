"""A client that sends anything: each packet has an answer, and the machine is what it was."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barevisor.board.machine import Machine
from barevisor.cpu.engine import MachineSpec
from barevisor.debug.gdb.packets import PACKET_SIZE, Framer, Packet, ProtocolError, encode
from barevisor.debug.gdb.session import COMMANDS, QUERIES, Session
from barevisor.debug.target import Event, MachineTarget
from barevisor.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.timeout(120)
NAMES = [*COMMANDS, *(name for name, _ in QUERIES)]
NUMBERS = st.one_of(
    st.integers(0, 1 << 70).map(lambda n: b"%x" % n),
    st.sampled_from([b"0", b"1", b"-1", b"ffffffffffffffff", b"fffff", b"", b"zz"]),
)
ARGUMENTS = st.lists(
    st.one_of(NUMBERS, st.sampled_from([b",", b";", b":", b"=", b"c", b"s", b"g"]),
              st.binary(max_size=20)),
    max_size=8,
).map(b"".join)  # fmt: skip
PACKETS = st.one_of(
    st.builds(lambda name, rest: name + rest, st.sampled_from(NAMES), ARGUMENTS),
    st.binary(max_size=64),
)


@pytest.fixture
def target() -> Iterator[MachineTarget]:
    machine = Machine(FakeEngine([], []), MachineSpec(cpus=2), 1 << 20)
    made = MachineTarget(machine)
    made.listen(queue.SimpleQueue[Event]().put)
    machine.start(paused=True)
    yield made
    machine.close()


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)  # fmt: skip
@given(texts=st.lists(PACKETS, min_size=1, max_size=10))
def test_any_packet_is_answered(target: MachineTarget, texts: list[bytes]) -> None:
    assert target.stop()
    session = Session(target)
    for text in texts:
        if text[:1] == b"k" or text.startswith(b"vKill"):
            continue
        reply = session.handle(text)
        if session.running:
            assert reply is None
            session.interrupt()
            reply = session.events([])
        assert reply is not None
        assert len(reply) <= PACKET_SIZE
        if session.ended:
            assert target.stop()
            session = Session(target)
    session.abandon()


@given(raw=st.lists(st.one_of(st.binary(max_size=40), PACKETS.map(encode)), max_size=10))
def test_any_bytes_are_framed(raw: list[bytes]) -> None:
    framer = Framer()
    try:
        for part in raw:
            for token in framer.feed(part):
                assert token in ("interrupt", "ack", "nack") or isinstance(token, Packet)
    except ProtocolError:
        pass
