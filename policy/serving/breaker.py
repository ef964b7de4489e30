"""A circuit breaker: what keeps failing is left alone for a while, so that nobody waits for it in vain.

Closed, everything passes. After `failures` in a row it opens, and nothing passes for `rest_seconds`; then one request
is let through: if it succeeds the breaker closes, if it fails the rest is twice as long, up to `longest_seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Breaker:
    """State of one thing that can fail. For one event loop."""

    failures: int = 3
    rest_seconds: float = 1.0
    longest_seconds: float = 15.0
    clock: Callable[[], float] = time.monotonic
    _failed: int = field(default=0, init=False)
    _until: float = field(default=0.0, init=False)
    _rest: float = field(default=0.0, init=False)
    _probing: bool = field(default=False, init=False)

    @property
    def is_open(self) -> bool:
        return self._failed >= self.failures

    def allows(self) -> bool:
        """Whether to try now. True while open means: this is the one probe, say how it went."""
        if not self.is_open:
            return True
        if self._probing or self.clock() < self._until:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failed, self._rest, self._probing = 0, 0.0, False

    def failed(self) -> None:
        self._failed += 1
        if self.is_open:
            self._rest = min(max(self._rest * 2, self.rest_seconds), self.longest_seconds)
            self._until = self.clock() + self._rest
        self._probing = False

    def abandoned(self) -> None:
        """A try that ended without saying anything about the thing tried: the client's fault, or the client gone."""
        self._probing = False
