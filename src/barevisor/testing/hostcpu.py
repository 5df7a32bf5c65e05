"""One instruction on the CPU that we run on: the oracle of differential tests.

All general registers, flags, vectors and the x87 are loaded from a `Machine`, the instruction
runs as it is, and everything is stored again. Only for instructions that cannot fault and whose
memory operands the caller has provided.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field

from barevisor.cpu.bt.codemem import CodeMemory

FLAGS = 0x8D5
REGS, RFLAGS, HOST_RSP, VECTORS, FX, HOST_FX, SIZE = 0, 128, 136, 192, 704, 1216, 1728


@dataclass
class Machine:
    """What an unprivileged instruction sees. `x87`: the first 160 bytes of an FXSAVE image, with
    zero instruction and operand pointers."""

    regs: list[int]
    rflags: int = 2
    vectors: bytes = bytes(512)
    mxcsr: int = 0x1F80
    x87: bytes = field(default_factory=lambda: struct.pack("<H158x", 0x37F))


def _mem(reg: int, base: int, disp: int) -> bytes:
    """ModRM for reg, [base + disp32]; base is rax (0) or rdi (7)."""
    return bytes([0x80 | (reg & 7) << 3 | base]) + struct.pack("<i", disp)


def _mov(opcode: int, reg: int, base: int) -> bytes:
    return bytes([0x48 | reg >> 3 << 2, opcode]) + _mem(reg, base, REGS + 8 * reg)


def _ymm(opcode: int, reg: int, base: int) -> bytes:
    return bytes([0xC5, 0xFC & ~(reg >> 3 << 7), opcode]) + _mem(reg, base, VECTORS + 32 * reg)


def _prologue() -> bytes:
    """rdi: the context. Callee-saved registers go to the stack, the guest's come in."""
    code = bytes.fromhex("53554154415541564157")
    code += b"\x48\x89" + _mem(4, 7, HOST_RSP)
    code += b"\x48\x0f\xae" + _mem(0, 7, HOST_FX)  # fxsave64
    code += b"\x48\x0f\xae" + _mem(1, 7, FX)  # fxrstor64
    code += b"".join(_ymm(0x10, n, 7) for n in range(16))
    code += b"\xff" + _mem(6, 7, RFLAGS) + b"\x9d"  # push [], popfq
    return code + b"".join(_mov(0x8B, n, 7) for n in [*range(4), 5, 6, *range(8, 16), 4, 7])


def _epilogue(context: int) -> bytes:
    code = b"\x48\xa3" + struct.pack("<Q", context)  # mov [context], rax
    code += b"\x48\xb8" + struct.pack("<Q", context)  # mov rax, context
    code += b"".join(_mov(0x89, n, 0) for n in range(1, 16))
    code += b"\x48\x8b" + _mem(4, 0, HOST_RSP)
    code += b"\x9c\x8f" + _mem(0, 0, RFLAGS)  # pushfq, pop []
    code += b"".join(_ymm(0x11, n, 0) for n in range(16))
    code += b"\x48\x0f\xae" + _mem(0, 0, FX) + b"\x48\x0f\xae" + _mem(1, 0, HOST_FX)
    return code + bytes.fromhex("c5f877 415f415e415d415c5d5b c3")


class HostCpu:
    """Runs single instructions natively, as 64-bit code."""

    def __init__(self) -> None:
        self._code = CodeMemory(1 << 16)
        self._room = (ctypes.c_ubyte * (SIZE + 64))()
        self._context = ctypes.addressof(self._room) + 63 & ~63
        self._prologue = _prologue()
        self._epilogue = _epilogue(self._context)

    def run(self, instruction: bytes, state: Machine) -> Machine:
        """The state after `instruction`."""
        head = struct.pack("<17Q", *state.regs, state.rflags & FLAGS | 0x202)
        image = bytearray(head.ljust(VECTORS, b"\0") + state.vectors + state.x87)
        image.extend(bytes(HOST_FX - len(image)))
        struct.pack_into("<I", image, FX + 24, state.mxcsr)
        ctypes.memmove(self._context, bytes(image), len(image))
        self._code.reset()
        entry = self._code.add(self._prologue + instruction + self._epilogue)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(entry)(self._context)
        out = ctypes.string_at(self._context, HOST_FX)
        x87 = out[FX : FX + 6] + bytes(26) + out[FX + 32 : FX + 160]
        return Machine(
            regs=list(struct.unpack_from("<16Q", out)),
            rflags=struct.unpack_from("<Q", out, RFLAGS)[0] & FLAGS | 2,
            vectors=out[VECTORS:FX],
            mxcsr=struct.unpack_from("<I", out, FX + 24)[0],
            x87=x87,
        )
