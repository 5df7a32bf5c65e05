"""Snapshots are input: any CpuState is refused with EngineError, or runs and can be kicked."""

from __future__ import annotations

import random

import pytest

from barevisor.cpu import engine
from barevisor.errors import EngineError
from barevisor.testing import hostile, micro
from barevisor.testing.hostile import Box, number

STATES = 250
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
WORDS = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "xcr0", "apic_base")


def segment(rng: random.Random) -> engine.Segment:
    bits = [rng.random() < chance for chance in (0.8, 0.5, 0.6, 0.3, 0.5, 0.2, 0.1)]
    present, db, s, long, g, avl, unusable = bits
    return engine.Segment(
        rng.getrandbits(16), number(rng), rng.getrandbits(32), rng.getrandbits(4), present,
        rng.getrandbits(2), db, s, long, g, avl, unusable,
    )  # fmt: skip


def xsave(rng: random.Random) -> bytes:
    """Of any size, or well-formed with any contents."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.choice((0, 100, 512, 576, 577, 832, 4096)))
    image = bytearray(rng.randbytes(832))
    image[24:28] = rng.getrandbits(16).to_bytes(4, "little")
    image[512:576] = bytes([rng.choice((1, 2, 3, 7))]) + bytes(63)
    return bytes(image)


def spoiled(rng: random.Random, state: engine.CpuState) -> engine.CpuState:
    for name in SEGMENTS:
        if rng.random() < 0.3:
            setattr(state, name, segment(rng))
    for name in WORDS:
        if rng.random() < 0.2:
            flipped = getattr(state, name) ^ 1 << rng.randrange(32)
            setattr(state, name, rng.choice((flipped, number(rng) & 2**64 - 1)))
    if rng.random() < 0.2:
        state.lapic = rng.randbytes(1024)
    if rng.random() < 0.5:
        state.xsave = xsave(rng)
    if rng.random() < 0.3:
        state.msrs = {rng.choice(hostile.MSRS): number(rng) & 2**64 - 1 for _ in range(4)}
    if rng.random() < 0.3:
        state.events = engine.Events(
            exception=rng.choice((-1, 1, 3, 8, 14, 200, 255)),
            exception_error=rng.choice((None, 0, 0xFFFF)),
            exception_address=number(rng) & 2**64 - 1,
            interrupt=rng.choice((-1, 32, 255)),
            interrupt_shadow=rng.choice((0, 1, 2)),
            nmi_pending=rng.random() < 0.5,
            nmi_masked=rng.random() < 0.5,
        )
    state.mp_state = rng.choice(("runnable",) * 5 + ("halted", "init", "sipi"))
    state.dr = [number(rng) & 2**64 - 1 for _ in range(4)]
    state.dr7 = rng.choice((0x400, number(rng) & 2**64 - 1))
    state.tsc = number(rng) & 2**64 - 1
    return state


@pytest.mark.parametrize("irqchip", [False, True], ids=["plain", "irqchip"])
def test_any_state(box: Box, irqchip: bool) -> None:
    vm, vcpu = box.restart(irqchip=irqchip)
    ran = 0
    for seed in range(STATES):
        rng = random.Random(seed)
        mode = rng.choice(hostile.MODES)
        image = hostile.plain(mode, rng.random() < 0.5)
        box.load(image.parts, clear=False)
        box.load({micro.CODE: hostile.code(rng, rng.choice(hostile.KINDS), 64)}, clear=False)
        vm.memory_written(0, micro.RAM_SIZE)
        state = spoiled(rng, hostile.state(rng, mode, image))
        try:
            vcpu.set_state(state)
        except EngineError:
            continue
        hostile.drive(rng, box, vm, vcpu)
        vcpu.get_state()
        ran += 1
    assert ran > STATES // 4
    hostile.sane(box, vm, vcpu)
