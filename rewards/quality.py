"""How good each head is on labels that matured after calibration, beside what people use today.

The same rows, features up to the same moments and the same measures for all. Differences are paired by user: a model
that is better only for one heavy user is not better. Everything is said again for new, light, heavy and lapsing
listeners, because a head may be right on average and wrong about those who are leaving.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from data.histories import Decisions, Histories
from rewards.baselines import BASELINES, Task
from rewards.calibration import auc, brier, c_index, calibration_error, chance_error, reliability
from rewards.heads import Label, is_return
from rewards.recency import recency_features
from rewards.return_curves import Returns, return_curves
from rewards.segments import SEGMENTS, segments
from rewards.slices import BackTest
from rewards.survival import Followed, auc_at, d_calibration, integrated_brier, last_day_known, squared_errors

DRAWS = 500
FEWEST_JUDGED = 50


@dataclass(frozen=True)
class Forecasts:
    """What is judged: the expected value (D,) of every label, and the return curve (D, J); NaN where nothing is.

    side (D,): the half of the users that each decision's is of, 0 or 1. What is foretold of one half has learned from
    the other, and so must everything that is set beside it: windows of one listener overlap.
    """

    outcomes: Mapping[str, np.ndarray]
    curve: np.ndarray
    side: np.ndarray


def head_quality(
    forecasts: Forecasts,
    plain: dict[str, np.ndarray],
    histories: Histories,
    decisions: Decisions,
    test: BackTest,
    seed: int,
    baselines: bool,
) -> dict[str, Any]:
    """Per label: auc (yes or no) or c_index (counts), spearman, ece (ece_before calibration; ece_chance, which a right
    forecast exceeds in one of twenty cases), brier, n, reliability, segments, and baseline, baseline_brier,
    baseline_ece, paired by name of the baseline.

    `return` is the time to return itself, see `_return`.
    """
    predicted = forecasts.outcomes
    features = recency_features(histories, decisions)
    code = segments(features)
    known = (test.calibration.return_day > 0) | test.calibration.returned
    day, returned = test.calibration.return_day, test.calibration.returned
    returns = Returns(features, last_day_known(day, returned), returned, decisions.user, np.flatnonzero(known))
    side = forecasts.side
    curves = _curves(returns, side, test.calibration.bins, seed) if baselines and test.calibration.bins else {}
    result: dict[str, Any] = {}
    for label in test.labels:
        rows = test.judged_rows(label.name, decisions.time)
        if len(rows) < FEWEST_JUDGED:
            result[label.name] = {"n": len(rows), "note": "too few labels matured after calibration to judge"}
            continue
        truth = test.final.values[label.name][rows] / label.trials
        if np.all(truth == truth[0]):
            result[label.name] = {"n": len(rows), "note": "the same for everybody after calibration: nothing to judge"}
            continue
        share = predicted[label.name][rows] / label.trials
        entry = _measures(share, truth, label.trials == 1)
        entry["ece_chance"] = chance_error(share, truth, decisions.user[rows], seed)
        entry["ece_before"] = calibration_error(plain[label.name][rows] / label.trials, truth)
        entry["n"] = len(rows)
        if decisions.time[rows].max() < test.cut:
            entry["note"] = "judged on decisions before the cut: no window that opened after it has closed by now"
        entry["reliability"] = reliability(share, truth, label.trials)
        entry["segments"] = _by_segment(share, truth, label, code[rows])
        if baselines and label.days > 0:
            # Who has left is known to all who foretell who can be reached.
            told = np.column_stack([features, test.gone]).astype(np.float32) if label.kind == "risks" else features
            theirs = _baselines(_task(label, told, test, rows, curves, seed), side)
            _beside(entry, label, share, truth, theirs, decisions.user[rows], seed)
        result[label.name] = entry
    retention = [label for label in test.labels if is_return(label.name)]
    if retention:
        result["return"] = _return(forecasts.curve, retention, curves, decisions, test, seed)
    return result


def _measures(share: np.ndarray, truth: np.ndarray, binary: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if binary:
        entry["auc"] = auc(share, truth)
    else:
        everyone = np.ones(len(truth), bool)
        entry["c_index"] = c_index(share, -truth, everyone)
        entry["spearman"] = float(spearmanr(share, truth).statistic) if truth.std() > 0 and share.std() > 0 else 0.0
        entry["r2"] = 1.0 - float(np.sum((truth - share) ** 2) / max(float(np.sum((truth - truth.mean()) ** 2)), 1e-12))
    entry["ece"] = calibration_error(share, truth)
    entry["brier"] = brier(share, truth)
    return entry


def _by_segment(share: np.ndarray, truth: np.ndarray, label: Label, code: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for at, name in enumerate(SEGMENTS):
        of = code == at
        found[name] = {"n": int(of.sum())}
        if of.sum() >= FEWEST_JUDGED:
            found[name] |= _said(_measures(share[of], truth[of], label.trials == 1))
            found[name]["predicted"] = float(share[of].mean()) * label.trials
            found[name]["observed"] = float(truth[of].mean()) * label.trials
            found[name]["reliability"] = reliability(share[of], truth[of], label.trials)
    return found


def _said(measures: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers: there is no AUC of a segment that all came back."""
    return {name: value for name, value in measures.items() if np.isfinite(value)}


def _task(
    label: Label, features: np.ndarray, test: BackTest, rows: np.ndarray, curves: Mapping[str, np.ndarray], seed: int
) -> Task:
    # They learn from every label that we have learned from or calibrated with.
    known = test.calibration.values
    longest = max(test.labels, key=lambda one: one.days)
    return Task(
        label=label,
        features=features,
        share=known[label.name].astype(np.float64) / label.trials,
        next_day=known["returned_1d"].astype(np.float64) if "returned_1d" in known else np.zeros(0),
        closed=~np.isnan(known[longest.name]),
        rows=rows,
        curves=curves,
        seed=seed,
    )


def _baselines(task: Task, side: np.ndarray) -> dict[str, np.ndarray]:
    """Each baseline's shares of the task's rows, of either half of the users by what the other half teaches."""
    found = {name: np.full(len(task.rows), np.nan) for name in BASELINES}
    for half in (0, 1):
        asked, teaches = side[task.rows] == half, side != half
        if not asked.any():
            continue
        part = replace(
            task,
            share=np.where(teaches, task.share, np.nan),
            next_day=np.where(teaches, task.next_day, np.nan) if len(task.next_day) else task.next_day,
            rows=task.rows[asked],
        )
        for name in list(found):
            share = BASELINES[name](part)
            if share is None:
                del found[name]
            else:
                found[name][asked] = share
    return found


def _curves(returns: Returns, side: np.ndarray, days: int, seed: int) -> dict[str, np.ndarray]:
    """Return curves (D, days) by name, likewise."""
    of_half = [
        return_curves(replace(returns, train=returns.train[side[returns.train] != half]), days, seed) for half in (0, 1)
    ]
    both = [name for name in of_half[0] if name in of_half[1]]
    return {name: np.where((side == 0)[:, None], of_half[0][name], of_half[1][name]) for name in both}


def _beside(
    entry: dict[str, Any],
    label: Label,
    share: np.ndarray,
    truth: np.ndarray,
    theirs: Mapping[str, np.ndarray],
    user: np.ndarray,
    seed: int,
) -> None:
    measure = "auc" if label.trials == 1 else "c_index"
    found = {name: _measures(other, truth, label.trials == 1) for name, other in theirs.items()}
    for column, of in (("baseline", measure), ("baseline_brier", "brier"), ("baseline_ece", "ece")):
        entry[column] = {name: measures[of] for name, measures in found.items()}
    ours = (share - truth) ** 2
    entry["paired"] = paired({name: ours - (other - truth) ** 2 for name, other in theirs.items()}, user, seed)


def paired(differences: Mapping[str, np.ndarray], user: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """Mean differences of squared errors (n,) by name (negative: ours is better), with a bootstrap over users, 95%."""
    if not differences:
        return {}
    _, index = np.unique(user, return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    sums = np.stack([np.bincount(index, weights=difference) for difference in differences.values()], axis=1)
    rng = np.random.default_rng(seed)
    draws = np.empty((DRAWS, len(differences)))
    for draw in range(DRAWS):
        chosen = np.bincount(rng.integers(0, len(counts), len(counts)), minlength=len(counts)).astype(np.float64)
        draws[draw] = (chosen @ sums) / (chosen @ counts)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return {
        name: {"brier_diff": float(difference.mean()), "lo": float(low[j]), "hi": float(high[j])}
        for j, (name, difference) in enumerate(differences.items())
    }


def _return(
    foretold: np.ndarray,
    retention: list[Label],
    curves: Mapping[str, np.ndarray],
    decisions: Decisions,
    test: BackTest,
    seed: int,
) -> dict[str, Any]:
    """The time to return, on all decisions after calibration, whether their windows have closed or not: c_index,
    brier (integrated over days, weighted by inverse probability of censoring), auc_at (time-dependent, by day),
    d_calibration, and the same of every baseline's curve, with the paired difference of the integrated Brier score."""
    rows = np.flatnonzero(decisions.time >= test.calibrated)
    if len(rows) < FEWEST_JUDGED:
        return {"n": len(rows), "note": "too few decisions after calibration to judge"}
    returned, user = test.final.returned[rows], decisions.user[rows]
    day = last_day_known(test.final.return_day[rows], returned)
    followed = Followed.of(day, returned)
    last = min(test.final.bins - 1, int(followed.horizon()))
    times = [float(t) for t in range(1, last + 1)]
    if not times:
        return {"n": len(rows), "note": "nobody was followed for a day"}
    ours = foretold[rows]
    entry: dict[str, Any] = {"n": len(rows), "days": last}
    entry |= _curve_measures(ours, day, returned, user, followed, times, retention, seed)
    theirs = {name: _curve_measures(curve[rows], day, returned, user, followed, times, retention, seed)
              for name, curve in curves.items()}  # fmt: skip
    for column, of in (("baseline", "c_index"), ("baseline_brier", "brier"), ("baseline_auc_at", "auc_at")):
        entry[column] = {name: measures[of] for name, measures in theirs.items()}
    entry["baseline_d_calibration"] = {name: measures["d_calibration"] for name, measures in theirs.items()}
    errors = squared_errors(followed, ours[:, 1 : last + 1], times)
    differences = {
        name: errors - squared_errors(followed, curve[rows][:, 1 : last + 1], times) for name, curve in curves.items()
    }
    entry["paired"] = paired(differences, user, seed)
    return entry


def _curve_measures(
    curve: np.ndarray,
    day: np.ndarray,
    returned: np.ndarray,
    user: np.ndarray,
    followed: Followed,
    times: list[float],
    retention: list[Label],
    seed: int,
) -> dict[str, Any]:
    _, one = np.unique(user, return_index=True)  # rows of one user are no independent draws
    shares, p = d_calibration(1.0 - curve[one], day[one], returned[one])
    return {
        # By the restricted mean time away: the share that is back by one horizon hardly tells apart who is back early.
        "c_index": c_index(curve[:, : len(times) + 1].sum(axis=1), day, returned, seed),
        "brier": integrated_brier(followed, curve[:, 1 : len(times) + 1], times),
        "auc_at": _said(
            {
                str(one.days): auc_at(followed, curve[:, one.days], one.days)
                for one in retention
                if one.days <= times[-1]
            }
        ),
        "d_calibration": {"shares": shares.tolist(), "worst": float(np.abs(shares - 0.1).max()), "p": p},
    }
