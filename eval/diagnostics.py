"""What else can be checked before an off-policy value is believed: four questions whose answer is known beforehand.

Control variates: functions whose mean under the new policy is known must come out right (the mean weight, 1, is the
first of them). Placebo: the "effect" of another policy on what happened before the decision is zero. Calibration: of
the actions said to be shown with probability p, a share p was. Overlap: is there anybody for whom the log has no
answer, though it has one on average? Every answer has an interval clustered by user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from data.errors import InputError
from eval.estimators import point_and_influence
from eval.intervals import Floats, Interval, cluster_codes, finite, from_influence, from_shares, ratios_of_sums
from eval.rounds import Columns, LoggedRounds, checked_columns
from eval.support import Support, SupportSettings, assess
from eval.user_sums import UserSums


@dataclass(frozen=True)
class Check:
    """A number whose true value is known. errors: how many standard errors it lies from it; p: of a difference as
    large by chance; passed: p is above .01 divided by the number of checks made together."""

    name: str
    expected: float
    found: Interval
    errors: float
    p: float
    passed: bool


@dataclass(frozen=True)
class CalibrationBin:
    """Rounds x actions whose logged probability fell into one bin: its mean, and the share really taken."""

    predicted: float
    observed: Interval
    pairs: int


def control_variates(
    rounds: LoggedRounds, variates: Mapping[str, tuple[Floats, Floats]] | None = None, level: float = 0.01
) -> list[Check]:
    """Does reweighting give what is known of the new policy? The mean weight, and whatever else is given.

    variates: name -> (f of the logged action (n,), the new policy's expected f (n,)); then mean(w f) must equal
    mean(E_new f). A failure means wrong propensities, wrong probabilities of the new policy, or no overlap.
    Raises InputError as `checked_columns`.
    """
    columns = checked_columns(rounds)
    codes, users = cluster_codes(rounds.user, columns.r.size)
    known = {"mean weight": (np.ones_like(columns.w), np.ones_like(columns.w))} | dict(variates or {})
    checks = []
    for name, (f, expected) in known.items():
        gap = columns.w * finite(f, name) - finite(expected, name)
        found = from_influence(float(gap.mean()), gap - gap.mean(), codes, users)
        due = float(np.mean(expected))
        moved = Interval(found.value + due, found.lo + due, found.hi + due, found.se, users)
        checks.append(_check(name, due, moved, level / len(known)))
    return checks


def placebo(
    rounds: LoggedRounds, before: Mapping[str, Floats], estimator: str = "snips", level: float = 0.01
) -> list[Check]:
    """The new policy's effect on outcomes (n,) from before the decision, which is zero whatever the policy.

    Value less the logging policy's mean, paired on the same rounds. A failure means that who got which slate depends
    on something that the propensities do not know. Raises InputError as `checked_columns`.
    """
    columns = checked_columns(rounds)
    codes, users = cluster_codes(rounds.user, columns.r.size)
    checks = []
    for name, outcome in before.items():
        r = finite(outcome, name)
        value, influence = point_and_influence(estimator, Columns(columns.w, r))
        found = from_influence(value - float(r.mean()), influence - (r - r.mean()), codes, users)
        checks.append(_check(name, 0.0, found, level / max(len(before), 1)))
    return checks


def _check(name: str, expected: float, found: Interval, level: float) -> Check:
    gap = found.value - expected
    errors = gap / found.se if found.se > 0 else (0.0 if abs(gap) < 1e-9 else float("inf") * np.sign(gap))
    p = float(2.0 * student_t.sf(abs(errors), found.clusters - 1))
    return Check(name, expected, found, float(errors), p, p > level)


def overlap(
    rounds: LoggedRounds, segment: NDArray[np.generic], settings: SupportSettings | None = None
) -> dict[str, Support]:
    """Support by segment (n,) of rounds, the thinnest first: a log may carry an average and nobody under 25.

    Raises InputError as `checked_columns`; a segment of one user is left out, as nothing can be said of its spread.
    """
    columns = checked_columns(rounds)
    labels = np.asarray(segment)
    if labels.shape != columns.r.shape:
        raise InputError(f"segment: {labels.shape} labels for {columns.r.size} rounds; give one per row")
    found = {}
    for name in np.unique(labels).tolist():
        mine = labels == name
        users = np.unique(np.asarray(rounds.user)[mine])
        if len(users) < 2:
            continue
        codes, count = cluster_codes(np.asarray(rounds.user)[mine], int(mine.sum()))
        outside = None if rounds.off_support is None else np.asarray(rounds.off_support, np.float64)[mine]
        found[str(name)] = assess(columns.w[mine], codes, count, settings or SupportSettings(), outside)
    return dict(sorted(found.items(), key=lambda item: item[1].ess_users))


def propensity_calibration(
    blocks: Iterable[tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.generic]]], edges: Sequence[float] = ()
) -> list[CalibrationBin]:
    """Are the logged probabilities those by which actions came? Blocks of (p_log (B, A), action (B,), user (B,)).

    edges: of the bins of probability; decades from 1e-6 by default. The interval of a bin's observed share is clustered
    by user, over users who have pairs in it. Raises InputError where nothing was given.
    """
    cuts = np.asarray(edges or [*10.0 ** np.arange(-6, -1), 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    bins = len(cuts) + 1
    sums = UserSums()
    for p, action, user in blocks:
        n = len(action)
        place = np.digitize(p, cuts) + bins * np.arange(n)[:, None]  # (B, A): the round's own bins
        counted = [
            np.bincount(place.ravel(), weights=np.asarray(p, np.float64).ravel(), minlength=n * bins),
            np.bincount(place[np.arange(n), action], minlength=n * bins),
            np.bincount(place.ravel(), minlength=n * bins),
        ]
        sums.add(user, np.concatenate([part.reshape(n, bins).astype(np.float64) for part in counted], axis=1))
    _, table = sums.table()
    found = []
    for b in range(bins):
        predicted, taken, pairs = table[:, b], table[:, bins + b], table[:, 2 * bins + b]
        if np.count_nonzero(pairs) < 2:
            continue
        share, shares = ratios_of_sums(np.stack([taken, pairs], axis=1))
        total = float(pairs.sum())
        found.append(CalibrationBin(float(predicted.sum()) / total, from_shares(share, shares), int(total)))
    return found
