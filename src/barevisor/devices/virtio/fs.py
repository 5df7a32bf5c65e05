"""File system device (virtio v1.2, 5.11): a directory of the host, spoken to in FUSE.

Requests are served where the notification arrives, on the vCPU's thread: with the guest waiting
for the answer there is nothing to gain from handing it to another.
"""

from __future__ import annotations

import os

from barevisor.devices.virtio.device import ConfigSpace, Le, VirtioDevice
from barevisor.devices.virtio.fuse.changes import CHANGING
from barevisor.devices.virtio.fuse.passthrough import HostTree
from barevisor.devices.virtio.fuse.server import READING, Server
from barevisor.errors import ConfigError

TAG_SIZE = 36
FOREVER = 86400.0
SHARED = 1.0


class FsConfig(ConfigSpace):
    """5.11.4, struct virtio_fs_config."""

    SIZE = 40
    num_request_queues = Le(4, at=36)


class Fs(VirtioDevice):
    """Serves `root` under the mount tag `tag`."""

    DEVICE_ID = 26
    QUEUES = ("hiprio", "request")
    # A request of 1 MiB needs 256 page descriptors and the four of its headers.
    QUEUE_SIZE = 1024

    def __init__(
        self,
        tag: str,
        root: str | os.PathLike[str],
        *,
        writable: bool = False,
        cache: float | None = None,
        xattr: bool = False,
    ) -> None:
        """`cache`: seconds the guest may trust what it saw; a day for read-only trees, one
        second for writable ones. Raises ConfigError for a tag or a root that cannot be."""
        super().__init__()
        raw = tag.encode()
        if not 0 < len(raw) <= TAG_SIZE or b"\0" in raw:
            raise ConfigError(f"share tag {tag!r}: 1 to {TAG_SIZE} bytes")
        if cache is None:
            cache = SHARED if writable else FOREVER
        self.config = FsConfig(num_request_queues=1)
        self.config.raw[: len(raw)] = raw
        self.tree = HostTree(root, writable=writable)
        self._server = Server(self.tree, {**READING, **CHANGING}, cache=cache, xattr=xattr)

    def notify(self, index: int) -> None:
        queue, serve = self.queues[index], self._server.handle
        while (chain := queue.pop()) is not None:
            queue.push(chain, serve(chain))
        queue.signal()

    def reset(self) -> None:
        self._server.reset()

    def close(self) -> None:
        """Close every descriptor, once no vCPU runs. Idempotent."""
        with self.lock:
            self._server.reset()
            self.tree.close()
