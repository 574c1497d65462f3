"""Progress that tells what is being done and how long it will take."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Time between two lines where there is no terminal to draw a bar on (seconds).
_LINE_SECONDS = 10.0
#: Share of the work, or else seconds, from which on they say how long the rest will take: before,
#: most of the time went into starting.
_TELLING, _SOON = 0.05, 60.0


class ProgressBar:
    """A bar on a terminal; elsewhere, a line from time to time, both on standard error.

    Args:
        description: what is being done, in a few words.
        total: amount of work, in any unit, > 0.
        done: work that is done already (default: 0).
    """

    def __init__(self, description: str, total: int, done: int = 0) -> None:
        self._description = description
        self._total = total
        self._first = done
        self._begun = self._last_line = time.monotonic()
        console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("elapsed,"),
                TimeRemainingColumn(),
                TextColumn("left  {task.fields[note]}"),
                console=console,
                transient=False,
            )
            self._task = self._bar.add_task(description, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        """Show it."""
        if self._bar is not None:
            self._bar.start()
        else:
            print(f"{self._description}: started", file=sys.stderr, flush=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave its last state standing."""
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            seconds = time.monotonic() - self._begun
            print(f"{self._description}: done in {clock(seconds)}", file=sys.stderr, flush=True)

    def update(self, done: int, note: str = "") -> None:
        """Say how much is done, and anything worth knowing beside it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line < _LINE_SECONDS or done <= self._first:
            return
        self._last_line = now
        passed, new = now - self._begun, done - self._first
        left = f", {clock(passed * (self._total - done) / new)} left"
        if new < _TELLING * (self._total - self._first) and passed < _SOON:
            left = ""
        print(
            f"{self._description}: {done / self._total:.0%}{left}  {note}",
            file=sys.stderr,
            flush=True,
        )


def clock(seconds: float) -> str:
    """A duration as minutes and seconds."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes}:{rest:02d}"
