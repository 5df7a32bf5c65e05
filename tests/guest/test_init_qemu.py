"""The init as process 1 of a stock kernel, on a machine that is not ours: QEMU's TCG and its
virtiofsd. What fails here and not there is ours; what fails with our devices too is the init's.

Needs root (virtiofsd), qemu-system-x86_64, virtiofsd and a kernel in /boot or the cache.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from barevisor.errors import CommandNotExecutable, CommandNotFound
from barevisor.guest import initrd
from barevisor.guest.initrd import Setup, Share
from barevisor.guest.kernel import Kernel, list_kernels
from barevisor.testing.qemu import QemuGuest, missing

pytestmark = pytest.mark.timeout(240)
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
LONG = 120.0


class Guest(QemuGuest):
    """With what the tests below ask of it."""

    def __init__(self, folder: Path, kernel: Kernel, image: bytes, sources: dict[str, str]) -> None:
        super().__init__(folder, kernel.image, image, sources)

    def run(self, *argv: str, input: bytes = b"", tty: bool = False) -> tuple[str, int | None]:
        process = self.client.spawn(argv, env=ENV, tty=tty, timeout=LONG)
        out, _ = process.communicate(input, LONG)
        return out.decode(), process.returncode


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    if reason := missing():
        pytest.skip(reason)
    for kernel in list_kernels():
        return kernel
    pytest.skip("needs a kernel: bare kernel fetch")


@pytest.fixture(scope="module")
def guest(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("guest")
    (folder / "share").mkdir()
    (folder / "share/file").write_text("from the host")
    setup = Setup("overlay", (Share("/mnt/new/share"),), "testguest")
    image = initrd.build_initrd(kernel, setup)
    guest = Guest(folder, kernel, image, {"root": "/", "share0": str(folder / "share")})
    try:
        guest.client.wait_ready(LONG)
        yield guest
    finally:
        guest.close()


def test_process_1(guest: Guest) -> None:
    hello = guest.client.wait_ready(LONG)
    assert hello.pid == 1
    assert "barevisor-init:" not in guest.console()


def test_the_system_around_a_command(guest: Guest, kernel: Kernel) -> None:
    script = "uname -r; hostname; id -u; cat /proc/sys/kernel/random/boot_id > /usr/made-in-guest"
    out, code = guest.run("sh", "-c", script)
    assert (out.split(), code) == ([kernel.version, "testguest", "0"], 0)
    assert not Path("/usr/made-in-guest").exists()
    assert "UP" in guest.run("sh", "-c", "cat /sys/class/net/lo/flags | grep -q 0x9 && echo UP")[0]
    mounts = {line.split()[1] for line in guest.run("cat", "/proc/mounts")[0].splitlines()}
    expected = "/ /proc /sys /dev /dev/pts /dev/shm /run /mnt/new/share"
    assert mounts == set(expected.split())


def test_share(guest: Guest) -> None:
    assert guest.run("cat", "/mnt/new/share/file") == ("from the host", 0)
    guest.run("sh", "-c", "echo from the guest > /mnt/new/share/back")
    assert (guest.folder / "share/back").read_text() == "from the guest\n"


def test_streams_and_codes(guest: Guest) -> None:
    assert guest.run("sh", "-c", "wc -c; exit 7", input=bytes(300000)) == ("300000\n", 7)
    assert guest.run("sh", "-c", "kill -9 $$") == ("", -9)
    assert guest.run("tty", tty=True)[0].startswith("/dev/pts/")
    assert guest.run("bash", "-c", "cat <(echo fd)") == ("fd\n", 0)
    with pytest.raises(CommandNotFound):
        guest.run("no-such-command")
    with pytest.raises(CommandNotExecutable):
        guest.run("/etc/passwd")


def test_orphans_are_reaped(guest: Guest) -> None:
    guest.run("sh", "-c", "for i in 1 2 3; do (sleep 0.1; true) & done; exec true")
    out, _ = guest.run("sh", "-c", "sleep 0.5; grep -h State /proc/[0-9]*/status")
    assert "zombie" not in out


def test_power_off(guest: Guest) -> None:
    guest.client.sync(LONG)
    guest.client.power_off()
    assert guest.process.wait(LONG) == 0


BROKEN = [
    ("a root that does not exist", Setup("rw"), b"", "M root: error 22"),
    ("nonsense in the plan", Setup("none"), b"Z\0x\0", "unknown row in the plan x"),
    ("a missing module", Setup("none"), b"K\0/m/99.ko\0", "K /m/99.ko: error 2"),
]


@pytest.mark.parametrize(
    ("setup", "rows", "message"), [c[1:] for c in BROKEN], ids=[c[0] for c in BROKEN]
)
def test_an_init_that_cannot_go_on_says_why_and_powers_off(
    setup: Setup, rows: bytes, message: str, kernel: Kernel, tmp_path: Path
) -> None:
    image = initrd.build_initrd(kernel, setup)
    if rows:  # a later archive's file replaces the earlier one's
        image += initrd.build_initrd(kernel, setup, {"/plan": rows})
    guest = Guest(tmp_path, kernel, image, {})
    try:
        assert guest.process.wait(LONG) == 0
        assert f"barevisor-init: {message}" in guest.console()
    finally:
        guest.close()
