"""How good each head is on labels that matured after everything was fitted, beside what people use today.

The same rows, features up to the same moments and the same measures for all. Differences are paired by user: a model
that is better only for one heavy user is not better.
"""

from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from data.histories import Decisions, Histories
from rewards.baselines import BASELINES
from rewards.calibration import auc, brier, c_index, calibration_error, reliability
from rewards.heads import Label, is_return
from rewards.model import RewardModel
from rewards.recency import recency_features
from rewards.slices import BackTest

DRAWS = 500


def head_quality(
    model: RewardModel,
    states: Tensor,
    plain: dict[str, np.ndarray],
    histories: Histories,
    decisions: Decisions,
    test: BackTest,
    seed: int,
    baselines: bool,
) -> dict[str, Any]:
    """Per label: auc (yes or no) or c_index (counts), spearman, ece (and before calibration), brier, n, baselines,
    paired.

    `return` is the time to return itself, judged by Harrell's c on the risk of returning within the middle horizon.
    """
    predicted = model.outcomes(states)
    features = recency_features(histories, decisions)
    result: dict[str, Any] = {}
    for label in test.labels:
        rows = test.judged_rows(label.name, decisions.time)
        if len(rows) < 50:
            result[label.name] = {"n": len(rows), "note": "too few labels matured after calibration to judge"}
            continue
        truth = test.final.values[label.name][rows] / label.trials
        share = predicted[label.name][rows] / label.trials
        binary = label.trials == 1
        entry = _measures(share, truth, binary)
        entry["ece_before"] = calibration_error(plain[label.name][rows] / label.trials, truth)
        entry["n"] = len(rows)
        entry["reliability"] = reliability(share, truth, label.trials)
        if baselines and label.days > 0:
            _beside(entry, label, share, truth, features, decisions.user, rows, test, seed)
        result[label.name] = entry
    retention = [label for label in test.labels if is_return(label.name)]
    if retention:
        result["return"] = _return(predicted, retention, decisions, test, seed)
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


def _beside(
    entry: dict[str, Any],
    label: Label,
    share: np.ndarray,
    truth: np.ndarray,
    features: np.ndarray,
    user: np.ndarray,
    rows: np.ndarray,
    test: BackTest,
    seed: int,
) -> None:
    binary = label.trials == 1
    measure = "auc" if binary else "c_index"
    # They learn from every label that we have learned from or calibrated with.
    known = test.calibration.values[label.name] / label.trials
    train = np.flatnonzero(~np.isnan(known))
    if len(train) > 40_000:
        train = np.sort(np.random.default_rng(seed).choice(train, 40_000, replace=False))
    entry["baseline"], entry["baseline_brier"], entry["paired"] = {}, {}, {}
    if len(np.unique(known[train])) < 2:
        return
    for name, baseline in BASELINES.items():
        theirs = baseline(features[train], known[train], binary, features[rows], seed)
        found = _measures(theirs, truth, binary)
        entry["baseline"][name] = found[measure]
        entry["baseline_brier"][name] = found["brier"]
        entry["paired"][name] = _paired((share - truth) ** 2 - (theirs - truth) ** 2, user[rows], seed)


def _paired(difference: np.ndarray, user: np.ndarray, seed: int) -> dict[str, float]:
    """Mean difference of squared errors (negative: ours is better) with a bootstrap over users, 95%."""
    _, index = np.unique(user, return_inverse=True)
    sums, counts = np.bincount(index, weights=difference), np.bincount(index)
    rng = np.random.default_rng(seed)
    draws = np.empty(DRAWS)
    for draw in range(DRAWS):
        chosen = rng.integers(0, len(sums), len(sums))
        draws[draw] = sums[chosen].sum() / counts[chosen].sum()
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"brier_diff": float(difference.mean()), "lo": float(low), "hi": float(high)}


def _return(
    predicted: dict[str, np.ndarray], retention: list[Label], decisions: Decisions, test: BackTest, seed: int
) -> dict[str, Any]:
    rows = np.flatnonzero(decisions.time >= test.calibrated)
    risk = predicted[retention[len(retention) // 2].name][rows]
    return {
        "c_index": c_index(risk, test.final.return_day[rows], test.final.returned[rows], seed),
        "n": len(rows),
    }
