"""The rows of an experiment, checked, and each metric as two numbers a user.

A metric becomes `top` and `bottom` per user, summed over the user's rows, so that sum(top) / sum(bottom) within an arm
is the metric and the delta method over users gives its variance, however many rows a user has (Deng, Knoblich & Lu
2018): the mean of rows has bottom = number of rows, a ratio its denominator, and a survival outcome its influence
values (eval/experiments/survival.py). Unknown (null) values are left out and counted; NaN is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from data.errors import InputError
from eval.experiments.metric import Metric
from eval.experiments.survival import influence


@dataclass(frozen=True)
class Sample:
    """Rows of an experiment, one or more per user; `arms` with control first. Make it with `sample_of`."""

    rows: pl.DataFrame
    user: str
    arm: str
    arms: tuple[str, ...]

    @property
    def control(self) -> str:
        """The arm that the others are compared with."""
        return self.arms[0]

    def users(self) -> dict[str, int]:
        """How many users each arm has."""
        counted = self.rows.group_by(self.arm).agg(pl.col(self.user).n_unique())
        found = dict(counted.iter_rows())
        return {arm: int(found[arm]) for arm in self.arms}

    def only(self, keep: pl.Expr) -> Sample:
        """The rows for which `keep` holds, as they are: an arm may be left without any."""
        return Sample(self.rows.filter(keep), self.user, self.arm, self.arms)


def sample_of(
    rows: pl.DataFrame, user: str, arm: str, control: str | None = None, arms: Sequence[str] | None = None
) -> Sample:
    """The experiment in a table. `control` is by default the first of `arms`, or of the arms in alphabetical order.

    Raises InputError for a missing column, a row without user or arm, a user in two arms, an arm that is not among
    `arms`, one of `arms` without users, and arms of a single user.
    """
    for column in (user, arm):
        if column not in rows.columns:
            raise InputError(f"experiment: no column {column!r}; the table has {', '.join(rows.columns)}")
        if rows[column].null_count():
            row = rows[column].is_null().arg_true()[0]
            raise InputError(f"experiment: column {column!r} is empty in row {row}: every row needs a user and an arm")
    rows = rows.with_columns(pl.col(user, arm).cast(pl.String))
    twice = rows.group_by(user).agg(pl.col(arm).n_unique().alias("_arms")).filter(pl.col("_arms") > 1)
    if twice.height:
        first = twice[user].sort()[0]
        raise InputError(
            f"experiment: {twice.height} users are in two arms (first {first!r}): leave them out, and look why"
        )
    if rows.is_empty():
        raise InputError("experiment: the table has no rows: give one row per user, or several")
    counted = dict(rows.group_by(arm).agg(pl.col(user).n_unique()).iter_rows())
    named = sorted(counted) if arms is None else list(arms)
    for name in named:
        if name not in counted:
            raise InputError(f"experiment: arm {name!r} has no users; the table has {', '.join(sorted(counted))}")
    for name in counted:
        if name not in named:
            raise InputError(
                f"experiment: arm {name!r} is in the table but not in the shares: name it, or leave it out"
            )
    if control is not None and control not in counted:
        raise InputError(f"experiment: control {control!r} has no users; the table has {', '.join(sorted(counted))}")
    if len(named) < 2:
        raise InputError(f"experiment: one arm only ({named[0] if named else 'no rows'}); a comparison needs two")
    for name, users in counted.items():
        if users < 2:
            raise InputError(f"experiment: arm {name!r} has {users} user; a variance between users needs at least two")
    first = named[0] if control is None else control
    return Sample(rows, user, arm, (first, *(name for name in named if name != first)))


def per_user(sample: Sample, metric: Metric) -> pl.DataFrame:
    """One row per user for whom the metric is known: user, arm, top, bottom and, with a covariate, covariate.

    Users without a covariate (null) get the mean of the others, which is the same in all arms and so costs no
    validity. Raises InputError for a missing column, values that are no numbers, NaN or infinite, flags that are not,
    a denominator below zero, a covariate that differs between rows of one user, and arms of fewer than two users.
    """
    rows = sample.rows
    for column in metric.columns:
        if column not in rows.columns:
            raise InputError(f"metric {metric.name}: no column {column!r}; the table has {', '.join(rows.columns)}")
        _numbers(rows[column], metric.name)
    keep = pl.all_horizontal(pl.col(name).is_not_null() for name in metric.columns if name != metric.covariate)
    known = rows.filter(keep).select(
        user=pl.col(sample.user), arm=pl.col(sample.arm), **{f"_{n}": pl.col(c) for n, c in _roles(metric).items()}
    )
    known = known.with_columns(pl.exclude("user", "arm").cast(pl.Float64))
    if metric.kind == "survival":
        known = _survival_rows(known, metric, sample.arms)
    elif metric.kind == "ratio":
        known = known.with_columns(top="_value", bottom="_per")
        if known.filter(pl.col("bottom") < 0).height:
            raise InputError(f"metric {metric.name}: {metric.per} is below zero somewhere; it cannot be a denominator")
    else:
        known = known.with_columns(top="_value", bottom=pl.lit(1.0))
    sums = [pl.col("top").sum(), pl.col("bottom").sum()]
    if metric.covariate is not None:
        sums += [pl.col("_covariate").mean().alias("covariate"), pl.col("_covariate").n_unique().alias("_kinds")]
    users = known.group_by("user", "arm").agg(sums).sort("user")
    if metric.covariate is not None:
        if users.filter(pl.col("_kinds") > 1).height:
            raise InputError(
                f"metric {metric.name}: covariate {metric.covariate} differs between rows of one user: "
                "CUPED needs one value a user, known before the experiment"
            )
        users = users.drop("_kinds").with_columns(pl.col("covariate").fill_null(pl.col("covariate").mean()))
        if users["covariate"].null_count():
            raise InputError(f"metric {metric.name}: covariate {metric.covariate} is empty in every row: leave it out")
    _check_arms(users, metric.name, sample.arms)
    return users


def _roles(metric: Metric) -> Mapping[str, str]:
    given = {"value": metric.value, "per": metric.per, "observed": metric.observed, "covariate": metric.covariate}
    return {role: column for role, column in given.items() if column is not None}


def _numbers(column: pl.Series, name: str) -> None:
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise InputError(f"metric {name}: column {column.name!r} is {column.dtype}; it must hold numbers")
    if column.dtype.is_float():
        wrong = (~column.is_finite()).fill_null(False).arg_true()
        if len(wrong):
            raise InputError(
                f"metric {name}: column {column.name!r} is {column[wrong[0]]} in row {wrong[0]}: every row needs a "
                "finite number, or null where it is not known yet"
            )


def _survival_rows(known: pl.DataFrame, metric: Metric, arms: Sequence[str]) -> pl.DataFrame:
    """Adds top = value of the arm + influence and bottom = 1, arm by arm."""
    assert metric.window is not None
    if metric.estimand == "hazard_ratio":
        raise InputError(f"metric {metric.name}: a hazard ratio has no value of its own per user: use estimand=rmst")
    observed = known["_observed"] if "_observed" in known.columns else pl.Series([1.0]).new_from_index(0, known.height)
    if not observed.is_in([0.0, 1.0]).all():
        raise InputError(f"metric {metric.name}: column {metric.observed!r} must say true or false (1 or 0)")
    known = known.with_columns(_happened=observed == 1.0)
    parts = []
    for arm in arms:
        part = known.filter(pl.col("arm") == arm)
        if part.height == 0:
            continue
        where = f"metric {metric.name}, arm {arm}"
        value, psi = influence(
            part["_value"].to_numpy(), part["_happened"].to_numpy(), metric.window, metric.estimand, where
        )
        parts.append(part.with_columns(top=pl.Series(value + psi), bottom=pl.lit(1.0)))
    return pl.concat(parts) if parts else known.with_columns(top=pl.lit(0.0), bottom=pl.lit(0.0))


def _check_arms(users: pl.DataFrame, name: str, arms: Sequence[str]) -> None:
    found = dict(users.group_by("arm").agg(pl.len()).iter_rows())
    for arm in arms:
        count = found.get(arm, 0)
        if count < 2:
            raise InputError(
                f"metric {name}: arm {arm!r} has {count} users for whom it is known; it needs two or more: wait until "
                "its window has closed for some, or look for it under another name"
            )
        if float(users.filter(pl.col("arm") == arm)["bottom"].sum()) == 0.0:
            raise InputError(
                f"metric {name}: its denominator sums to zero in arm {arm!r}; there is nothing to divide by"
            )


def values_of(users: pl.DataFrame) -> np.ndarray:
    """The metric linearised, one number a user (n,), whose means by arm are the arms' values (delta method)."""
    ratio = pl.col("top").sum().over("arm") / pl.col("bottom").sum().over("arm")
    scale = pl.col("bottom").mean().over("arm")
    return users.select(ratio + (pl.col("top") - ratio * pl.col("bottom")) / scale).to_series().to_numpy()
