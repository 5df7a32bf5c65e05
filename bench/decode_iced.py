"""Decoder against iced-x86 on random and mutated instructions: mismatches by class, and speed.

python bench/decode_iced.py [COUNT] [SEED]        (default 10 million)
"""

import collections
import sys
import time

from barevisor.cpu.bt.decode import benchmark
from barevisor.cpu.x86.instructions import rows
from barevisor.testing.iced import expected, mismatch, mutated_codes, random_codes
from barevisor.testing.rows import encodings


def compare(count: int, seed: int) -> int:
    """Print what differs, by iced's code; returns how many differ."""
    valid = [(code, bits) for row in rows() for code, bits, _ in encodings(row)]
    classes: collections.Counter[str] = collections.Counter()
    example: dict[str, str] = {}
    for source in (random_codes(seed, count // 2), mutated_codes(seed, count // 2, valid)):
        for code, bits in source:
            wrong = mismatch(code, bits)
            if wrong is None:
                continue
            name = expected(code, bits)[1]
            classes[name] += 1
            example.setdefault(name, wrong)
    for name, times in classes.most_common():
        print(f"{times:8} {name:40} {example[name]}")
    print(f"{count} byte strings, {sum(classes.values())} mismatches")
    return sum(classes.values())


def speed() -> None:
    valid = [code for row in rows() for code, bits, _ in encodings(row) if bits == 64]
    print(f"decode: {benchmark(valid, 64, 200):.1f} ns an instruction (every row in turn)")


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    speed()
    start = time.perf_counter()
    wrong = compare(count, seed)
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
