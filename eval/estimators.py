"""What would this policy have earned? Off-policy values from a log, column by column.

A log enters as columns, one row per logged decision: two log-probabilities, the reward, and where an outcome model
exists, q of the logged slate and v, the new policy's expected q. Nothing of size rounds x actions is ever held.

    w = p_new / p_log
    ips    mean(w r)                                   Horvitz & Thompson 1952
    snips  sum(w r) / sum(w)                           Swaminathan & Joachims 2015, eq. 9
    clipped  mean(min(w, sqrt(n)) r)                   Ionides 2008, truncation at sqrt(n)
    dm     mean(v)                                     direct method
    dr     mean(v + w (r - q))                         Dudik et al. 2011, eq. 6
    sndr   mean(v) + sum(w (r - q)) / sum(w)           Thomas & Brunskill 2016 (weighted doubly robust, one step)

Intervals come from influence functions summed within users (eval/intervals.py), also for the paired difference from
the logging policy's own mean reward on the same rounds. A log that cannot support the question gets no value
(eval/support.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats, cluster_codes, finite, from_influence
from eval.support import Support, SupportSettings, assess, without_propensities

# Log-probabilities are sums of float32 log-softmaxes: a certain slate may come out a rounding above zero.
LOG_PROBABILITY_SLACK = 1e-4


@dataclass(frozen=True)
class LoggedRounds:
    """Columns (n,), one row per logged decision.

    log_p_log: log-probability of the logged slate under the policy that logged it; None (or all NaN) = not recorded.
    log_p_new: the same under the policy to be judged; -inf where it would never show the slate.
    reward: the outcome. user: whose decision. q: modelled reward of the logged slate; v: the new policy's expected q
    in that context. off_support: share of the new policy's mass on slates that logging would never show, if known.
    """

    log_p_log: NDArray[np.floating] | None
    log_p_new: NDArray[np.floating]
    reward: NDArray[np.floating]
    user: NDArray[np.generic]
    q: NDArray[np.floating] | None = None
    v: NDArray[np.floating] | None = None
    off_support: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class OffPolicySettings:
    """Which estimators to print; the clip of `clipped` (None = sqrt(rounds))."""

    estimators: tuple[str, ...] = ("ips", "snips", "clipped", "dm", "dr", "sndr")
    clip: float | None = None
    support: SupportSettings = field(default_factory=SupportSettings)


@dataclass(frozen=True)
class Estimate:
    """One estimator's value of one policy; value and bounds are None when refused, `ess` (rounds) is always there.

    diff, diff_lo, diff_hi: the value less the logging policy's mean reward, paired on the same rounds.
    """

    value: float | None
    lo: float | None
    hi: float | None
    ess: float
    diff: float | None = None
    diff_lo: float | None = None
    diff_hi: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class OffPolicyValue:
    """All estimates of one policy's value, what the log supports, and the logging policy's own mean reward."""

    estimates: Mapping[str, Estimate]
    support: Support
    logging: Estimate


@dataclass(frozen=True)
class Columns:
    """Checked columns: weights w, reward r and, where modelled, q and v, all float64 (n,)."""

    w: Floats
    r: Floats
    q: Floats | None
    v: Floats | None


def point_and_influence(estimator: str, columns: Columns, clip: float | None = None) -> tuple[float, Floats]:
    """Value of the named estimator and its influence values (n,), without any verdict on support.

    Raises InputError for an unknown estimator and for one that needs q and v where there are none.
    """
    w, r = columns.w, columns.r
    if estimator == "ips":
        return mean_of(w * r)
    if estimator == "clipped":
        return mean_of(np.minimum(w, np.sqrt(w.size) if clip is None else clip) * r)
    if estimator == "snips":
        return self_normalised(w, r)
    if estimator not in ("dm", "dr", "sndr"):
        raise InputError(f"estimator {estimator!r} is not known; choose among ips, snips, clipped, dm, dr, sndr")
    if columns.q is None or columns.v is None:
        raise InputError(f"estimator {estimator}: needs the modelled rewards q and v; give both or leave it out")
    q, v = columns.q, columns.v
    if estimator == "dm":
        return mean_of(v)
    if estimator == "dr":
        return mean_of(v + w * (r - q))
    base, base_influence = mean_of(v)
    correction, correction_influence = self_normalised(w, r - q)
    return base + correction, base_influence + correction_influence


def off_policy_value(rounds: LoggedRounds, settings: OffPolicySettings) -> OffPolicyValue:
    """Every estimator's value of the new policy on these rounds, or the reason why the log cannot say.

    Estimators that need q and v are left out where there are none. Raises InputError on columns of different
    lengths, NaN or infinite values, log-probabilities above zero, and rounds of a single user.
    """
    n = np.asarray(rounds.reward).size
    reward = finite(rounds.reward, "reward")
    codes, users = cluster_codes(rounds.user, n)
    mean, influence = mean_of(reward)
    on_log = from_influence(mean, influence, codes, users)
    logging = Estimate(on_log.value, on_log.lo, on_log.hi, float(n), 0.0, 0.0, 0.0)
    modelled = rounds.q is not None and rounds.v is not None
    names = [name for name in settings.estimators if modelled or name not in ("dm", "dr", "sndr")]

    if rounds.log_p_log is None or bool(np.isnan(np.asarray(rounds.log_p_log)).all()):
        support = without_propensities(n, users)
    else:
        columns = checked_columns(rounds)
        outside = None if rounds.off_support is None else of_length(rounds.off_support, "off_support", n)
        support = assess(columns.w, codes, users, settings.support, outside)
    if support.refused is not None:
        none = Estimate(None, None, None, support.ess, refused=support.refused)
        return OffPolicyValue(dict.fromkeys(names, none), support, logging)

    estimates = {}
    for name in names:
        value, value_influence = point_and_influence(name, columns, settings.clip)
        interval = from_influence(value, value_influence, codes, users)
        paired = from_influence(value - mean, value_influence - influence, codes, users)
        estimates[name] = Estimate(value, interval.lo, interval.hi, support.ess, paired.value, paired.lo, paired.hi)
    return OffPolicyValue(estimates, support, logging)


def checked_columns(rounds: LoggedRounds) -> Columns:
    """Weights and rewards of rounds with propensities; raises InputError naming the column and the first bad row."""
    n = np.asarray(rounds.reward).size
    log_p_log = log_probabilities(rounds.log_p_log, "log_p_log", n)
    log_p_new = log_probabilities(rounds.log_p_new, "log_p_new", n)
    never = np.flatnonzero(np.isneginf(log_p_log))
    if never.size:
        raise InputError(f"log_p_log: propensity 0 in row {never[0]}; a slate that was shown had a propensity above 0")
    with np.errstate(over="ignore"):
        weights = np.exp(log_p_new - log_p_log)
    infinite = np.flatnonzero(np.isinf(weights))
    if infinite.size:
        raise InputError(
            f"weights: overflow in row {infinite[0]} (log-probabilities {log_p_new[infinite[0]]:.1f} and "
            f"{log_p_log[infinite[0]]:.1f}); are both of the whole slate?"
        )
    return Columns(
        w=weights,
        r=of_length(rounds.reward, "reward", n),
        q=None if rounds.q is None else of_length(rounds.q, "q", n),
        v=None if rounds.v is None else of_length(rounds.v, "v", n),
    )


def log_probabilities(values: NDArray[np.floating] | None, name: str, rows: int) -> Floats:
    """Float64 log-probabilities (n,) in [-inf, 0]; raises InputError otherwise."""
    if values is None:
        raise InputError(f"{name}: missing; give one log-probability per row")
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (rows,):
        raise InputError(f"{name}: shape {array.shape} for {rows} rewards; give one log-probability per row")
    wrong = np.flatnonzero(~(array <= LOG_PROBABILITY_SLACK))  # also NaN
    if wrong.size:
        raise InputError(
            f"{name}: {array[wrong[0]]} in row {wrong[0]} is no log-probability; "
            "propensities must lie in (0, 1] and be known in every row or in none"
        )
    return np.minimum(array, 0.0)


def of_length(values: NDArray[np.floating], name: str, rows: int) -> Floats:
    """`values` as finite float64 (n,), n = rows; raises InputError otherwise."""
    array = finite(values, name)
    if array.size != rows:
        raise InputError(f"{name}: {array.size} values for {rows} rewards; columns must have the same length")
    return array


def mean_of(terms: Floats) -> tuple[float, Floats]:
    """Mean of terms (n,) and its influence values."""
    value = float(terms.mean())
    return value, terms - value


def self_normalised(w: Floats, r: Floats) -> tuple[float, Floats]:
    """sum(w r) / sum(w) and its influence w (r - value) / mean(w); zero weights everywhere raise InputError."""
    total = float(w.mean())
    if total == 0.0:
        raise InputError("weights: all zero; the new policy never shows a logged slate, so nothing can be normalised")
    value = float((w * r).mean()) / total
    return value, w * (r - value) / total
