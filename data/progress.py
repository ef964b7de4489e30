"""Progress bars on standard error, or in another process's display.

Long work is the same alone and as one of several processes whose bars a parent shows together: what makes a bar asks
`progress` or `track` for it, and a process that called `tell_instead` shows none, but tells what it would have shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID

SECONDS_BETWEEN = 0.1  # how often a bar is told about at most

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """What a bar says: `completed` of `total` (None: nobody knows) steps."""

    description: str
    completed: float
    total: float | None


_tell: Callable[[Told], None] | None = None


def tell_instead(tell: Callable[[Told], None] | None) -> None:
    """From now on bars of this process are not shown but told; None: shown again."""
    global _tell
    _tell = tell


def progress(*columns: ProgressColumn, transient: bool = False, disable: bool = False) -> Progress:
    """rich's Progress, to be used as a context, on standard error."""
    if _tell is not None and not disable:
        return _ToldProgress(_tell)
    return Progress(*columns, console=Console(stderr=True), transient=transient, disable=disable)


def track(sequence: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """Yield what is in `sequence`, with a bar."""
    with progress() as bar:
        yield from bar.track(sequence, total=total, description=description)


class _ToldProgress(Progress):
    """Shows nothing; tells the last bar that moved."""

    def __init__(self, tell: Callable[[Told], None]) -> None:
        super().__init__(disable=True, auto_refresh=False)
        self._tell_of = tell
        self._told_at = float("-inf")

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._moved(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._moved(task_id)

    def _moved(self, task_id: TaskID) -> None:
        task, now = self._tasks[task_id], time.monotonic()
        if now - self._told_at >= SECONDS_BETWEEN or task.finished:
            self._told_at = now
            self._tell_of(Told(task.description, task.completed, task.total))
