"""Off-policy values of repeated decisions: a year of messages to one person is one draw, not three hundred.

What is sent today changes who can be reached tomorrow, so the weight of a day must hold all the decisions before it.
With w_t = p_new / p_log of a user's decision t, W_t = w_1 ... w_t, T the last step, G = sum_t gamma^t r_t, and models
q_t of what follows from the logged decision and v_t of what would follow under the new policy:

    trajectory       mean(W_T G)                                          Precup, Sutton & Singh 2000
    sn_trajectory    sum(W_T G) / sum(W_T)                                the same, self-normalised ("weighted")
    per_decision     mean(sum_t gamma^t W_t r_t)                          Precup, Sutton & Singh 2000
    sn_per_decision  sum_t gamma^t sum(W_t r_t) / sum(W_t)                Thomas 2015 (CWPDIS)
    dr               mean(sum_t gamma^t (W_t (r_t - q_t) + W_t-1 v_t))    Jiang & Li 2016
    sn_dr            the same with W_t / sum(W_t)                         Thomas & Brunskill 2016 (WDR)

Means and sums are over users. A user who has fewer decisions than others keeps the weight of the last one and earns
nothing after it. Each of them is a sum of ratios of sums, so intervals are those of `eval.intervals`, and the weights
W_T decide whether the log supports a value at all (`eval.support`).

`window`: a decision further back than this many decisions no longer matters to a reward (Guo, Thomas & Brunskill 2017,
who let go of early ratios). It trades a bias, for a value where the whole product would be refused. Trajectory-wise
values have no such form and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats, bootstrap_values, from_bernstein, from_bootstrap, from_shares, ratios_of_sums
from eval.off_policy import INTERVALS, Estimate, OffPolicySettings
from eval.rounds import Real, log_probabilities, of_length, optional
from eval.support import Support, verdict, without_propensities
from eval.weights import WeightTally

NAMES = ("trajectory", "sn_trajectory", "per_decision", "sn_per_decision", "dr", "sn_dr")
PLAIN = OffPolicySettings()
LOG_LARGEST = 700.0  # what exp can hold


@dataclass(frozen=True)
class Trajectories:
    """Columns (n,), one row per decision, each user's in the order they were made.

    log_p_log, log_p_new, reward, user: as in `eval.rounds.LoggedRounds`; the reward is that of this step alone. q: what
    the new policy would earn from this step on, after the logged decision; v: the same before deciding. gamma: worth of
    a step later.
    """

    log_p_log: Real | None
    log_p_new: Real
    reward: Real
    user: NDArray[np.generic]
    q: Real | None = None
    v: Real | None = None
    gamma: float = 1.0


@dataclass(frozen=True)
class TrajectoryValue:
    """Values per user (sums over their steps) by estimator, the logging policy's own, and what the log supports."""

    estimates: Mapping[str, Estimate]
    logging: Estimate
    support: Support
    steps: int
    window: int | None = None
    by_step: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Table:
    """Users by steps, (U, T): cumulative weights, those of the step before, discounted rewards and models."""

    weight: Floats
    before: Floats
    reward: Floats
    q: Floats | None
    v: Floats | None


def trajectory_value(
    given: Trajectories, settings: OffPolicySettings = PLAIN, window: int | None = None
) -> TrajectoryValue:
    """Every estimator's value per user, or the reason why the log cannot say.

    Of `settings` the interval, draws, seed and support count. Raises InputError on no rows, a single user, columns of
    different lengths, NaN, log-probabilities above zero and a window below 1.
    """
    if window is not None and window < 1:
        raise InputError(f"window {window}: a reward depends on its own decision at least: give 1 or more")
    if settings.interval not in INTERVALS:
        raise InputError(f"interval {settings.interval!r}: choose {', '.join(INTERVALS)}")
    reward, user, step, users, steps = _steps(given)
    own = np.bincount(user, given.gamma**step * reward, minlength=users)
    everybody = np.stack([own, np.ones(users)], axis=1)
    if given.log_p_log is None or bool(np.isnan(np.asarray(given.log_p_log, np.float64)).all()):
        support = without_propensities(len(reward), users)
        refused = Estimate(None, None, None, 0.0, refused=support.refused)
        logging = _estimate(everybody, everybody, float(users), settings)
        return TrajectoryValue(dict.fromkeys(NAMES, refused), logging, support, steps, window)
    table = _table(given, reward, user, step, users, steps, window)
    support = _support(table, settings, users)
    logging = _estimate(everybody, everybody, float(users), settings)
    estimates = {}
    for name in NAMES:
        if ("dr" in name and table.q is None) or (window is not None and "trajectory" in name):
            continue
        if support.refused is not None:
            estimates[name] = Estimate(None, None, None, support.ess, refused=support.refused)
        else:
            estimates[name] = _estimate(_sums(name, table), everybody, support.ess, settings)
    by_step = {
        "effective_users": tuple(_effective(table.weight[:, t]) for t in range(steps)),
        "mean_weight": tuple(float(table.weight[:, t].mean()) for t in range(steps)),
    }
    return TrajectoryValue(estimates, logging, support, steps, window, by_step)


def _steps(given: Trajectories) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], int, int]:
    """(reward, user 0 .. U - 1, step 0 .. of each row, U, T)."""
    n = np.asarray(given.reward).size
    if n == 0:
        raise InputError("trajectories: none; there is nothing to estimate from")
    reward = of_length(given.reward, "reward", n)
    labels, user = np.unique(np.asarray(given.user), return_inverse=True)
    if user.shape != (n,):
        raise InputError(f"user: {user.shape} labels for {n} rewards; columns must have the same length")
    if len(labels) < 2:
        raise InputError(f"trajectories: {len(labels)} user in {n} rows; an interval needs at least two")
    order = np.argsort(user, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(user))[:-1]])
    step = np.empty(n, np.int64)
    step[order] = np.arange(n) - first[user[order]]
    return reward, user.astype(np.int64), step, len(labels), int(step.max()) + 1


def _table(
    given: Trajectories,
    reward: Floats,
    user: NDArray[np.int64],
    step: NDArray[np.int64],
    users: int,
    steps: int,
    window: int | None,
) -> _Table:
    n = reward.size
    log_p_log = log_probabilities(given.log_p_log, "log_p_log", (n,))
    log_p_new = log_probabilities(given.log_p_new, "log_p_new", (n,))
    never = np.flatnonzero(np.isneginf(log_p_log))
    if never.size:
        raise InputError(f"log_p_log: propensity 0 in row {never[0]}; what was done had a propensity above 0")
    if (given.q is None) != (given.v is None):
        raise InputError("trajectories: one of q and v is missing; give both or neither")
    discount = given.gamma**step

    def laid_out(values: Floats) -> Floats:
        found = np.zeros((users, steps))
        found[user, step] = values
        return found

    # -inf summed and taken off again would be nan: what never happens is counted apart.
    never_new = laid_out(np.isneginf(log_p_new).astype(np.float64))
    log_w = laid_out(np.where(np.isneginf(log_p_new), 0.0, log_p_new - log_p_log))
    total, zeros = np.cumsum(log_w, axis=1), np.cumsum(never_new, axis=1)
    if window is not None:
        total[:, window:] -= total[:, :-window].copy()
        zeros[:, window:] -= zeros[:, :-window].copy()
    if total.max(initial=0.0) > LOG_LARGEST:
        at = np.unravel_index(int(total.argmax()), total.shape)
        raise InputError(f"weights: overflow at step {at[1]} of a user; are both of the whole decision?")
    weight = np.where(zeros > 0, 0.0, np.exp(total))
    # Of the step before, over what the window of this step leaves of it.
    before_total, before_zeros = total - log_w, zeros - never_new
    before = np.where(before_zeros > 0, 0.0, np.exp(before_total))
    given_models = (optional(given.q, "q", n), optional(given.v, "v", n))
    models = [None if values is None else laid_out(discount * values) for values in given_models]
    return _Table(weight, before, laid_out(discount * reward), models[0], models[1])


def _support(table: _Table, settings: OffPolicySettings, users: int) -> Support:
    """The verdict on the weights of the step that has the fewest effective users."""
    effective = [_effective(table.weight[:, t]) for t in range(table.weight.shape[1])]
    worst = table.weight[:, int(np.argmin(effective))]
    tally = WeightTally()
    tally.add(worst)
    return verdict(tally, worst, np.ones(users), settings.support)


def _effective(weight: Floats) -> float:
    squares = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def _sums(name: str, table: _Table) -> Floats:
    """Top and bottom (U, 2J) of the ratios whose sum is the value."""
    w, before, r = table.weight, table.before, table.reward
    ones = np.ones(len(w))
    last = w[:, -1]
    if name == "trajectory":
        return np.stack([last * r.sum(axis=1), ones], axis=1)
    if name == "sn_trajectory":
        return np.stack([last * r.sum(axis=1), last], axis=1)
    if name == "per_decision":
        return np.stack([(w * r).sum(axis=1), ones], axis=1)
    if name == "sn_per_decision":
        return _by_step([(w * r, w)])
    assert table.q is not None
    assert table.v is not None
    if name == "dr":
        return np.stack([(w * (r - table.q) + before * table.v).sum(axis=1), ones], axis=1)
    return _by_step([(w * (r - table.q), w), (before * table.v, before)])


def _by_step(ratios: list[tuple[Floats, Floats]]) -> Floats:
    columns = []
    for top, bottom in ratios:
        for t in range(top.shape[1]):
            columns += [top[:, t], bottom[:, t]]
    return np.stack(columns, axis=1)


def _estimate(sums: Floats, everybody: Floats, ess: float, settings: OffPolicySettings) -> Estimate:
    """Value per user, its interval, and the difference from the logging policy's own, paired on the same users."""
    value, shares = ratios_of_sums(sums)
    mean, own = ratios_of_sums(everybody)
    users = len(sums)
    if settings.interval == "bootstrap":
        rng = np.random.default_rng(settings.seed)
        values, differences = bootstrap_values(sums, settings.draws, rng, less=everybody)
        interval, paired = from_bootstrap(value, values, users), from_bootstrap(value - mean, differences, users)
    else:
        of = from_shares if settings.interval == "asymptotic" else from_bernstein
        interval, paired = of(value, shares), of(value - mean, shares - own)
    return Estimate(value, interval.lo, interval.hi, ess, paired.value, paired.lo, paired.hi)
