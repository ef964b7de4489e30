"""Probabilities of parts of slates, for estimators that ask less of a log than that it shows whole slates.

A whole slate of five among hundreds of items is hardly ever shown twice; its first item, or the item at one position,
is. `prefix` columns are log p(a_1..a_l | x), `position` columns log p(a_l at l | x) whatever stands elsewhere. For a
policy that fills slates item by item the first are sums of what it said anyway; the second are means over the prefixes
it might have drawn. The pseudo-inverse estimator with these weights is exact for additive outcomes where logging drew
its positions independently (Swaminathan et al. 2017), and nearly so for few items out of many without
repeats; `pseudo_inverse_weights` is the estimator for any logging policy whose second moments are known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats

DRAWS = 64  # prefixes drawn per context for the probability of an item at a position
AGREEMENT = 1e-3  # nats that a logging policy asked again may differ from what it logged


def plackett_luce_prefixes(scores: NDArray[np.floating], slates: NDArray[np.integer]) -> Floats:
    """Log-probabilities (B, K) of the first l items of slates (B, K) drawn by exp(scores) (B, N), no repeats."""
    weight = _weights(scores)
    chosen = np.take_along_axis(weight, slates, axis=1)
    gone = np.concatenate([np.zeros((len(slates), 1)), np.cumsum(chosen, axis=1)[:, :-1]], axis=1)
    left = np.maximum(weight.sum(axis=1, keepdims=True) - gone, chosen)
    with np.errstate(divide="ignore"):
        found: Floats = np.cumsum(np.log(chosen) - np.log(left), axis=1)
    return found


def plackett_luce_positions(
    scores: NDArray[np.floating], slates: NDArray[np.integer], rng: np.random.Generator, draws: int = DRAWS
) -> Floats:
    """Log-probabilities (B, K) of each slate's item at its position, whatever comes before: a mean over drawn prefixes.

    Given a prefix without the item, it comes next with its weight over what is left; with it, never. Averaging these
    instead of counting draws (Rao-Blackwell) leaves an error of a percent or so at 64 draws.
    """
    weight = _weights(scores)
    batch, size = slates.shape
    total, mine = weight.sum(axis=1), np.take_along_axis(weight, slates, axis=1)
    found = np.zeros((batch, size))
    row = np.arange(batch)
    for _ in range(draws):
        keys = rng.standard_exponential(weight.shape) / np.maximum(weight, 1e-300)
        part = np.argpartition(keys, size - 1, axis=1)[:, :size]
        order = np.argsort(np.take_along_axis(keys, part, axis=1), axis=1)
        prefix = np.take_along_axis(part, order, axis=1)
        left, taken = total.copy(), np.zeros((batch, size), dtype=bool)
        for place in range(size):
            found[:, place] += np.where(taken[:, place], 0.0, mine[:, place] / np.maximum(left, mine[:, place]))
            taken |= slates == prefix[:, place : place + 1]
            left = left - weight[row, prefix[:, place]]
    with np.errstate(divide="ignore"):
        logs: Floats = np.log(found / draws)
    return logs


def _weights(scores: NDArray[np.floating]) -> Floats:
    wide = scores.astype(np.float64)
    weights: Floats = np.exp(wide - wide.max(axis=1, keepdims=True))
    return weights


def logged_by(prefixes: Floats, log_p_log: NDArray[np.floating]) -> None:
    """Raises InputError unless a logging policy asked again, (B, K), says of whole slates what the log says, (B,)."""
    apart = np.abs(prefixes[:, -1] - log_p_log)
    worst = int(apart.argmax())
    if not apart[worst] <= AGREEMENT:
        raise InputError(
            f"log_p_log: the logging policy asked again says {prefixes[worst, -1]:.3f} of the slate in row {worst}, "
            f"the log {log_p_log[worst]:.3f}; it is not the policy that wrote this log, or it does not see what it saw"
        )


def pseudo_inverse_weights(gamma: Floats, target: Floats, slates: NDArray[np.integer]) -> Floats:
    """W (B,) = target' pinv(gamma) 1_s, the weight of the pseudo-inverse estimator mean(W r).

    gamma: (K A, K A), the logging policy's E[1_s 1_s'] over (position, item) indicators, position by position; target:
    (K A,) or (B, K A), the new policy's E[1_s]. slates: (B, K) items. Unbiased wherever the outcome is a sum of effects
    of (position, item) and the log shows each pair that the new policy shows (Swaminathan et al. 2017).
    Raises InputError where shapes do not fit.
    """
    batch, size = slates.shape
    if gamma.shape[0] != gamma.shape[1] or gamma.shape[0] % size:
        raise InputError(f"gamma: shape {gamma.shape}; it is square over {size} positions x items")
    items = gamma.shape[0] // size
    onto = np.broadcast_to(target, (batch, gamma.shape[0])) @ np.linalg.pinv(gamma, hermitian=True)
    places = slates + items * np.arange(size)
    weights: Floats = np.take_along_axis(onto, places, axis=1).sum(axis=1)
    return weights
