"""A guest that wants out of its share, or lies about its requests."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barevisor.devices.virtio.fs import Fs
from barevisor.devices.virtio.fuse import abi
from barevisor.devices.virtio.fuse.abi import Op
from barevisor.testing.fuse import FuseClient, FuseError

ROOT = abi.ROOT_ID
SECRET = b"the host's secret"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "dir" / "file").write_text("inside")
    (root / "up").symlink_to("..")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "etc").symlink_to("/etc")
    os.mkfifo(root / "fifo")
    (tmp_path / "secret").write_bytes(SECRET)
    return root


@pytest.fixture(params=[False, True], ids=["read-only", "writable"])
def fs(tree: Path, request: pytest.FixtureRequest) -> Iterator[FuseClient]:
    client = FuseClient(Fs("tag", tree, writable=request.param))
    yield client
    client.close()


def refusal(fs: FuseClient, op: int, nodeid: int, body: bytes, room: int = 8192) -> int:
    with pytest.raises(FuseError) as caught:
        fs.call(op, nodeid, body, room=room)
    return caught.value.errno or 0


NAMES = [
    ("parent", b"..\0"),
    ("itself", b".\0"),
    ("empty", b"\0"),
    ("absolute", b"/etc/passwd\0"),
    ("two components", b"dir/file\0"),
    ("through the parent", b"../secret\0"),
    ("through a link", b"up/secret\0"),
    ("trailing slash", b"dir/\0"),
    ("no NUL", b"dir"),
    ("nothing", b""),
]
NAME_IDS = [row[0] for row in NAMES]


@pytest.mark.parametrize(("why", "name"), NAMES, ids=NAME_IDS)
def test_names_that_are_not_one_component(fs: FuseClient, why: str, name: bytes) -> None:
    assert refusal(fs, Op.LOOKUP, ROOT, name) == errno.EINVAL


@pytest.mark.parametrize(("why", "name"), NAMES, ids=NAME_IDS)
def test_names_for_what_changes(tree: Path, why: str, name: bytes) -> None:
    fs = FuseClient(Fs("tag", tree, writable=True))
    before = sorted(os.listdir(tree.parent)), sorted(os.listdir(tree))
    for op, head in [
        (Op.CREATE, bytes(abi.CREATE_IN.size)),
        (Op.MKDIR, bytes(abi.MKDIR_IN.size)),
        (Op.MKNOD, abi.MKNOD_IN.pack(0o100644, 0)),
        (Op.LINK, abi.LINK_IN.pack(ROOT)),
        (Op.UNLINK, b""),
        (Op.RMDIR, b""),
        (Op.SYMLINK, b""),
        (Op.RENAME, abi.RENAME_IN.pack(ROOT)),
        (Op.RENAME2, abi.RENAME2_IN.pack(ROOT, 0) + b"dir\0"),
    ]:
        assert refusal(fs, op, ROOT, head + name) == errno.EINVAL, op.name
    assert (sorted(os.listdir(tree.parent)), sorted(os.listdir(tree))) == before
    fs.close()


def test_a_long_name(fs: FuseClient) -> None:
    assert refusal(fs, Op.LOOKUP, ROOT, b"x" * 256 + b"\0") == errno.ENAMETOOLONG
    assert refusal(fs, Op.LOOKUP, ROOT, b"x" * 100_000 + b"\0") == errno.ENAMETOOLONG


def test_bytes_after_the_nul_are_not_a_name(fs: FuseClient) -> None:
    nodeid = abi.ENTRY_OUT.unpack(fs.call(Op.LOOKUP, ROOT, b"dir\0../../etc\0"))[0]
    assert fs.getattr(nodeid).ino == os.stat(fs.fs.tree.path(fs.fs.tree.node(nodeid))).st_ino


@pytest.mark.parametrize("link", ["up", "out", "etc"])
def test_links_are_never_followed(fs: FuseClient, link: str) -> None:
    node = fs.lookup(ROOT, link).nodeid
    assert refusal(fs, Op.LOOKUP, node, b"secret\0") in (errno.ENOTDIR, errno.ENOENT, errno.ELOOP)
    assert refusal(fs, Op.LOOKUP, node, b"passwd\0") in (errno.ENOTDIR, errno.ENOENT, errno.ELOOP)
    with pytest.raises(FuseError):
        fs.listdir(node)
    assert refusal(fs, Op.OPEN, node, abi.OPEN_IN.pack(os.O_RDONLY, 0)) in (
        errno.EPERM,
        errno.ENOSYS,
    )
    with pytest.raises(FuseError):
        fs.read(node, 100)


def test_a_fifo_is_never_opened(fs: FuseClient) -> None:
    node = fs.lookup(ROOT, "fifo").nodeid
    with pytest.raises(FuseError):
        fs.read(node, 10)
    for flags in (os.O_RDONLY, os.O_RDWR):
        assert refusal(fs, Op.OPEN, node, abi.OPEN_IN.pack(flags, 0)) in (
            errno.EPERM,
            errno.ENOSYS,
            errno.EROFS,
        )


def test_a_create_over_a_fifo_or_a_link_opens_neither(tree: Path) -> None:
    fs = FuseClient(Fs("tag", tree, writable=True))
    for name in ("fifo", "out"):
        with pytest.raises(FuseError) as caught:
            fs.create(ROOT, name, flags=os.O_RDWR | os.O_TRUNC)
        assert caught.value.errno == errno.EPERM
    assert (tree.parent / "secret").read_bytes() == SECRET
    assert refusal(fs, Op.SETATTR, fs.lookup(ROOT, "out").nodeid, _truncate()) == errno.EPERM
    assert (tree.parent / "secret").read_bytes() == SECRET
    fs.close()


def _truncate() -> bytes:
    return abi.SETATTR_IN.pack(abi.SetAttr.SIZE, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def test_a_directory_swapped_for_a_link_leads_nowhere(fs: FuseClient, tree: Path) -> None:
    """Between LOOKUP and its use a host process swaps the directory for a link out."""
    node = fs.lookup(ROOT, "dir").nodeid
    (tree / "dir").rename(tree / "gone")
    (tree / "dir").symlink_to(tree.parent)
    assert refusal(fs, Op.LOOKUP, node, b"secret\0") == errno.ESTALE
    with pytest.raises(FuseError):
        fs.listdir(node)


def test_a_file_swapped_for_a_link_is_stale(fs: FuseClient, tree: Path) -> None:
    node = fs.walk("dir/file").nodeid
    (tree / "dir" / "file").unlink()
    (tree / "dir" / "file").symlink_to(tree.parent / "secret")
    with pytest.raises(FuseError) as caught:
        fs.read(node, 100, 0, 0) if not fs.fs.tree.writable else fs.open(node)
    assert caught.value.errno == errno.ESTALE


def test_swapping_all_the_time_never_shows_the_secret(tree: Path) -> None:
    fs = FuseClient(Fs("tag", tree, cache=0))
    fs.fs.tree.max_readers = 0
    stop = threading.Event()
    (tree / "trap").symlink_to(tree.parent)
    (tree / "dir" / "secret").write_bytes(b"harmless")

    def swap() -> None:
        while not stop.is_set():
            os.rename(tree / "dir", tree / "spare")
            os.rename(tree / "trap", tree / "dir")
            os.rename(tree / "dir", tree / "trap")
            os.rename(tree / "spare", tree / "dir")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(400):
            try:
                node = fs.walk("dir/secret")
                seen.add(fs.read(node.nodeid, 100))
                fs.forget(node.nodeid)
            except FuseError as e:
                seen.add(bytes(str(e.errno), "ascii"))
    finally:
        stop.set()
        thread.join()
    assert SECRET not in seen
    fs.close()


STALE = [0, 2, 77, 1 << 63, (1 << 64) - 1]


@pytest.mark.parametrize("nodeid", STALE)
def test_numbers_that_were_never_given_out(fs: FuseClient, nodeid: int) -> None:
    assert refusal(fs, Op.GETATTR, nodeid, abi.GETATTR_IN.pack(0, 0)) == errno.ESTALE
    assert refusal(fs, Op.LOOKUP, nodeid, b"dir\0") == errno.ESTALE
    assert refusal(fs, Op.READDIR, nodeid, abi.READ_IN.pack(0, 0, 4096)) == errno.ESTALE
    assert refusal(fs, Op.READLINK, nodeid, b"") == errno.ESTALE
    fs.forget(nodeid, 1 << 63)
    expected = errno.EBADF if fs.fs.tree.writable else errno.ESTALE
    assert refusal(fs, Op.READ, nodeid, abi.READ_IN.pack(0, 0, 10)) == expected
    assert refusal(fs, Op.READ, ROOT, abi.READ_IN.pack(99, 0, 10)) == errno.EBADF


def test_forgetting_too_much_forgets_once(fs: FuseClient) -> None:
    node = fs.lookup(ROOT, "dir").nodeid
    fs.forget(node, (1 << 64) - 1)
    fs.forget(node, 5)
    fs.forget(ROOT, (1 << 64) - 1)
    assert fs.getattr(ROOT).nodeid == ROOT
    assert fs.lookup(ROOT, "dir").nodeid != node


def test_a_batch_that_lies_about_its_count(fs: FuseClient) -> None:
    node = fs.lookup(ROOT, "dir").nodeid
    body = abi.BATCH_FORGET_IN.pack(0xFFFF_FFFF) + abi.FORGET_ONE.pack(node, 1)
    size = abi.IN_HEADER.size + len(body)
    head = abi.IN_HEADER.pack(size, Op.BATCH_FORGET, 1, 0, 0, 0, 0, 0, 0)
    fs.driver.request(0, [head, body])
    assert refusal(fs, Op.GETATTR, node, abi.GETATTR_IN.pack(0, 0)) == errno.ESTALE


READS = [
    ("4 GiB", 0, 0xFFFF_FFFF, b"inside"),
    ("beyond the end", 1 << 40, 4096, b""),
    ("at the last offset", (1 << 63) - 1, 4096, None),
    ("negative offset", (1 << 64) - 1, 4096, None),
]


@pytest.mark.parametrize(("why", "offset", "size", "data"), READS, ids=[r[0] for r in READS])
def test_huge_reads(fs: FuseClient, why: str, offset: int, size: int, data: bytes | None) -> None:
    node = fs.walk("dir/file").nodeid
    fh = fs.open(node, os.O_RDONLY) if fs.fs.tree.writable else 0
    body = abi.READ_IN.pack(fh, offset, size)
    if data is None:
        assert refusal(fs, Op.READ, node, body) == errno.EINVAL
    else:
        assert fs.call(Op.READ, node, body, pages=[100, 50]) == data


def test_a_write_that_lies_about_its_size(tree: Path) -> None:
    fs = FuseClient(Fs("tag", tree, writable=True))
    node = fs.walk("dir/file").nodeid
    fh = fs.open(node)
    for size, offset in [(4096, 0), (0, 0), (0xFFFF_FFFF, 0), (5, (1 << 64) - 1)]:
        body = abi.WRITE_IN.pack(fh, offset, size, 0)
        with pytest.raises(FuseError) as caught:
            fs.call(Op.WRITE, node, body, data=[b"12345"])
        assert caught.value.errno == errno.EINVAL
    assert (tree / "dir" / "file").read_text() == "inside"
    fs.close()


def test_unknown_operations(fs: FuseClient) -> None:
    for op in (0, 7, 19, 31, 40, 99, 4096, 0xFFFF_FFFF):
        assert refusal(fs, op, ROOT, b"") == errno.ENOSYS


def test_a_header_that_lies_about_its_length(fs: FuseClient) -> None:
    for length in (0, 39, 40, 48, 1 << 31):
        head = abi.IN_HEADER.pack(length, Op.LOOKUP, 5, ROOT, 0, 0, 0, 0, 0)
        out = fs.raw([head, b"dir\0"], [16, 128])
        assert abi.OUT_HEADER.unpack(out) == (16, -errno.EINVAL, 5)


def test_arguments_that_are_too_short(fs: FuseClient) -> None:
    for op in (Op.GETATTR, Op.READ, Op.READDIR, Op.OPEN, Op.INIT, Op.LSEEK, Op.RELEASE):
        assert refusal(fs, op, ROOT, b"123") == errno.EINVAL
    assert refusal(fs, Op.LOOKUP, ROOT, b"x" * (300 << 10)) == errno.E2BIG


def test_replies_that_do_not_fit(fs: FuseClient) -> None:
    assert refusal(fs, Op.LOOKUP, ROOT, b"dir\0", room=127) == errno.ERANGE
    assert refusal(fs, Op.READLINK, fs.lookup(ROOT, "etc").nodeid, b"", room=2) == errno.ERANGE
    assert fs.call(Op.READDIR, ROOT, abi.READ_IN.pack(0, 0, 4096), room=10) == b""


def test_no_request_and_no_room_need_a_reset(fs: FuseClient) -> None:
    for parts, room in [([b"short"], [64]), ([], [64])]:
        fs.driver.start()
        fs.driver.add(1, parts, room)
        fs.driver.kick(1)
        assert fs.driver.needs_reset
    fs.driver.start()
    fs.driver.add(1, [abi.IN_HEADER.pack(40, Op.STATFS, 1, ROOT, 0, 0, 0, 0, 0)], [8])
    fs.driver.kick(1)
    assert fs.driver.needs_reset


def test_any_framing_will_do(fs: FuseClient) -> None:
    """virtio v1.2, 2.7.4: the device must not assume how descriptors divide a message."""
    raw = abi.IN_HEADER.pack(44, Op.LOOKUP, 9, ROOT, 0, 0, 0, 0, 0) + b"dir\0"
    out = fs.raw([raw[:7], raw[7:41], raw[41:]], [3, 20, 1000])
    assert abi.OUT_HEADER.unpack_from(out) == (144, 0, 9)
    writable = fs.fs.tree.writable
    node = fs.walk("dir/file").nodeid
    fh = fs.open(node, os.O_RDONLY) if writable else 0
    raw = abi.IN_HEADER.pack(80, Op.READ, 9, node, 0, 0, 0, 0, 0) + abi.READ_IN.pack(fh, 1, 100)
    assert fs.raw([raw], [20, 1000])[16:] == b"nside"


def test_handles_are_bounded(tree: Path) -> None:
    fs = FuseClient(Fs("tag", tree, writable=True))
    fs.fs.tree.max_handles = 20
    node = fs.walk("dir/file").nodeid
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        fs.open(node)
    with pytest.raises(FuseError) as caught:
        fs.open(node)
    assert caught.value.errno == errno.ENFILE
    assert len(os.listdir("/proc/self/fd")) <= before + 21
    fs.close()


U64 = st.integers(0, 8) | st.sampled_from([1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
NUMBERS = st.lists(U64.map(lambda v: v.to_bytes(8, "little")), max_size=11).map(b"".join)
WORDS = st.sampled_from([b"dir\0", b"up\0", b"fifo\0", b"new\0", b"..\0", b"dir\0new\0", b"\xff\0"])
BODY = st.binary(max_size=120) | NUMBERS | st.tuples(NUMBERS, WORDS).map(b"".join) | WORDS
OPCODES = sorted(number for name, number in vars(Op).items() if name.isupper())
OPS = st.sampled_from(OPCODES).filter(lambda op: op != Op.SYNCFS)
CALL = st.tuples(OPS, st.integers(0, 6), BODY, st.sampled_from([0, 8, 64, 128, 144, 4096]))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=st.lists(CALL, min_size=1, max_size=15))
def test_random_requests_are_answered(fs: FuseClient, tree: Path, calls: list[object]) -> None:
    for op, nodeid, body, room in calls:  # type: ignore[misc]
        size = abi.IN_HEADER.size + len(body)
        head = abi.IN_HEADER.pack(size, op, 7, nodeid, 0, 0, 0, 0, 0)
        fs.raw([head, body] if body else [head], [abi.OUT_HEADER.size, room])
        assert not fs.driver.needs_reset
    assert (tree.parent / "secret").read_bytes() == SECRET
    assert sorted(os.listdir(tree.parent)) == ["root", "secret"]
