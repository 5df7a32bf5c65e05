"""The PC that every guest gets, and a bare image in it.

Nothing here runs a guest; image_vm.py does. Apart from a Linux guest's parts (assembly.py), which
take longer to import than a small image to run. Whoever gets a Machine from here closes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from barevisor.board import acpi, power
from barevisor.board import map as board_map
from barevisor.board.machine import Machine
from barevisor.board.pci import PciHost
from barevisor.boot import image, linux
from barevisor.boot.files import map_file
from barevisor.boot.image import Kind
from barevisor.config import ImageConfig, VmConfig
from barevisor.cpu.engine import CpuState, Engine, MachineSpec
from barevisor.devices.i8042 import I8042
from barevisor.devices.rtc import Rtc
from barevisor.devices.serial import FCR, Serial
from barevisor.guest.cache import cache_path
from barevisor.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Literal

    Pci = Literal["everywhere", "memory", "nothing"]

WAKE_POLL = 0.005
"""Seconds between looks for what wakes a machine from S3."""

OTHER_SERIAL_PORTS = (0x2F9, 0x3E9, 0x2E9)
"""Linux stores to the interrupt enable registers of COM2 to COM4 to see whether they are there."""

Output = Callable[[bytes], None]


def make_machine(config: VmConfig | ImageConfig, engine: Engine, model: str = "host") -> Machine:
    """An empty machine for `config`; CPU model "common" is what both engines have."""
    stats = None
    if config.stats:
        from barevisor.board.stats import Stats

        stats = Stats()
    spec = MachineSpec(cpus=config.cpus, cpu_model=model)
    if model == "common":
        from barevisor.engines import common_features

        spec = MachineSpec(cpus=config.cpus, features=common_features())
    return Machine(engine, spec, config.memory, stats=stats)


@dataclass(slots=True)
class Board:
    """The devices of every machine that others need to reach."""

    pci: PciHost
    serial: Serial
    rtc: Rtc


def build_board(machine: Machine, serial_output: Output, *, pci: Pci = "everywhere") -> Board:
    """The PC: serial port, clock, power and reset, PCI.

    `pci` says where the guest has it: by ports and in memory; in memory only, for a Linux that
    looks there; or by ports, with nothing but the host bridge to be found, for a Linux without
    devices. Linux's serial driver reads a register behind what it sends, so that its bytes may
    wait for that; and its ways to reset read a port behind 0xCF9."""
    serial = Serial(serial_output, machine.irq(board_map.GSI_COM1).set)
    machine.ports.add(board_map.PORT_COM1, 8, serial, "com1")
    rtc = Rtc(machine.irq(board_map.GSI_RTC).set)
    machine.ports.add(board_map.PORT_RTC, 2, rtc, "rtc")
    machine.add_late_ports(board_map.PORT_RTC, 1, rtc.late_index)
    if pci != "everywhere":
        machine.add_late_ports(board_map.PORT_COM1, 1, serial.late_write)
        machine.add_late_ports(board_map.PORT_COM1 + FCR, 2, serial.late_control)
    machine.ports.add(board_map.PORT_I8042_DATA, 8, I8042(machine.end), "i8042")
    reset = power.attach(machine.ports, machine.end)
    host = _pci_host(machine, pci)
    host.on_reset = reset.write
    if pci == "memory":
        machine.ports.add(board_map.PORT_RESET, 1, reset, "reset")
    elif pci == "nothing":
        machine.add_late_ports(board_map.PORT_PCI_ADDRESS, 4, host.ports.late_write)
        for port in OTHER_SERIAL_PORTS:
            machine.ignore_port(port, 1)
    return Board(host, serial, rtc)


def _pci_host(machine: Machine, pci: Pci) -> PciHost:
    memory = None
    if pci != "nothing":
        memory = machine.add_readonly(board_map.PCI_ECAM, board_map.PCI_ECAM_SIZE)
    return PciHost(
        machine.ports, machine.memory, machine.msi,
        mmio=(board_map.PCI_MMIO, board_map.PCI_MMIO_SIZE),
        mmio64=(board_map.PCI_MMIO64, board_map.PCI_MMIO64_SIZE),
        ecam=board_map.PCI_ECAM, ecam_memory=memory, legacy=pci != "memory",
    )  # fmt: skip


def cache_memory(machine: Machine) -> None:
    """What the other CPUs' firmware would have set up for Linux."""
    for vcpu in machine.vcpus[1:]:
        vcpu.set_state(linux.cached(vcpu.get_state()))


# ---- a bare image ------------------------------------------------------------------------


def bare_image(config: ImageConfig, engine: Engine, serial: Output, debug: Output) -> tuple[
    Machine, Serial
]:  # fmt: skip
    """A machine with `config`'s image in its RAM. Raises ConfigError, HostError, EngineError."""
    opened = image.open_image(config.kernel)
    module = map_file(config.initrd) if config.initrd is not None else None
    prepared = None
    if opened.kind in (Kind.BZIMAGE, Kind.LINUX):
        prepared = linux.prepare(opened, os.path.join(cache_path(), "unpacked"))
    # Nobody saves a test image's machine, so the engine may show all that it can.
    model = "max" if config.testdev and engine.name == "bt" else "host"
    machine = make_machine(config, engine, model)
    try:
        without = prepared is not None  # a Linux, and no function is added below
        board = build_board(machine, serial, pci="nothing" if without else "everywhere")
        _test_devices(config, machine, board, debug)
        board.pci.assign()
        rsdp = acpi.install(machine.ram, config.cpus, fixed=config.testdev, pci=not without)
        machine.vcpus[0].set_state(_load(config, opened, prepared, module, machine, rsdp))
        if prepared is not None:
            cache_memory(machine)
    except BaseException:
        machine.close()
        raise
    return machine, board.serial


def _wake(machine: Machine, rtc: Rtc) -> None:
    """ACPI S3, on vCPU 0's thread: RAM stays, and once the clock's alarm has come the CPU goes on
    in real mode at the FACS's waking vector (ACPI 6.5, 5.2.10)."""
    while not rtc.alarmed and not machine.ending:
        time.sleep(WAKE_POLL)
    from dataclasses import replace  # test images only

    vector = int.from_bytes(machine.ram.read(acpi.FACS_WAKING_VECTOR, 4), "little") & 0xFFFFF
    state = CpuState()
    state.cs = replace(state.cs, selector=vector >> 4, base=vector & 0xFFFF0)
    state.regs.rip = vector & 0xF
    machine.vcpus[0].set_state(state)


def _test_devices(config: ImageConfig, machine: Machine, board: Board, debug: Output) -> None:
    if config.testdev:
        from barevisor.devices import testdev, testpower

        def suspend() -> None:
            if len(machine.vcpus) == 1:  # the others of several would have to be stopped
                _wake(machine, board.rtc)

        testpower.attach(machine.ports, machine.end, suspend)

        testdev.attach(
            machine.ports, machine.memory, machine.ram,
            cpus=config.cpus, irq=machine.irq, end=machine.end, debugcon=config.debugcon,
        )  # fmt: skip
    if config.debugcon:
        from barevisor.devices.debugcon import DebugConsole

        machine.ports.add(board_map.PORT_DEBUGCON, 1, DebugConsole(debug), "debug console")


def _load(
    config: ImageConfig,
    opened: image.Image,
    prepared: linux.Linux | None,
    module: memoryview | None,
    machine: Machine,
    rsdp: int,
) -> CpuState:
    arguments = " ".join(config.arguments)
    if prepared is not None:
        return linux.load(machine.ram, prepared, arguments, module or b"", rsdp)
    if opened.kind == Kind.MULTIBOOT:
        words = " ".join([os.fspath(config.kernel), *config.arguments])
        from barevisor.boot import multiboot

        return multiboot.load(machine.ram, opened.data, words, module)
    from barevisor.boot import pvh

    return pvh.load(machine.ram, opened.data, arguments, module or b"", rsdp)
