"""Can a prediction be taken at its word? Curves of predicted against observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import finite
from eval.report.inputs import HeadQuality, Reliability


def reliability_curve(predicted: NDArray[np.floating], observed: NDArray[np.floating], bins: int = 10) -> Reliability:
    """Mean prediction and mean outcome (n,) in bins of equal size, lowest predictions first.

    Rows whose outcome is nan (not matured) are left out; equal predictions share a bin. Raises InputError when fewer
    rows than bins are left.
    """
    known = ~np.isnan(np.asarray(observed, dtype=np.float64))
    guess, came = finite(np.asarray(predicted)[known], "predicted"), finite(np.asarray(observed)[known], "observed")
    if guess.size < bins:
        raise InputError(f"reliability: {guess.size} matured outcomes for {bins} bins; use a longer log")
    edges = np.unique(np.quantile(guess, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, guess, side="left")
    rows = np.bincount(place, minlength=edges.size + 1)
    filled = rows > 0
    mean_guess = np.bincount(place, weights=guess, minlength=rows.size)[filled] / rows[filled]
    mean_came = np.bincount(place, weights=came, minlength=rows.size)[filled] / rows[filled]
    return Reliability(mean_guess.tolist(), mean_came.tolist(), rows[filled].tolist())


def head_quality(entry: Mapping[str, Any], curve: Reliability | None = None) -> HeadQuality | None:
    """A head of the report from one of `rewards.quality.head_quality`'s entries; None where it was not judged."""
    score = next((name for name in ("auc", "c_index") if name in entry), None)
    if score is None:
        return None
    baselines = {name: float(value) for name, value in entry.get("baseline", {}).items()}
    return HeadQuality(score, float(entry[score]), baselines, entry.get("ece"), curve, entry.get("n"))
