"""From probabilities of every action to the columns of the log: rounds x actions are only ever held a block at once.

For logs of single actions (one banner, one message) where both policies can say how likely every action was. From
p_log, p_new and q, all (B, A), come the columns of `LoggedRounds`: v is the new policy's expected q, off_support its
mass where logging has none, and embedding_weight the ratio of the probabilities of the action's cluster or embedding,
which MIPS and OffCEM weigh by where single actions are too many for importance weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats
from eval.rounds import SUM_SLACK, LoggedRounds


@dataclass(frozen=True)
class ActionBlock:
    """B rounds over A actions. action: (B,) the logged ones. p_new, p_log, q: (B, A); p_log may be (B,), of the logged
    action alone, where that is all the log has. user, reward: (B,)."""

    action: NDArray[np.integer]
    p_log: NDArray[np.floating]
    p_new: NDArray[np.floating]
    reward: NDArray[np.floating]
    user: NDArray[np.generic]
    q: NDArray[np.floating] | None = None


def action_rounds(
    block: ActionBlock, embedding: NDArray[np.integer] | NDArray[np.floating] | None = None
) -> LoggedRounds:
    """The columns of these rounds.

    embedding: each action's cluster (A,) of integers, for MIPS and OffCEM; or p(action | x, e) (B, A), a posterior
    over actions given the logged embedding, from which the weight is sum_a p(a | x, e) p_new(a) / p_log(a)
    (Saito & Joachims 2022). Either needs p_log of every action. Raises InputError on probabilities that do not
    sum to one, negative or NaN, on actions outside [0, A) and on shapes that do not fit.
    """
    _distribution(block.p_new, "p_new")
    n, actions = block.p_new.shape
    chosen = np.asarray(block.action)
    wrong = np.flatnonzero((chosen < 0) | (chosen >= actions))
    if chosen.shape != (n,) or wrong.size or chosen.dtype.kind not in "iu":
        said = f"{chosen[wrong[0]]} in row {wrong[0]}" if wrong.size else f"{chosen.dtype}, shape {chosen.shape}"
        raise InputError(f"action: {said}; one of 0..{actions - 1} is due for each of {n} rounds")
    row = np.arange(n)
    every = block.p_log.ndim == 2
    if every:
        _distribution(block.p_log, "p_log", (n, actions))
    elif float(np.min(block.p_log, initial=1.0)) < 0:
        raise InputError(f"p_log: a probability of {np.min(block.p_log):.3g} is below 0")
    logged = np.asarray(block.p_log[row, chosen] if every else block.p_log, dtype=np.float64)
    off_support = weight = q = v = None
    if every:
        off_support = np.where(block.p_log > 0, 0.0, block.p_new).sum(axis=1, dtype=np.float64)
    if block.q is not None:
        if block.q.shape != (n, actions):
            raise InputError(f"q: shape {block.q.shape} for {n} rounds of {actions} actions")
        q = np.asarray(block.q[row, chosen], dtype=np.float64)
        v = np.einsum("na,na->n", block.p_new, block.q).astype(np.float64)
    if embedding is not None:
        if not every:
            raise InputError("p_log: give it of every action (B, A): the probability of a cluster is a sum")
        given = np.asarray(embedding)
        by_cluster = given.ndim == 1
        weight = _cluster_weight(block, given, chosen) if by_cluster else _posterior_weight(block, given.astype(float))
    with np.errstate(divide="ignore"):
        log_p_log, log_p_new = np.log(logged), np.log(np.asarray(block.p_new[row, chosen], dtype=np.float64))
    return LoggedRounds(
        log_p_log,
        log_p_new,
        np.asarray(block.reward),
        np.asarray(block.user),
        q,
        v,
        off_support,
        weight,
    )


def _distribution(p: NDArray[np.floating], name: str, shape: tuple[int, int] | None = None) -> None:
    if p.ndim != 2 or (shape is not None and p.shape != shape):
        raise InputError(f"{name}: shape {p.shape}; give one probability per round and action")
    totals = p.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(totals - 1.0) <= SUM_SLACK))  # also NaN
    if wrong.size:
        raise InputError(
            f"{name}: the probabilities of row {wrong[0]} sum to {totals[wrong[0]]:.6g}, not to 1 over actions"
        )
    if float(p.min(initial=0.0)) < 0:
        raise InputError(f"{name}: a probability of {p.min():.3g} in row {int(p.min(axis=1).argmin())} is below 0")


def _cluster_weight(block: ActionBlock, cluster: NDArray[np.generic], chosen: NDArray[np.integer]) -> Floats:
    """p_new(c | x) / p_log(c | x) of the logged action's cluster."""
    actions = block.p_new.shape[1]
    if cluster.shape != (actions,):
        raise InputError(f"embedding: {cluster.size} clusters for {actions} actions; give one per action")
    mine = cluster[None, :] == cluster[chosen][:, None]
    new = np.where(mine, block.p_new, 0.0).sum(axis=1, dtype=np.float64)
    logged: Floats = np.where(mine, block.p_log, 0.0).sum(axis=1, dtype=np.float64)
    return _ratio(new, logged)


def _posterior_weight(block: ActionBlock, posterior: Floats) -> Floats:
    """sum_a p(a | x, e) w(x, a), over actions that logging could take."""
    _distribution(posterior, "embedding", block.p_new.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.where(block.p_log > 0, block.p_new / block.p_log, 0.0)
    weight: Floats = np.einsum("na,na->n", w, posterior).astype(np.float64)
    return weight


def _ratio(new: Floats, logged: Floats) -> Floats:
    never = np.flatnonzero(logged == 0)
    if never.size:
        raise InputError(f"p_log: propensity 0 in row {never[0]}; an action that was shown had a propensity above 0")
    return new / logged
