"""Load shedding: how many requests may be answered at once, found out from how long answers take.

More requests than the model server can carry make everybody wait. So the limit is lowered when an answer took longer
than the target (by as much as it was longer, a tenth at least, half at most) or the model gave none in time (by half),
and raised by one when answers are fast and the limit is what keeps requests out: additive increase, multiplicative
decrease (Chiu and Jain 1989, as TCP does). It begins low, as TCP does too, and doubles in the time of an answer. For a
while after it was lowered it stays: answers are fast then because popularity gives them. What is over it is refused at
once, with the time after which it is worth asking again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_FIRST = 32


class Overloaded(Exception):  # noqa: N818 - an answer, not a fault
    """Too many requests are being answered. retry_after: whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"overloaded: ask again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class Admission:
    """Counts requests in flight. most, least: bounds of the limit. target_seconds: slower answers lower it."""

    most: int = 128
    least: int = 4
    target_seconds: float = 2.0
    clock: Callable[[], float] = time.monotonic
    in_flight: int = field(default=0, init=False)
    _limit: float = field(default=0.0, init=False)
    _lowered: float = field(default=-math.inf, init=False)
    _seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._limit = float(min(self.most, _FIRST))

    @property
    def limit(self) -> int:
        return int(self._limit)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request. Raises Overloaded when there is none."""
        if self.in_flight >= self.limit:
            raise Overloaded(max(1, math.ceil(self._seconds)))
        self.in_flight += 1
        began = self.clock()
        try:
            yield
        finally:
            now = self.clock()
            self._learn(now, now - began)
            self.in_flight -= 1

    def late(self) -> None:
        """The model did not answer in time: what was let in was too much for it."""
        self._lower(self.clock(), 0.5)

    def _learn(self, now: float, seconds: float) -> None:
        self._seconds += 0.1 * (seconds - self._seconds)
        if seconds > self.target_seconds:
            self._lower(now, min(0.9, max(0.5, self.target_seconds / seconds)))
        elif self.in_flight >= self.limit - 1 and not self._just_lowered(now):
            self._limit = min(float(self.most), self._limit + 1.0)

    def _lower(self, now: float, share: float) -> None:
        # Once for all that were waiting together: they are one piece of news.
        if not self._just_lowered(now):
            self._limit = max(float(self.least), self._limit * share)
            self._lowered = now

    def _just_lowered(self, now: float) -> bool:
        return now - self._lowered < self.target_seconds
