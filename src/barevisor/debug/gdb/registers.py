"""The registers that gdb sees, as rows: name, size, type, and where a CpuState has each.

Names and sizes of the standard features: gdb manual, "i386 Features". The x87 and vector registers
lie in the XSAVE image (SDM, "XSAVE Area"), where a component whose bit in XSTATE_BV is clear
has its initial value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from barevisor.cpu.engine import CpuState

CORE, SSE, SEGMENTS, AVX, SYSTEM = (
    "org.gnu.gdb.i386.core", "org.gnu.gdb.i386.sse", "org.gnu.gdb.i386.segments",
    "org.gnu.gdb.i386.avx", "org.barevisor.system",
)  # fmt: skip
K_GS_BASE = 0xC0000102  # IA32_KERNEL_GS_BASE
XSAVE_BYTES = 832
FCW, FSW, FTW, FOP, FIP, FDP, MXCSR, ST, XMM, XSTATE_BV, YMM = (
    0, 2, 4, 6, 8, 16, 24, 32, 160, 512, 576,
)  # fmt: skip
BV_X87, BV_SSE, BV_AVX = 1, 2, 4
EMPTY, VALID, ZERO, SPECIAL = 3, 0, 1, 2  # SDM, "x87 FPU Tag Word"

Get = Callable[[CpuState], int]
Put = Callable[[CpuState, int], None]


@dataclass(frozen=True, slots=True)
class Register:
    """One row. `general`: rip or a general register, which `Vcpu.set_regs` can store."""

    name: str
    bits: int
    type: str
    feature: str
    get: Get
    put: Put
    group: str = ""
    general: bool = False


# ---- where a CpuState has them -----------------------------------------------------------


def _general(name: str, gdb_name: str = "", bits: int = 64, kind: str = "int64") -> Register:
    def get(s: CpuState) -> int:
        return int(getattr(s.regs, name))

    def put(s: CpuState, value: int) -> None:
        setattr(s.regs, name, value)

    return Register(gdb_name or name, bits, kind, CORE, get, put, general=True)


def _selector(name: str) -> Register:
    """Storing one changes the selector alone, as a debugger cannot know the descriptor."""

    def get(s: CpuState) -> int:
        return int(getattr(s, name).selector)

    def put(s: CpuState, value: int) -> None:
        getattr(s, name).selector = value & 0xFFFF

    return Register(name, 32, "int32", CORE, get, put)


def _base(name: str) -> Register:
    def get(s: CpuState) -> int:
        return int(getattr(s, name).base)

    def put(s: CpuState, value: int) -> None:
        getattr(s, name).base = value

    return Register(f"{name}_base", 64, "int64", SEGMENTS, get, put)


def _control(name: str) -> Register:
    def get(s: CpuState) -> int:
        return int(getattr(s, name))

    def put(s: CpuState, value: int) -> None:
        setattr(s, name, value)

    return Register(name, 64, "int64", SYSTEM, get, put)


def _k_gs_base() -> Register:
    def put(s: CpuState, value: int) -> None:
        s.msrs[K_GS_BASE] = value

    return Register("k_gs_base", 64, "int64", SYSTEM, lambda s: s.msrs.get(K_GS_BASE, 0), put)


# ---- the XSAVE image ---------------------------------------------------------------------


def expand(state: CpuState) -> bytearray:
    """The XSAVE image with initial values where its components have none; XSTATE_BV as it is."""
    image = bytearray(state.xsave.ljust(XSAVE_BYTES, b"\0"))
    have = int.from_bytes(image[XSTATE_BV : XSTATE_BV + 8], "little")
    if not have & BV_X87:
        image[: FDP + 8] = struct.pack("<H", 0x37F) + bytes(FDP + 6)
        image[ST:XMM] = bytes(XMM - ST)
    if not have & (BV_SSE | BV_AVX):
        image[MXCSR : MXCSR + 4] = struct.pack("<I", 0x1F80)
    if not have & BV_SSE:
        image[XMM : XMM + 256] = bytes(256)
    if not have & BV_AVX:
        image[YMM : YMM + 256] = bytes(256)
    return image


def _store(state: CpuState, offset: int, raw: bytes, component: int) -> None:
    """Into the image, with its component marked as in use."""
    image = expand(state)
    image[offset : offset + len(raw)] = raw
    image[XSTATE_BV] |= component
    state.xsave = bytes(image)


def _xsave(
    name: str, offset: int, bits: int, kind: str, feature: str, component: int,
    width: int = 0, group: str = "",
) -> Register:  # fmt: skip
    """`width`: bytes in the image, where gdb's register is larger."""
    size = width or bits // 8

    def get(s: CpuState) -> int:
        return int.from_bytes(expand(s)[offset : offset + size], "little")

    def put(s: CpuState, value: int) -> None:
        raw = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        _store(s, offset, raw, component)

    return Register(name, bits, kind, feature, get, put, group)


def full_tags(image: bytes | bytearray) -> int:
    """The tag word that FXSAVE abridges (SDM, "FXSAVE": recreating the tag word)."""
    top = image[FSW + 1] >> 3 & 7
    word = 0
    for physical in range(8):
        at = ST + 16 * (physical - top & 7)
        used = image[FTW] >> physical & 1
        word |= (_tag(bytes(image[at : at + 10])) if used else EMPTY) << 2 * physical
    return word


def _tag(raw: bytes) -> int:
    exponent = int.from_bytes(raw[8:], "little") & 0x7FFF
    mantissa = int.from_bytes(raw[:8], "little")
    if exponent == 0x7FFF or (exponent == 0 and mantissa) or (exponent and not mantissa >> 63):
        return SPECIAL
    return VALID if exponent else ZERO


def _tags() -> Register:
    def put(s: CpuState, value: int) -> None:
        kept = sum(1 << n for n in range(8) if value >> 2 * n & 3 != EMPTY)
        _store(s, FTW, bytes([kept]), BV_X87)

    return Register("ftag", 32, "int", CORE, lambda s: full_tags(expand(s)), put, "float")


def _x87(name: str, offset: int, width: int) -> Register:
    return _xsave(name, offset, 32, "int", CORE, BV_X87, width, "float")


# ---- the table ---------------------------------------------------------------------------

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
           "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip
TYPES = {"rbp": "data_ptr", "rsp": "data_ptr"}

REGISTERS: tuple[Register, ...] = (
    *(_general(name, kind=TYPES.get(name, "int64")) for name in GENERAL),
    _general("rip", kind="code_ptr"),
    _general("rflags", "eflags", 32, "i386_eflags"),
    *(_selector(name) for name in ("cs", "ss", "ds", "es", "fs", "gs")),
    *(_xsave(f"st{n}", ST + 16 * n, 80, "i387_ext", CORE, BV_X87) for n in range(8)),
    _x87("fctrl", FCW, 2), _x87("fstat", FSW, 2), _tags(),
    _x87("fiseg", FIP + 4, 2), _x87("fioff", FIP, 4),
    _x87("foseg", FDP + 4, 2), _x87("fooff", FDP, 4), _x87("fop", FOP, 2),
    *(_xsave(f"xmm{n}", XMM + 16 * n, 128, "vec128", SSE, BV_SSE) for n in range(16)),
    _xsave("mxcsr", MXCSR, 32, "i386_mxcsr", SSE, BV_SSE, group="vector"),
    _base("fs"), _base("gs"),
    *(_xsave(f"ymm{n}h", YMM + 16 * n, 128, "uint128", AVX, BV_AVX) for n in range(16)),
    _k_gs_base(),
    *(_control(name) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")),
)  # fmt: skip
"""In the order of their numbers."""

ALL_BYTES = sum(r.bits for r in REGISTERS) // 8


def read(register: Register, state: CpuState) -> bytes:
    """Its value, little-endian, as the protocol has it."""
    mask = (1 << register.bits) - 1
    return (register.get(state) & mask).to_bytes(register.bits // 8, "little")


def read_all(state: CpuState) -> bytes:
    """The text of a "g" reply, as bytes."""
    return b"".join(read(r, state) for r in REGISTERS)
