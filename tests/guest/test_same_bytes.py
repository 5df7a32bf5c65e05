"""A program computes the same inside as outside: Python's own tests, and gcc's output.

The long modules run with BAREVISOR_LONG=1 only; bench/same_bytes.py runs them all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from barevisor import Vm
from barevisor.testing import samebytes
from barevisor.testing.pace import SLOWER

LONG = ("test_zlib", "test_json", "test_math", "test_decimal", "test_threading")
SECONDS = 900.0 * SLOWER

PROGRAM = r"""
#include <math.h>
#include <nmmintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    static float values[1000];
    static unsigned char text[4096];
    double sum = 0;
    uint64_t crc = 0, bits = 0, state = 1;
    for (int i = 0; i < 1000; i++)
        values[i] = sqrtf(i) * 1.25f;
    for (int i = 0; i < 1000; i++)
        sum += values[i] * sin(i);
    for (int i = 0; i < 4096; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        text[i] = state >> 56;
        crc = _mm_crc32_u64(crc, state);
        bits += __builtin_popcountll(state);
    }
    __m128i key = _mm_loadu_si128((__m128i *)text), all = key;
    for (int i = 16; i < 4096; i += 16)
        all = _mm_shuffle_epi8(_mm_add_epi32(all, _mm_loadu_si128((__m128i *)(text + i))), key);
    printf("%.17g %llx %llu %llx\n", sum, (unsigned long long)crc, (unsigned long long)bits,
           (unsigned long long)_mm_extract_epi64(all, 1));
    return strlen("seven!!");
}
"""


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("module", samebytes.MODULES)
def test_pythons_own_tests(vm: Vm, module: str) -> None:
    if reason := samebytes.missing():
        pytest.skip(reason)
    if module in LONG and not os.environ.get("BAREVISOR_LONG"):
        pytest.skip("takes minutes: set BAREVISOR_LONG=1")
    outer, inner = samebytes.outside(module), samebytes.inside(vm, module, SECONDS)
    assert len(outer.tests) > 30
    assert samebytes.differences(outer, inner) == [], inner.errors[-4000:]


def test_gcc(vm: Vm, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    command = f"gcc -O2 -march=x86-64-v2 -o {{0}} {source} -lm && cksum < {{0}}; {{0}}"
    outside = subprocess.run(
        ["sh", "-c", command.format(tmp_path / "program")], capture_output=True, check=False
    )
    (tmp_path / "program").unlink()
    inside = vm.run(["sh", "-c", command.format(tmp_path / "program")], timeout=100 * SLOWER)
    assert (inside.stdout, inside.stderr, inside.returncode) == (outside.stdout, b"", 7)
