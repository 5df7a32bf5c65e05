"""`bare` as users start it: a process of its own, from the same Python."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

LIMIT = 120.0
BARE = [sys.executable, "-c", "import sys; from barevisor.cli.main import main; sys.exit(main())"]


@dataclass(frozen=True)
class Bare:
    """`bare`, in a process of its own."""

    environment: dict[str, str]

    def start(self, *args: str, **options: object) -> subprocess.Popen[bytes]:
        """As Popen with three pipes, unless `options` say otherwise."""
        pipe = subprocess.PIPE
        chosen = {"stdin": pipe, "stdout": pipe, "stderr": pipe, **options}
        return subprocess.Popen([*BARE, *args], env=self.environment, **chosen)  # type: ignore[call-overload,no-any-return]

    def run(self, *args: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """As subprocess.run."""
        return subprocess.run(
            [*BARE, *args], input=input, capture_output=True, timeout=LIMIT, check=False,
            env=self.environment,
        )  # fmt: skip
