"""Can this log say anything about that policy? A verdict before any off-policy value.

Importance weights w = p_new / p_log have mean one over the log exactly when the log shows, now and then, everything
the new policy would show. A mean far from one, few effective listeners or mass where the log never went mean that an
off-policy value would be an extrapolation with a confident face. Such a value is refused: value, lo and hi are null
and `refused` says why, and which exploration would be needed to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eval.intervals import Floats, Interval, from_shares
from eval.weights import EXPLORATION_SHARES, WeightTally, effective

LEAST_CLUSTERING = 0.1  # rounds of one user are never taken to be worth less than a tenth of as many users' rounds


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
    pareto_k: shape of the weights' tail; above .7 their spread is dominated by rounds that have not come yet.
    exploration: share of decisions served with the new policy -> users then needed for enough effective ones.
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
    pareto_k: float | None = None
    exploration: Mapping[str, float] = field(default_factory=dict)


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
    """Diagnostics and verdict for weights (n,) of rounds whose users are codes (n,) in [0, users), all in memory."""
    tally = WeightTally()
    tally.add(weights)
    per_user = np.bincount(codes, weights=weights, minlength=users).astype(np.float64)
    counts = np.bincount(codes, minlength=users).astype(np.float64)
    return verdict(tally, per_user, counts, settings, None if off_support is None else float(off_support.mean()))


def verdict(
    tally: WeightTally, per_user: Floats, counts: Floats, settings: SupportSettings, off_support: float | None = None
) -> Support:
    """Diagnostics and verdict from a tally of the weights, each user's sum of them (U,) and number of rounds (U,).

    off_support: the new policy's mean mass on slates that logging would never show, where the caller can
    compute it (known logging policy). Otherwise it is estimated by 1 - mean(w), since E_log[w] is the new policy's
    mass on the log's support, and counts as excessive when its one-sided 95% lower bound does.
    """
    users, ess, ess_users = per_user.size, tally.effective, effective(per_user)
    mean = mean_weight(per_user, counts)
    if off_support is None:
        outside = max(0.0, 1.0 - mean.value)
        outside_at_least = max(0.0, outside - 1.645 * mean.se)
    else:
        outside = outside_at_least = off_support
    reasons = []
    if ess_users < settings.min_effective_users:
        reasons.append(
            f"{ess_users:.0f} effective users of {users:,} (at least {settings.min_effective_users:.0f} needed)"
        )
    if abs(mean.value - 1.0) > max(settings.max_mean_weight_errors * mean.se, settings.mean_weight_tolerance):
        size = "below 0.001" if mean.value < 0.001 else f"{mean.value:.3g} (standard error {mean.se:.2g})"
        # Of probabilities that sum to one over all slates, no more than one can lie on those that a log shows.
        excess = "; above 1 the new policy's probabilities sum to more than they may" if mean.value > 1.0 else ""
        reasons.append(f"mean weight {size} where 1 is due{excess}")
    if outside_at_least > settings.max_off_support:
        reasons.append(f"{outside:.0%} of the new policy's choices are slates this log never shows")
    needed = users_needed(tally, users, ess_users, outside, settings.min_effective_users)
    refused = None
    if reasons:
        refused = f"not supported by this log: {'; '.join(reasons)}. Needed: {exploration_words(needed, users)}"
    return Support(
        rounds=tally.rounds,
        users=users,
        ess=ess,
        ess_users=ess_users,
        mean_weight=mean.value,
        mean_weight_se=mean.se,
        off_support=outside,
        max_weight_share=tally.heaviest_share,
        refused=refused,
        pareto_k=tally.pareto_k,
        exploration={f"{share:g}": float(np.ceil(count)) for share, count in needed.items()},
    )


def mean_weight(per_user: Floats, counts: Floats) -> Interval:
    """Mean weight with an interval by user; 1 is due."""
    rounds = float(counts.sum())
    mean = float(per_user.sum()) / rounds
    return from_shares(mean, (per_user - mean * counts) / rounds)


def users_needed(tally: WeightTally, users: int, ess_users: float, outside: float, wanted: float) -> dict[float, float]:
    """Share of decisions to serve with the new policy -> users of a log like this one for `wanted` effective ones.

    Mixing a share e of the new policy into logging turns w into w' = w / (1 - e + e w) <= 1 / e, and the effective
    share of rounds into 1 / E_new[w'], E_new[w'] = E_log[w w'] + (mass off support) / e. The design effect of rounds
    that share a user is taken to stay.
    """
    ess = tally.effective
    clustering = min(1.0, ess_users / users / max(ess / tally.rounds, 1e-12)) if ess > 0 else 1.0
    found = {}
    for share, mixed in zip(EXPLORATION_SHARES, tally.mixed.tolist(), strict=True):
        second_moment = min(mixed / tally.rounds + outside / share, 1.0 / share)
        found[share] = wanted * max(second_moment, 1.0) / max(clustering, LEAST_CLUSTERING)
    return found


def exploration_words(needed: Mapping[float, float], users: int) -> str:
    """The smallest share that a log of `users` users would support, and what a longer log would get by with."""
    enough = [share for share, count in needed.items() if count <= users]
    if not enough:
        return (
            f"a longer log: even with every decision served by the new policy it takes about {needed[1.0]:,.0f} users, "
            f"and {users:,} users fall short of that; with 10% of them, about {needed[0.1]:,.0f}"
        )
    share = enough[0]
    words = (
        f"serve about {100 * share:g}% of decisions with the new policy, drawn at random with probabilities "
        f"logged, over a log as long as this one ({users:,} users)"
    )
    smaller = [other for other in needed if other <= share / 2]
    return f"{words}; or {100 * smaller[-1]:g}% over about {needed[smaller[-1]]:,.0f} users" if smaller else words
