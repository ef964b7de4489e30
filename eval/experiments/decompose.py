"""Where did a change in retention come from? By segment and by step of the funnel, summing exactly.

Retention of an arm is the sum over segments s of w_s m_s: the segment's share of rows and its rate of passing every
step. With bars for the mean of both arms,

    change = sum_s dw_s (m_s - M)bar  +  sum_s w_s bar dm_s          (Kitagawa 1955)

the first part being who was there (mix), the second what happened to them. dm_s, a change of a product of step rates,
is shared among the steps by Shapley's rule: each step's change averaged over all orders in which steps could have
changed. Unlike a product of logarithms it stands rates of zero. The cells of the table sum to the change.

Under randomisation the mix of a segment known before the experiment moves by chance only; of one that the experiment
can move (came on day one), mix is part of the effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import polars as pl

from data.errors import InputError
from eval.experiments.sample import Sample
from eval.intervals import Floats

MOST_STEPS = 8
MIX = "mix"


@dataclass(frozen=True)
class Part:
    """One cell: a segment's mix, or one step within it. lo, hi: 95%, by bootstrap over users."""

    segment: str
    step: str
    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Decomposition:
    """Retention of both arms, its change, and the parts, whose values sum to it."""

    arm: str
    control: float
    treatment: float
    change: float
    parts: tuple[Part, ...]

    def by(self, what: str) -> dict[str, float]:
        """Parts summed by "segment" or by "step"; the sums sum to the change, too."""
        sums: dict[str, float] = {}
        for part in self.parts:
            key = part.segment if what == "segment" else part.step
            sums[key] = sums.get(key, 0.0) + part.value
        return sums


def decompose(
    sample: Sample, arm: str, steps: Sequence[str], segment: str | None = None, draws: int = 200, seed: int = 0
) -> Decomposition:
    """Take the change from control to `arm` apart, by `steps` (columns of flags, in order) and by a `segment`.

    A row passes the steps up to its first false one. segment: a column of words or numbers; None for one segment.

    Raises InputError for a missing column, a flag that is null or no flag, and more steps than MOST_STEPS.
    """
    if not 1 <= len(steps) <= MOST_STEPS:
        raise InputError(f"steps: {len(steps)} given; a funnel here has 1 to {MOST_STEPS}")
    rows = sample.only(pl.col(sample.arm).is_in([sample.control, arm])).rows
    for column in [*steps, *([segment] if segment else [])]:
        if column not in rows.columns:
            raise InputError(f"decomposition: no column {column!r}; the table has {', '.join(rows.columns)}")
    passed = np.ones(rows.height, bool)
    reached = np.zeros(rows.height, np.int64)  # steps passed, in order
    for step in steps:
        flags = rows[step]
        if flags.null_count() or not flags.cast(pl.Float64, strict=False).is_in([0.0, 1.0]).all():
            raise InputError(f"decomposition: step {step!r} must say true or false (1 or 0) in every row")
        passed &= flags.cast(pl.Boolean).to_numpy()
        reached += passed
    named = (
        rows[segment].cast(pl.String).fill_null("unknown")
        if segment
        else pl.Series(["all"]).new_from_index(0, rows.height)
    )
    segments = sorted(named.unique().to_list())
    code = named.replace_strict(segments, range(len(segments)), return_dtype=pl.Int64).to_numpy()
    treated = (rows[sample.arm] == arm).to_numpy().astype(np.int64)
    cell = (treated * len(segments) + code) * (len(steps) + 1) + reached
    shape = (2, len(segments), len(steps) + 1)
    counts = _counted(cell, None, shape)
    exact = _parts(counts[None])[0]
    # Users, not rows, are drawn anew: each counts a Poisson(1) number of times (Chamandy et al. 2012). Sorted ids, so
    # that the order of rows changes nothing.
    ids, of_row = np.unique(rows[sample.user].cast(pl.String).to_numpy().astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    again = np.stack([_counted(cell, rng.poisson(1.0, ids.size)[of_row], shape) for _ in range(draws)])
    lo, hi = np.quantile(_parts(again), [0.025, 0.975], axis=0)
    parts = [
        Part(segments[s], ([MIX, *steps])[k], float(exact[s, k]), float(lo[s, k]), float(hi[s, k]))
        for s in range(len(segments))
        for k in range(len(steps) + 1)
    ]
    passing, all_rows = counts[..., -1].sum(1), counts[..., 0].sum(1)
    control, treatment = (passing / all_rows).tolist()
    return Decomposition(arm, control, treatment, treatment - control, tuple(parts))


def _counted(cell: np.ndarray, weight: np.ndarray | None, shape: tuple[int, int, int]) -> Floats:
    """Rows (2, S, K + 1) that passed at least k steps, by arm and segment."""
    exactly = np.bincount(cell, weight, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)
    at_least: Floats = np.cumsum(exactly[..., ::-1], axis=-1)[..., ::-1]
    return at_least


def _parts(counts: Floats) -> Floats:
    """Cells (B, S, 1 + K), mix first, of B tables of counts (B, 2, S, K + 1)."""
    entered, total = counts[..., 0], counts[..., 0].sum(-1, keepdims=True)
    share = entered / total  # (B, 2, S)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = counts[..., 1:] / counts[..., :-1]  # (B, 2, S, K)
    # Nobody came as far as this step in one arm: its rate there is anybody's guess, so no change is put to it.
    rate = np.where(np.isnan(rate), rate[:, ::-1], rate)
    rate = np.nan_to_num(rate, nan=0.0)
    passed = rate.prod(-1)  # (B, 2, S)
    overall = (share * passed).sum(-1, keepdims=True)
    mix = (share[:, 1] - share[:, 0]) * (passed - overall).mean(1)
    return np.concatenate([mix[..., None], share.mean(1)[..., None] * _shapley(rate[:, 0], rate[:, 1])], axis=-1)


def _shapley(before: Floats, after: Floats) -> Floats:
    """Shares (B, S, K) of the change of a product from `before` (B, S, K) to `after`; they sum to it over K."""
    K = before.shape[-1]
    shares = np.zeros_like(before)
    for k in range(K):
        others = [j for j in range(K) if j != k]
        for size in range(K):
            weight = factorial(size) * factorial(K - size - 1) / factorial(K)
            for changed in combinations(others, size):
                rest = [j for j in others if j not in changed]
                product = after[..., list(changed)].prod(-1) * before[..., rest].prod(-1)
                shares[..., k] += weight * product * (after[..., k] - before[..., k])
    return shares
