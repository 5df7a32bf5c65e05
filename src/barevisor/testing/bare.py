"""`bare` as users start it: a process of its own, from the same Python."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

from barevisor.testing.pace import SLOWER

LIMIT = 90.0 * SLOWER
"""Seconds that anything may take; a test's own limit is longer, and says less."""
BARE = [sys.executable, "-m", "barevisor"]


@dataclass(frozen=True)
class Bare:
    """`bare`, in a process of its own. As a context it leaves no process behind."""

    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.started:
            process.kill()
            with process:  # closes its pipes and waits
                pass

    def start(self, *args: str, **options: object) -> subprocess.Popen[bytes]:
        """As Popen with three pipes, unless `options` say otherwise."""
        pipe = subprocess.PIPE
        chosen = {"stdin": pipe, "stdout": pipe, "stderr": pipe, **options}
        process = subprocess.Popen([*BARE, *args], env=self.environment, **chosen)  # type: ignore[call-overload]
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    def run(self, *args: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """As subprocess.run."""
        return subprocess.run(
            [*BARE, *args], input=input, capture_output=True, timeout=LIMIT, check=False,
            env=self.environment,
        )  # fmt: skip
