"""Kaplan-Meier curves of censored times, with intervals that know that one person may give many rows.

S(t) = prod over u <= t of (1 - d_u / n_u) (Kaplan & Meier 1958). A row censored at t was still at risk at t.

The variance of log S comes from its influence function, per row i

    psi_i(t) = - sum over u <= t of (dN_i(u) - Y_i(u) d_u / n_u) / (n_u (1 - d_u / n_u))

with N_i counting the row's event and Y_i saying that it is at risk. Summed in squares over rows that is exactly
Greenwood's formula, sum d / (n (n - d)); with clusters the rows of one person are added before squaring, which is
right when they move together (Ying & Wei 1994; Williams 1995). Intervals are made on log(-log S), so that they stay
within (0, 1) (Kalbfleisch & Prentice 2002, section 1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

from data.errors import InputError
from eval.intervals import LEVEL, cluster_codes, finite

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SurvivalCurve:
    """A curve at its T event times, ascending: survival just after each, its 95% interval (nan once nobody is left),
    rows at risk just before each and events at it, all (T,). `clusters`: people behind the `rows`.
    """

    times: Floats
    survival: Floats
    lo: Floats
    hi: Floats
    at_risk: NDArray[np.int64]
    events: NDArray[np.int64]
    rows: int
    clusters: int

    def at(self, time: float) -> float:
        """S(time): 1 before the first event."""
        before = int(np.searchsorted(self.times, time, side="right"))
        return float(self.survival[before - 1]) if before else 1.0


def kaplan_meier(
    time: NDArray[np.generic] | Sequence[float],
    observed: NDArray[np.bool_] | Sequence[bool],
    cluster: NDArray[np.generic] | Sequence[object] | None = None,
) -> SurvivalCurve:
    """The curve of `time` (n,), where not `observed` (n,) the time up to which nothing had happened.

    Without `cluster` (n,) rows are independent and the interval is Greenwood's with normal quantiles. With it, the
    variance is clustered, times C / (C - 1), with Student's t on C - 1 degrees of freedom, as in `eval.intervals`.
    O(T (C + log n)) time for T event times and C clusters, memory O(n + C). Raises InputError on negative or non-finite
    times, on lengths that differ, on no row, and on a single cluster.
    """
    time = finite(time, "time")
    happened = np.asarray(observed, dtype=bool)
    if happened.shape != time.shape:
        raise InputError(f"observed: {happened.shape} flags for {time.size} times; give one per row")
    if not time.size or time.min() < 0:
        raise InputError(f"time: {time.size} rows, the least {time.min(initial=0)}; give at least one, none negative")
    order = np.argsort(time, kind="stable")
    time, happened = time[order], happened[order]
    times = np.unique(time[happened])
    begin, end = np.searchsorted(time, times), np.searchsorted(time, times, side="right")
    died = np.concatenate([[0], np.cumsum(happened)])
    events = died[end] - died[begin]
    at_risk = time.size - begin
    hazard = events / at_risk
    survival = np.cumprod(1 - hazard)
    clusters = time.size
    with np.errstate(divide="ignore", invalid="ignore"):
        if cluster is None:
            variance = np.cumsum(events / (at_risk * (at_risk - events)))
            quantile = float(norm.ppf(0.5 + LEVEL / 2))
        else:
            codes, clusters = cluster_codes(cluster, time.size)
            variance = _clustered(codes[order], clusters, happened, begin, end, hazard, at_risk)
            variance *= clusters / (clusters - 1)
            quantile = float(student_t.ppf(0.5 + LEVEL / 2, clusters - 1))
        reach = np.exp(quantile * np.sqrt(variance) / np.abs(np.log(survival)))
        lo, hi = survival**reach, survival ** (1 / reach)
    gone = survival <= 0
    lo, hi = np.where(gone, np.nan, lo), np.where(gone, np.nan, hi)
    return SurvivalCurve(times, survival, lo, hi, at_risk, events, int(time.size), clusters)


def _clustered(
    codes: NDArray[np.int64],
    clusters: int,
    happened: NDArray[np.bool_],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    hazard: Floats,
    at_risk: NDArray[np.int64],
) -> Floats:
    """Variance (T,) of log S: at each event time the sum of squares of the clusters' summed influence."""
    influence = np.zeros(clusters)
    left = np.bincount(codes, minlength=clusters).astype(np.float64)
    variance = np.empty(len(hazard))
    gone = 0
    for k in range(len(hazard)):
        left -= np.bincount(codes[gone : begin[k]], minlength=clusters)
        gone = int(begin[k])
        here = slice(int(begin[k]), int(end[k]))
        events = np.bincount(codes[here][happened[here]], minlength=clusters)
        influence -= (events - left * hazard[k]) / (at_risk[k] * (1 - hazard[k]))
        variance[k] = float(influence @ influence)
    return variance
