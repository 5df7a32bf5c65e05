"""The compiled half: every Cython module (pure-Python mode) becomes one extension.

A module is compiled when a .pxd stands beside it; there is no other list to keep. A module that
fails to compile fails the build (style: nothing falls back silently).
"""

import os
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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


class BuildExt(build_ext):
    """Compiles, then has the engine keep its instruction table in the form that it starts from."""

    def run(self) -> None:
        super().run()
        if not self.inplace:
            self.run_command("build_py")
        place = SRC if self.inplace else Path(self.build_lib)
        command = [
            sys.executable,
            "-B",
            "-c",
            "from barevisor.cpu.bt import rowfacts as r; r.keep()",
        ]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(place.resolve())}, check=True)


CPUS = os.cpu_count() or 1

setup(
    ext_modules=cythonize(
        extensions(), compiler_directives=DIRECTIVES, include_path=[str(SRC)], nthreads=CPUS
    ),
    cmdclass={"build_ext": BuildExt},
    options={"build_ext": {"parallel": CPUS}},
)
