"""Intervals that know that rounds of one listener are not independent.

Every estimate here is a value and its influence function psi (n,), the mean-zero per-row contribution with
value_hat - value ~ mean(psi). Summing psi within a cluster before squaring gives the sandwich variance that is
right when rows of one cluster move together (Liang & Zeger 1986; delta method: van der Vaart 1998, ch. 3 and 20).
With 25 rounds a listener and a listener effect, an interval that ignores clusters covers about 70% instead of 95%.

Off-policy estimates are sums of ratios of sums, so that all three kinds of interval need only each user's sums (U, 2J):
the asymptotic one, a bootstrap that draws users, and the empirical Bernstein bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from data.errors import InputError

Floats = NDArray[np.float64]
LEVEL = 0.95
BOOTSTRAP_CELLS = 1 << 22  # of users x draws counted at once: 32 MiB


@dataclass(frozen=True)
class Interval:
    """A value with its two-sided interval, its standard error and the number of clusters behind it."""

    value: float
    lo: float
    hi: float
    se: float
    clusters: int


def cluster_codes(cluster: NDArray[np.generic] | Sequence[object], rows: int) -> tuple[NDArray[np.int64], int]:
    """Dense codes (n,) of the clusters and their number.

    Raises InputError when the length is not `rows` or when there is one cluster only, because a variance between
    clusters needs two.
    """
    labels = np.asarray(cluster)
    if labels.shape != (rows,):
        raise InputError(f"cluster: {labels.shape} labels for {rows} rows; give one cluster (user) per row")
    _, codes = np.unique(labels, return_inverse=True)
    count = int(codes.max()) + 1 if rows else 0
    if count < 2:
        raise InputError(f"cluster: {count} cluster in {rows} rows; an interval needs rows of at least two users")
    return codes.astype(np.int64), count


def from_influence(value: float, influence: Floats, codes: NDArray[np.int64], clusters: int) -> Interval:
    """Interval of an estimate from its influence values (n,), summed within clusters.

    Student's t with clusters - 1 degrees of freedom and the clusters / (clusters - 1) correction (Cameron & Miller
    2015, eq. 11), so that few clusters give a wide interval rather than a confident one.
    """
    return from_shares(value, np.bincount(codes, weights=influence, minlength=clusters) / influence.size)


def from_shares(value: float, shares: Floats) -> Interval:
    """As `from_influence`, from each cluster's share (U,) of the estimate's error: its summed influence over rows."""
    clusters = shares.size
    se = float(np.sqrt(clusters / (clusters - 1) * np.sum(shares**2)))
    reach = float(student_t.ppf(0.5 + LEVEL / 2, clusters - 1)) * se
    return Interval(value, value - reach, value + reach, se, clusters)


def ratios_of_sums(sums: Floats) -> tuple[float, Floats]:
    """Value of sum_j top_j / bottom_j and each cluster's share (U,) of its error, from sums (U, 2J): top, bottom, ...

    The shares are linear (delta method): (top - ratio x bottom) / sum of bottoms, added over j; they sum to zero.
    Raises InputError where a denominator is zero in all.
    """
    value, shares = 0.0, np.zeros(len(sums))
    totals = sums.sum(axis=0)
    for j in range(0, sums.shape[1], 2):
        if totals[j + 1] == 0.0:
            raise InputError(
                "weights: all zero; the new policy never shows a logged slate, so nothing can be normalised"
            )
        ratio = float(totals[j] / totals[j + 1])
        value += ratio
        shares += (sums[:, j] - ratio * sums[:, j + 1]) / totals[j + 1]
    return value, shares


def bootstrap_values(
    sums: Floats, draws: int, rng: np.random.Generator, less: Floats | None = None
) -> tuple[Floats, Floats]:
    """Values (draws,) of sum_j top_j / bottom_j over users drawn with replacement, from each user's sums (U, 2J).

    The second array is the same less sum_j of `less` (U, 2J') over the very same users: the paired difference. A draw
    costs one pass over U numbers, whatever the number of rounds (pairs cluster bootstrap: Cameron, Gelbach & Miller
    2008).
    """
    users = len(sums)
    together = sums if less is None else np.concatenate([sums, less], axis=1)
    totals = np.empty((draws, together.shape[1]))
    at_once = max(1, BOOTSTRAP_CELLS // users)
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        counts = np.empty((size, users))
        for draw in range(size):
            counts[draw] = np.bincount(rng.integers(0, users, users, dtype=np.int32), minlength=users)
        totals[start : start + size] = counts @ together
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = totals[:, 0::2] / totals[:, 1::2]
    ratios = np.nan_to_num(ratios, nan=0.0, posinf=0.0, neginf=0.0)  # a draw without any weight says nothing
    own = sums.shape[1] // 2
    values: Floats = ratios[:, :own].sum(axis=1)
    return values, values - ratios[:, own:].sum(axis=1)


def from_bootstrap(value: float, values: Floats, clusters: int) -> Interval:
    """Percentile interval of bootstrap values (draws,); se is their spread."""
    lo, hi = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(value, float(lo), float(hi), float(values.std(ddof=1)), clusters)


def from_bernstein(value: float, shares: Floats) -> Interval:
    """Empirical Bernstein interval (Maurer & Pontil 2009, theorem 4, both sides) from shares (U,) of `from_shares`.

    Holds at any number of users for independent users whose contribution is bounded. The bound used is the range seen,
    so with heavy weights it is a little less strict than the theorem; it is still far wider than the other two.
    """
    clusters = shares.size
    contributions = shares * clusters  # their mean is the error
    spread = float(contributions.var(ddof=1))
    log_term = float(np.log(4.0 / (1.0 - LEVEL)))
    reach = float(np.sqrt(2.0 * spread * log_term / clusters))
    reach += 7.0 * float(np.ptp(contributions)) * log_term / (3.0 * (clusters - 1))
    return Interval(value, value - reach, value + reach, float(np.sqrt(spread / clusters)), clusters)


def mean_interval(values: Floats, cluster: NDArray[np.generic] | Sequence[object] | None = None) -> Interval:
    """Mean of `values` (n,) with an interval clustered by `cluster` (n,); None means each row is its own cluster.

    Raises InputError on NaN or infinite values, on lengths that differ and on a single cluster.
    """
    values = finite(values, "values")
    codes, clusters = cluster_codes(np.arange(values.size) if cluster is None else cluster, values.size)
    mean = float(values.mean())
    return from_influence(mean, values - mean, codes, clusters)


def ratio_interval(
    top: Floats, bottom: Floats, cluster: NDArray[np.generic] | Sequence[object] | None = None
) -> Interval:
    """sum(top) / sum(bottom) with a delta-method interval: psi = (top - ratio * bottom) / mean(bottom).

    Raises InputError when the denominator sums to zero, and as `mean_interval`.
    """
    top, bottom = finite(top, "numerator"), finite(bottom, "denominator")
    if top.shape != bottom.shape:
        raise InputError(f"ratio: numerator has {top.size} rows and denominator {bottom.size}; they must match")
    codes, clusters = cluster_codes(np.arange(top.size) if cluster is None else cluster, top.size)
    scale = float(bottom.mean())
    if scale == 0.0:
        raise InputError("ratio: the denominator sums to zero; there is nothing to divide by")
    value = float(top.mean()) / scale
    return from_influence(value, (top - value * bottom) / scale, codes, clusters)


def seeds_interval(values: Sequence[float]) -> Interval | None:
    """Student-t interval of a mean over seeds (each seed a fresh world and a fresh training); None below two seeds."""
    sample = finite(np.asarray(values, dtype=np.float64), "per-seed values")
    if sample.size < 2:
        return None
    return mean_interval(sample)


def finite(values: NDArray[np.generic] | Sequence[float], name: str) -> Floats:
    """`values` as float64 (n,); raises InputError naming the first NaN or infinite row, or a shape that is not (n,)."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{name}: shape {array.shape}; give one number per row")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise InputError(f"{name}: {array[wrong[0]]} in row {wrong[0]}; every row needs a finite number")
    return array
