"""What a guest can do to the software engine by where it puts things: nothing outside its RAM.

RAM ends at pages that nobody may touch, so an operand, a page walk or a fetch that reaches further
than it may ends the test run.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from barevisor.cpu import engine
from barevisor.errors import EngineError
from barevisor.testing import hostile, micro
from barevisor.testing.asm import assemble
from barevisor.testing.hostile import ROM_AT, ROM_SIZE, Box

SIZES = (1, 2, 4, 6, 8, 10, 14, 16, 28, 32, 94, 108, 512, 576, 832)
HALVES = range(4)


def start(box: Box, text: str | bytes, mode: str = "long", **regs: int) -> engine.Vcpu:
    """A fresh VM with the micro guests' tables and `text` at CODE."""
    vm, vcpu = box.restart(irqchip=False)
    load(box, vm, vcpu, text, mode, **regs)
    return vcpu


def load(
    box: Box, vm: engine.EngineVm, vcpu: engine.Vcpu, text: str | bytes, mode: str, **regs: int
) -> engine.CpuState:
    image = hostile.plain(mode)
    bits = {"real": 16, "prot16": 16, "prot32": 32, "long": 64, "compat": 32}[mode]
    raw = text
    if isinstance(text, str):
        raw = assemble(text, micro.CODE, bits, micro.SYMBOLS, micro.MACROS).code
    assert isinstance(raw, bytes)
    box.load({**image.parts, micro.CODE: raw}, clear=False)
    vm.memory_written(0, micro.RAM_SIZE)
    s = replace(image.state, regs=replace(image.state.regs))
    for name, value in regs.items():
        setattr(s.regs, name, value)
    vcpu.set_state(s)
    return s


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("behind", ["nothing", "device", "unmasked FP"])
def test_operands_that_end_with_ram(box: Box, behind: str, half: int) -> None:
    """Every memory form of the table, its operand in the last bytes of RAM: a thunk that reads or
    writes one byte more than the table says would touch the wall."""
    raws = [raw for raw, bits, memory in hostile.forms() if bits == 64 and memory][half::4]
    assert len(raws) > 150
    vm, vcpu = box.restart(irqchip=False)
    state = load(box, vm, vcpu, "nop", "long")
    state.cr4 |= 0x40000
    state.xcr0 = 7
    if behind == "unmasked FP":
        xsave = bytearray(576)
        xsave[0:2], xsave[512] = b"\x40\x03", 3
        state.xsave = bytes(xsave)
    if behind == "device":
        box.load({micro.PD + 16: micro.entry(micro.RAM_SIZE, 0x87)}, clear=False)
    else:
        box.load({micro.PD + 16: bytes(8)}, clear=False)
    for raw in raws:
        box.load({micro.CODE: raw + b"\xe6\xf4"}, clear=False)
        vm.memory_written(micro.CODE, 32)
        for size in SIZES:
            state.regs.rbx = micro.RAM_SIZE - size
            state.regs.rsp, state.regs.rax, state.regs.rdx = micro.STACK, 7, 0
            state.regs.rcx = state.regs.rsi = state.regs.rdi = micro.DATA
            vcpu.set_state(state)
            finish(vcpu)


def finish(vcpu: engine.Vcpu) -> engine.Exit:
    """Until the guest writes to END, or gives up."""
    done: engine.Exit = engine.Interrupted()
    for _ in range(200):
        done = vcpu.run()
        match done:
            case engine.PioRead() | engine.MmioRead():
                count = done.items if isinstance(done, engine.PioRead) else 1
                vcpu.complete_read(bytes(done.size * count))
            case engine.PioWrite(port=micro.END) | engine.Shutdown() | engine.InternalError():
                return done
            case engine.Halted():
                return done
    return done


@pytest.mark.parametrize("at", [micro.RAM_SIZE - n for n in range(1, 18)], ids=hex)
@pytest.mark.parametrize("fill", [0x90, 0x66, 0x0F, 0xC4, 0xE8, 0x00])
def test_code_that_ends_with_ram(box: Box, at: int, fill: int) -> None:
    """The fetch stops at the last byte, whatever prefix or opcode that is."""
    vcpu = start(box, b"\x90", rip=at)
    box.load({at: bytes([fill]) * (micro.RAM_SIZE - at)}, clear=False)
    assert isinstance(finish(vcpu), engine.PioWrite | engine.InternalError | engine.Shutdown)


def test_page_tables_in_read_only_memory(box: Box) -> None:
    """Accessed and dirty bits have nowhere to go: our own mapping of that memory is read-only."""
    vm, vcpu = box.restart(irqchip=False)
    state = load(box, vm, vcpu, "nop", "long")
    for offset in range(0, ROM_SIZE, 4096):
        state.cr3 = ROM_AT + offset
        vcpu.set_state(state)
        assert isinstance(finish(vcpu), engine.Shutdown | engine.InternalError)


def test_page_tables_that_point_to_themselves(box: Box) -> None:
    """One page is every level of the walk, and code and data in it are its own entries."""
    vm, vcpu = box.restart(irqchip=False)
    state = load(box, vm, vcpu, "nop", "long")
    table = micro.entry(micro.SPARE, 7) * 512
    for rip in (0, 0xFFF, 0x7FFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0xFFFF800000000000):
        box.load({micro.SPARE: table}, clear=False)
        vm.memory_written(micro.SPARE, 4096)
        state.cr3, state.regs.rip = micro.SPARE, rip
        vcpu.set_state(state)
        assert isinstance(finish(vcpu), engine.Shutdown | engine.InternalError)


def test_second_page_of_an_instruction_becomes_a_device(box: Box) -> None:
    """An instruction that crosses pages, run, and run again with its second page turned into a
    device: the engine says so, and delivers no exception of long ago."""
    edge = 0x100000
    text = f"""
        mov rax, {edge - 2}; call rax
        mov ecx, {micro.MMIO | 7}; mov [{micro.pte(edge)}], rcx
        mov rax, {edge}; invlpg [rax]
        mov rax, {edge - 2}; call rax
        end
    """
    vcpu = start(box, text)
    # mov ecx, imm32 across the edge, then ret
    box.load({edge - 2: b"\xb9\x01\x00\x00\x00\xc3"}, clear=False)
    done = finish(vcpu)
    assert isinstance(done, engine.InternalError)
    assert "outside RAM" in done.reason


def test_call_with_its_stack_in_a_device(box: Box) -> None:
    """The pushed address leaves at once, before anything else happens."""
    vcpu = start(box, "mov rax, 0xC010; call rax; align 16; mov rsp, STACK_; end", rsp=micro.MMIO)
    assert vcpu.run() == engine.MmioWrite(micro.MMIO - 8, (micro.CODE + 9).to_bytes(8, "little"))
    assert isinstance(finish(vcpu), engine.PioWrite)


def test_an_answer_goes_to_the_read_that_asked(box: Box) -> None:
    """An interrupt that arrives while a device is read waits for the read; the handler's own read
    asks its own device."""
    vm, vcpu = box.restart(irqchip=True)
    handler = "h: mov ebx, eax; in al, 0x71; mov ah, al; out 0x10, eax; end"
    text = f"""
        mov eax, LAPIC_; mov dword [rax+0xf0], 0x1ff
        sti; xor eax, eax; in al, 0x99; l: jmp l
        align 16
        {handler}
    """
    code = assemble(text, micro.CODE, 64, micro.SYMBOLS, micro.MACROS)
    load(box, vm, vcpu, code.code, "long")
    row = micro.MicroGuest("answers", "long", text, gates={0x41: micro.Gate("h")})
    box.load({micro.IDT: micro.build(row).parts[micro.IDT]}, clear=False)
    assert vcpu.run() == engine.PioRead(0x99, 1)
    vm.signal_msi(micro.LAPIC, 0x41)
    vcpu.complete_read(b"\x5a")
    assert vcpu.run() == engine.PioRead(0x71, 1)
    assert vcpu.get_regs().rbx & 0xFF == 0x5A
    vcpu.complete_read(b"\x11")
    assert vcpu.run() == engine.PioWrite(0x10, 4, bytes([0x11, 0x11, 0, 0]))


FP_LOOPS = {
    "SSE": "l: hex 660f57c0 660f57c0 660f57c0 660f57c0; jmp l",
    "SSE on memory": "l: hex 0f5803 0f5803 0f5803 0f5803; jmp l",
    "x87": "l: hex d9e8 ddd8 d9e8 ddd8; jmp l",
    "x87 on memory": "l: hex d903 d91b d903 d91b; jmp l",
}


@pytest.mark.parametrize("text", FP_LOOPS.values(), ids=FP_LOOPS)
def test_unmasked_fp_loops_need_no_stack(box: Box, text: str) -> None:
    """Each instruction is checked after it has run; that must not nest, however long it goes."""
    vm, vcpu = box.restart(irqchip=False)
    state = load(box, vm, vcpu, text, "long", rbx=micro.DATA)
    box.load({micro.DATA: bytes(64)}, clear=False)
    state.cr4 |= 0x600
    xsave = bytearray(576)
    xsave[0:2], xsave[24:26], xsave[512] = b"\x40\x03", b"\x00\x00", 3
    state.xsave = bytes(xsave)
    vcpu.set_state(state)
    kicker = threading.Timer(0.2, vcpu.kick)
    kicker.start()
    before = threading.stack_size(256 << 10)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(vcpu.run).result(10) == engine.Interrupted()
    finally:
        threading.stack_size(before)
        kicker.join()


@pytest.mark.parametrize(
    "change",
    [
        {"mp_state": "asleep"},
        {"xcr0": 0},
        {"xcr0": 0xE7},
        {"cr0": 0x80000010},
        {"xsave": b"\1" * 99},
    ],
    ids=lambda c: "-".join(c),
)
def test_snapshots_that_make_no_sense(box: Box, change: dict[str, object]) -> None:
    _, vcpu = box.restart(irqchip=True)
    state = vcpu.get_state()
    for name, value in change.items():
        setattr(state, name, value)
    with pytest.raises(EngineError):
        vcpu.set_state(state)
