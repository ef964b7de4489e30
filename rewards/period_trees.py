"""The last word on what will happen: boosted trees on counting features that learn from yesterday as well.

A label of a week is known a week late. In a log that drifts, what has closed is about those who came first, and a head
that is calibrated on it promises the listeners of today what those of last month did. But a window that is open says
something every day: who came yesterday, who has not come for three days. So a label is taken apart into periods (the
days of a return curve, the days and weeks of a count), each known as soon as it has passed, and one model foretells a
period of a decision from what was known then, on all periods that have passed (the person-period form of a
discrete-time hazard: Singer & Willett, 1993; Tutz & Schmid, 2016, ch. 3). Return curves and expected counts are read
off it, so they stay monotone in the days and within their range. Reach is two of them: not to leave, and to come once.

What they know of a day is its weekday; what they know of a listener are the counting features of the tabular baseline,
but what only ever grows is told as a rate, and tenure up to a month, or to half of the longest that was learned from
(`rewards.recency.lasting`): periods to come are foretold of listeners who have been there for longer than any that
were learned from. What the network foretells is not among them: as a start or as a column it made forecasts no better,
and mostly worse (docs/rewards.md). Last, one number per family sets the level of the trees right for the weeks to
come: a running mean of what the weeks so far were above it or below, at the pace that would have foretold each of them
best (exponential smoothing, which is exact for a level that drifts as a random walk: Muth 1960).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.model_selection import GroupKFold

from rewards import reach
from rewards.baselines import TREES
from rewards.boosting import lightgbm
from rewards.heads import Label, Targets, is_return
from rewards.recency import COLUMNS, WINDOWS, lasting, tenure_days

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
RETURN, ACTIVE, HABIT, LEAVING = "return", "active", "habit", "leaving"
_LATER = ((8, 14), (15, 21), (22, 28))
# Days of a period, both ends included: daily in the first week, weekly after it.
PERIODS: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        RETURN: (*((day, day) for day in range(8)), *_LATER),
        ACTIVE: (*((day, day) for day in range(1, 8)), *_LATER),
        HABIT: ((1, 7), *_LATER),
        LEAVING: reach.PERIODS,
    }
)
HABIT_DAYS = 3
MOST_PERIODS = 120_000
FEWEST_PERIODS = 2_000
ROUNDS = 120
FOLDS, PATIENCE = 5, 10
AGREED_SHARE = 0.98
WEEK = 7  # levels are of whole weeks, because weekdays differ
MOST_WEEKS, FEWEST_WEEKS = 27, 4  # half a year is looked back at; of less than a month no pace is told
PACES = np.linspace(0.0, 1.0, 21)
KNOWN = len(COLUMNS) + 1  # columns of `known_of`


@dataclass(frozen=True)
class PeriodTrees:
    """Trees by family (return, active, habit, leaving) as LightGBM's text; none for one that the log does not carry.
    shift: what is added to their log-odds. most_tenure: days up to which tenure is told apart.

    Features (D, KNOWN) are rows of `known_of`.
    """

    by_family: Mapping[str, str]
    shift: Mapping[str, float]
    most_tenure: float

    @staticmethod
    def none() -> "PeriodTrees":
        """Of no family: everything is left to the network's heads."""
        return PeriodTrees({}, {}, 0.0)

    @cached_property
    def _boosters(self) -> dict[str, lightgbm.Booster]:
        return {family: lightgbm.Booster(model_str=text) for family, text in self.by_family.items()}

    def shares(self, labels: Sequence[Label], features: NDArray[np.floating]) -> dict[str, Floats]:
        """Share (D,) of the labels that it has trees for; of reachability, for those who have not left before."""
        found: dict[str, Floats] = {}
        returns = [label for label in labels if is_return(label.name)]
        if RETURN in self.by_family and returns:
            curve = self.return_curve(features, 1 + max(label.days for label in returns))
            found |= {label.name: curve[:, label.days] for label in returns}
            risks = [label for label in labels if family_of(label) == LEAVING and label.days < curve.shape[1]]
            found |= {label.name: self._stays(features) * visited(curve, label.days) for label in risks}
        for family in (ACTIVE, HABIT):
            wanted = [label for label in labels if family_of(label) == family and family in self.by_family]
            if wanted:
                kept = within(PERIODS[family], max(label.days for label in wanted))
                by_period = self._foretell(family, kept, features)
                sizes = np.array([end - start + 1 for start, end in kept])
                for label in wanted:
                    inside = len(within(kept, label.days))
                    found[label.name] = by_period[:, :inside] @ sizes[:inside] / sizes[:inside].sum()
        return found

    def return_curve(self, features: NDArray[np.floating], bins: int) -> Floats:
        """Probability (D, bins) of having returned by the end of each day 0, 1, .. bins - 1."""
        periods = within(PERIODS[RETURN], bins - 1)
        hazard = self._foretell(RETURN, periods, features)
        stays = np.ones(len(features))
        curve = np.empty((len(features), bins))
        for column, (start, end) in enumerate(periods):
            for day in range(start, end + 1):
                # Within a period the hazard is even.
                curve[:, day] = 1.0 - stays * (1.0 - hazard[:, column]) ** ((day - start + 1) / (end - start + 1))
            stays = stays * (1.0 - hazard[:, column])
        return curve

    def _stays(self, features: NDArray[np.floating]) -> Floats:
        """Probability (D,) of not leaving within reachability's window; certain where nobody was seen to leave."""
        if LEAVING not in self.by_family:
            return np.ones(len(features))
        stays: Floats = (1.0 - self._foretell(LEAVING, PERIODS[LEAVING], features)).prod(1)
        return stays

    def _foretell(self, family: str, periods: Sequence[tuple[int, int]], features: NDArray[np.floating]) -> Floats:
        trees, features = self._boosters[family], lasting(features, self.most_tenure)
        found = np.empty((len(features), len(periods)))
        for column, (start, end) in enumerate(periods):
            design = _design(features, np.full(len(features), start), np.full(len(features), end))
            found[:, column] = np.asarray(trees.predict(design, raw_score=True, num_threads=1))
        shares: Floats = expit(found + _start(family, *np.array(periods).T) + self.shift[family])
        return shares


def family_of(label: Label) -> str:
    """Which trees foretell a label; empty: none do."""
    if is_return(label.name):
        return RETURN
    return {"active_days": ACTIVE, "habit": HABIT, "reachable": LEAVING}.get(label.name.rsplit("_", 1)[0], "")


def visited(curve: Floats, days: int) -> Floats:
    """Probability (D,) of a visit on one of the days after the decision's own, from a return curve (D, J): as if those
    who were back on the same day came on the later ones like those who were not."""
    found: Floats = 1.0 - (1.0 - curve[:, days]) / np.maximum(1.0 - curve[:, 0], 1e-12)
    return found


def within(periods: Sequence[tuple[int, int]], days: int) -> list[tuple[int, int]]:
    """The periods that end within so many days."""
    return [(start, end) for start, end in periods if end <= days]


def fit_period_trees(
    labels: Sequence[Label],
    features: NDArray[np.floating],
    periods_seen: Mapping[str, Floats],
    user: NDArray[np.integer],
    day: NDArray[np.int64],
    seed: int,
) -> PeriodTrees:
    """Trees of each family from the periods that have passed.

    features as in `PeriodTrees`. periods_seen: family -> (D, periods) of what happened, NaN where a period has not
    passed or, in a return curve, the listener was back before it (see `passed`). user, day (D,): whose decision it was,
    and its local day.
    """
    trees: dict[str, str] = {}
    shift: dict[str, float] = {}
    learned = np.any([~np.isnan(happened).all(axis=1) for happened in periods_seen.values()], axis=0)
    most_tenure = max(WINDOWS[-1], float(tenure_days(features[learned]).max(initial=0.0)) / 2)
    kept = lasting(features, most_tenure)
    for family, all_periods in PERIODS.items():
        ours = [label for label in labels if family_of(label) == family]
        if not ours or family not in periods_seen:
            continue
        periods = within(all_periods, max(label.days for label in ours))
        happened = periods_seen[family][:, : len(periods)]
        row, column = np.nonzero(~np.isnan(happened))
        rng = np.random.default_rng(seed)
        if len(row) > MOST_PERIODS:
            drawn = np.sort(rng.choice(len(row), MOST_PERIODS, replace=False))
            row, column = row[drawn], column[drawn]
        y = happened[row, column]
        if len(y) < FEWEST_PERIODS or np.all(y == y[0]):
            continue
        starts, ends = np.array(periods)[column].T
        design = _design(kept[row], starts, ends)
        start = _start(family, starts, ends)
        level = _level(start, y)
        rounds = _rounds(design, y, start + level, user[row], seed) if family == LEAVING else ROUNDS
        data = lightgbm.Dataset(design, label=y, init_score=start + level)
        model = lightgbm.train(dict(TREES) | {"seed": seed}, data, num_boost_round=rounds)
        trees[family] = model.model_to_string()
        told = np.asarray(model.predict(design, raw_score=True, num_threads=1)) + start + level
        ended = day[row] + ends
        ago = (ended.max() - ended) // WEEK
        weeks = range(min(int(ago.max()), MOST_WEEKS - 1), -1, -1)
        shift[family] = level + carried_on([_level(told[ago == week], y[ago == week]) for week in weeks])
    return PeriodTrees(trees, shift, most_tenure)


def carried_on(levels: Sequence[float]) -> float:
    """The level of the next week, from that of each so far: their running mean, at the pace that would have foretold
    each from those before it best. Of fewer than FEWEST_WEEKS no pace can be told: the last one's level."""
    if len(levels) < FEWEST_WEEKS:
        return levels[-1]
    mean, missed = np.zeros(len(PACES)), np.zeros(len(PACES))
    for now, following in pairwise(levels):
        mean += PACES * (now - mean)
        missed += (following - mean) ** 2
    mean += PACES * (levels[-1] - mean)
    return float(mean[missed.argmin()])


def _start(family: str, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Floats:
    """What the log-odds of periods (n,) are before anything is learned: who may leave does so on any day alike."""
    return np.log(ends - starts + 1.0) if family == LEAVING else np.zeros(len(starts))


def _rounds(design: NDArray[np.floating], y: Floats, start: Floats, user: NDArray[np.integer], seed: int) -> int:
    """How many trees foretell it best of people (n,) whom they have not seen. Who leaves does it once, in many rows:
    trees that are many enough learn who it was."""
    if len(np.unique(user)) < FOLDS:
        return 1  # of so few nobody can be foretold
    data = lightgbm.Dataset(design, label=y, init_score=start)
    folds = list(GroupKFold(FOLDS).split(design, y, user))
    found = lightgbm.cv(
        dict(TREES) | {"seed": seed},
        data,
        num_boost_round=ROUNDS,
        folds=folds,
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    return len(np.asarray(found["valid cross_entropy-mean"]))


def _level(told: Floats, happened: Floats) -> float:
    """What to add to log-odds (n,) so that they say as much as happened (n,); Newton, with a prior worth 20 rows."""
    shift = 0.0
    for _ in range(25):
        share = expit(told + shift)
        slope = float((share * (1 - share)).sum()) + 20.0 * 0.25
        shift += (float((happened - share).sum()) - 20.0 * 0.25 * shift) / slope
    return shift


def passed(aligned: pl.DataFrame, moment: int, known_then: Targets, gone: Bools) -> dict[str, Floats]:
    """What happened in each period of D decisions, as far as it was known at `moment` (us): family -> (D, periods).

    aligned: outcomes in the decisions' order, null where there are none. known_then: the days of returning and leaving
    at that moment. gone (D,): who had left before the decision, and cannot leave again. A day of a listener on which a
    decision was made is an active one.
    """
    day = aligned["local_day"].cast(pl.Int32).cast(pl.Int64).fill_null(-1).to_numpy()
    user = aligned["user_id"].fill_null("").rank("dense").cast(pl.Int64).to_numpy()
    closes = aligned["matured_1d"].cast(pl.Int64).to_numpy().astype(np.float64)
    there = day >= 0
    known = np.where(there, np.floor((moment - np.nan_to_num(closes)) / 86_400e6) + 1, 0.0)  # whole days seen after
    made = aligned["time"].cast(pl.Int64).to_numpy().astype(np.float64)
    span = np.int64(1 << 20)
    active = np.unique((user * span + day)[there & (np.nan_to_num(made, nan=np.inf) <= moment)])
    days = np.arange(1, 29)
    wanted = (user * span + day)[:, None] + days
    at = np.minimum(np.searchsorted(active, wanted), max(len(active) - 1, 0))
    trace = (active[at] == wanted) if len(active) else np.zeros(wanted.shape, np.bool_)
    found: dict[str, Floats] = {}
    for family in (ACTIVE, HABIT):
        columns = []
        for start, end in PERIODS[family]:
            count = trace[:, start - 1 : end].sum(1)
            share = (count >= HABIT_DAYS) if family == HABIT else count / (end - start + 1)
            columns.append(np.where(there & (known >= end), share, np.nan))
        found[family] = np.stack(columns, axis=1).astype(np.float64)
    if not _counts_days(aligned, trace):
        found = {}
    found[RETURN] = _hazard(RETURN, known_then.return_day, known_then.returned, np.where(there, known, -1))
    found[LEAVING] = _hazard(LEAVING, known_then.left_day, known_then.left, np.where(there & ~gone, known, -1))
    return found


def _hazard(family: str, day: NDArray[np.int64], happened: Bools, known: Floats) -> Floats:
    """(D, periods): whether it happened in a period, NaN after it did. day (D,): of the event, or the days that were
    seen without it; known (D,): days after the decision's that are over."""
    columns = []
    for start, end in PERIODS[family]:
        # Only periods that are over: those back early are known sooner than those who stay away.
        over = known >= end
        inside = over & happened & (day >= start) & (day <= end)
        columns.append(np.where(inside, 1.0, np.where(over & (day > end), 0.0, np.nan)))
    return np.stack(columns, axis=1)


def _counts_days(aligned: pl.DataFrame, trace: Bools) -> bool:
    """Whether days with a decision are the log's active days: not so where people come without being shown a slate."""
    label = aligned["active_days_7"].cast(pl.Float64).to_numpy()
    closed = ~np.isnan(label)
    return bool(closed.any()) and float(np.mean(trace[closed, :7].sum(1) == label[closed])) >= AGREED_SHARE


def known_of(counts: NDArray[np.floating], hour_of_week: NDArray[np.integer]) -> NDArray[np.floating]:
    """What trees are told of decisions (D, KNOWN): rows of `rewards.recency.recency_features` and the local weekday."""
    return np.column_stack([counts, hour_of_week // 24]).astype(counts.dtype)


def _design(features: NDArray[np.floating], start: NDArray[np.integer], end: NDArray[np.integer]) -> NDArray[Any]:
    """The counts beside the period that is asked about: its first day, and the weekday on which it falls (a week falls
    on none): who comes on workdays does not come tomorrow if that is a Saturday."""
    falls = np.where(start == end, (features[:, -1] + start) % WEEK, WEEK)
    return np.column_stack([features[:, :-1], start, falls])
