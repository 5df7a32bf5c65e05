"""The cpio writer, read back by a small reader of the same format."""

from __future__ import annotations

import stat

from barevisor.boot.initramfs import Initramfs


def read(archive: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    at, entries = 0, []
    while True:
        assert archive[at : at + 6] == b"070701"
        f = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + f[11] - 1].decode("utf-8", "surrogateescape")
        data_at = at + (110 + f[11] + 3 & ~3)
        if name == "TRAILER!!!":
            return entries
        entries.append((name, f[1], archive[data_at : data_at + f[6]], (f[9], f[10])))
        at = data_at + (f[6] + 3 & ~3)


def sample() -> Initramfs:
    a = Initramfs()
    a.folder("/dev")
    a.node("/dev/console", stat.S_IFCHR | 0o600, 5, 1)
    a.file("/lib/modules/a.ko", b"12345", 0o600)
    a.file("init", b"#!", 0o755)
    a.symlink("/bin/sh", "busybox")
    a.file("/odd\udcff", b"")
    return a


def test_entries_and_their_parents() -> None:
    assert read(sample().build()) == [
        ("dev", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("lib", 0o040755, b"", (0, 0)),
        ("lib/modules", 0o040755, b"", (0, 0)),
        ("lib/modules/a.ko", 0o100600, b"12345", (0, 0)),
        ("init", 0o100755, b"#!", (0, 0)),
        ("bin", 0o040755, b"", (0, 0)),
        ("bin/sh", 0o120777, b"busybox", (0, 0)),
        ("odd\udcff", 0o100644, b"", (0, 0)),
    ]


def test_the_same_entries_give_the_same_bytes() -> None:
    first = sample().build()
    assert first == sample().build()
    assert len(first) % 512 == 0
