"""Policies by what they say of a log's slates: a file of log-probabilities put beside the decisions it is about.

    decision_id, mine, theirs                      natural log of the probability of the whole logged slate
    decision_id, mine, mine_position_1, ...        and, where there are, of the item at each of its positions

One row per logged decision, Parquet or CSV; every column that is not named `decision_id` or `..._position_<k>` is a
policy. Positions need the logging policy's too, as `logging_position_<k>`; those past a slate's end stay empty. A
column `logging` is the logging policy's own word: it must say what the log says, and is all there is where the log has
no propensities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.outcomes import LABEL_WINDOWS, Outcomes, matured_at
from data.store import LogStore, read_parquet
from eval.diagnostics import Check, overlap, placebo
from eval.off_policy import OffPolicySettings, OffPolicyValue, off_policy_value
from eval.report.inputs import Missing, OffPolicySection
from eval.rounds import LOG_PROBABILITY_SLACK, LoggedRounds
from eval.sensitivity import SensitivityBounds, sensitivity
from eval.support import Support

DECISION, LOGGING = "decision_id", "logging"
DEFAULT_OUTCOME = "active_days_7"
SAME = 1e-3  # how far the file's `logging` may be from the log's own propensities, in logs
# Decisions of a listener before this one, from so many on -> what such decisions are called.
EXPERIENCE = {0: "first decision", 1: "2nd to 5th decision", 5: "6th to 20th decision", 20: "later decisions"}
_POSITION = re.compile(r"(.+)_position_(\d+)")
_WORDS = ("unreachable_reason",)  # outcomes that are no numbers


@dataclass(frozen=True)
class SlateProbabilities:
    """The file: `table` has decision_id and Float64 log-probabilities. policies: names, in the file's order; positions:
    name (`logging` included) -> its columns from the first position on; logging: whether the column is there."""

    table: pl.DataFrame
    policies: tuple[str, ...]
    positions: Mapping[str, tuple[str, ...]]
    logging: bool
    source: str


def read_slate_probabilities(path: Path) -> SlateProbabilities:
    """Reads and checks the file by itself.

    Raises InputError on a file that cannot be read, no policy in it, a decision twice, a value that is no number, NaN,
    a missing one or one above 0 (a probability above 1, or no logarithm), and positions with a gap.
    """
    table = _read(path)
    if DECISION not in table.columns:
        raise InputError(f"{path}: no column {DECISION}; one row per logged decision, and a column per policy")
    by_position: dict[str, dict[int, str]] = {}
    for column in table.columns:
        if found := _POSITION.fullmatch(column):
            by_position.setdefault(found[1], {})[int(found[2])] = column
    in_positions = {column for columns in by_position.values() for column in columns.values()}
    whole = [column for column in table.columns if column != DECISION and column not in in_positions]
    policies = tuple(name for name in whole if name != LOGGING)
    if not policies:
        raise InputError(f"{path}: no policy in it; give a column of log-probabilities per policy")
    twice = table.filter(pl.col(DECISION).is_duplicated())
    if not twice.is_empty():
        raise InputError(f"{path}: decision {twice[DECISION][0]!r} is there twice; give one row per decision")
    table = table.with_columns(pl.col(DECISION).cast(pl.String), *(_numbers(table, name, path) for name in whole))
    table = table.with_columns(_numbers(table, name, path, may_be_empty=True) for name in sorted(in_positions))
    positions = {}
    for policy, columns in by_position.items():
        if policy not in (*policies, LOGGING) or sorted(columns) != list(range(1, len(columns) + 1)):
            there = ", ".join(columns.values())
            raise InputError(f"{path}: {there}: give {policy} and {policy}_position_1, _2, ... without a gap")
        positions[policy] = tuple(columns[k] for k in sorted(columns))
    return SlateProbabilities(table, policies, positions, LOGGING in whole, str(path))


def _read(path: Path) -> pl.DataFrame:
    if path.suffix.lower() == ".parquet":
        return read_parquet(path)
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: slate probabilities are a .parquet or a .csv file")
    if not path.is_file():
        raise InputError(f"{path}: no such file: check the path")
    try:
        return pl.read_csv(path, infer_schema_length=None, schema_overrides={DECISION: pl.String})
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a CSV ({str(error).splitlines()[0]}): write it again") from None


def _numbers(table: pl.DataFrame, name: str, path: Path, may_be_empty: bool = False) -> pl.Series:
    """A column as Float64; -inf is a slate that a policy would never show."""
    values = table[name]
    if not values.dtype.is_numeric() and values.dtype != pl.Null:
        raise InputError(f"{path}: {name} holds {values.dtype}; a policy's column holds log-probabilities")
    values = values.cast(pl.Float64)
    bad = values.is_nan() | (values > LOG_PROBABILITY_SLACK)
    bad = bad.fill_null(not may_be_empty)
    if bad.any():
        row = bad.arg_max()
        assert row is not None
        raise InputError(
            f"{path}: {name} is {values[row]} for decision {table[DECISION][row]!r}; "
            "give the natural log of a probability, 0 or below"
        )
    known = values.drop_nulls()
    if len(known) and (known > 0).all():  # all within the slack, as those of long slates are
        raise InputError(f"{path}: every value of {name} is above 0: these are probabilities; give their natural logs")
    return values


def outcome_to_value(outcomes: Outcomes, asked: str | None) -> str:
    """The label asked for, else active_days_7, else the first that the log carries; raises InputError without it."""
    carried = [label for label in outcomes.labels if label not in _WORDS]
    if asked is None:
        if not carried:
            raise InputError("this log is too short to carry any outcome: give a longer one")
        return DEFAULT_OUTCOME if DEFAULT_OUTCOME in carried else carried[0]
    if asked not in carried:
        why = outcomes.left_out.get(asked, f"there is no such label; choose {', '.join(carried)}")
        raise InputError(f"outcome {asked!r}: {why}")
    return asked


def off_policy_of_log(
    store: LogStore,
    outcomes: Outcomes,
    given: SlateProbabilities,
    label: str,
    since: datetime | None = None,
    settings: OffPolicySettings | None = None,
) -> tuple[OffPolicySection, list[Missing]]:
    """Every policy's value on the log's decisions (from `since` on, those it learned from left out), and what the log
    lacks for it. Only decisions whose outcome's window has closed count, and of those only ones with a propensity.

    Raises InputError where the file has a decision that the log has not or lacks one that counts, where its `logging`
    contradicts the log, or where positions do not fit the slates.
    """
    logged = store.decisions().with_columns(
        earlier=pl.int_range(pl.len()).over("user_id"), size=pl.col("slate").list.len()
    )
    unknown = given.table.join(logged, on=DECISION, how="anti")
    if not unknown.is_empty():
        raise InputError(
            f"{given.source}: {unknown.height:,} decisions that the log does not have, {unknown[DECISION][0]!r} first"
        )
    closed = outcomes.table.filter(matured_at(label) <= outcomes.end)
    reward = closed.select(DECISION, reward=pl.col(label).cast(pl.Float64)).drop_nulls()
    counted = logged.join(reward, on=DECISION, how="inner", maintain_order="left")
    if since is not None:
        counted = counted.filter(pl.col("time") >= since)
    if counted.is_empty():
        when = "" if since is None else f" made since {since:%Y-%m-%d}"
        raise InputError(f"no decision{when} whose {label} is known: its window is {LABEL_WINDOWS[label]} days")
    absent = counted.join(given.table, on=DECISION, how="anti", maintain_order="left")
    if not absent.is_empty():
        raise InputError(
            f"{given.source}: {absent.height:,} of {counted.height:,} decisions are missing, "
            f"{absent[DECISION][0]!r} first; give every logged decision, or leave early ones out with --since"
        )
    counted = counted.join(given.table, on=DECISION, how="left", maintain_order="left")
    counted, log_p, lacks = _propensities(counted, given)
    values: dict[str, OffPolicyValue] = {}
    checks: dict[str, list[Check]] = {}
    overlaps: dict[str, dict[str, Support]] = {}
    bounds: dict[str, list[SensitivityBounds]] = {}
    experience = np.array(list(EXPERIENCE.values()))[np.digitize(counted["earlier"].to_numpy(), list(EXPERIENCE)) - 1]
    at_their_word = log_p is not None and counted["propensity"].null_count() == counted.height
    before = {"decisions before this one": np.log1p(counted["earlier"].to_numpy().astype(np.float64))}
    user, outcome = counted["user_id"].to_numpy().astype(str), counted["reward"].to_numpy()
    logged_positions = _positions(counted, LOGGING, given)
    # Of a log without propensities nothing is known of the policy that wrote it; its value is refused either way.
    own = np.zeros(counted.height) if log_p is None else log_p
    for policy, new in {LOGGING: own, **{name: counted[name].to_numpy() for name in given.policies}}.items():
        rounds = LoggedRounds(log_p, np.minimum(new, 0.0), outcome, user)
        by_position = _positions(counted, policy, given)
        if logged_positions is not None and by_position is not None:
            rounds = replace(rounds, position_log=logged_positions, position_new=by_position)
        values[policy] = off_policy_value(rounds, settings or OffPolicySettings())
        if policy == LOGGING or log_p is None:
            continue
        overlaps[policy] = overlap(rounds, experience)
        if values[policy].support.refused is None:
            checks[policy] = placebo(rounds, before)
            if at_their_word:  # of probabilities that the server drew by, there is nothing to be in doubt of
                bounds[policy] = sensitivity(rounds)
    return OffPolicySection(label, values, checks, overlaps, bounds), lacks


def _propensities(
    counted: pl.DataFrame, given: SlateProbabilities
) -> tuple[pl.DataFrame, NDArray[np.float64] | None, list[Missing]]:
    """The decisions to judge by, the log of their propensities (None: not known), and what is to be said of that."""
    known = counted.filter(pl.col("propensity").is_not_null())
    if known.is_empty():
        if not given.logging:
            return counted, None, []
        said = "The log has none; those of the file's column `logging` are taken at their word."
        return counted, counted[LOGGING].to_numpy(), [Missing("propensities", said)]
    lacks = []
    if known.height < counted.height:
        said = (
            f"{counted.height - known.height:,} of {counted.height:,} decisions have none and are left out of values."
        )
        lacks.append(Missing("propensities", said))
    log_p = np.log(known["propensity"].to_numpy())
    if given.logging:
        apart = np.abs(known[LOGGING].to_numpy() - log_p)
        if apart.max() > SAME:
            row = int(apart.argmax())
            raise InputError(
                f"{given.source}: logging is {known[LOGGING][row]:.4f} for decision {known[DECISION][row]!r}, "
                f"whose propensity in the log is exp({log_p[row]:.4f}); both are of the whole slate"
            )
    return known, log_p, lacks


def _positions(counted: pl.DataFrame, policy: str, given: SlateProbabilities) -> NDArray[np.float64] | None:
    """Log-probabilities (n, K) of logged items at their positions, 0 past a slate's end; None where not given."""
    columns = given.positions.get(policy)
    if columns is None:
        return None
    values = counted.select(columns).to_numpy()
    inside = np.arange(len(columns)) < counted["size"].to_numpy()[:, None]
    wrong = np.flatnonzero((np.isnan(values) == inside).any(axis=1) | (counted["size"].to_numpy() > len(columns)))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{given.source}: {policy} has {int((~np.isnan(values[row])).sum())} positions for decision "
            f"{counted[DECISION][row]!r}, whose slate has {counted['size'][row]} items"
        )
    return np.where(inside, values, 0.0)
