"""A hostile agent: whatever bytes the guest sends, the client ends with GuestError or goes on,
keeps a bounded amount, and leaves nobody waiting."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barevisor.errors import ConfigError, GuestError
from barevisor.guest.agent import AgentClient, GuestProcess
from barevisor.guest.init import wire
from barevisor.guest.protocol import FROM_GUEST, HELLO, encode

HELLO_FRAME = encode(wire.HELLO, payload=HELLO.pack(wire.VERSION, 1, 1, 2))
ENV = {"PATH": "/bin"}


def started() -> tuple[AgentClient, GuestProcess, list[bytes]]:
    sent: list[bytes] = []
    client = AgentClient(sent.append)
    client.feed(HELLO_FRAME)
    process = client.start(["cat"], env=ENV)
    client.feed(encode(wire.SPAWNED, 0, 1, struct.pack("<I", 42)))
    return client, process, sent


def data(stream: int, size: int, id: int = 1) -> bytes:
    return encode(wire.DATA, stream, id, bytes(size))


def number(kind: int, value: int, flags: int = 0, id: int = 1) -> bytes:
    return encode(kind, flags, id, struct.pack("<I", value))


EXIT_0, DRAINED, DONE = number(wire.EXIT, 0), encode(wire.DRAINED, 0, 1), encode(wire.DONE, 0, 1)
FULL = wire.OUTPUT_WINDOW
ATTACKS = {
    "unknown kind": [encode(99, 0, 1)],
    "payload without end": [struct.pack("<IHHI", 2**32 - 1, wire.DATA, wire.STDOUT, 1)],
    "payload over the cap": [struct.pack("<IHHI", wire.MAX_PAYLOAD + 1, wire.DATA, 1, 1)],
    "short number": [encode(wire.EXIT, 0, 1, b"\0")],
    "flags": [encode(wire.EXIT, 7, 1, bytes(4))],
    "id 0": [number(wire.EXIT, 0, id=0)],
    "id of nobody": [number(wire.EXIT, 0, id=2)],
    "frames of the host": [encode(wire.SPAWN, 0, 1)],
    "a second hello": [HELLO_FRAME],
    "started twice": [number(wire.SPAWNED, 1)],
    "failed after its start": [encode(wire.SPAWN_FAILED, 0, 1, bytes(8))],
    "output beyond its credit": [data(wire.STDOUT, FULL), data(wire.STDOUT, 1)],
    "stderr beyond its credit": [data(wire.STDERR, FULL), data(wire.STDERR, 1)],
    "output after its end": [data(wire.STDOUT, 0), data(wire.STDOUT, 1)],
    "output on stdin": [data(wire.STDIN, 1)],
    "credit that nobody used": [number(wire.CREDIT, 1)],
    "credit of 4 GiB": [number(wire.CREDIT, 2**32 - 1)],
    "credit for output": [number(wire.CREDIT, 1, wire.STDOUT)],
    "exit twice": [EXIT_0, EXIT_0],
    "exit that is a stop": [number(wire.EXIT, 0x137F)],
    "exit beyond 16 bits": [number(wire.EXIT, 0xFFFF)],
    "dry before exit": [DRAINED],
    "done before dry": [EXIT_0, DONE],
    "done twice": [EXIT_0, DRAINED, DONE, DONE],
    "a sync that nobody asked for": [encode(wire.SYNC)],
}


@pytest.mark.parametrize("frames", ATTACKS.values(), ids=ATTACKS)
def test_attacks_end_this_guest_alone(frames: list[bytes]) -> None:
    client, process, _ = started()
    with pytest.raises(GuestError):
        client.feed(b"".join(frames))
    assert isinstance(client.error, GuestError)
    if not process.done:
        with pytest.raises(GuestError):
            process.until(lambda: False, 1.0)


BEFORE_HELLO = {"no hello": EXIT_0, "version": encode(wire.HELLO, payload=HELLO.pack(9, 1, 1, 2))}


@pytest.mark.parametrize("frame", BEFORE_HELLO.values(), ids=BEFORE_HELLO)
def test_the_first_words_are_hello(frame: bytes) -> None:
    with pytest.raises(GuestError):
        AgentClient(lambda data: None).feed(frame)


def test_stderr_of_a_command_that_has_none() -> None:
    client = AgentClient(lambda data: None)
    client.feed(HELLO_FRAME)
    client.start(["cat"], env=ENV, merge=True)
    client.feed(number(wire.SPAWNED, 1))
    with pytest.raises(GuestError, match="stderr of a command that has none"):
        client.feed(data(wire.STDERR, 1))


def test_reading_gives_credit_back() -> None:
    client, process, sent = started()
    sent.clear()
    for _ in range(100):
        client.feed(data(wire.STDOUT, FULL // 2))
        assert len(process.stdout.read_for(FULL, 1.0)) == FULL // 2
    granted = sum(struct.unpack("<I", frame[12:])[0] for frame in sent)
    assert granted == 100 * FULL // 2


def test_what_arrives_for_a_closed_stream_is_not_kept() -> None:
    client, process, sent = started()
    process.stdout.close()
    assert sent[-1] == encode(wire.CLOSE, wire.STDOUT, 1)
    client.feed(data(wire.STDOUT, FULL))
    assert len(process.stdout._data) == 0


def test_failure_to_start_frees_the_id() -> None:
    client = AgentClient(lambda data: None)
    client.feed(HELLO_FRAME)
    process = client.start(["cat"], env=ENV)
    failure = struct.pack("<II", 2**32 - 1, 2**32 - 1)
    client.feed(encode(wire.SPAWN_FAILED, 0, 1, failure))
    with pytest.raises(ConfigError, match="cannot start"):
        process.wait_started(1.0)
    assert not client._processes


def frames() -> st.SearchStrategy[bytes]:
    kinds = st.sampled_from([*FROM_GUEST, 0, 2, 99])
    ids = st.sampled_from([0, 1, 1, 1, 2, 2**32 - 1])
    payloads = st.one_of(
        st.sampled_from([b"", bytes(4), b"\1\0\0\0", bytes(8), b"\xff" * 8]), st.binary(max_size=40)
    )
    return st.builds(encode, kinds, st.integers(0, 3), ids, payloads)


@given(st.lists(st.one_of(frames(), frames(), st.binary(max_size=20)), max_size=30), st.data())
def test_any_stream_of_frames(parts: list[bytes], draw: st.DataObject) -> None:
    client, process, _ = started()
    client.start(["cat"], env=ENV)  # id 2: not started yet
    stream = b"".join(parts)
    at = 0
    with suppress(GuestError):
        while at < len(stream):
            step = draw.draw(st.integers(1, 64))
            client.feed(stream[at : at + step])
            at += step
    assert (at >= len(stream)) == (client.error is None)
    assert len(process.stdout._data) <= FULL
    assert len(client._decoder._kept) < wire.MAX_PAYLOAD + wire.HEADER
    client.fail(GuestError("the end"))
    assert process.done or process.error is not None
