"""Can the experiment be believed? Checks that must find nothing: sample ratio, placebo metrics, who is known.

A sample ratio that is off means that somebody is missing, and who is missing is seldom random (Fabijan et al. 2019).
For two arms the test is tea-tasting's, for more a chi-square; while one looks every day, an always-valid one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import tea_tasting as tt
from scipy.stats import chisquare

from data.errors import InputError
from eval.experiments.effect import Reading, effect_of_users
from eval.experiments.metric import Metric
from eval.experiments.sample import Sample
from eval.experiments.sequential import sequential_ratio_p
from policy.assignment import checked_shares


@dataclass(frozen=True)
class Check:
    """One check: `passed` is p above the level; `says` what was found, in words."""

    name: str
    p: float
    passed: bool
    says: str


def sample_ratio(users: Mapping[str, int], shares: Mapping[str, float], level: float, sequential: bool) -> Check:
    """Do users per arm fit the shares of the design? Raises InputError where shares and arms do not belong together."""
    shares = checked_shares(shares)
    if set(users) != set(shares):
        raise InputError(f"sample ratio: shares are of {', '.join(shares)}, users of {', '.join(users)}: name the same")
    total = sum(users.values())
    if sequential:
        p = sequential_ratio_p(users, shares)
    elif len(shares) == 2:
        first, second = shares
        counts = {arm: tt.aggr.Aggregates(count_=users[arm]) for arm in shares}
        p = tt.SampleRatio(shares[second] / shares[first]).analyze(counts, first, second).pvalue
    else:
        p = float(chisquare([users[arm] for arm in shares], [share * total for share in shares.values()]).pvalue)
    found = ", ".join(
        f"{arm} {users[arm]:,} ({users[arm] / total:.2%} of {share:.2%})" for arm, share in shares.items()
    )
    return Check("sample ratio", p, p > level, found)


def known_alike(sample: Sample, metric: Metric, arm: str, reading: Reading) -> Check | None:
    """Is the metric known for as many users in `arm` as in control? None where it is known of everybody.

    An outcome that is missing more often in one arm compares different people.
    """
    needed = [name for name in metric.columns if name != metric.covariate]
    known = pl.all_horizontal(pl.col(name).is_not_null() for name in needed)
    pair = sample.only(pl.col(sample.arm).is_in([sample.control, arm]))
    users = pair.rows.group_by(user=sample.user, arm=sample.arm).agg(top=known.any().cast(pl.Float64))
    users = users.with_columns(bottom=pl.lit(1.0)).sort("user")
    if users["top"].min() == users["top"].max():
        return None
    found = effect_of_users(users, metric.name, (sample.control, arm), reading)
    says = f"{metric.name} is known of {found.control:.2%} in {sample.control}, {found.treatment:.2%} in {arm}"
    return Check(f"{metric.name} known", found.p, found.p > reading.alpha, says)
