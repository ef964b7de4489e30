"""For whom did it work? Effects by a segment known before the experiment, and segments found honestly.

Looking for the segment with the largest effect and then quoting that effect flatters it. So where segments are searched
for, one half of the users (by a salted hash of their id) draws them and the other half alone says what happened in them
(Athey & Imbens 2016). The tree is grown by their honest criterion, which pays for variance: a split is made when it
raises

    sum over leaves of n tau^2 - 2 (S_treated^2 / p + S_control^2 / (1 - p))

with tau the leaf's effect, S^2 the arms' variances in it and p the share treated. There is no pruning: the second
half's intervals are right whatever the first half fancied, and `heterogeneity` tells fancy from fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import chi2

from data.errors import InputError
from eval.experiments.decide import adjusted
from eval.experiments.effect import Effect, Reading, effect_of_users
from eval.experiments.metric import Metric
from eval.experiments.sample import Sample, per_user, values_of
from eval.intervals import Floats
from policy.assignment import place

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class SegmentSettings:
    """Least users of each arm in a segment; of the search: splits below one another and cuts tried a column."""

    least: int = 100
    depth: int = 2
    cuts: int = 15


@dataclass(frozen=True)
class Segment:
    """Where a segment is, its share of users, and its effect; p_adjusted: Holm over the segments."""

    where: str
    share: float
    effect: Effect
    p_adjusted: float


@dataclass(frozen=True)
class Segments:
    """Segments that hold every user once. heterogeneity: p-value of "the same effect everywhere" (Cochran's Q)."""

    segments: tuple[Segment, ...]
    heterogeneity: float


def effects_by(
    sample: Sample, metric: Metric, arm: str, column: str, reading: Reading, settings: SegmentSettings
) -> Segments:
    """Effects by the values of a column; those with too few users of an arm, and null, are put together as "others".

    Raises InputError as `effect`, for a column that is not there or differs within a user.
    """
    users = _with_columns(sample, metric, arm, [column])
    name = pl.col(column).cast(pl.String).fill_null("unknown")
    users = users.with_columns(_segment=pl.lit(f"{column} = ") + name)
    counts = (
        users.group_by("_segment", "arm").agg(pl.len()).group_by("_segment").agg(pl.col("len").min(), arms=pl.len())
    )
    small = counts.filter((pl.col("len") < settings.least) | (pl.col("arms") < 2))["_segment"]
    users = users.with_columns(
        _segment=pl.when(pl.col("_segment").is_in(small.implode())).then(pl.lit("others")).otherwise("_segment")
    )
    parts = {str(key[0]): part for key, part in users.sort("user").group_by("_segment", maintain_order=True)}
    named = {where: parts[where] for where in sorted(parts, key=lambda where: (where == "others", where))}
    if "others" in named and not _enough(named["others"], (sample.control, arm), 2):
        named.pop("others")
    return _read(named, metric.name, (sample.control, arm), reading)


def honest_segments(
    sample: Sample,
    metric: Metric,
    arm: str,
    columns: Sequence[str],
    reading: Reading,
    settings: SegmentSettings,
    salt: str = "honest",
) -> Segments:
    """Segments found in one half of the users by `columns` (numbers or words, known before) and read in the other.

    Half of the users stands behind these effects, so they are less sharp than the overall one. Raises InputError as
    `effects_by`, and when a half has too few users.
    """
    if not columns:
        raise InputError("segments: no column to look for segments in; name at least one that was known before")
    users = _with_columns(sample, metric, arm, columns)
    draws = np.array([place(salt, user) < 0.5 for user in users["user"].to_list()])
    arms = (sample.control, arm)
    finding, reading_half = users.filter(draws), users.filter(~draws)
    for half in (finding, reading_half):
        if not _enough(half, arms, settings.least):
            raise InputError(f"segments: under {settings.least} users of an arm in one half: too few to look for any")
    leaves = _grow(finding, arm, columns, settings, settings.depth)
    named = {}
    for leaf in leaves:
        part = reading_half.filter(leaf.keep)
        if _enough(part, arms, 2):
            named[leaf.where] = part
    return _read(named, metric.name, arms, reading)


@dataclass(frozen=True)
class _Leaf:
    where: str
    keep: pl.Expr


def _grow(users: pl.DataFrame, arm: str, columns: Sequence[str], settings: SegmentSettings, depth: int) -> list[_Leaf]:
    """The leaves below these users: the split that gains most, if any gains, and so on."""
    everyone = [_Leaf("everyone", pl.lit(True))]
    if depth == 0:
        return everyone
    value, treated = values_of(users), (users["arm"] == arm).to_numpy()
    whole = _honest_worth(value, treated)
    best, gain = None, 0.0
    for column in columns:
        for low, high in _splits(users[column], settings.cuts):
            below = users.select(low.keep.fill_null(False)).to_series().to_numpy()
            sides = [below & treated, below & ~treated, ~below & treated, ~below & ~treated]
            if min(int(side.sum()) for side in sides) < settings.least:
                continue
            worth = _honest_worth(value[below], treated[below]) + _honest_worth(value[~below], treated[~below])
            if worth - whole > gain:
                best, gain = (low, high), worth - whole
    if best is None:
        return everyone
    leaves = []
    for side in best:
        for leaf in _grow(users.filter(side.keep.fill_null(False)), arm, columns, settings, depth - 1):
            where = side.where if leaf.where == "everyone" else f"{side.where} and {leaf.where}"
            leaves.append(_Leaf(where, side.keep.fill_null(False) & leaf.keep))
    return leaves


def _splits(column: pl.Series, cuts: int) -> list[tuple[_Leaf, _Leaf]]:
    """Ways to split by a column: at quantiles of numbers, one value against the rest of words. Null goes above."""
    name, at = column.name, pl.col(column.name)
    if column.dtype.is_numeric():
        points = np.unique(np.quantile(column.drop_nulls().to_numpy(), np.arange(1, cuts + 1) / (cuts + 1)))
        return [
            (_Leaf(f"{name} <= {point:g}", at <= point), _Leaf(f"{name} > {point:g}", (at > point) | at.is_null()))
            for point in points.tolist()
        ]
    values = column.cast(pl.String).drop_nulls().value_counts().sort("count", column.name, descending=[True, False])
    text = at.cast(pl.String)
    return [
        (_Leaf(f"{name} = {value}", text == value), _Leaf(f"{name} != {value}", (text != value) | at.is_null()))
        for value in values[column.name].head(20).to_list()
    ]


def _honest_worth(value: Floats, treated: Flags) -> float:
    n, share = value.size, float(treated.mean())
    yes, no = value[treated], value[~treated]
    return float(n * (yes.mean() - no.mean()) ** 2 - 2 * (yes.var(ddof=1) / share + no.var(ddof=1) / (1 - share)))


def _with_columns(sample: Sample, metric: Metric, arm: str, columns: Sequence[str]) -> pl.DataFrame:
    """One row a user of two arms: what `per_user` gives, and the columns."""
    pair = sample.only(pl.col(sample.arm).is_in([sample.control, arm]))
    users = per_user(Sample(pair.rows, sample.user, sample.arm, (sample.control, arm)), metric)
    for column in columns:
        if column not in pair.rows.columns:
            raise InputError(f"segments: no column {column!r}; the table has {', '.join(pair.rows.columns)}")
        of_user = pair.rows.group_by(user=sample.user).agg(pl.col(column).first(), _kinds=pl.col(column).n_unique())
        if of_user.filter(pl.col("_kinds") > 1).height:
            raise InputError(f"segments: {column} differs within a user; a segment must be known before the experiment")
        if column in users.columns:
            raise InputError(f"segments: a column cannot be called {column!r} here: rename it")
        users = users.join(of_user.drop("_kinds"), on="user", how="left", maintain_order="left")
    return users


def _enough(users: pl.DataFrame, arms: tuple[str, str], least: int) -> bool:
    return all(users.filter(pl.col("arm") == arm).height >= least for arm in arms)


def _read(named: dict[str, pl.DataFrame], name: str, arms: tuple[str, str], reading: Reading) -> Segments:
    effects = {where: effect_of_users(part, name, arms, reading) for where, part in named.items()}
    if not effects:
        raise InputError(f"metric {name}: no segment has two users of each arm")
    p = adjusted({(arms[1], where): found.p for where, found in effects.items()}, "holm")
    total = sum(part.height for part in named.values())
    diff = np.array([found.diff for found in effects.values()])
    weight = np.array([found.se for found in effects.values()]) ** -2.0
    spread = float((weight * (diff - (weight @ diff) / weight.sum()) ** 2).sum())
    heterogeneity = float(chi2.sf(spread, len(effects) - 1)) if len(effects) > 1 else 1.0
    segments = [
        Segment(where, named[where].height / total, found, p[arms[1], where]) for where, found in effects.items()
    ]
    return Segments(tuple(segments), heterogeneity)
