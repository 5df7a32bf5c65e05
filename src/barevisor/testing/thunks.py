"""A CPU without memory or an interpreter, for differential tests of native thunks.

One instruction is decoded, bound to its thunk and executed; the caller says where the memory
operand lies.
"""

import cython
from cython import address, cast
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset

ALL_FLAGS = 0x8D5


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call_thunk(cpu: cython.pointer(Cpu), op: cython.pointer(Op)) -> cython.int:
    """A memory handler that knows where the operand is: scratch[0].imm."""
    return op.thunk(cpu, op, cast(cython.pointer(u8), cpu.exit_gpa))


class ThunkCpu:
    """See thunks.pyi."""

    def __cinit__(self):
        self.room = calloc(1, cython.sizeof(Cpu) + 64)
        if self.room == cython.NULL:
            raise MemoryError
        self.cpu = cast(cython.pointer(Cpu), (cast(u64, self.room) + 63) & ~cast(u64, 63))
        self.code = CodeMemory(1 << 20)
        memset(address(self.block), 0, cython.sizeof(Block))
        self.block.count = 1
        fpu_reset(self.cpu)

    def __dealloc__(self):
        free(self.room)

    def prepare(self, code, mode, flags_live):
        insn: Insn
        why: u32 = 0
        op: cython.pointer(Op) = address(self.ops[0])
        f: cython.pointer(RowFacts)
        handler: handler_t
        if (
            decode(
                cast(cython.pointer(u8), cython.cast(cython.p_char, code)),
                len(code),
                mode,
                address(insn),
            )
            != 0
        ):
            raise ValueError(f"not an instruction: {code.hex()}")
        f = facts(insn.row)
        memset(op, 0, cython.sizeof(self.ops))
        handler = thunk_for(address(self.code.mem), address(insn), flags_live, address(why))
        if handler == cython.NULL and why == 0:
            self.code.reset()
            handler = thunk_for(address(self.code.mem), address(insn), flags_live, address(why))
        if handler == cython.NULL:
            raise ValueError(f"no thunk for {code.hex()}")
        op.block = address(self.block)
        op.len = insn.length
        op.osize = insn.osize
        op.reg = insn.reg
        op.imm = insn.imm
        op.rm_off = insn.rm * 8
        if f.gpr8 & 2 and insn.rm >= 4 and not insn.rex:
            op.rm_off = (insn.rm - 4) * 8 + 1
        op.handler = handler
        if insn.mem:
            op.handler = _call_thunk
            op.thunk = cast(thunk_t, cast(cython.p_void, handler))
        self.ops[1].handler = ret_handler
        return 0

    def run(self, code: bytes, mode: int, *, host: int = 0, flags_live: int = ALL_FLAGS) -> int:
        self.prepare(code, mode, flags_live)
        self.cpu.exit_gpa = host
        return enter(self.cpu, self.ops[0].handler, address(self.ops[0]))

    @property
    def fault(self):
        return self.cpu.fault_vector

    @property
    def regs(self):
        return [self.cpu.regs[i] for i in range(16)]

    @regs.setter
    def regs(self, values):
        for i, value in enumerate(values):
            self.cpu.regs[i] = value

    @property
    def rflags(self):
        return ((self.cpu.fl >> 8) & 0xD5) | ((self.cpu.fl & 1) << 11) | 2

    @rflags.setter
    def rflags(self, value):
        self.cpu.fl = ((value & 0xD5) << 8) | ((value >> 11) & 1) | 0x200

    @property
    def vectors(self):
        return cast(cython.p_char, address(self.cpu.vec[0]))[:512]

    @vectors.setter
    def vectors(self, data):
        text: bytes = data
        if len(text) != 512:
            raise ValueError("16 registers of 32 bytes")
        memcpy(address(self.cpu.vec[0]), cast(cython.p_char, text), 512)

    @property
    def xsave(self):
        return xsave_image(self.cpu)

    @xsave.setter
    def xsave(self, image):
        if load_xsave_image(self.cpu, image) != 0:
            raise ValueError("malformed XSAVE image")
