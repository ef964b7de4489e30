"""A day of messages for everybody at once: at most one each, within a budget of sends per channel, worth the most.

    best = best_moves(users, chunks)                    # the best option of each user by each channel
    made = plan(best, budgets=(200_000, 500_000, None)) # made.option, made.channel: (U,), -1 = hold
    made.gap                                            # how far below the best possible, at most

Values are advantages over holding, so to hold is worth 0. Only the best option of a user by each channel can be in a
best plan, which leaves an assignment of users to channels with capacities. Its linear program has whole solutions
(Birkhoff), and its dual has one price a channel: everybody takes what is worth most after the price, or holds. For few
users HiGHS (Huangfu & Hall 2018) solves the program itself. For many the prices begin with those of the program over a
sample of the users, and are then cleared channel by channel over all of them: the price at which as many want a channel
as it has sends. This is the ascending auction of Crawford & Knoer (1981), without its steps. What is over a budget by
ties is taken off by value.

Any prices bound what a plan can be worth from above (weak duality), so the gap is a certificate, not an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from data.errors import InputError
from data.world.settings import CHANNELS

SAMPLE = 10_000  # users whose program is solved for the first prices
ROUNDS = 50  # of clearing all channels once
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chunk:
    """N options: user (N,) 0 .. U - 1, option (N,) a number the user knows it by, channel (N,), value (N,)."""

    user: NDArray[np.integer]
    option: NDArray[np.integer]
    channel: NDArray[np.integer]
    value: NDArray[np.floating]


@dataclass(frozen=True)
class BestMoves:
    """The best option of each user by each channel: value (U, channels), -inf where there is none; option, -1 there."""

    value: Floats
    option: NDArray[np.int32]


@dataclass(frozen=True)
class Plan:
    """What everybody gets. value: what the plan is worth; bound: what none can be worth more than; prices (channels,)
    of a send."""

    option: NDArray[np.int32]  # (U,) -1 = hold
    channel: NDArray[np.int8]  # (U,)
    value: float
    bound: float
    prices: Floats

    @property
    def gap(self) -> float:
        """How much of the bound the plan may fall short of, as a share of it."""
        return (self.bound - self.value) / self.bound if self.bound > 0 else 0.0

    @property
    def sends(self) -> NDArray[np.int64]:
        """(channels,) how many."""
        return np.bincount(self.channel[self.channel >= 0], minlength=len(self.prices))


def best_moves(users: int, chunks: Iterable[Chunk], channels: int = len(CHANNELS)) -> BestMoves:
    """The best option by user and channel, of ties the lowest. Values that are nan or -inf are no options.

    Raises InputError for a user or channel that is not there, and for a value of inf.
    """
    value, option = np.full(users * channels, -np.inf), np.full(users * channels, -1, np.int32)
    for chunk in chunks:
        there = chunk.value > -np.inf  # not nan
        user, channel = chunk.user[there].astype(np.int64), chunk.channel[there].astype(np.int64)
        worth, named = chunk.value[there].astype(np.float64), chunk.option[there].astype(np.int32)
        for name, given, most in (("user", user, users), ("channel", channel, channels)):
            if len(given) and (given.min() < 0 or given.max() >= most):
                raise InputError(f"planner: an option of {name} outside 0..{most - 1}")
        if np.isposinf(worth).any():
            raise InputError("planner: an option is worth inf; values must be finite")
        place = user * channels + channel
        order = np.lexsort((-named, worth, place))
        last = order[np.append(np.flatnonzero(np.diff(place[order])), len(order) - 1)] if len(order) else order
        at = place[last]
        better = (worth[last] > value[at]) | ((worth[last] == value[at]) & (named[last] < option[at]))
        value[at[better]], option[at[better]] = worth[last][better], named[last][better]
    return BestMoves(value.reshape(users, channels), option.reshape(users, channels))


def best_of_matrix(
    values: NDArray[np.floating], channel: NDArray[np.integer], channels: int = len(CHANNELS)
) -> BestMoves:
    """The same from values (U, A) of options that are named by their column and go by channel (A,)."""
    users = len(values)
    best, option = np.full((users, channels), -np.inf), np.full((users, channels), -1, np.int32)
    for c in range(channels):
        columns = np.flatnonzero(channel == c)
        if not len(columns):
            continue
        of = np.where(np.isnan(values[:, columns]), -np.inf, values[:, columns])
        at = of.argmax(axis=1)
        best[:, c] = of[np.arange(users), at]
        option[:, c] = np.where(best[:, c] > -np.inf, columns[at], -1)
    return BestMoves(best, option)


def plan(best: BestMoves, budgets: Sequence[int | None]) -> Plan:
    """The plan worth the most within `budgets` (sends by channel; None: no limit); the same input gives the same plan.

    Raises InputError for a negative budget, or not one for each channel.
    """
    users, channels = best.value.shape
    if len(budgets) != channels or any(budget is not None and budget < 0 for budget in budgets):
        raise InputError(f"planner: budgets {tuple(budgets)}: give 0 or more (None: no limit) for each channel")
    room = np.array([users if budget is None else min(budget, users) for budget in budgets], np.int64)
    value = np.where((best.value > 0) & (room > 0), best.value, -np.inf)  # only what is worth more than to hold
    if users <= SAMPLE:
        _, prices, taken = relaxed(value, room)
    else:
        prices = _cleared(_apart(value), room, _sample_prices(value, room))
        taken = _filled(value, room, _assigned(_apart(value), room, prices))
    sends = taken >= 0
    rows = np.flatnonzero(sends)
    return Plan(
        option=np.where(sends, best.option[np.arange(users), np.maximum(taken, 0)], -1).astype(np.int32),
        channel=taken.astype(np.int8),
        value=float(value[rows, taken[rows]].sum()),
        bound=upper_bound(value, room, prices),
        prices=prices,
    )


def upper_bound(value: Floats, room: NDArray[np.int64], prices: Floats) -> float:
    """What no plan is worth more than, by any prices of 0 or more: prices x room + what is left to the users."""
    left = np.maximum((value - prices).max(axis=1, initial=-np.inf), 0.0)
    return float(prices @ room + left.sum())


def relaxed(value: Floats, room: NDArray[np.int64]) -> tuple[float, Floats, NDArray[np.int64]]:
    """(worth of the best plan, prices, what it takes (U,)) by HiGHS: exact, and slow beyond some ten thousand users."""
    users, channels = value.shape
    taken = np.full(users, -1, np.int64)
    user, channel = np.nonzero(value > 0)
    if not len(user):
        return 0.0, np.zeros(channels), taken
    columns = np.arange(len(user))
    rows = np.concatenate([user, users + channel])
    limits = coo_matrix((np.ones(len(rows)), (rows, np.tile(columns, 2))), shape=(users + channels, len(user)))
    solved = linprog(
        -value[user, channel],
        A_ub=limits.tocsc(),
        b_ub=np.concatenate([np.ones(users), room]),
        bounds=(0.0, 1.0),
        method="highs-ds",  # its solutions are vertices, which here are whole
    )
    if solved.status != 0:
        raise InputError(f"planner: the linear program was not solved ({solved.message})")
    chosen = solved.x > 0.5
    taken[user[chosen]] = channel[chosen]
    return -float(solved.fun), np.maximum(-solved.ineqlin.marginals[users:], 0.0), taken


def _apart(value: Floats) -> Floats:
    """Values without ties: each moved by less than a part in a million million, always by the same."""
    users, channels = value.shape
    # Steps of the golden ratio's fraction fill [0, 1) evenly, and no two of them are alike.
    step = (np.arange(users * channels, dtype=np.float64) * 0.6180339887498949 % 1.0).reshape(users, channels)
    finite = value[np.isfinite(value)]
    return value + 1e-12 * (float(finite.max()) if len(finite) else 1.0) * step


def _sample_prices(value: Floats, room: NDArray[np.int64]) -> Floats:
    users = len(value)
    rows = np.random.default_rng(0).permutation(users)[:SAMPLE]
    return relaxed(value[rows], np.ceil(room * (SAMPLE / users)).astype(np.int64))[1]


def _cleared(value: Floats, room: NDArray[np.int64], prices: Floats) -> Floats:
    """Prices at which every channel is wanted by as many as it has room for, or costs nothing and has room left."""
    prices = prices.copy()
    for _ in range(ROUNDS):
        if _clear(value, room, prices):
            break
        for c in np.flatnonzero(room).tolist():
            others = np.delete(value - prices, c, axis=1)
            surplus = value[:, c] - np.maximum(others.max(axis=1, initial=-np.inf), 0.0)  # worth of c beside the rest
            if room[c] >= len(surplus):
                prices[c] = 0.0
                continue
            # Between the last who gets it and the first who does not, so that neither is of two minds.
            at = len(surplus) - 1 - int(room[c])
            around = np.partition(surplus, (at, at + 1))[at : at + 2]
            prices[c] = around.mean() if around[0] > 0 else 0.0
    return prices


def _clear(value: Floats, room: NDArray[np.int64], prices: Floats) -> bool:
    left = value - prices
    best = left.argmax(axis=1)
    wanted = np.bincount(best[left[np.arange(len(left)), best] > 0], minlength=len(room))
    return bool(((wanted == room) | ((wanted < room) & (prices == 0))).all())


def _assigned(value: Floats, room: NDArray[np.int64], prices: Floats) -> NDArray[np.int64]:
    """(U,) the channel that each takes at these prices, -1 to hold. Who wants a full channel least looks elsewhere."""
    users, channels = value.shape
    left = value - prices
    while True:
        best = left.argmax(axis=1)
        worth = left[np.arange(users), best]
        taken = np.where(worth > 0, best, -1)
        lost = False
        for c in range(channels):
            rows = np.flatnonzero(taken == c)
            if len(rows) <= room[c]:
                continue
            second = np.maximum(np.delete(left[rows], c, axis=1).max(axis=1, initial=-np.inf), 0.0)
            order = np.lexsort((rows, second - worth[rows]))
            left[rows[order[room[c] :]], c] = -np.inf
            lost = True
        if not lost:
            return taken


def _filled(value: Floats, room: NDArray[np.int64], taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sends that are left go to those who hold, the best first."""
    taken = taken.copy()
    for c in range(value.shape[1]):
        left = int(room[c] - (taken == c).sum())
        rows = np.flatnonzero((taken < 0) & (value[:, c] > 0))
        if left > 0 and len(rows):
            order = np.lexsort((rows, -value[rows, c]))
            taken[rows[order[:left]]] = c
    return taken
