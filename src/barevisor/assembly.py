"""Putting a Linux guest together: the PC of pc.py, virtio devices, kernel and initramfs.

Nothing here runs a guest; vm.py does. Whoever gets a LinuxGuest from here closes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from barevisor.board import acpi
from barevisor.board.machine import Machine
from barevisor.boot import image, linux
from barevisor.boot.image import Kind
from barevisor.config import NONE, VmConfig
from barevisor.cpu.engine import Engine
from barevisor.devices.virtio.console import Console
from barevisor.devices.virtio.device import VirtioDevice
from barevisor.devices.virtio.fs import Fs
from barevisor.devices.virtio.pci import VirtioPci
from barevisor.devices.virtio.rng import Rng
from barevisor.errors import ConfigError
from barevisor.guest import initrd
from barevisor.guest import kernel as kernels
from barevisor.guest.agent import AgentClient
from barevisor.guest.cache import Progress, cache_path
from barevisor.guest.cmdline import kernel_command_line
from barevisor.pc import Output, build_board, cache_memory, make_machine
from barevisor.records import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from barevisor.boot.files import StrPath

AGENT_PORT = "barevisor.agent"


@dataclass(slots=True)
class Phases:
    """When each step of a start was reached, in seconds of the monotonic clock."""

    at: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """`name` is reached now."""
        self.at[name] = time.monotonic()


@dataclass(slots=True)
class LinuxGuest:
    """A Linux guest that is ready to start."""

    machine: Machine
    client: AgentClient
    devices: list[VirtioDevice]
    functions: list[VirtioPci]
    kernel: kernels.Kernel

    def close(self) -> None:
        """Stop and free everything. Idempotent."""
        self.machine.stop("closed")
        for device in self.devices:
            device.stop()
        self.machine.join()
        for function in self.functions:
            function.reset_device()  # its queues hold views of the RAM
        self.machine.close()
        for device in self.devices:
            if isinstance(device, Fs):
                device.close()


# ---- a Linux guest -----------------------------------------------------------------------


def linux_guest(
    config: VmConfig,
    engine: Engine,
    console_output: Output,
    phases: Phases,
    progress: Progress,
) -> LinuxGuest:
    """Everything but the start. Raises ConfigError, HostError, EngineError."""
    kernel = kernels.find_kernel(
        config.kernel, config.modules, fetch=config.fetch, progress=progress
    )
    prepared = _prepare(kernel.image)
    archive = initrd.build_initrd(kernel, _setup(config))
    phases.mark("kernel")
    devices: list[VirtioDevice] = []
    machine = make_machine(config, engine, config.cpu)
    try:
        ecam = kernels.has_ecam(kernel)
        board = build_board(machine, console_output, pci="memory" if ecam else "everywhere")
        agent = Console([AGENT_PORT])
        devices += [agent]
        devices += _file_systems(config)
        devices.append(Rng())
        functions = [
            VirtioPci(device, machine.ram, machine.msi, doorbells=machine) for device in devices
        ]
        for function in functions:
            board.pci.add(function)
        board.pci.assign()
        agent.port("").on_data = console_output
        client = _connect(agent)
        phases.mark("machine")
        text = kernel_command_line(verbose=config.verbose, append=config.append, ecam=ecam)
        rsdp = acpi.install(machine.ram, config.cpus)
        machine.vcpus[0].set_state(linux.load(machine.ram, prepared, text, archive, rsdp))
        cache_memory(machine)
    except BaseException:
        machine.close()
        for device in devices:
            if isinstance(device, Fs):
                device.close()
        raise
    return LinuxGuest(machine, client, devices, functions, kernel)


def _prepare(path: StrPath) -> linux.Linux:
    opened = image.open_image(path)
    if opened.kind == Kind.MULTIBOOT:
        raise ConfigError(f"{path}: a {opened.kind}, not Linux", "add --no-root to run it")
    return linux.prepare(opened, os.path.join(cache_path(), "unpacked"))


def _setup(config: VmConfig) -> initrd.Setup:
    mode: initrd.Root = "overlay"
    if config.root == NONE:
        mode = "none"
    elif config.root_writable:
        mode = "rw"
    shares = tuple(initrd.Share(s.target, s.read_only) for s in config.all_shares())
    return initrd.Setup(mode, shares)


def _file_systems(config: VmConfig) -> list[VirtioDevice]:
    """The root and the shares; what was opened before a failure is closed."""
    made: list[VirtioDevice] = []
    try:
        if (root := config.root_path) is not None:
            made.append(Fs(initrd.ROOT_TAG, root, writable=config.root_writable))
        for index, share in enumerate(config.all_shares()):
            tag = initrd.SHARE_TAG.format(index)
            made.append(Fs(tag, share.source, writable=not share.read_only))
    except BaseException:
        for device in made:
            if isinstance(device, Fs):
                device.close()
        raise
    return made


def _connect(agent: Console) -> AgentClient:
    port = agent.port(AGENT_PORT)
    client = AgentClient(lambda data: _send(port.send, data))
    port.on_data = client.feed
    return client


def _send(send: Callable[[bytes], int], data: bytes) -> None:
    send(data)
