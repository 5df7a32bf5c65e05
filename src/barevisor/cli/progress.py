"""A progress bar on stderr for a kernel that must be fetched; rich is imported only then."""

from __future__ import annotations

import sys
from types import TracebackType

from barevisor.records import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class FetchProgress:
    """Call it with bytes done and bytes in all. On a stderr that is no terminal: one line."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = False

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None and not self._told:
            self._told = True
            if sys.stderr.isatty():
                self._open()
            else:
                sys.stderr.write("fetching the distribution's kernel\n")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None)

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("kernel"), BarColumn(), DownloadColumn(), console=Console(stderr=True),
            transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("kernel", total=None)
        self._bar.start()

    def __enter__(self) -> FetchProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
