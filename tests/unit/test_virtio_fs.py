"""virtio-fs over the fake driver: a guest's view of a directory must be the host's."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from barevisor.devices.virtio.fs import FOREVER, Fs
from barevisor.devices.virtio.fuse import abi
from barevisor.devices.virtio.fuse.abi import Init, Op, SetAttr
from barevisor.errors import ConfigError
from barevisor.testing.fuse import FuseClient, FuseError

ROOT = abi.ROOT_ID
BIG = bytes(i * 7 & 0xFF for i in range(300_001))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "hello").write_bytes(b"hello world\n")
    (root / "big").write_bytes(BIG)
    (root / "dir" / "file").write_text("inside")
    (root / "link").symlink_to("dir/file")
    (root / "absolute").symlink_to("/etc/passwd")
    os.link(root / "hello", root / "hard")
    os.mkfifo(root / "fifo")
    (tmp_path / "secret").write_text("outside")
    return root


Make = Callable[..., FuseClient]


@pytest.fixture
def mount(tree: Path) -> Iterator[Make]:
    clients: list[FuseClient] = []

    def make(flags: int = (1 << 30) - 1, **options: object) -> FuseClient:
        clients.append(FuseClient(Fs("tag", tree, **options), flags=flags))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def refused(code: int, call: Callable[..., object], *args: object, **named: object) -> None:
    with pytest.raises(FuseError) as caught:
        call(*args, **named)
    assert caught.value.errno == code, str(caught.value)


CHANGES = [
    ("create", lambda fs: fs.create(ROOT, "new")),
    ("mkdir", lambda fs: fs.mkdir(ROOT, "new")),
    ("unlink", lambda fs: fs.remove(ROOT, "hello")),
    ("rmdir", lambda fs: fs.remove(ROOT, "dir", directory=True)),
    ("rename", lambda fs: fs.rename(ROOT, "hello", ROOT, "new")),
    ("symlink", lambda fs: fs.symlink(ROOT, "new", "x")),
    ("mknod", lambda fs: fs.mknod(ROOT, "new", 0o100644)),
    ("link", lambda fs: fs.link(fs.lookup(ROOT, "hello").nodeid, ROOT, "new")),
    ("write", lambda fs: fs.write(fs.lookup(ROOT, "hello").nodeid, 0, b"x")),
    ("open for writing", lambda fs: fs.open(fs.lookup(ROOT, "hello").nodeid)),
    ("truncate", lambda fs: fs.open(fs.lookup(ROOT, "hello").nodeid, os.O_TRUNC)),
    ("chmod", lambda fs: fs.setattr(fs.lookup(ROOT, "hello").nodeid, SetAttr.MODE)),
]


class TestReading:
    """A read-only tree, the default."""

    @pytest.fixture(autouse=True)
    def _mounted(self, mount: Make, tree: Path) -> None:
        self.fs, self.tree = mount(), tree

    def test_config(self) -> None:
        config = bytes(self.fs.driver.device_config(at, 1) for at in range(40))
        assert config == b"tag".ljust(36, b"\0") + b"\1\0\0\0"

    def test_init(self) -> None:
        major, minor, readahead, flags, _, _, max_write, _, max_pages, *_ = self.fs.init
        assert (major, minor, readahead) == (7, 36, 1 << 17)
        assert (max_write, max_pages) == (1 << 20, 256)
        wanted = Init.DO_READDIRPLUS | Init.NO_OPEN_SUPPORT | Init.PARALLEL_DIROPS
        assert flags & wanted == wanted

    @pytest.mark.parametrize("path", ["hello", "dir", "dir/sub", "dir/file", "link", "fifo"])
    def test_attributes(self, path: str) -> None:
        found, st = self.fs.walk(path), os.lstat(self.tree / path)
        assert (found.ino, found.size, found.mode) == (st.st_ino, st.st_size, st.st_mode)
        assert (found.nlink, found.uid, found.gid) == (st.st_nlink, st.st_uid, st.st_gid)
        assert (found.mtime, found.valid) == (int(st.st_mtime), FOREVER)
        again = self.fs.getattr(found.nodeid)
        assert again == found

    def test_the_root(self) -> None:
        st = os.stat(self.tree)
        assert (self.fs.getattr(ROOT).ino, self.fs.getattr(ROOT).mode) == (st.st_ino, st.st_mode)

    @pytest.mark.parametrize(
        ("offset", "size"),
        [(0, 300_001), (0, 4096), (299_000, 4096), (123_456, 100_000), (300_001, 10), (1 << 40, 9)],
    )
    def test_read(self, offset: int, size: int) -> None:
        big = self.fs.lookup(ROOT, "big")
        assert self.fs.read(big.nodeid, size, offset) == BIG[offset : offset + size]

    def test_hard_links_are_one_inode(self) -> None:
        assert self.fs.lookup(ROOT, "hello").nodeid == self.fs.lookup(ROOT, "hard").nodeid

    def test_readlink_leaves_the_target_to_the_guest(self) -> None:
        assert self.fs.readlink(self.fs.lookup(ROOT, "link").nodeid) == b"dir/file"
        assert self.fs.readlink(self.fs.lookup(ROOT, "absolute").nodeid) == b"/etc/passwd"
        refused(errno.EINVAL, self.fs.readlink, self.fs.lookup(ROOT, "hello").nodeid)

    def test_listing(self) -> None:
        names = {os.fsencode(name) for name in os.listdir(self.tree)} | {b".", b".."}
        listed = self.fs.listdir(ROOT)
        assert set(listed) == names
        assert listed[b"dir"] == stat.S_IFDIR >> 12
        assert listed[b"link"] == stat.S_IFLNK >> 12
        assert listed[b"hello"] == stat.S_IFREG >> 12

    @pytest.mark.parametrize("size", [200, 512, 4096])
    @pytest.mark.parametrize("plus", [False, True], ids=["readdir", "readdirplus"])
    def test_a_large_directory_in_pieces(self, plus: bool, size: int) -> None:
        for i in range(300):
            (self.tree / "dir" / f"n{i}").touch()
        node = self.fs.lookup(ROOT, "dir").nodeid
        listed = self.fs.listdir(node, plus=plus, size=size)
        assert set(listed) == {os.fsencode(n) for n in os.listdir(self.tree / "dir")} | {
            b".",
            b"..",
        }

    def test_readdirplus_counts_as_lookup(self) -> None:
        listed = self.fs.listdir(ROOT, plus=True)
        hello = listed[b"hello"]
        assert self.fs.read(hello, 100) == b"hello world\n"
        self.fs.forget(hello)  # two names, two references
        assert self.fs.getattr(hello).size == 12
        self.fs.forget(hello)
        refused(errno.ESTALE, self.fs.getattr, hello)

    def test_missing_is_remembered(self) -> None:
        raw = self.fs.call(Op.LOOKUP, ROOT, b"nothing\0")
        nodeid, _, valid, *_ = abi.ENTRY_OUT.unpack(raw)
        assert (nodeid, valid) == (0, FOREVER)

    def test_open_is_not_needed(self) -> None:
        hello = self.fs.lookup(ROOT, "hello").nodeid
        refused(errno.ENOSYS, self.fs.open, hello, os.O_RDONLY)
        assert self.fs.opendir(ROOT) == 0

    def test_statfs(self) -> None:
        row = abi.STATFS_OUT.unpack(self.fs.call(Op.STATFS, ROOT))
        assert row[0] == os.statvfs(self.tree).f_blocks
        assert row[6] == 255

    def test_lseek_finds_holes(self) -> None:
        with open(self.tree / "sparse", "wb") as f:
            f.truncate(1 << 20)
            f.seek(512 << 10)
            f.write(b"x")
        node = self.fs.lookup(ROOT, "sparse").nodeid
        raw = self.fs.call(Op.LSEEK, node, abi.LSEEK_IN.pack(0, 0, os.SEEK_DATA))
        assert 0 < abi.LSEEK_OUT.unpack(raw)[0] <= 512 << 10

    @pytest.mark.parametrize(("name", "change"), CHANGES, ids=[row[0] for row in CHANGES])
    def test_changes_are_refused(self, name: str, change: Callable[[FuseClient], object]) -> None:
        before = sorted(os.listdir(self.tree))
        refused(errno.EROFS, change, self.fs)
        assert sorted(os.listdir(self.tree)) == before
        assert (self.tree / "hello").read_text() == "hello world\n"

    def test_reading_leaves_no_trace(self) -> None:
        os.utime(self.tree / "hello", (1, 2_000_000_000))
        self.fs.read(self.fs.lookup(ROOT, "hello").nodeid, 10)
        assert os.stat(self.tree / "hello").st_atime == 1

    def test_xattr_is_off(self) -> None:
        body = abi.XATTR_IN.pack(0) + b"user.x\0"
        refused(errno.ENOSYS, self.fs.call, Op.GETXATTR, ROOT, body)

    def test_a_reset_closes_everything(self) -> None:
        for name in ("hello", "dir", "big"):
            node = self.fs.lookup(ROOT, name).nodeid
            if name != "dir":
                self.fs.read(node, 10)
        self.fs.listdir(self.fs.walk("dir/sub").nodeid)
        assert len(self.fs.fs.tree) > 1
        before = len(os.listdir("/proc/self/fd"))
        self.fs.driver.start()
        assert len(self.fs.fs.tree) == 1
        assert len(os.listdir("/proc/self/fd")) < before


class TestHostChanges:
    """The host's files change under a guest that trusts what it saw."""

    @pytest.fixture(autouse=True)
    def _mounted(self, mount: Make, tree: Path) -> None:
        self.fs, self.tree = mount(), tree

    def test_a_removed_file_is_stale(self) -> None:
        node = self.fs.walk("dir/file").nodeid
        (self.tree / "dir" / "file").unlink()
        refused(errno.ESTALE, self.fs.getattr, node)
        refused(errno.ESTALE, self.fs.read, node, 10)

    def test_a_replaced_file_is_stale_and_found_anew(self) -> None:
        node = self.fs.walk("dir/file").nodeid
        (self.tree / "dir" / "other").write_text("newer")
        os.rename(self.tree / "dir" / "other", self.tree / "dir" / "file")
        refused(errno.ESTALE, self.fs.read, node, 10)
        assert self.fs.read(self.fs.walk("dir/file").nodeid, 10) == b"newer"

    def test_an_open_file_stays_the_one_that_was_opened(self) -> None:
        node = self.fs.walk("dir/file").nodeid
        assert self.fs.read(node, 6) == b"inside"
        (self.tree / "dir" / "file").unlink()
        (self.tree / "dir" / "file").write_text("another")
        assert self.fs.read(node, 6) == b"inside"

    def test_an_inode_number_used_again_is_another_file(self) -> None:
        first = self.fs.walk("dir/file")
        (self.tree / "dir" / "file").rename(self.tree / "dir" / "renamed")
        assert self.fs.walk("dir/renamed").nodeid != first.nodeid

    def test_a_moved_directory_is_found_again(self) -> None:
        (self.tree / "dir").rename(self.tree / "moved")
        assert self.fs.read(self.fs.walk("moved/file").nodeid, 6) == b"inside"


def test_descriptors_are_capped_and_reopened(mount: Make, tree: Path) -> None:
    fs = mount()
    fs.fs.tree.max_paths = fs.fs.tree.max_readers = 16
    for i in range(100):
        (tree / f"d{i}").mkdir()
        (tree / f"d{i}" / "f").write_text(f"file {i}")
    before = len(os.listdir("/proc/self/fd"))
    nodes = [fs.walk(f"d{i}/f").nodeid for i in range(100)]
    for _ in range(2):
        for i, node in enumerate(nodes):
            assert fs.read(node, 20) == b"file %d" % i
    assert len(os.listdir("/proc/self/fd")) <= before + 40


def test_deep_paths_survive_eviction(mount: Make, tree: Path) -> None:
    fs = mount()
    fs.fs.tree.max_paths = 16
    path = "/".join(f"level{i}" for i in range(60))
    (tree / path).mkdir(parents=True)
    (tree / path / "leaf").write_text("deep")
    leaf = fs.walk(f"{path}/leaf").nodeid
    assert fs.read(leaf, 10) == b"deep"


def test_without_the_newer_flags_handles_are_given(mount: Make) -> None:
    fs = mount(flags=0)
    hello = fs.lookup(ROOT, "hello").nodeid
    fh = fs.open(hello, os.O_RDONLY)
    assert fs.read(hello, 5, fh=fh) == b"hello"
    fs.release(hello, fh)
    assert b"hello" in fs.listdir(ROOT)


def test_pseudo_file_systems_are_empty() -> None:
    client = FuseClient(Fs("root", "/"))
    for name in ("proc", "sys", "dev"):
        if not os.path.ismount(f"/{name}"):
            continue
        node = client.lookup(ROOT, name)
        assert stat.S_ISDIR(node.mode)
        assert set(client.listdir(node.nodeid)) == {b".", b".."}
        assert set(client.listdir(node.nodeid, plus=True)) == {b".", b".."}
        refused(errno.ENOENT, client.lookup, node.nodeid, "self")
    assert (
        client.read(client.walk("etc/passwd").nodeid, 1 << 20) == Path("/etc/passwd").read_bytes()
    )
    client.close()


@pytest.mark.parametrize("root", ["/nonexistent", "/etc/passwd"])
def test_a_bad_root_is_a_config_error(root: str) -> None:
    with pytest.raises(ConfigError, match="share"):
        Fs("tag", root)


@pytest.mark.parametrize("tag", ["", "x" * 37, "a\0b"])
def test_a_bad_tag_is_a_config_error(tag: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tag"):
        Fs(tag, tmp_path)


def test_xattr_when_asked(mount: Make, tree: Path) -> None:
    try:
        os.setxattr(tree / "hello", "user.colour", b"blue")
    except OSError:
        pytest.skip("no user xattrs on this file system")
    fs = mount(xattr=True)
    node = fs.lookup(ROOT, "hello").nodeid
    ask = b"user.colour\0"
    assert fs.call(Op.GETXATTR, node, abi.XATTR_IN.pack(100) + ask) == b"blue"
    assert abi.XATTR_OUT.unpack(fs.call(Op.GETXATTR, node, abi.XATTR_IN.pack(0) + ask)) == (4,)
    assert b"user.colour\0" in fs.call(Op.LISTXATTR, node, abi.XATTR_IN.pack(200))
    refused(errno.ERANGE, fs.call, Op.GETXATTR, node, abi.XATTR_IN.pack(2) + ask)


class TestWriting:
    """A tree shared writable."""

    @pytest.fixture(autouse=True)
    def _mounted(self, mount: Make, tree: Path) -> None:
        self.fs, self.tree = mount(writable=True), tree

    def test_create_write_read(self) -> None:
        found, fh = self.fs.create(ROOT, "new", 0o640)
        assert self.fs.write(found.nodeid, fh, BIG, 10) == len(BIG)
        assert self.fs.read(found.nodeid, 20, 0, fh) == bytes(10) + BIG[:10]
        assert self.fs.getattr(found.nodeid).size == len(BIG) + 10
        self.fs.release(found.nodeid, fh)
        refused(errno.EBADF, self.fs.read, found.nodeid, 1, 0, fh)
        assert (self.tree / "new").read_bytes() == bytes(10) + BIG
        assert stat.S_IMODE(os.stat(self.tree / "new").st_mode) == 0o640

    def test_create_of_an_existing_file(self) -> None:
        found, fh = self.fs.create(ROOT, "hello", flags=os.O_RDWR | os.O_TRUNC)
        assert (found.size, found.ino) == (0, os.stat(self.tree / "hello").st_ino)
        refused(errno.EEXIST, self.fs.create, ROOT, "hello", 0o644, os.O_RDWR | os.O_EXCL)
        self.fs.release(found.nodeid, fh)

    def test_the_hosts_umask_does_not_count(self) -> None:
        old = os.umask(0o077)
        try:
            self.fs.mkdir(ROOT, "open", 0o777)
        finally:
            os.umask(old)
        assert stat.S_IMODE(os.stat(self.tree / "open").st_mode) == 0o777

    @pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
    def test_new_files_belong_to_the_guests_user(self) -> None:
        self.fs.uid, self.fs.gid = 1234, 2345
        found, fh = self.fs.create(ROOT, "mine")
        assert (found.uid, found.gid) == (1234, 2345)
        self.fs.symlink(ROOT, "mylink", "mine")
        st = os.lstat(self.tree / "mylink")
        assert (st.st_uid, st.st_gid) == (1234, 2345)
        self.fs.release(found.nodeid, fh)

    def test_set_id_bits_and_devices_are_never_made(self) -> None:
        found, _ = self.fs.create(ROOT, "suid", 0o6755)
        assert found.mode & 0o7777 == 0o755
        changed = self.fs.setattr(found.nodeid, SetAttr.MODE, mode=0o104755)
        assert changed.mode & 0o7777 == 0o755
        refused(errno.EPERM, self.fs.mknod, ROOT, "disk", stat.S_IFBLK | 0o666, 0x800)
        refused(errno.EPERM, self.fs.mknod, ROOT, "tty", stat.S_IFCHR | 0o666, 0x400)
        assert not (self.tree / "disk").exists()

    def test_mknod(self) -> None:
        assert stat.S_ISFIFO(self.fs.mknod(ROOT, "pipe", stat.S_IFIFO | 0o600).mode)
        assert stat.S_ISREG(self.fs.mknod(ROOT, "plain", stat.S_IFREG | 0o600).mode)

    def test_directories(self) -> None:
        made = self.fs.mkdir(ROOT, "made")
        self.fs.create(made.nodeid, "child")
        refused(errno.ENOTEMPTY, self.fs.remove, ROOT, "made", directory=True)
        self.fs.remove(made.nodeid, "child")
        self.fs.remove(ROOT, "made", directory=True)
        assert not (self.tree / "made").exists()

    def test_links(self) -> None:
        hello = self.fs.lookup(ROOT, "hello")
        linked = self.fs.link(hello.nodeid, self.fs.lookup(ROOT, "dir").nodeid, "again")
        assert (linked.nodeid, linked.nlink) == (hello.nodeid, 3)
        made = self.fs.symlink(ROOT, "sym", "/../../etc")
        assert self.fs.readlink(made.nodeid) == b"/../../etc"
        assert os.readlink(self.tree / "sym") == "/../../etc"

    def test_rename_keeps_the_inode(self) -> None:
        file = self.fs.walk("dir/file")
        sub = self.fs.walk("dir/sub").nodeid
        self.fs.rename(self.fs.lookup(ROOT, "dir").nodeid, "file", sub, "renamed")
        assert self.fs.getattr(file.nodeid).ino == file.ino
        assert self.fs.lookup(sub, "renamed").nodeid == file.nodeid
        self.fs.rename(ROOT, "dir", ROOT, "folder")
        assert self.fs.getattr(file.nodeid).ino == file.ino

    def test_rename_flags(self) -> None:
        refused(errno.EEXIST, self.fs.rename, ROOT, "hello", ROOT, "big", abi.RENAME_NOREPLACE)
        refused(errno.EINVAL, self.fs.rename, ROOT, "hello", ROOT, "big", 4)
        big, hello = self.fs.lookup(ROOT, "big"), self.fs.lookup(ROOT, "hello")
        self.fs.rename(ROOT, "big", ROOT, "hello", abi.RENAME_EXCHANGE)
        assert self.fs.lookup(ROOT, "hello").nodeid == big.nodeid
        assert self.fs.getattr(hello.nodeid).size == 12

    def test_an_unlinked_file_lives_while_the_guest_knows_it(self) -> None:
        file = self.fs.walk("dir/file")
        fh = self.fs.open(file.nodeid)
        self.fs.remove(self.fs.lookup(ROOT, "dir").nodeid, "file")
        assert self.fs.getattr(file.nodeid).nlink == 0
        assert self.fs.write(file.nodeid, fh, b"still here") == 10
        assert self.fs.read(file.nodeid, 10, 0, fh) == b"still here"
        self.fs.release(file.nodeid, fh)
        self.fs.forget(file.nodeid)
        refused(errno.ESTALE, self.fs.getattr, file.nodeid)

    def test_a_failed_unlink_changes_nothing(self) -> None:
        node = self.fs.lookup(ROOT, "dir").nodeid
        refused(errno.EISDIR, self.fs.remove, ROOT, "dir")
        refused(errno.ENOENT, self.fs.remove, ROOT, "nothing")
        assert self.fs.getattr(node).nodeid == node
        assert self.fs.fs.tree._pins == 0

    def test_attributes_change(self) -> None:
        node = self.fs.lookup(ROOT, "hello").nodeid
        assert self.fs.setattr(node, SetAttr.MODE, mode=0o100600).mode == 0o100600
        assert self.fs.setattr(node, SetAttr.SIZE, size=5).size == 5
        assert (self.tree / "hello").read_bytes() == b"hello"
        found = self.fs.setattr(node, SetAttr.MTIME, mtime=1_000_000_000, mtimensec=5)
        assert found.mtime == 1_000_000_000
        assert os.stat(self.tree / "hello").st_mtime_ns == 1_000_000_000_000_000_005
        assert self.fs.setattr(node, SetAttr.MTIME | SetAttr.MTIME_NOW).mtime > 1_000_000_000

    def test_a_symlinks_own_times(self) -> None:
        node = self.fs.lookup(ROOT, "absolute").nodeid
        before = os.stat("/etc/passwd").st_mtime_ns
        self.fs.setattr(node, SetAttr.MTIME, mtime=77)
        assert os.lstat(self.tree / "absolute").st_mtime == 77
        assert os.stat("/etc/passwd").st_mtime_ns == before
        refused(errno.EOPNOTSUPP, self.fs.setattr, node, SetAttr.MODE, mode=0o777)

    @pytest.mark.skipif(os.geteuid() != 0, reason="chown takes root")
    def test_chown(self) -> None:
        node = self.fs.lookup(ROOT, "absolute").nodeid
        passwd = os.stat("/etc/passwd").st_uid
        assert self.fs.setattr(node, SetAttr.UID | SetAttr.GID, uid=7, gid=8).uid == 7
        assert os.lstat(self.tree / "absolute").st_gid == 8
        assert os.stat("/etc/passwd").st_uid == passwd
        refused(errno.EINVAL, self.fs.setattr, node, SetAttr.UID, uid=0xFFFFFFFF)

    def test_files_in_depth(self) -> None:
        node = self.fs.lookup(ROOT, "big").nodeid
        fh = self.fs.open(node)
        self.fs.call(Op.FALLOCATE, node, abi.FALLOCATE_IN.pack(fh, 0, 1 << 20, 0))
        assert os.stat(self.tree / "big").st_size == 1 << 20
        self.fs.call(Op.FSYNC, node, abi.FSYNC_IN.pack(fh, 1))
        self.fs.call(Op.FSYNCDIR, ROOT, abi.FSYNC_IN.pack(0, 0))
        other, into = self.fs.create(ROOT, "copy")
        raw = self.fs.call(
            Op.COPY_FILE_RANGE, node, abi.COPY_IN.pack(fh, 5, other.nodeid, into, 0, 1000)
        )
        assert abi.WRITE_OUT.unpack(raw) == (1000,)
        assert (self.tree / "copy").read_bytes() == BIG[5:1005]

    def test_what_the_host_does_shows(self) -> None:
        assert self.fs.lookup(ROOT, "hello").valid == 1
        refused(errno.ENOENT, self.fs.call, Op.LOOKUP, ROOT, b"later\0")
        (self.tree / "later").touch()
        self.fs.lookup(ROOT, "later")


def test_vcpus_may_come_in_together(mount: Make) -> None:
    fs = mount()
    big = fs.lookup(ROOT, "big").nodeid
    errors: list[BaseException] = []
    guard = threading.Lock()  # the fake driver is one; the device's entry is what is shared

    def work() -> None:
        try:
            for _ in range(50):
                with guard:
                    data = fs.read(big, 5000, 100)
                assert data == BIG[100:5100]
                fs.driver.kick(1)
        except BaseException as e:
            errors.append(e)
            raise

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
