"""A circuit breaker: what keeps failing is left alone for a while, so that nobody waits for it in vain.

Closed, everything passes. After `failures` in a row it opens, and nothing passes for `rest_seconds`; then one try is
let through: if it succeeds the breaker closes, if it fails the rest is twice as long, up to `longest_seconds`.

Many requests are under way when it opens, and they end one after the other: what was begun before a breaker opened or
closed says nothing about it any more. (Counted in, a hundred that time out together would have it rest the longest at
once, and those that end during the probe would answer for it.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Breaker:
    """State of one thing that can fail. For one event loop."""

    failures: int = 3
    rest_seconds: float = 0.5
    longest_seconds: float = 4.0
    clock: Callable[[], float] = time.monotonic
    _failed: int = field(default=0, init=False)
    _until: float = field(default=0.0, init=False)
    _rest: float = field(default=0.0, init=False)
    _probing: bool = field(default=False, init=False)
    _turn: int = field(default=0, init=False)  # counts openings, probes that failed, and closings

    @property
    def is_open(self) -> bool:
        return self._failed >= self.failures

    def attempt(self) -> Attempt | None:
        """A try now, to be told how it went; None where it should not be tried. While open it is the one probe."""
        if self.is_open:
            if self._probing or self.clock() < self._until:
                return None
            self._probing = True
        return Attempt(self, self._turn)

    def _succeeded(self) -> None:
        if self.is_open:
            self._turn += 1
        self._failed, self._rest, self._probing = 0, 0.0, False

    def _did_fail(self) -> None:
        self._failed += 1
        if self.is_open:
            self._turn += 1
            self._rest = min(max(self._rest * 2, self.rest_seconds), self.longest_seconds)
            self._until = self.clock() + self._rest
            self._probing = False


@dataclass(frozen=True)
class Attempt:
    """One try of what a breaker guards."""

    _breaker: Breaker
    _turn: int

    @property
    def _counts(self) -> bool:
        return self._turn == self._breaker._turn

    def succeeded(self) -> None:
        if self._counts:
            self._breaker._succeeded()

    def failed(self) -> None:
        if self._counts:
            self._breaker._did_fail()

    def abandoned(self) -> None:
        """Ended without saying anything about the thing tried: the client's fault, or the client gone."""
        if self._counts:
            self._breaker._probing = False
