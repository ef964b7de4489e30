"""Can this log say anything about that policy? A verdict before any off-policy value.

Importance weights w = p_new / p_log have mean one over the log exactly when the log shows, now and then, everything
the new policy would show. A mean far from one, few effective listeners or mass where the log never went mean that an
off-policy value would be an extrapolation with a confident face. Such a value is refused: value, lo and hi are null
and `refused` says why, and which exploration would be needed to answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.intervals import Floats, from_influence

EXPLORATION_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class SupportSettings:
    """When a log is too thin to answer."""

    min_effective_users: float = 200.0  # below this an interval by normal theory is not to be trusted
    max_mean_weight_errors: float = 3.0  # standard errors that the mean weight may lie from one
    mean_weight_tolerance: float = 1e-3  # and at least this far: float32 log-probabilities round
    max_off_support: float = 0.05  # share of the new policy's mass on slates that the log never shows


@dataclass(frozen=True)
class Support:
    """Diagnostics of the weights and the verdict; `refused` is None when the log supports a value.

    ess: effective rounds (sum w)^2 / sum w^2 (Kish 1965). ess_users: the same over users' summed weights, so that equal
    weights and equally many rounds a user give the number of users. off_support: share of the new
    policy's mass where the logging policy never goes. max_weight_share: share of all weight on the heaviest round.
    """

    rounds: int
    users: int
    ess: float
    ess_users: float
    mean_weight: float | None
    mean_weight_se: float | None
    off_support: float | None
    max_weight_share: float | None
    refused: str | None


def effective(weights: Floats) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2; zero when all weights are zero."""
    peak = float(weights.max(initial=0.0))
    if peak == 0.0:
        return 0.0
    scaled = weights / peak  # so that squares of large weights cannot overflow
    return float(scaled.sum() ** 2 / np.square(scaled).sum())


def without_propensities(rounds: int, users: int) -> Support:
    """The verdict on a log that does not say how likely its slates were."""
    reason = (
        "the log has no propensities: how likely each slate was under the policy that chose it is unknown, so another "
        "policy's value cannot be read from it. Needed: serve with a policy that draws its slates at random and "
        "log each slate's probability"
    )
    return Support(rounds, users, 0.0, 0.0, None, None, None, None, reason)


def assess(
    weights: Floats,
    codes: NDArray[np.int64],
    users: int,
    settings: SupportSettings,
    off_support: Floats | None = None,
) -> Support:
    """Diagnostics and verdict for weights (n,) of rounds whose users are codes (n,) in [0, users).

    off_support (n,): per round, the new policy's mass on slates that logging would never show, where the caller can
    compute it (known logging policy). Otherwise it is estimated by 1 - mean(w), since E_log[w] is the new policy's
    mass on the log's support, and counts as excessive when its one-sided 95% lower bound does.
    """
    per_user = np.bincount(codes, weights=weights, minlength=users).astype(np.float64)
    ess, ess_users = effective(weights), effective(per_user)
    mean = from_influence(float(weights.mean()), weights - weights.mean(), codes, users)
    if off_support is None:
        outside = max(0.0, 1.0 - mean.value)
        outside_at_least = max(0.0, outside - 1.645 * mean.se)
    else:
        outside = outside_at_least = float(off_support.mean())
    total = float(weights.sum())
    reasons = []
    if ess_users < settings.min_effective_users:
        reasons.append(
            f"{ess_users:.0f} effective users of {users:,} (at least {settings.min_effective_users:.0f} needed)"
        )
    if abs(mean.value - 1.0) > max(settings.max_mean_weight_errors * mean.se, settings.mean_weight_tolerance):
        reasons.append(f"mean weight {mean.value:.3g} where 1 is due (standard error {mean.se:.2g})")
    if outside_at_least > settings.max_off_support:
        reasons.append(f"{outside:.0%} of the new policy's choices are slates this log never shows")
    refused = None
    if reasons:
        needed = exploration_needed(weights, users, ess, ess_users, outside, settings)
        refused = f"not supported by this log: {'; '.join(reasons)}. Needed: {needed}"
    return Support(
        rounds=weights.size,
        users=users,
        ess=ess,
        ess_users=ess_users,
        mean_weight=mean.value,
        mean_weight_se=mean.se,
        off_support=outside,
        max_weight_share=float(weights.max() / total) if total > 0 else None,
        refused=refused,
    )


def exploration_needed(
    weights: Floats, users: int, ess: float, ess_users: float, outside: float, settings: SupportSettings
) -> str:
    """In words, the share of decisions to serve with the new policy so that a log of this length would support it.

    Mixing a share e of the new policy into logging turns w into w' = w / (1 - e + e w) <= 1 / e, and the effective
    share of rounds into 1 / E_new[w'], E_new[w'] = E_log[w w'] + (mass off support) / e. The smallest share on a
    grid that gives enough effective users is named, keeping the design effect of rounds that share a user.
    """
    wanted = settings.min_effective_users
    clustering = min(1.0, ess_users / users / max(ess / weights.size, 1e-12)) if ess > 0 else 1.0
    for share in EXPLORATION_SHARES:
        mixed = weights / (1.0 - share + share * weights)
        second_moment = min(float(np.mean(weights * mixed)) + outside / share, 1.0 / share)
        if users / second_moment * max(clustering, 0.1) >= wanted:
            return (
                f"serve about {100 * share:g}% of decisions with the new policy, drawn at random with probabilities "
                f"logged, over a log as long as this one ({users:,} users)"
            )
    return (
        f"a longer log: even with every decision served by the new policy, {users:,} users fall short of the "
        f"{wanted:.0f} effective users wanted"
    )
