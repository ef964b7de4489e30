"""Intervals that stay valid however often one looks, and stop whenever one likes.

The asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, theorem 2.2), which is Robbins'
normal mixture and so the mixture sequential probability ratio test of Johari, Koomen, Pekelis & Walsh (2022):

    estimate +- se sqrt((1 + 1/r) (log(1 + r) + 2 log(1 / alpha))),    r = c n / N

n users so far of N planned; c makes the interval narrowest at n = N (their equation 10). N must be fixed before the
first look: a mixture that is tuned as one goes is not valid. It covers at all n at once, in the limit of many users at
the first look, so there is no look before `FIRST_LOOK` users in each arm.

A user must enter once, with the outcome final: read metrics of closed windows, as data/outcomes.py makes them. Values
that still grow while one looks (days so far) are another process, for which this says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy.special import gammaln

from data.errors import InputError

FIRST_LOOK = 100  # users in each arm before the first look


def tuning(alpha: float) -> float:
    """c of the module's docstring: -2 log(alpha) + log(1 - 2 log(alpha))."""
    two_logs = -2.0 * math.log(alpha)
    return two_logs + math.log1p(two_logs)


def reach(alpha: float, users: float, planned: float, tuned: float | None = None) -> float:
    """Half-width of the 1 - alpha interval in standard errors, after `users` of `planned`, tuned for level `tuned`."""
    r = tuning(alpha if tuned is None else tuned) * users / planned
    return math.sqrt((1.0 + 1.0 / r) * (math.log1p(r) - 2.0 * math.log(alpha)))


def always_valid_p(z: float, users: float, planned: float, tuned: float) -> float:
    """The least alpha at which the interval of an estimate `z` standard errors from zero leaves zero out."""
    r = tuning(tuned) * users / planned
    return min(1.0, math.exp(0.5 * (math.log1p(r) - z * z * r / (1.0 + r))))


def sequential_ratio_p(users: Mapping[str, int], shares: Mapping[str, float], strength: float = 100.0) -> float:
    """Always-valid p-value of the sample ratio: Bayes factor of a Dirichlet around the shares (Lindon & Malek 2022).

    users, shares: arm -> users so far, arm -> share by design. strength: how sure the alternative is that shares are
    near the design; it moves power, never validity.
    """
    missing = [arm for arm in shares if arm not in users]
    if missing:
        raise InputError(f"sample ratio: arm {missing[0]!r} has no users")
    total = sum(users.values())
    log_factor = gammaln(strength) - gammaln(strength + total)
    for arm, share in shares.items():
        prior, count = strength * share, users[arm]
        log_factor += gammaln(prior + count) - gammaln(prior) - count * math.log(share)
    return float(min(1.0, math.exp(min(0.0, -log_factor))))
