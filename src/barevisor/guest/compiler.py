"""A small compiler: a subset of Python in, a static x86-64 ELF program out.

The guest's /init has to be machine code with nothing beneath it but the kernel. It is written in
Python all the same (guest/init/), in the subset that this file accepts:

- every value is a 64-bit signed integer that wraps; addresses are integers;
- module level: `NAME = constant`, `name = constant` (a variable; functions say `global name`),
  `name = buffer(bytes)`, `name = array(words)`, `def`, and imports from the same folder;
- a name assigned in a function is its own; all files share one space of module-level names;
- statements: assignment, augmented assignment, if, while, `for i in range`, break, continue,
  return, global, pass;
- expressions: integers, `+ - * // % & | ^ << >> ~`, comparisons (one at a time), and, or, not,
  `a if c else b`, calls with at most six arguments, `array[i]`;
- the functions of guest/init/machine.pyi.

Anything else is a CompileError with file and line. Integers have the meaning that Python gives
them as long as nothing exceeds 64 bits; `>>` keeps the sign; shift counts are taken modulo 64.
Array indices are not checked.

Code generation is one pass over the tree: a value is made in rax, a second operand in rcx,
locals live in the frame. Encodings: SDM, volume 2, "Instruction Format".
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

TEXT, DATA, VARIABLES = 0x400000, 0x500000, 0x600000
"""Load addresses of code, literals and variables; code fits its megabyte by far."""
PAGE = 4096
PACKAGE = "barevisor.guest.init."
MACHINE = "machine"

RAX, RCX, RDX, RSI, RDI, R8, R9, R10 = 0, 1, 2, 6, 7, 8, 9, 10
ARGUMENTS = (RDI, RSI, RDX, RCX, R8, R9)
SYSCALL_ARGUMENTS = (RAX, RDI, RSI, RDX, R10, R8, R9)

BINARY: dict[type[ast.operator], bytes] = {  # rax = rax op rcx
    ast.Add: b"\x48\x01\xc8",
    ast.Sub: b"\x48\x29\xc8",
    ast.Mult: b"\x48\x0f\xaf\xc1",
    ast.BitAnd: b"\x48\x21\xc8",
    ast.BitOr: b"\x48\x09\xc8",
    ast.BitXor: b"\x48\x31\xc8",
    ast.LShift: b"\x48\xd3\xe0",
    ast.RShift: b"\x48\xd3\xf8",
}
# cqo; idiv rcx; test rdx,rdx; jz +N; mov rsi,rdx; xor rsi,rcx; jns +M; then the rounding that
# makes C's division Python's: floor, and a remainder with the divisor's sign.
DIVIDE = b"\x48\x99\x48\xf7\xf9\x48\x85\xd2\x74\x0b\x48\x89\xd6\x48\x31\xce\x79\x03"
FLOOR = DIVIDE + b"\x48\xff\xc8"  # dec rax
MODULO = DIVIDE + b"\x48\x01\xca" + b"\x48\x89\xd0"  # add rdx,rcx; mov rax,rdx
FOLD: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: int.__add__,
    ast.Sub: int.__sub__,
    ast.Mult: int.__mul__,
    ast.BitAnd: int.__and__,
    ast.BitOr: int.__or__,
    ast.BitXor: int.__xor__,
    ast.LShift: int.__lshift__,
    ast.RShift: int.__rshift__,
    ast.FloorDiv: int.__floordiv__,
    ast.Mod: int.__mod__,
}
CONDITION: dict[type[ast.cmpop], int] = {  # low nibble of Jcc and SETcc
    ast.Eq: 0x4,
    ast.NotEq: 0x5,
    ast.Lt: 0xC,
    ast.GtE: 0xD,
    ast.LtE: 0xE,
    ast.Gt: 0xF,
}
LOADS = {  # rax = [rax], zero-extended
    "load8": b"\x0f\xb6\x00",
    "load16": b"\x0f\xb7\x00",
    "load32": b"\x8b\x00",
    "load64": b"\x48\x8b\x00",
}
STORES = {  # [rax] = rcx
    "store8": b"\x88\x08",
    "store16": b"\x66\x89\x08",
    "store32": b"\x89\x08",
    "store64": b"\x48\x89\x08",
}
STRINGS = {"copy": b"\xf3\xa4", "fill": b"\xf3\xaa"}  # rep movsb, rep stosb

PROLOGUE, EPILOGUE = b"\x55\x48\x89\xe5\x48\x81\xec", b"\xc9\xc3"
# mov rdi,rsp; and rsp,-16; call main; mov edi,eax; mov eax,231 (exit_group); syscall
START, START_CALL = b"\x48\x89\xe7\x48\x83\xe4\xf0\xe8\0\0\0\0\x89\xc7\xb8\xe7\0\0\0\x0f\x05", 8
PUSH_RAX, POP_RAX, TEST_RAX = b"\x50", b"\x58", b"\x48\x85\xc0"


class CompileError(Exception):
    """The source leaves the subset: a bug in guest/init, never the user's."""


@dataclass
class Program:
    """What all source files share, and the output so far."""

    folder: Path
    constants: dict[str, int] = field(default_factory=dict)
    variables: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, int] = field(default_factory=dict)
    """Offsets until `_place_zeroed` makes constants of them."""
    functions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name to (offset in code, number of parameters)."""
    calls: list[tuple[int, str, int, str]] = field(default_factory=list)
    """(offset of rel32, name, arguments, place), patched once every function is known."""
    literals: dict[bytes, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    code: bytearray = field(default_factory=bytearray)
    data: bytearray = field(default_factory=bytearray)
    initial: bytearray = field(default_factory=bytearray)
    zeroed: int = 0

    def names(self) -> tuple[dict[str, int], ...]:
        return self.constants, self.variables, self.arrays, self.buffers

    def literal(self, text: bytes) -> int:
        """The address of `text` with a NUL behind it."""
        if text not in self.literals:
            self.literals[text] = DATA + len(self.data)
            self.data += text + b"\0"
        return self.literals[text]


def compile_program(main: Path) -> bytes:
    """The ELF file for `main`, whose function `main(stack: int) -> int` is the entry.

    `stack` is the address of argc (System V ABI, "Process Initialization"); the result is the
    exit status. Raises CompileError.
    """
    program = Program(main.parent)
    program.code += START
    program.calls.append((START_CALL, "main", 1, main.name))
    bodies: list[tuple[str, ast.FunctionDef]] = []
    _load(program, main.stem, bodies)
    _place_zeroed(program)
    for file, node in bodies:
        _Function(program, file, node).compile()
    for at, name, count, place in program.calls:
        if name not in program.functions:
            raise CompileError(f"{place}: no function {name}")
        target, parameters = program.functions[name]
        if parameters != count:
            raise CompileError(f"{place}: {name} takes {parameters} arguments, not {count}")
        struct.pack_into("<i", program.code, at, target - at - 4)
    return _elf(program)


def _elf(program: Program) -> bytes:
    """Three segments: code with the headers, literals, variables (System V gABI, "ELF")."""
    header = 64 + 56 * 4
    text_end = header + len(program.code)
    data_at = -(-text_end // PAGE) * PAGE
    vars_at = -(-(data_at + len(program.data)) // PAGE) * PAGE
    segments = [  # type, flags, offset, address, file size, memory size
        (1, 5, 0, TEXT, text_end, text_end),
        (1, 4, data_at, DATA, len(program.data), len(program.data)),
        (1, 6, vars_at, VARIABLES, len(program.initial), len(program.initial) + program.zeroed),
        (0x6474E551, 6, 0, 0, 0, 0),  # PT_GNU_STACK: not executable
    ]
    out = bytearray(b"\x7fELF\2\1\1" + bytes(9))
    out += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, TEXT + header, 64, 0, 0, 64, 56, 4, 0, 0, 0)
    for kind, flags, offset, address, in_file, in_memory in segments:
        out += struct.pack(
            "<IIQQQQQQ", kind, flags, offset, address, address, in_file, in_memory, PAGE
        )
    out += program.code
    out += bytes(data_at - len(out)) + program.data
    return bytes(out + bytes(vars_at - len(out)) + program.initial)


# ---- module level ------------------------------------------------------------------------


def _load(program: Program, module: str, bodies: list[tuple[str, ast.FunctionDef]]) -> None:
    """Read one source file: its imports first, then its names; functions are compiled later."""
    if module in program.seen:
        return
    program.seen.add(module)
    path = program.folder / f"{module}.py"
    for node in ast.parse(path.read_bytes(), path.name).body:
        match node:
            case ast.Expr(ast.Constant()) | ast.ImportFrom(module="__future__"):
                pass
            case ast.ImportFrom(module=str(name)) if name.startswith(PACKAGE):
                if name != PACKAGE + MACHINE:
                    _load(program, name.removeprefix(PACKAGE), bodies)
            case ast.FunctionDef():
                bodies.append((path.name, node))
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                _declare(program, f"{path.name}:{node.lineno}", name, value)
            case _:
                raise CompileError(f"{path.name}:{node.lineno}: not allowed at module level")


def _declare(program: Program, place: str, name: str, value: ast.expr) -> None:
    if any(name in names for names in program.names()):
        raise CompileError(f"{place}: {name} is declared twice")
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and len(value.args) == 1:
        size = _constant(program, value.args[0])
        if size is None or size <= 0 or value.func.id not in ("buffer", "array"):
            raise CompileError(f"{place}: {name} needs buffer(constant) or array(constant)")
        # Offsets for now: they follow the initialized variables, whose number is not known yet.
        if value.func.id == "buffer":
            program.buffers[name] = program.zeroed
            program.zeroed += -(-size // 16) * 16
        else:
            program.arrays[name] = program.zeroed
            program.zeroed += -(-size // 2) * 16
        return
    number = _constant(program, value)
    if number is None:
        raise CompileError(f"{place}: {name} is not a constant")
    if name.isupper():
        program.constants[name] = number
    else:
        program.variables[name] = VARIABLES + len(program.initial)
        program.initial += struct.pack("<q", number)


def _place_zeroed(program: Program) -> None:
    """Give buffers and arrays their addresses, behind the initialized variables."""
    program.initial += bytes(-len(program.initial) % 16)
    base = VARIABLES + len(program.initial)
    for name, offset in program.buffers.items():
        program.constants[name] = base + offset
    for name, offset in program.arrays.items():
        program.arrays[name] = base + offset


def _constant(
    program: Program, node: ast.expr, hidden: Collection[str] = frozenset()
) -> int | None:
    """The value of a constant expression, or None. `hidden`: a function's own names."""
    match node:
        case ast.Constant(value=bool() | int() as value):
            return int(value)
        case ast.Name(id=name):
            return None if name in hidden else program.constants.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            positive = _constant(program, inner, hidden)
            return None if positive is None else -positive
        case ast.BinOp(left=left, op=op, right=right) if type(op) in FOLD:
            a, b = (_constant(program, side, hidden) for side in (left, right))
            return None if a is None or b is None else FOLD[type(op)](a, b)
        case ast.Call(func=ast.Name(id="addr"), args=[ast.Constant(value=bytes() as text)]):
            return program.literal(text)
        case ast.Call(func=ast.Name(id="size"), args=[ast.Constant(value=bytes() as text)]):
            return len(text)
    return None


# ---- functions ---------------------------------------------------------------------------


@dataclass
class _Loop:
    again: int
    leave: int


class _Function:
    """Compiles one function onto the end of the program's code."""

    def __init__(self, program: Program, file: str, node: ast.FunctionDef) -> None:
        self.program, self.file, self.node = program, file, node
        self.code = program.code
        self.slots: dict[str, int] = {}
        names = {n for s in ast.walk(node) if isinstance(s, ast.Global) for n in s.names}
        self.globals: set[str] = names
        stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
        self.locals = {n.id for n in stored if isinstance(n.ctx, ast.Store)} - names
        self.locals |= {argument.arg for argument in node.args.args}
        self.loops: list[_Loop] = []
        self.labels: list[int] = []
        self.jumps: list[tuple[int, int]] = []
        self.hidden = 0

    def error(self, node: ast.AST, message: str) -> CompileError:
        line = getattr(node, "lineno", self.node.lineno)
        return CompileError(f"{self.file}:{line}: {message}")

    def compile(self) -> None:
        node, arguments = self.node, self.node.args
        names = [argument.arg for argument in arguments.args]
        extra = arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults
        if extra or arguments.posonlyargs or len(names) > len(ARGUMENTS) or node.decorator_list:
            raise self.error(node, f"{node.name}: only up to six plain parameters")
        if node.name in self.program.functions:
            raise self.error(node, f"{node.name} is defined twice")
        self.program.functions[node.name] = (len(self.code), len(names))
        self.code += PROLOGUE
        frame_at = len(self.code)
        self.code += bytes(4)
        for name, register in zip(names, ARGUMENTS, strict=False):
            self.frame(0x89, register, self.slot(name))
        self.body(node.body)
        self.code += b"\x31\xc0" + EPILOGUE
        struct.pack_into("<I", self.code, frame_at, -(-len(self.slots) // 2) * 16)
        for at, label in self.jumps:
            struct.pack_into("<i", self.code, at, self.labels[label] - at - 4)

    # -- places and jumps --

    def slot(self, name: str) -> int:
        """The frame offset of a local, made on first assignment."""
        return -8 * (self.slots.setdefault(name, len(self.slots)) + 1)

    def label(self) -> int:
        self.labels.append(-1)
        return len(self.labels) - 1

    def here(self, label: int) -> None:
        self.labels[label] = len(self.code)

    def jump(self, label: int, opcode: bytes = b"\xe9") -> None:
        self.code += opcode
        self.jumps.append((len(self.code), label))
        self.code += bytes(4)

    def frame(self, opcode: int, register: int, offset: int) -> None:
        """`opcode register, [rbp+offset]` (0x8B load, 0x89 store)."""
        rex = 0x48 | (register >> 3) << 2
        self.code += bytes((rex, opcode, 0x85 | (register & 7) << 3))
        self.code += struct.pack("<i", offset)

    def absolute(self, opcode: int, register: int, address: int) -> None:
        """`opcode register, [address]`."""
        rex = 0x48 | (register >> 3) << 2
        self.code += bytes((rex, opcode, 0x04 | (register & 7) << 3, 0x25))
        self.code += struct.pack("<i", address)

    def number(self, register: int, value: int) -> None:
        value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
        high, low = register >> 3, register & 7
        if 0 <= value < 1 << 32:
            self.code += (b"\x41" if high else b"") + struct.pack("<BI", 0xB8 + low, value)
        elif -(1 << 31) <= value < 0:
            self.code += struct.pack("<BBBi", 0x48 | high, 0xC7, 0xC0 | low, value)
        else:
            self.code += struct.pack("<BBq", 0x48 | high, 0xB8 + low, value)

    def simple(self, node: ast.expr, register: int) -> bool:
        """Load a constant, local or variable into `register`, touching no other; False: can't."""
        value = _constant(self.program, node, self.locals)
        if value is not None:
            self.number(register, value)
            return True
        if not isinstance(node, ast.Name):
            return False
        if node.id in self.slots:
            self.frame(0x8B, register, self.slot(node.id))
        elif node.id in self.program.variables and node.id not in self.locals:
            self.absolute(0x8B, register, self.program.variables[node.id])
        else:
            raise self.error(node, f"unknown name {node.id}")
        return True

    # -- statements --

    def body(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Pass() | ast.Global() | ast.Expr(ast.Constant()):
                pass
            case ast.Expr(value=ast.Call() as call):
                self.value(call)
            case ast.Assign(targets=[target], value=value):
                self.assign(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self.assign(target, value)
            case ast.AugAssign(target=target, op=op, value=value):
                if any(isinstance(inner, ast.Call) for inner in ast.walk(target)):
                    raise self.error(node, "a call in the target of an augmented assignment")
                self.assign(target, ast.copy_location(ast.BinOp(target, op, value), node))
            case ast.Return(value=value):
                if value is None:
                    self.number(RAX, 0)
                else:
                    self.value(value)
                self.code += EPILOGUE
            case ast.If():
                self.branch(node)
            case ast.While(orelse=[]):
                self.loop(node)
            case ast.For(
                target=ast.Name(), iter=ast.Call(func=ast.Name(id="range"), keywords=[]), orelse=[]
            ):
                self.count(node, node.iter.args)  # type: ignore[attr-defined]
            case ast.Break() if self.loops:
                self.jump(self.loops[-1].leave)
            case ast.Continue() if self.loops:
                self.jump(self.loops[-1].again)
            case _:
                raise self.error(node, f"{type(node).__name__} is not in the subset")

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        match target:
            case ast.Name(id=name) if name in self.globals:
                if name not in self.program.variables:
                    raise self.error(target, f"{name} is not a variable")
                self.value(value)
                self.absolute(0x89, RAX, self.program.variables[name])
            case ast.Name(id=name):
                if name.isupper():
                    raise self.error(target, f"{name} is not assigned outside module level")
                self.value(value)
                self.frame(0x89, RAX, self.slot(name))
            case ast.Subscript(value=ast.Name(id=name), slice=index):
                self.pair(value, index)
                self.code += b"\x48\x89\x04\xcd" + struct.pack("<i", self.array(target, name))
            case _:
                raise self.error(target, "only names and array elements are assigned")

    def array(self, node: ast.AST, name: str) -> int:
        if name not in self.program.arrays or name in self.locals:
            raise self.error(node, f"{name} is not an array")
        return self.program.arrays[name]

    def branch(self, node: ast.If) -> None:
        otherwise, end = self.label(), self.label()
        self.unless(node.test, otherwise)
        self.body(node.body)
        if node.orelse:
            self.jump(end)
        self.here(otherwise)
        self.body(node.orelse)
        self.here(end)

    def loop(self, node: ast.While) -> None:
        loop = _Loop(self.label(), self.label())
        self.here(loop.again)
        self.unless(node.test, loop.leave)
        self.loops.append(loop)
        self.body(node.body)
        self.loops.pop()
        self.jump(loop.again)
        self.here(loop.leave)

    def count(self, node: ast.For, bounds: list[ast.expr]) -> None:
        """`for i in range(end)` and `range(start, end)`; a hidden pair of locals runs the loop."""
        if not 1 <= len(bounds) <= 2 or not isinstance(node.target, ast.Name):
            raise self.error(node, "range takes one or two bounds")
        self.hidden += 1
        index, end = f"{self.hidden} index", f"{self.hidden} end"
        self.value(bounds[0] if len(bounds) == 2 else ast.Constant(0))
        self.code += PUSH_RAX
        self.value(bounds[-1])
        self.frame(0x89, RAX, self.slot(end))
        self.code += POP_RAX
        self.frame(0x89, RAX, self.slot(index))
        loop, test = _Loop(self.label(), self.label()), self.label()
        self.jump(test)
        self.here(loop.again)
        self.frame(0xFF, 0, self.slot(index))  # inc qword [index]
        self.here(test)
        self.frame(0x8B, RAX, self.slot(index))
        self.frame(0x3B, RAX, self.slot(end))
        self.jump(loop.leave, b"\x0f\x8d")
        self.frame(0x89, RAX, self.slot(node.target.id))
        self.loops.append(loop)
        self.body(node.body)
        self.loops.pop()
        self.jump(loop.again)
        self.here(loop.leave)

    # -- expressions --

    def value(self, node: ast.expr) -> None:
        """Leave the value of `node` in rax."""
        if self.simple(node, RAX):
            return
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                self.binary(node, left, op, right)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                self.value(inner)
                self.code += b"\x48\xf7\xd8"
            case ast.UnaryOp(op=ast.Invert(), operand=inner):
                self.value(inner)
                self.code += b"\x48\xf7\xd0"
            case ast.Compare(ops=[op], left=left, comparators=[right]) if type(op) in CONDITION:
                self.pair(left, right)
                self.code += b"\x48\x39\xc8\x0f" + bytes((0x90 | CONDITION[type(op)],))
                self.code += b"\xc0\x0f\xb6\xc0"  # setcc al; movzx eax,al
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                self.value(inner)
                self.code += TEST_RAX + b"\x0f\x94\xc0\x0f\xb6\xc0"
            case ast.BoolOp(op=op, values=values):
                self.short_circuit(isinstance(op, ast.And), values)
            case ast.IfExp(test=test, body=yes, orelse=no):
                self.choose(test, yes, no)
            case ast.Subscript(value=ast.Name(id=name), slice=index):
                self.value(index)
                self.code += b"\x48\x8b\x04\xc5" + struct.pack("<i", self.array(node, name))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                self.call(node, name, arguments)
            case _:
                raise self.error(node, f"{type(node).__name__} is not in the subset")

    def pair(self, left: ast.expr, right: ast.expr) -> None:
        """Left in rax, right in rcx."""
        self.value(left)
        if self.simple(right, RCX):
            return
        self.code += PUSH_RAX
        self.value(right)
        self.code += b"\x48\x89\xc1" + POP_RAX

    def binary(self, node: ast.expr, left: ast.expr, op: ast.operator, right: ast.expr) -> None:
        self.pair(left, right)
        if isinstance(op, ast.FloorDiv):
            self.code += FLOOR
        elif isinstance(op, ast.Mod):
            self.code += MODULO
        elif type(op) in BINARY:
            self.code += BINARY[type(op)]
        else:
            raise self.error(node, f"{type(op).__name__} is not in the subset")

    def short_circuit(self, conjunction: bool, values: list[ast.expr]) -> None:
        end = self.label()
        for value in values[:-1]:
            self.value(value)
            self.code += TEST_RAX
            self.jump(end, b"\x0f\x84" if conjunction else b"\x0f\x85")
        self.value(values[-1])
        self.here(end)

    def choose(self, test: ast.expr, yes: ast.expr, no: ast.expr) -> None:
        otherwise, end = self.label(), self.label()
        self.unless(test, otherwise)
        self.value(yes)
        self.jump(end)
        self.here(otherwise)
        self.value(no)
        self.here(end)

    def unless(self, node: ast.expr, label: int) -> None:
        """Jump to `label` when `node` is false: comparisons branch without making a value."""
        match node:
            case ast.Constant(value=True | 1):
                return
            case ast.BoolOp(op=ast.And(), values=values):
                for each in values:
                    self.unless(each, label)
            case ast.Compare(ops=[op], left=left, comparators=[right]) if type(op) in CONDITION:
                self.pair(left, right)
                self.code += b"\x48\x39\xc8"
                self.jump(label, bytes((0x0F, 0x80 | CONDITION[type(op)] ^ 1)))
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                self.value(inner)
                self.code += TEST_RAX
                self.jump(label, b"\x0f\x85")
            case _:
                self.value(node)
                self.code += TEST_RAX
                self.jump(label, b"\x0f\x84")

    def call(self, node: ast.expr, name: str, arguments: list[ast.expr]) -> None:
        if name in LOADS and len(arguments) == 1:
            self.value(arguments[0])
            self.code += LOADS[name]
        elif name in STORES and len(arguments) == 2:
            self.pair(*arguments)
            self.code += STORES[name]
        elif name in STRINGS and len(arguments) == 3:
            second = RSI if name == "copy" else RAX
            self.arguments(arguments, (RDI, second, RCX))
            self.code += STRINGS[name]
        elif name == "syscall" and 1 <= len(arguments) <= len(SYSCALL_ARGUMENTS):
            self.arguments(arguments, SYSCALL_ARGUMENTS)
            self.code += b"\x0f\x05"
        elif len(arguments) <= len(ARGUMENTS):
            self.arguments(arguments, ARGUMENTS)
            place = f"{self.file}:{node.lineno}"
            self.code += b"\xe8"
            self.program.calls.append((len(self.code), name, len(arguments), place))
            self.code += bytes(4)
        else:
            raise self.error(node, f"{name} with {len(arguments)} arguments")

    def arguments(self, nodes: list[ast.expr], registers: tuple[int, ...]) -> None:
        """Each argument in its register. Those that no call can change skip the stack."""
        placed = list(zip(nodes, registers, strict=False))
        pushed = [(node, register) for node, register in placed if not self.steady(node)]
        for node, _ in pushed:
            self.value(node)
            self.code += PUSH_RAX
        for _, register in reversed(pushed):
            self.code += (b"\x41" if register >> 3 else b"") + bytes((0x58 | register & 7,))
        for node, register in placed:
            if self.steady(node):
                self.simple(node, register)

    def steady(self, node: ast.expr) -> bool:
        """A constant or a local: its value is the same before and after any call."""
        if isinstance(node, ast.Name) and node.id in self.slots:
            return True
        return _constant(self.program, node, self.locals) is not None
