"""What people use today, in the same harness: on the rows our heads are fitted on, judged on the rows ours are judged
on.

| name | what it is |
|---|---|
| recency_frequency | logistic regression (least squares for a count) on recency and frequency |
| rfm_boosting | LightGBM on all the counting features: recency, frequency, tenure, reactions, hour |
| delayed_only | the same, only from decisions whose longest window has closed: what one knows by waiting for all |
| day_two | the same trained on activity the next day, and read as the outcome: the proxy that is known soonest |
| by_segment | the mean of new, light, heavy and lapsing listeners; for a return, Kaplan-Meier |
| cox, bg_nbd | of `rewards.return_curves`, for returns |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rewards.boosting import lightgbm
from rewards.heads import Label
from rewards.recency import COLUMNS
from rewards.segments import SEGMENTS, segments

Floats = NDArray[np.float64]
RECENCY_FREQUENCY = tuple(COLUMNS.index(name) for name in ("log_gap_hours", "log_interactions", "log_interactions_28d"))
MOST_ROWS = 40_000
FEWEST_ROWS = 50
TREES: Mapping[str, Any] = MappingProxyType(
    {
        "objective": "cross_entropy",  # of shares in [0, 1] as well as of flags
        "learning_rate": 0.06,
        "num_leaves": 15,
        "min_data_in_leaf": 40,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
)


@dataclass(frozen=True)
class Task:
    """One label to foretell. features (D, F) of all decisions; share (D,) of the label in [0, 1], NaN where it may not
    be known yet; next_day (D,) likewise of activity on the next day (empty: not in this log); closed (D,): the longest
    window of the decision has closed; rows: those to foretell. curves: return curves (D, J) that are fitted already."""

    label: Label
    features: NDArray[np.float32]
    share: Floats
    next_day: Floats
    closed: NDArray[np.bool_]
    rows: NDArray[np.int64]
    curves: Mapping[str, Floats]
    seed: int

    @property
    def binary(self) -> bool:
        """Whether the label is yes or no."""
        return self.label.trials == 1

    def known(self, share: Floats) -> NDArray[np.int64]:
        """Rows where `share` may be known, at most `MOST_ROWS` of them."""
        train = np.flatnonzero(~np.isnan(share))
        if len(train) > MOST_ROWS:
            train = np.sort(np.random.default_rng(self.seed).choice(train, MOST_ROWS, replace=False))
        return train


# The predicted share of every row of the task (len(rows),); None where a baseline does not apply.
Baseline = Callable[[Task], Floats | None]


def recency_frequency(task: Task) -> Floats | None:
    """Logistic regression, or a clipped line, on recency and frequency alone."""
    train, columns = task.known(task.share), list(RECENCY_FREQUENCY)
    if not _teaches(task.share[train]):
        return None
    x, there, y = task.features[train][:, columns], task.features[task.rows][:, columns], task.share[train]
    return _line(x, y, there, task.binary, task.seed)


def rfm_boosting(task: Task) -> Floats | None:
    """Boosted trees on the counting features."""
    return _boosted(task, task.share)


def delayed_only(task: Task) -> Floats | None:
    """Boosted trees on the decisions whose every window has closed; for the longest label the same as above."""
    return _boosted(task, np.where(task.closed, task.share, np.nan))


def day_two(task: Task) -> Floats | None:
    """Boosted trees on the next day's activity, and one line from their prediction to the label."""
    if not len(task.next_day) or task.label.name == "returned_1d":
        return None
    train = task.known(task.share)
    both = _boosted(task, task.next_day, np.concatenate([train, task.rows]))
    if both is None or not _teaches(task.share[train]):
        return None
    proxy, there = both[: len(train), None], both[len(train) :, None]
    return _line(np.log(proxy / (1 - proxy)), task.share[train], np.log(there / (1 - there)), task.binary, task.seed)


def by_segment(task: Task) -> Floats | None:
    """The label's mean over the decision's segment; for a return, the segment's Kaplan-Meier curve."""
    if task.label.kind == "hazard":
        return _from_curve(task, "by_segment")
    train, code = task.known(task.share), segments(task.features)
    if not len(train):
        return None
    sums = np.bincount(code[train], weights=task.share[train], minlength=len(SEGMENTS))
    counts = np.bincount(code[train], minlength=len(SEGMENTS))
    overall = float(task.share[train].mean())
    means = np.where(counts >= FEWEST_ROWS, sums / np.maximum(counts, 1), overall)
    result: Floats = means[code[task.rows]]
    return result


def cox(task: Task) -> Floats | None:
    """Proportional hazards on the counting features, for returns."""
    return _from_curve(task, "cox")


def bg_nbd(task: Task) -> Floats | None:
    """Fader, Hardie & Lee's BG/NBD, for returns."""
    return _from_curve(task, "bg_nbd")


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "recency_frequency": recency_frequency,
        "rfm_boosting": rfm_boosting,
        "delayed_only": delayed_only,
        "day_two": day_two,
        "by_segment": by_segment,
        "cox": cox,
        "bg_nbd": bg_nbd,
    }
)


def _boosted(task: Task, target: Floats, rows: NDArray[np.int64] | None = None) -> Floats | None:
    train = task.known(target)
    if not _teaches(target[train]):
        return None
    data = lightgbm.Dataset(task.features[train], label=target[train])
    trees = lightgbm.train(dict(TREES) | {"seed": task.seed}, data, num_boost_round=120)
    found = np.asarray(trees.predict(task.features[task.rows if rows is None else rows]), np.float64)
    share: Floats = np.clip(found, 1e-6, 1 - 1e-6)
    return share


def _line(x: NDArray[np.floating], y: Floats, there: NDArray[np.floating], binary: bool, seed: int) -> Floats:
    if binary:
        model = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed)).fit(x, y > 0.5)
        probability: Floats = model.predict_proba(there)[:, 1]
        return probability
    line = make_pipeline(StandardScaler(), Ridge(1.0)).fit(x, y)
    expected: Floats = np.clip(line.predict(there), 0.0, 1.0)
    return expected


def _from_curve(task: Task, name: str) -> Floats | None:
    if task.label.kind != "hazard" or name not in task.curves:
        return None
    result: Floats = task.curves[name][task.rows, task.label.days]
    return result


def _teaches(share: Floats) -> bool:
    return len(share) >= FEWEST_ROWS and bool(np.any(share != share[0]))
