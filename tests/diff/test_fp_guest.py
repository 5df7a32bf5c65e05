"""Instructions on FP and vector state that have handlers, in a guest of the software engine and
on the host CPU: the same code on the same 4 KiB buffer must leave the same bytes.

The host's instruction and operand pointers are blanked (the engine reports zero), and so is
MXCSR_MASK, which differs between makers.
"""

from __future__ import annotations

import ctypes
import random
import struct

import pytest

from barevisor.cpu.select import select
from barevisor.testing.asm import assemble
from barevisor.testing.hostcpu import HostCpu, Machine
from barevisor.testing.micro import DATA, Fault, Gate, MicroGuest, differences, run

OSXSAVE = 0x40000
ENABLE = "xor ecx, ecx; xor edx, edx; mov eax, 7; xsetbv"
MASK = 0x300  # offsets in the buffer
VALUES = 0x340
A, B, C = 0x400, 0x800, 0xC00

Blank = tuple[int, int]


def fx(at: int) -> list[Blank]:
    """FOP, FIP, FDP and MXCSR_MASK of an FXSAVE image."""
    return [(at + 6, 18), (at + 28, 4)]


def env(at: int, size: int = 28) -> list[Blank]:
    return [(at + 12, 16)] if size == 28 else [(at + 6, 8)]


def mem(opcode: str, digit: int, at: int) -> str:
    """`opcode /digit [rbx + at]` in hex."""
    return f"hex {opcode}{0x83 | digit << 3:02x}{struct.pack('<i', at).hex()};"


LOAD_X87 = "fninit; fld1; hex d9eb d9ea d9ed;"  # 1, pi, log2 e, ln 2
LOAD_YMM = "".join(
    f"hex c5{0x7C | (0 if n & 8 else 0x80):02x}10{0x83 | (n & 7) << 3:02x}"
    f"{struct.pack('<i', 0x10 * n).hex()};"
    for n in range(16)
)
DIRTY = LOAD_X87 + LOAD_YMM
ALL = "mov eax, 7; xor edx, edx;"
CLEAN = "fninit; hex c5fc77;"  # vzeroall
OUT_YMM = "".join(
    f"hex c5{0x7C | (0 if n & 8 else 0x80):02x}11{0x83 | (n & 7) << 3:02x}"
    f"{struct.pack('<i', C + 0x20 * n).hex()};"
    for n in range(16)
)

CASES: dict[str, tuple[str, list[Blank]]] = {
    "fxsave": (DIRTY + mem("0fae", 0, A), fx(A)),
    "fxsave64": (DIRTY + mem("480fae", 0, A), fx(A)),
    "fxrstor": (DIRTY + mem("0fae", 0, A) + CLEAN + mem("0fae", 1, A) + mem("0fae", 0, B),
                fx(A) + fx(B)),
    "xsave": (DIRTY + ALL + mem("0fae", 4, A), fx(A)),
    "xsave of SSE alone": (DIRTY + "mov eax, 2; xor edx, edx;" + mem("0fae", 4, A), fx(A)),
    "xsave of AVX alone": (DIRTY + "mov eax, 4; xor edx, edx;" + mem("0fae", 4, A), fx(A)),
    "xsave of x87 alone": (DIRTY + "mov eax, 1; xor edx, edx;" + mem("0fae", 4, A), fx(A)),
    "xsavec": (DIRTY + ALL + mem("0fc7", 4, A), fx(A)),
    "xsaveopt": (DIRTY + ALL + mem("0fae", 6, A), fx(A)),
    "xrstor": (DIRTY + ALL + mem("0fae", 4, A) + CLEAN + ALL + mem("0fae", 5, A)
               + mem("0fae", 4, B), fx(A) + fx(B)),
    "xrstor of xsavec": (DIRTY + ALL + mem("0fc7", 4, A) + CLEAN + ALL + mem("0fae", 5, A)
                         + mem("0fae", 4, B), fx(A) + fx(B)),
    "xrstor initializes": (
        DIRTY + ALL + mem("0fae", 4, A) + f"mov dword [rbx+{A + 512}], 0;" + mem("0fae", 5, A)
        + OUT_YMM + mem("dd", 6, B), fx(A) + env(B)),
    "xrstor of part": (DIRTY + ALL + mem("0fae", 4, A) + CLEAN + "mov eax, 4; xor edx, edx;"
                       + mem("0fae", 5, A) + OUT_YMM, fx(A)),
    "fnsave": (LOAD_X87 + mem("dd", 6, A) + mem("d9", 6, B), env(A) + env(B)),
    "fnsave16": (LOAD_X87 + mem("66dd", 6, A), env(A, 14)),
    "frstor": (LOAD_X87 + mem("dd", 6, A) + mem("dd", 4, A) + "hex dec1;" + mem("dd", 6, B),
               env(A) + env(B)),
    "frstor16": (LOAD_X87 + mem("66dd", 6, A) + "fld1;" + mem("66dd", 4, A) + mem("66dd", 6, B),
                 env(A, 14) + env(B, 14)),
    "fnstenv": (LOAD_X87 + mem("d9", 6, A), env(A)),
    "fnstenv16": (LOAD_X87 + mem("66d9", 6, A), env(A, 14)),
    "fldenv": (LOAD_X87 + mem("d9", 6, A) + f"fninit; mov word [rbx+{A}], 0xe7f;"
               + f"mov word [rbx+{A + 4}], 0x4700;" + mem("d9", 4, A) + mem("d9", 6, B),
               env(A) + env(B)),
    "fldcw": (LOAD_X87 + f"mov word [rbx+{A}], 0xf7f; fldcw [rbx+{A}]; fnstcw [rbx+{A + 2}];"
              + "hex d9fc;" + mem("dd", 2, A + 8), []),  # frndint
    "fnstsw": (LOAD_X87 + "hex d8d1 dfe0;" + f"mov [rbx+{A}], ax;" + mem("dd", 7, A + 4), []),
    "fnclex": (f"fninit; hex d9ee d9e8 def1 dfe0; mov [rbx+{A}], ax;"
               + f"hex dbe2 dfe0; mov [rbx+{A + 4}], ax;", []),
    "mxcsr": (f"mov dword [rbx+{A}], 0x7fbf; ldmxcsr [rbx+{A}]; stmxcsr [rbx+{A + 4}];"
              + f"mov dword [rbx+{A}], 0x1f80; ldmxcsr [rbx+{A}];"
              + "hex 0f57c0 0f5ec0;" + f"stmxcsr [rbx+{A + 8}];", []),
    "emms": ("fninit; hex 0f6fc1;" + mem("d9", 6, A) + "emms;" + mem("d9", 6, B), env(A) + env(B)),
    "vzeroupper": (LOAD_YMM + "hex c5f877;" + OUT_YMM, []),
    "vzeroall": (LOAD_YMM + "hex c5fc77;" + OUT_YMM, []),
    "vmaskmovps load": (LOAD_YMM + "hex c4e2652c8b00040000;" + OUT_YMM, []),
    "vmaskmovps load xmm": (LOAD_YMM + "hex c4e2612c8b00040000;" + OUT_YMM, []),
    "vmaskmovpd load": (LOAD_YMM + "hex c4e2652d8b00040000;" + OUT_YMM, []),
    "vmaskmovps store": (LOAD_YMM + "hex c4e2652e8b00040000;", []),
    "vmaskmovpd store": (LOAD_YMM + "hex c4e2652f8b00040000;", []),
    "vpmaskmovd load": (LOAD_YMM + "hex c4e2658c8b00040000;" + OUT_YMM, []),
    "vpmaskmovq load": (LOAD_YMM + "hex c4e2e58c8b00040000;" + OUT_YMM, []),
    "vpmaskmovq store": (LOAD_YMM + "hex c4e2e58e8b00040000;", []),
    "maskmovdqu": (LOAD_YMM + f"lea rdi, [rbx+{A}]; hex 660ff7ca;", []),
    "maskmovq": (mem("0f6f", 1, 0) + mem("0f6f", 2, 16) + f"lea rdi, [rbx+{A}]; hex 0ff7ca;"
                 + mem("d9", 6, B) + "emms;", env(B)),
}  # fmt: skip

GATHERS = {
    "vpgatherdd ymm": "c4e265900c93", "vpgatherdd xmm": "c4e261900c93",
    "vpgatherdq ymm": "c4e2e5900c93", "vpgatherqd ymm": "c4e265910c93",
    "vpgatherqd xmm": "c4e261910c93", "vpgatherqq ymm": "c4e2e5910c93",
    "vgatherdps ymm": "c4e265920c93", "vgatherdpd xmm": "c4e2e1920c93",
    "vgatherqps ymm": "c4e265930c93", "vgatherqpd ymm": "c4e2e5930c93",
}  # fmt: skip
GATHER_SETUP = (
    LOAD_YMM
    + f"hex c5fc1093{struct.pack('<i', VALUES).hex()}; hex c5fc109b{struct.pack('<i', MASK).hex()};"
)


def buffer(name: str) -> bytes:
    """The initial 4 KiB: random, small indices at VALUES, all-or-nothing masks at MASK."""
    rnd = random.Random(name)
    raw = bytearray(rnd.randbytes(0x300).ljust(0x1000, b"\0"))
    step = 8 if "gatherq" in name else 4
    for at in range(0, 32, step):
        raw[VALUES + at : VALUES + at + step] = rnd.randrange(-8, 64).to_bytes(
            step, "little", signed=True
        )
    for at in range(0, 32, 8):
        raw[MASK + at : MASK + at + 8] = rnd.choice((b"\xff", b"\0")) * 8
    return bytes(raw)


def blanked(raw: bytes, blanks: list[Blank]) -> bytes:
    out = bytearray(raw)
    for at, size in blanks:
        out[at : at + size] = bytes(size)
    return bytes(out)


def on_host(text: str, initial: bytes) -> bytes:
    room = (ctypes.c_ubyte * 0x1040)()
    start = ctypes.addressof(room) + 63 & ~63
    ctypes.memmove(start, initial, len(initial))
    regs = [0] * 16
    regs[3] = start
    HostCpu().run(assemble(text, 0, 64).code, Machine(regs=regs))
    return ctypes.string_at(start, 0x1000)


def in_guest(text: str, initial: bytes) -> bytes:
    row = MicroGuest(
        "fp", "long", f"{ENABLE}; mov ebx, DATA_; {text} end", cr4=OSXSAVE,
        poke={DATA: initial}, memory={DATA: bytes(0x1000)},
    )  # fmt: skip
    outcome = run(select("bt")[0], row)
    assert (outcome.steps, outcome.end) == ([], "port")
    return outcome.memory[DATA]


def check(name: str, text: str, blanks: list[Blank]) -> None:
    initial = buffer(name)
    want = blanked(on_host(text, initial), blanks)
    got = blanked(in_guest(text, initial), blanks)
    wrong = [hex(at) for at in range(0x1000) if got[at] != want[at]]
    assert wrong == []


@pytest.mark.parametrize("name", CASES)
def test_handler(name: str) -> None:
    check(name, *CASES[name])


@pytest.mark.parametrize("name", GATHERS)
def test_gather(name: str) -> None:
    gather = f"add rbx, 0x80; hex {GATHERS[name]}; sub rbx, 0x80;"  # room for negative indices
    check(name, f"{GATHER_SETUP} {gather} {OUT_YMM}", [])


FAULTS: dict[str, tuple[str, Fault, dict[str, int]]] = {
    "fxsave misaligned": (f"{ENABLE}; bad: fxsave [DATA_+8]", Fault(13, "bad"), {}),
    "fxrstor reserved MXCSR": (
        f"{ENABLE}; mov dword [DATA_+24], 0x10000; bad: fxrstor [DATA_]", Fault(13, "bad"), {}),
    "xsave misaligned": (f"{ENABLE}; mov eax, 7; bad: xsave [DATA_+16]", Fault(13, "bad"), {}),
    "xsave without OSXSAVE": ("mov eax, 7; bad: xsave [DATA_]", Fault(6, "bad"), {"cr4": 0}),
    "xsave with TS": ("mov eax, 7; bad: xsave [DATA_]", Fault(7, "bad"), {"cr0": 8}),
    "fxsave with TS": ("bad: fxsave [DATA_]", Fault(7, "bad"), {"cr0": 8}),
    "fwait with TS": ("bad: hex 9b", Fault(7, "bad"), {"cr0": 10}),
    "mmx with EM": ("bad: emms", Fault(6, "bad"), {"cr0": 4}),
    "x87 with EM": ("bad: fld1", Fault(7, "bad"), {"cr0": 4}),
    "xrstor unknown component": (
        f"{ENABLE}; mov dword [DATA_+512], 8; mov eax, 7; bad: xrstor [DATA_]",
        Fault(13, "bad"), {}),
    "xrstor dirty header": (
        f"{ENABLE}; mov dword [DATA_+528], 1; mov eax, 7; bad: xrstor [DATA_]",
        Fault(13, "bad"), {}),
    "xsetbv without x87": ("xor ecx, ecx; xor edx, edx; mov eax, 6; bad: xsetbv",
                           Fault(13, "bad"), {}),
    "xsetbv AVX without SSE": ("xor ecx, ecx; xor edx, edx; mov eax, 5; bad: xsetbv",
                               Fault(13, "bad"), {}),
    "ldmxcsr reserved": ("mov dword [DATA_], 0x10000; bad: ldmxcsr [DATA_]", Fault(13, "bad"), {}),
    "SSE divide by zero, unmasked": (
        "mov dword [DATA_], 0x1d80; ldmxcsr [DATA_]; mov eax, 0x3f800000; hex 660f6ec8 0f57d2;"
        "bad: hex f30f5eca", Fault(19, "bad"), {"cr4": 0x40400}),
    "x87 divide by zero, unmasked, at the next instruction": (
        "fninit; mov word [DATA_], 0x37b; fldcw [DATA_]; fld1; hex d9ee def9; bad: fld1",
        Fault(16, "bad"), {}),
    "x87 pending at fwait": (
        "fninit; mov word [DATA_], 0x37b; fldcw [DATA_]; fld1; hex d9ee def9; bad: hex 9b",
        Fault(16, "bad"), {}),
    "VEX without OSXSAVE": ("bad: hex c5fc77", Fault(6, "bad"), {"cr4": 0}),
    "misaligned movaps": (f"mov ebx, {DATA + 8}; bad: hex 0f2803", Fault(13, "bad"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str) -> None:
    text, fault, bits = FAULTS[name]
    cr4 = bits.get("cr4", OSXSAVE)
    row = MicroGuest(name, "long", f"{text}; end", (fault,), cr4=cr4, cr0=bits.get("cr0", 0))
    outcome = run(select("bt")[0], row)
    assert not differences(outcome, row)


def test_an_unmasked_exception_changes_nothing() -> None:
    """The faulting DIVSS leaves its destination; its flag is in MXCSR."""
    text = (
        f"mov dword [rbx+{A}], 0x1d80; ldmxcsr [rbx+{A}]; mov eax, 0x3f800000;"
        "hex 660f6ec8 0f57d2 f30f5eca; end;"
        f"xm: hex 660f7ec8; mov [rbx+{A + 4}], eax; stmxcsr [rbx+{A + 8}];"
    )
    row = MicroGuest(
        "xm", "long", f"mov ebx, DATA_; {text} end", cr4=0x40400, gates={19: Gate("xm")},
        memory={DATA + A + 4: struct.pack("<II", 0x3F800000, 0x1D84)},
    )  # fmt: skip
    outcome = run(select("bt")[0], row)
    assert outcome.memory == row.memory


def test_masked_elements_do_not_fault() -> None:
    """VPMASKMOVD at the end of RAM's last mapped page: only mapped elements are selected."""
    text = (
        f"{ENABLE}; mov ebx, DATA_; hex c5fc105b00; mov eax, 0x3ffff0;"
        "hex c4e2658c08 c4e2658e08; end"
    )
    mask = b"\xff" * 16 + bytes(16)
    row = MicroGuest("masked", "long", text, cr4=OSXSAVE, poke={DATA: mask})
    outcome = run(select("bt")[0], row)
    assert (outcome.steps, outcome.end) == ([], "port")
