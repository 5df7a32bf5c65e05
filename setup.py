"""The compiled half: every Cython module (pure-Python mode) becomes one extension.

A module is compiled when a .pxd stands beside it; there is no other list to keep. A module that
fails to compile fails the build (style: nothing falls back silently).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SRC = Path("src")
COMPILE_ARGS = ["-O2", "-fno-strict-aliasing", "-fno-plt", "-fcf-protection=none"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}


def extensions() -> list[Extension]:
    sources = sorted(p for p in SRC.rglob("*.py") if p.with_suffix(".pxd").exists())
    return [
        Extension(
            ".".join(p.relative_to(SRC).with_suffix("").parts),
            [str(p)],
            extra_compile_args=COMPILE_ARGS,
        )
        for p in sources
    ]


CPUS = os.cpu_count() or 1

setup(
    ext_modules=cythonize(
        extensions(), compiler_directives=DIRECTIVES, include_path=[str(SRC)], nthreads=CPUS
    ),
    options={"build_ext": {"parallel": CPUS}},
)
