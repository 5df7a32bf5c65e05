"""Entropy device (virtio v1.2, 5.4): the guest must not wait for randomness."""

from __future__ import annotations

import os

from barevisor.devices.virtio.device import VirtioDevice

MAX_REQUEST = 64 << 10  # the guest sizes its buffers; what we spend on one is our choice


class Rng(VirtioDevice):
    """Fills every buffer from the host's generator."""

    DEVICE_ID = 4
    QUEUES = ("requestq",)

    def notify(self, index: int) -> None:
        queue = self.queues[index]
        while (chain := queue.pop()) is not None:
            queue.push(chain, chain.write(os.urandom(min(chain.room, MAX_REQUEST))))
        queue.signal()
