"""The compiler for /init: every construct is compiled, run on this machine and compared with
what Python itself computes."""

import os
import subprocess
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barevisor.guest.compiler import CompileError, compile_program

HEADER = """
from barevisor.guest.init.machine import load8, store64, syscall

out = buffer(8)

def show(value: int) -> None:
    store64(out, value)
    syscall(1, 1, out, 8)
"""


def build(folder: Path, source: str) -> Path:
    (folder / "prog.py").write_text(HEADER + textwrap.dedent(source))
    program = folder / "prog"
    program.write_bytes(compile_program(folder / "prog.py"))
    program.chmod(0o755)
    return program


def run(folder: Path, source: str, *arguments: str) -> list[int]:
    """Compile, run, and return what `show` was called with, then the exit status."""
    done = subprocess.run([build(folder, source), *arguments], stdout=subprocess.PIPE, timeout=10)
    words = [done.stdout[i : i + 8] for i in range(0, len(done.stdout), 8)]
    return [*(int.from_bytes(word, "little", signed=True) for word in words), done.returncode]


def body(*lines: str) -> str:
    return "def main(stack: int) -> int:\n" + "".join(f"    {line}\n" for line in lines)


OPERATORS = ["+", "-", "*", "//", "%", "&", "|", "^", "<<", ">>"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">="]
NUMBERS = [0, 1, 2, 7, -1, -2, -7, 63, 255, 4096, 2**31, 2**32 - 1, -(2**31), 2**40 + 3]


def wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def binary_cases() -> list[tuple[str, int, int]]:
    cases = []
    for op in [*OPERATORS, *COMPARISONS]:
        for a in NUMBERS:
            for b in NUMBERS:
                if (op in ("//", "%") and b == 0) or (op in ("<<", ">>") and not 0 <= b < 64):
                    continue
                cases.append((op, a, b))
    return cases


def test_binary_operators_agree_with_python(tmp_path: Path) -> None:
    cases = binary_cases()
    functions = "".join(
        f"def op{i}(a: int, b: int) -> int:\n    return a {op} b\n"
        for i, op in enumerate([*OPERATORS, *COMPARISONS])
    )
    index = {op: i for i, op in enumerate([*OPERATORS, *COMPARISONS])}
    calls = [f"show(op{index[op]}({a}, {b}))" for op, a, b in cases]
    expected = [wrap(int(eval(f"({a}) {op} ({b})"))) for op, a, b in cases]
    assert run(tmp_path, functions + body(*calls)) == [*expected, 0]


def test_constants_fold_like_the_machine(tmp_path: Path) -> None:
    cases = [case for case in binary_cases() if case[0] in OPERATORS]
    calls = [f"show(({a}) {op} ({b}))" for op, a, b in cases]
    expected = [wrap(eval(f"({a}) {op} ({b})")) for op, a, b in cases]
    assert run(tmp_path, body(*calls)) == [*expected, 0]


CONSTRUCTS = {
    "return": ("return 41 + 1", [42]),
    "return nothing": ("return", [0]),
    "no return": ("pass", [0]),
    "unary": ("x = 5\nshow(-x)\nshow(~x)\nshow(not x)\nshow(not 0)", [-5, -6, 0, 1, 0]),
    "if elif else": (
        "for i in range(4):\n    if i == 0:\n        show(10)\n    elif i == 2:\n"
        "        show(12)\n    else:\n        show(i)",
        [10, 1, 12, 3, 0],
    ),
    "while, break, continue": (
        "i = 0\nwhile 1:\n    i += 1\n    if i == 2:\n        continue\n"
        "    if i > 4:\n        break\n    show(i)",
        [1, 3, 4, 0],
    ),
    "range of two": ("for i in range(-1, 2):\n    show(i)", [-1, 0, 1, 0]),
    "range keeps its count": (
        "n = 2\nfor i in range(n):\n    n = 9\n    show(i)\n    i = 7\nshow(i)",
        [0, 1, 7, 0],
    ),
    "nested ranges": (
        "for i in range(2):\n    for j in range(2):\n        if j:\n            continue\n"
        "        show(i * 10 + j)",
        [0, 10, 0],
    ),
    "and gives the operand": ("show(3 and 5)\nx = 0\nshow(x and 5)", [5, 0, 0]),
    "or gives the operand": ("x = 0\nshow(x or 5)\nx = 3\nshow(x or 5)", [5, 3, 0]),
    "short circuit": ("x = 1\nif x == 1 or show(9):\n    show(1)", [1, 0]),
    "and in a condition": ("x = 3\nif x > 1 and x < 5 and not x == 4:\n    show(x)", [3, 0]),
    "conditional expression": (
        "x = 3\nshow(7 if x > 2 else 8)\nshow(7 if x > 3 else 8)",
        [7, 8, 0],
    ),
    "true and false": ("show(True)\nshow(False)", [1, 0, 0]),
    "wide constants": (f"x = {2**62 + 5}\nshow(x)\nshow(-x)", [2**62 + 5, -(2**62) - 5, 0]),
    "wraps at 64 bits": (f"x = {2**63 - 1}\nshow(x + 1)", [-(2**63), 0]),
    "nested calls": ("show(six(1, 2, six(0, 0, 0, 0, 0, 3), 4, 5, 6))", [123456, 0]),
    "argument order": ("show(six(tick(), tick(), tick(), counter, tick(), 0))", [123340, 0]),
    "recursion": ("show(factorial(15))", [1307674368000, 0]),
    "variables": ("bump(5)\nbump(6)\nshow(total)\nshow(begin)", [11, -9, 0]),
    "a local hides a variable": ("total = 3\nshow(total)\nshow(read_total())", [3, 0, 0]),
    "a local hides a buffer": ("data = 3\nshow(data)\nshow(data + 1)", [3, 4, 0]),
    "a parameter hides a buffer": ("show(hiding(6))", [6, 0]),
    "arrays": (
        "for i in range(5):\n    words[i] = i * i\nwords[2] += 100\nshow(words[2])\nshow(words[4])",
        [104, 16, 0],
    ),
    "array index by call": ("words[six(0, 0, 0, 0, 0, 3)] = tick()\nshow(words[3])", [1, 0]),
    "loads and stores": (
        "store64(data, -2)\nshow(load8(data))\nshow(load16(data))\nshow(load32(data))\n"
        "show(load64(data))\nstore8(data, 0x1ff)\nshow(load16(data))\n"
        "store16(data, 0x12345)\nshow(load32(data))\nstore32(data + 1, 0)\nshow(load64(data))",
        [254, 65534, 2**32 - 2, -2, 0xFFFF, 0xFFFF2345, wrap(0xFFFFFF0000000045), 0],
    ),
    "copy and fill": (
        'copy(data, addr(b"hello"), 6)\nfill(data + 1, 0x61, 2)\ncopy(data, data + 1, 5)\n'
        "show(load32(data))",
        [int.from_bytes(b"aalo", "little"), 0],
    ),
    "literals": ('show(load8(addr(b"A\\xff") + 1))\nshow(size(b"abc"))\nshow(load8(addr(b"")))',
                 [255, 3, 0, 0]),
    "constants of the module": ("show(LIMIT)\nshow(DOUBLE)", [10, 20, 0]),
    "syscall error": ("show(syscall(3, -1))", [-9, 0]),
    "arguments": ("show(load64(stack))\nshow(load8(load64(stack + 16)))", [2, 0x78, 0]),
    "annotated": ("x: int = 4\nshow(x)", [4, 0]),
}  # fmt: skip
SUPPORT = """
LIMIT = 10
DOUBLE = LIMIT * 2
total = 0
begin: int = -9
counter = 0
words = array(5)
data = buffer(64)

def six(a: int, b: int, c: int, d: int, e: int, f: int) -> int:
    \"\"\"Docstrings are allowed.\"\"\"
    return a * 100000 + b * 10000 + c * 1000 + d * 100 + e * 10 + f

def tick() -> int:
    global counter
    counter += 1
    return counter

def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)

def bump(by: int) -> None:
    global total
    total = total + by

def hiding(data: int) -> int:
    return data

def read_total() -> int:
    return total
"""


@pytest.mark.parametrize(("source", "expected"), CONSTRUCTS.values(), ids=CONSTRUCTS)
def test_constructs(source: str, expected: list[int], tmp_path: Path) -> None:
    assert run(tmp_path, SUPPORT + body(*source.split("\n")), "x") == expected


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_expressions_agree_with_python(tmp_path: Path, data: st.DataObject) -> None:
    leaves = st.sampled_from(["a", "b", "c", "ident(a)", "7", "-3", "1000003"])

    def grow(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        ops = st.sampled_from(["+", "-", "*", "&", "|", "^", "<", ">=", "==", "and", "or"])
        two = st.builds(lambda x, o, y: f"({x} {o} {y})", children, ops, children)
        choose = st.builds(lambda x, y, z: f"({x} if {y} else {z})", children, children, children)
        return st.one_of(two, choose, children.map(lambda x: f"ident(-{x})"))

    texts = data.draw(st.lists(st.recursive(leaves, grow, max_leaves=10), min_size=20, max_size=20))
    values = {name: data.draw(st.integers(-(2**31), 2**31)) for name in "abc"}
    lines = [f"{name} = {value}" for name, value in values.items()]
    source = "def ident(x: int) -> int:\n    return x\n"
    names = {**values, "ident": wrap}
    expected = [wrap(int(eval(text, dict(names)))) for text in texts]
    got = run(tmp_path, source + body(*lines, *(f"show({text})" for text in texts)))
    # Comparisons see wrapped operands in the machine only when a value left 64 bits.
    exact = [abs(eval(text, dict(names))) < 2**63 for text in texts]
    assert [g for g, e in zip(got, exact, strict=False) if e] == [
        x for x, e in zip(expected, exact, strict=True) if e
    ] or not all(exact)


ERRORS = {
    "class": ("class A: pass", "not allowed at module level"),
    "top-level call": ("show(1)", "not allowed at module level"),
    "not constant": ("x = tick()", "not a constant"),
    "declared twice": ("x = 1\nx = 2", "declared twice"),
    "negative buffer": ("x = buffer(-1)", "needs buffer"),
    "no main": ("x = 1", "no function main"),
    "unknown function": (body("nothing(1)"), "prog.py:10: no function nothing"),
    "wrong count": (body("show(1, 2)"), "show takes 1 arguments, not 2"),
    "unknown name": (body("return missing"), "unknown name missing"),
    "used before": (body("show(x)", "x = 1"), "unknown name x"),
    "constant assigned": ("A = 1\n" + body("A = 2"), "not assigned outside"),
    "global of nothing": (body("global x", "x = 2"), "not a variable"),
    "chained comparison": (body("return 0 < stack < 5"), "Compare is not in the subset"),
    "float": (body("return 1.5"), "not in the subset"),
    "true division": (body("return stack / 2"), "Div is not in the subset"),
    "string": (body("return 'x'"), "not in the subset"),
    "list": (body("x = [1]"), "not in the subset"),
    "lambda": (body("x = lambda: 1"), "not in the subset"),
    "try": (body("try:", "    pass", "finally:", "    pass"), "Try is not in the subset"),
    "while else": (body("while 0:", "    pass", "else:", "    pass"), "While is not"),
    "for over other": (body("for x in stack:", "    pass"), "For is not in the subset"),
    "break outside": (body("break"), "Break is not in the subset"),
    "default argument": ("def f(a: int = 1) -> int:\n    return a", "plain parameters"),
    "seven parameters": ("def f(a,b,c,d,e,f,g): pass", "plain parameters"),
    "defined twice": ("def f(): pass\ndef f(): pass", "defined twice"),
    "index of no array": (body("return stack[1]"), "not an array"),
    "two targets": (body("a = b = 1"), "Assign is not"),
    "keyword": (body("show(value=1)"), "not in the subset"),
    "call in augmented target": ("w = array(2)\n" + body("w[f()] += 1"), "a call in the target"),
}


@pytest.mark.parametrize(("source", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_place(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=message):
        build(tmp_path, source)


def test_the_program_is_static_and_its_stack_not_executable(tmp_path: Path) -> None:
    program = build(tmp_path, body("return 0"))
    elf = program.read_bytes()
    count = int.from_bytes(elf[56:58], "little")
    headers = [elf[64 + 56 * i : 120 + 56 * i] for i in range(count)]
    kinds = [int.from_bytes(h[:4], "little") for h in headers]
    flags = [int.from_bytes(h[4:8], "little") for h in headers]
    assert 3 not in kinds  # PT_INTERP
    assert all(f & 3 != 3 for f in flags)  # never writable and executable
    assert os.access(program, os.X_OK)
