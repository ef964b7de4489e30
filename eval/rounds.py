"""Logged rounds as columns: what an off-policy estimator may know of a decision, checked once.

A log enters as columns, one row per logged decision, whole or in blocks: two log-probabilities, the reward and, where
there are models, what they say. Nothing of size rounds x actions is held: `eval/actions.py` boils blocks of rounds x
actions down to these columns, and `parquet_rounds` reads them from a file in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats, finite

# Log-probabilities are sums of float32 log-softmaxes: a certain slate may come out a rounding above zero.
LOG_PROBABILITY_SLACK = 1e-4
SUM_SLACK = 1e-4  # that sums of float32 probabilities may be off from 1
BLOCK_ROWS = 1 << 17

Real = NDArray[np.floating]


@dataclass(frozen=True)
class LoggedRounds:
    """Columns (n,), one row per logged decision; those of a slate's K positions are (n, K).

    log_p_log: log-probability of the logged slate under the policy that logged it; None (or all NaN) = not recorded.
    log_p_new: the same under the policy to be judged; -inf where it would never show the slate.
    reward: the outcome. user: whose decision. q: modelled reward of the logged slate; v: the new policy's expected q
    in that context. off_support: share of the new policy's mass on slates that logging would never show, if known.

    embedding_weight: p_new(e | x) / p_log(e | x) of the logged action's cluster or embedding e (eval/actions.py).
    surrogate_weight: p_new(s | x) / p_log(s | x) of the short-term outcome s; index: the long-term reward foretold from
    x and s (eval/long_term.py).
    position_log, position_new: log-probability of the logged item at its position, whatever stands at the others.
    prefix_log, prefix_new: log-probability of the slate's first l items. position_reward: the outcome of each position,
    summing to what is asked for; position_q, position_v: modelled, given the prefix, as q and v are.
    """

    log_p_log: Real | None
    log_p_new: Real
    reward: Real
    user: NDArray[np.generic]
    q: Real | None = None
    v: Real | None = None
    off_support: Real | None = None
    embedding_weight: Real | None = None
    surrogate_weight: Real | None = None
    index: Real | None = None
    position_log: Real | None = None
    position_new: Real | None = None
    prefix_log: Real | None = None
    prefix_new: Real | None = None
    position_reward: Real | None = None
    position_q: Real | None = None
    position_v: Real | None = None

    @property
    def with_propensities(self) -> bool:
        """Whether the log says how likely its slates were."""
        return self.log_p_log is not None and not bool(np.isnan(np.asarray(self.log_p_log, np.float64)).all())


@dataclass(frozen=True)
class Columns:
    """Checked float64 columns: weight w and reward r (n,), the others where the log or a model has them.

    embedding, surrogate: marginal weights (n,). positions, prefixes: weights (n, K) of single positions and of the
    first l positions. additive: 1 + sum_l (positions_l - 1), the pseudo-inverse weight (n,).
    """

    w: Floats
    r: Floats
    q: Floats | None = None
    v: Floats | None = None
    embedding: Floats | None = None
    surrogate: Floats | None = None
    index: Floats | None = None
    positions: Floats | None = None
    prefixes: Floats | None = None
    position_reward: Floats | None = None
    position_q: Floats | None = None
    position_v: Floats | None = None

    @property
    def additive(self) -> Floats | None:
        return None if self.positions is None else 1.0 + (self.positions - 1.0).sum(axis=1)

    def has(self, needs: tuple[str, ...]) -> bool:
        """Whether every column named is there."""
        return all(getattr(self, name) is not None for name in needs)

    def weights(self, family: str) -> Floats:
        """The weights (n, m) that estimators of a family stand on: m = 1, or K for those of each position."""
        known = {"slate": self.w, "embedding": self.embedding, "surrogate": self.surrogate, "additive": self.additive}
        known |= {"positions": self.positions, "prefixes": self.prefixes}
        found = known[family]
        if found is None:
            raise InputError(f"weights: no {family} weights in these rounds")
        return found if found.ndim == 2 else found[:, None]


def checked_columns(rounds: LoggedRounds) -> Columns:
    """Weights and rewards of rounds with propensities; raises InputError naming the column and the first bad row."""
    n = np.asarray(rounds.reward).size
    log_p_log = log_probabilities(rounds.log_p_log, "log_p_log", (n,))
    log_p_new = log_probabilities(rounds.log_p_new, "log_p_new", (n,))
    reward_by_position = optional(rounds.position_reward, "position_reward", n)
    return Columns(
        w=ratio(log_p_log, log_p_new, "log_p_log", "both of the whole slate"),
        r=of_length(rounds.reward, "reward", n),
        q=optional(rounds.q, "q", n),
        v=optional(rounds.v, "v", n),
        embedding=marginal(rounds.embedding_weight, "embedding_weight", n),
        surrogate=marginal(rounds.surrogate_weight, "surrogate_weight", n),
        index=optional(rounds.index, "index", n),
        positions=by_position(rounds.position_log, rounds.position_new, "position", n),
        prefixes=by_position(rounds.prefix_log, rounds.prefix_new, "prefix", n),
        position_reward=reward_by_position,
        position_q=optional(rounds.position_q, "position_q", n),
        position_v=optional(rounds.position_v, "position_v", n),
    )


def parquet_rounds(path: Path, rows: int = BLOCK_ROWS) -> Iterator[LoggedRounds]:
    """Blocks of at most `rows` rounds from a Parquet file whose columns are named as in LoggedRounds.

    Columns of positions are lists of one length; `user` may be of any type. Memory holds one block. Raises InputError
    where there is no such file, a column that every log needs is missing, a user is null, a column holds no numbers or
    a list has another length.
    """
    names = [field.name for field in fields(LoggedRounds)]
    try:
        opened = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: no Parquet file ({str(error).splitlines()[0]}): check the path") from None
    with opened as file:
        there = [name for name in names if name in file.schema_arrow.names]
        for name in ("log_p_new", "reward", "user"):
            if name not in there:
                raise InputError(f"{path}: no column {name}; rounds need log_p_log, log_p_new, reward and user")
        for batch in file.iter_batches(batch_size=rows, columns=there):
            given: dict[str, Any] = {name: _array(batch.column(name), name, path) for name in there}
            yield LoggedRounds(**({"log_p_log": None} | given))


def _array(column: Any, name: str, path: Path) -> NDArray[np.generic]:
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    if name == "user":
        if column.null_count:
            raise InputError(f"{path}: user is empty in {column.null_count} rows; every round needs its user")
        return values.astype(str) if values.dtype == object else values
    if values.dtype != object:
        return values
    lengths = {len(row) if isinstance(row, np.ndarray) else -1 for row in values}
    if -1 in lengths:
        raise InputError(f"{path}: {name} is {column.type}, in places empty or no numbers; slates' columns are lists")
    if len(lengths) > 1:
        raise InputError(f"{path}: {name} has lists of {sorted(lengths)} entries; slates must have one length")
    return np.stack(list(values))


def log_probabilities(values: Real | None, name: str, shape: tuple[int, ...]) -> Floats:
    """Float64 log-probabilities of this shape in [-inf, 0]; raises InputError otherwise."""
    if values is None:
        raise InputError(f"{name}: missing; give one log-probability per row")
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"{name}: shape {array.shape} for {shape[0]} rewards; give one log-probability per row")
    wrong = np.argwhere(~(array <= LOG_PROBABILITY_SLACK))  # also NaN
    if wrong.size:
        raise InputError(
            f"{name}: {array[tuple(wrong[0])]} in row {wrong[0][0]} is no log-probability; "
            "propensities must lie in (0, 1] and be known in every row or in none"
        )
    return np.minimum(array, 0.0)


def ratio(log_p_log: Floats, log_p_new: Floats, name: str, whole: str) -> Floats:
    """exp(log_p_new - log_p_log), refusing what was logged with probability zero and what overflows."""
    never = np.argwhere(np.isneginf(log_p_log))
    if never.size:
        raise InputError(f"{name}: propensity 0 in row {never[0][0]}; a slate that was shown had a propensity above 0")
    with np.errstate(over="ignore"):
        weights: Floats = np.exp(log_p_new - log_p_log)
    infinite = np.argwhere(np.isinf(weights))
    if infinite.size:
        at = tuple(infinite[0])
        raise InputError(
            f"weights: overflow in row {at[0]} (log-probabilities {log_p_new[at]:.1f} and "
            f"{log_p_log[at]:.1f}); are {whole}?"
        )
    return weights


def by_position(logged: Real | None, new: Real | None, name: str, rows: int) -> Floats | None:
    """Weights (n, K) of positions or prefixes; None where neither policy's are given, an error where only one's are."""
    if logged is None and new is None:
        return None
    if logged is None or new is None:
        raise InputError(f"{name}_log and {name}_new: one is missing; give both policies' log-probabilities or neither")
    size = np.asarray(logged).shape[1] if np.ndim(logged) == 2 else 1
    checked = [log_probabilities(p, f"{name}_{of}", (rows, size)) for of, p in (("log", logged), ("new", new))]
    return ratio(checked[0], checked[1], f"{name}_log", "both of the same positions")


def marginal(values: Real | None, name: str, rows: int) -> Floats | None:
    """Marginal weights (n,), finite and not negative."""
    if values is None:
        return None
    array = of_length(values, name, rows)
    wrong = np.flatnonzero(array < 0)
    if wrong.size:
        raise InputError(f"{name}: {array[wrong[0]]} in row {wrong[0]}; a ratio of probabilities is not negative")
    return array


def optional(values: Real | None, name: str, rows: int) -> Floats | None:
    """A finite column (n,) or (n, K) that may be missing."""
    if values is None:
        return None
    if np.ndim(values) == 2:
        array = np.asarray(values, dtype=np.float64)
        of_length(array.sum(axis=1), name, rows)
        return array
    return of_length(values, name, rows)


def of_length(values: Real, name: str, rows: int) -> Floats:
    """`values` as finite float64 (n,), n = rows; raises InputError otherwise."""
    array = finite(values, name)
    if array.size != rows:
        raise InputError(f"{name}: {array.size} values for {rows} rewards; columns must have the same length")
    return array
