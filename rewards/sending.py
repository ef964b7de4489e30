"""How the log's policy sends, modelled, and made exact by the probabilities that it logged.

A log has the probability of what was done, not of what could have been. What an effect is measured against is the mean
over everything that could have been done, so that needs a distribution mu over all moves:

    mu(hold | x) = h,   mu(column, channel, hour | x) = (1 - h) mu(channel) mu(column) mu(hour)

over the moves the log's rules allow, with shares fitted to the log: of an hour of the local day the share of sends at
it, of a slot the sum of its hours. Each decision then counts mu / p, p being its
logged probability: in the log so weighted, decisions are drawn from mu, whatever it is. A model that fits gives weights
near one; a model that does not costs precision and no truth. Where p was logged wrongly or moves were impossible the
mean weight is not one, and that is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from data.errors import InputError
from data.message_log import MessageLog
from data.world.environment import MessageContexts
from data.world.message_policies import allowed_channels
from data.world.settings import CHANNELS
from rewards.message_features import SLOT_STARTS, Floats, MessageCatalog, Moves, moves

Ints = NDArray[np.int64]
HOURS = (8, 13, 18)  # one local hour in each slot, none in quiet hours
MOST_WEIGHT = 20.0
FEWEST_SENDS = 200
_SEEN = 0.002  # share of sends from which an hour counts as one of the log's


@dataclass(frozen=True)
class Sending:
    """mu: the share held, logits of channels (channels,), of a message's value and domain (1 + domains,), and the share
    of hours (24,) of the local day. weekly_cap: sends a channel and week, a rule of the log's policy."""

    hold: float
    channel: Floats
    column: Floats
    hour: Floats
    weekly_cap: int

    @property
    def slots(self) -> NDArray[np.int64]:
        """The slots of the day that are sent in."""
        used = np.bincount(_slot(np.arange(24)), weights=self.hour, minlength=len(SLOT_STARTS)) > 0
        found: NDArray[np.int64] = np.flatnonzero(used)
        return found

    def every_move(self, contexts: MessageContexts, catalog: MessageCatalog) -> tuple[Moves, Floats]:
        """All sends by (column, channel, slot), (B, N), at a common hour of the slot, and mu of each; the rest is hold.

        mu is 0 for what the rules do not allow, and all 0 where nothing may be sent.
        """
        batch, most = contexts.eligible.shape
        column, channel, slot = (
            grid.ravel() for grid in np.meshgrid(np.arange(most), np.arange(len(CHANNELS)), self.slots, indexing="ij")
        )
        by_slot = np.bincount(_slot(np.arange(24)), weights=self.hour, minlength=len(SLOT_STARTS))
        usual = np.array([np.argmax(np.where(_slot(np.arange(24)) == s, self.hour, -1.0)) for s in self.slots])
        hour = usual[np.searchsorted(self.slots, slot)]
        everywhere = [np.broadcast_to(grid, (batch, len(grid))) for grid in (column, channel, hour)]
        made = moves(contexts, catalog, *everywhere)
        there = contexts.eligible >= 0
        p_column = self._columns(contexts, catalog)
        p_channel = self._channels(contexts)
        mu = p_column[:, column] * p_channel[:, channel] * by_slot[slot]
        can = np.logical_and(there.any(axis=1), (p_channel > 0).any(axis=1))
        return made, np.where(can[:, None], (1.0 - self.hold) * mu, 0.0)

    def log_mu(self, log: MessageLog, catalog: MessageCatalog) -> Floats:
        """(D,) log mu of what was decided: of the column, channel and hour, or of holding."""
        held = log.column < 0
        p_column, p_channel = self._columns(log.contexts, catalog), self._channels(log.contexts)
        can = (p_column > 0).any(axis=1) & (p_channel > 0).any(axis=1)
        at, c = (
            np.maximum(log.column, 0)[:, None].astype(np.int64),
            np.maximum(log.channel, 0)[:, None].astype(np.int64),
        )
        sent = np.take_along_axis(p_column, at, axis=1)[:, 0] * np.take_along_axis(p_channel, c, axis=1)[:, 0]
        sent *= (1.0 - self.hold) * self.hour[np.maximum(log.hour, 0)]
        with np.errstate(divide="ignore"):
            found: Floats = np.log(np.where(held, np.where(can, self.hold, 1.0), np.where(can, sent, 0.0)))
        return found

    def _columns(self, contexts: MessageContexts, catalog: MessageCatalog) -> Floats:
        there = contexts.eligible >= 0
        score = column_features(contexts, catalog) @ self.column
        return _shares(score, there)

    def _channels(self, contexts: MessageContexts) -> Floats:
        allowed = allowed_channels(contexts, self.weekly_cap)
        return _shares(np.broadcast_to(self.channel, allowed.shape), allowed)


def legal_moves(
    contexts: MessageContexts, weekly_cap: int, hours: tuple[int, ...] = HOURS
) -> tuple[Ints, Ints, Ints, NDArray[np.bool_]]:
    """(column, channel, hour, allowed), (B, N) each: every send by consent and weekly cap, N = M x channels x hours."""
    batch, most = contexts.eligible.shape
    grids = np.meshgrid(np.arange(most), np.arange(len(CHANNELS)), np.array(hours), indexing="ij")
    column, channel, hour = (np.tile(grid.ravel(), (batch, 1)) for grid in grids)
    there = np.take_along_axis(contexts.eligible, column, axis=1) >= 0
    allowed = np.take_along_axis(allowed_channels(contexts, weekly_cap), channel, axis=1)
    return column, channel, hour, there & allowed


def column_features(contexts: MessageContexts, catalog: MessageCatalog) -> Floats:
    """(B, M, 1 + domains): the value signal (0 where there is none) and the domain of each opportunity."""
    domain = catalog.domain[np.maximum(contexts.eligible, 0)]
    value = np.nan_to_num(contexts.value.astype(np.float64))
    return np.concatenate([value[..., None], np.eye(len(catalog.domains))[domain]], axis=2)


def fit_sending(log: MessageLog, catalog: MessageCatalog, weekly_cap: int) -> Sending:
    """mu from a log with probabilities. Raises InputError where it has too few sends, or no probabilities."""
    if np.isnan(log.log_propensity).any():
        raise InputError("messages: the log has decisions without a propensity: serve with a policy that logs them")
    sent = np.flatnonzero(log.column >= 0)
    if len(sent) < FEWEST_SENDS:
        raise InputError(f"messages: {len(sent)} sends in the log, at least {FEWEST_SENDS} are needed: log for longer")
    counts = np.bincount(log.hour[sent], minlength=24).astype(np.float64)
    counts = np.where(counts >= _SEEN * len(sent), counts, 0.0)
    allowed = allowed_channels(log.contexts, weekly_cap)
    can = allowed.any(axis=1) & (log.contexts.eligible >= 0).any(axis=1)
    hold = float(np.clip((log.column[can] < 0).mean(), 0.01, 0.99))
    kept = sent if len(sent) <= 50_000 else sent[:: len(sent) // 50_000 + 1]
    contexts = log.contexts
    column = _fit_choice(
        column_features(contexts, catalog)[kept], contexts.eligible[kept] >= 0, log.column[kept].astype(np.int64)
    )
    legal = kept[np.take_along_axis(allowed[kept], log.channel[kept, None].astype(np.int64), axis=1)[:, 0]]
    channel = _fit_choice(
        np.broadcast_to(np.eye(len(CHANNELS)), (len(legal), len(CHANNELS), len(CHANNELS))),
        allowed[legal],
        log.channel[legal].astype(np.int64),
    )
    return Sending(hold, channel, column, counts / counts.sum(), weekly_cap)


def importance(log: MessageLog, sending: Sending, catalog: MessageCatalog) -> Floats:
    """(D,) mu / p of what was decided, at most MOST_WEIGHT, mean 1.

    Raises InputError where the mean is not one: the logged probabilities are not those of these decisions, or decisions
    were not drawn from what the rules allow.
    """
    weight = np.exp(sending.log_mu(log, catalog) - log.log_propensity)
    mean = float(weight.mean())
    by_user = np.bincount(log.user, weights=weight - mean)
    error = float(np.sqrt(np.sum(by_user**2))) / len(weight)
    if abs(mean - 1.0) > max(4.0 * error, 0.01):
        raise InputError(
            f"messages: the mean weight is {mean:.3f} where 1 is due (standard error {error:.3f}): the logged "
            "propensities are not those of these decisions, or weekly_cap is not the log's"
        )
    clipped = np.minimum(weight, MOST_WEIGHT)
    found: Floats = clipped / clipped.mean()
    return found


def _slot(hour: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.clip(np.searchsorted(SLOT_STARTS, hour, side="right") - 1, 0, len(SLOT_STARTS) - 1)


def _shares(score: Floats, there: NDArray[np.bool_]) -> Floats:
    """Softmax over the columns that are there, 0 in rows that have none."""
    least = np.where(there, score, -np.inf)
    top = np.max(least, axis=1, keepdims=True)
    weight = np.where(there, np.exp(least - np.where(np.isfinite(top), top, 0.0)), 0.0)
    total = weight.sum(axis=1, keepdims=True)
    shares: Floats = weight / np.where(total > 0, total, 1.0)
    return shares


def _fit_choice(features: Floats, there: NDArray[np.bool_], chosen: NDArray[np.int64]) -> Floats:
    """Conditional logit (McFadden 1974) of the chosen of N, features (n, N, F), with a weak prior."""
    rows = np.arange(len(chosen))

    def loss(theta: Floats) -> tuple[float, Floats]:
        p = _shares(features @ theta, there)
        value = -np.log(np.maximum(p[rows, chosen], 1e-300)).sum() + 0.5 * theta @ theta
        gradient = np.einsum("nm,nmf->f", p, features) - features[rows, chosen].sum(axis=0) + theta
        return value / len(rows), gradient / len(rows)

    found: Floats = minimize(loss, np.zeros(features.shape[2]), jac=True, method="L-BFGS-B").x
    return found
