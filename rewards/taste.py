"""What a listener likes, by least squares on their own past: a few numbers beside the transformer's state.

A history of a hundred plays says a good deal about a taste, but only to somebody who sums it up in the right way, and a
small transformer has to learn that way from scratch. It is known: with a normal prior on the weights of content, the
best guess of a listener's taste is a ridge regression of how each item went, less how it goes with others, on what the
item is (the per-user model of LinUCB, Li et al., WWW 2010, with the prior's widths taken from the log). Beside it the
mean content of what was played lately, which says what the listener is drawn to, and may be tired of.

Both are bilinear with an item's content, so that a taste meets any item, seen or not, in one product.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data.histories import Decisions, Histories
from data.schema import ACTION_CODE

Floats = NDArray[np.float64]
LIKED, NOT_LIKED = ("complete", "save", "like", "convert"), ("skip", "dislike", "dismiss")
LATELY_DAYS = 8.0  # time in which a play counts for 1/e of itself
_LATELY_PLAYS = 32  # and how many are looked at
PRIOR_PLAYS = 5.0  # weight of the usual in an item's mean, and of nothing in the mean of what was played lately
_BLOCK = 8_192  # interactions whose products are summed at once
_SCALED_USERS = 4_000  # at the last of whose plays the scale is taken
_DAY = 86_400e6


def taste_width(directions: int) -> int:
    """Numbers that `tastes` gives for one decision: a general liking, then liked and lately along each direction."""
    return 1 + 2 * directions


@dataclass(frozen=True)
class TasteModel:
    """What is usual, learned from some users' plays before the cut.

    expected (N,): how often each item is liked once played. usual (P,): mean content of what is played. precision (1 +
    P,): of the normal prior of a listener's weights, in units of one play. scale (2,): of liked and lately along an
    item, so that both have unit variance.
    """

    expected: Floats
    usual: Floats
    precision: Floats
    scale: Floats


def liking(action: NDArray[np.integer]) -> Floats:
    """1 where an interaction was liked, 0 where it was not, NaN where its action says neither."""
    table = np.full(max(ACTION_CODE.values()) + 2, np.nan)  # the last stands for action -1
    table[[ACTION_CODE[name] for name in LIKED]] = 1.0
    table[[ACTION_CODE[name] for name in NOT_LIKED]] = 0.0
    result: Floats = table[action.astype(np.int64)]
    return result


def fit_tastes(histories: Histories, content: NDArray[np.floating], rows: NDArray[np.integer]) -> TasteModel:
    """Means, prior and scale from the interactions `rows`, in order, and no others; content (N, P) of unit variance.

    The prior's variance along a direction is that of listeners' weights there: products of two different plays of one
    listener vary together by it (a moment estimator of the diagonal, as of random coefficients: Swamy, 1970).
    """
    item, liked = histories.item[rows], liking(histories.action[rows])
    user = np.repeat(np.arange(len(histories.user_ids)), np.diff(histories.offsets))[rows]
    kept = ~np.isnan(liked) & (item >= 0)
    plays = np.bincount(item[kept], minlength=len(content))
    mean = float(liked[kept].mean()) if kept.any() else 0.0
    expected = (np.bincount(item[kept], weights=liked[kept], minlength=len(content)) + PRIOR_PLAYS * mean) / (
        plays + PRIOR_PLAYS
    )
    seen = item[item >= 0]
    usual = content[seen].astype(np.float64).mean(0) if len(seen) else np.zeros(content.shape[1])
    design = _design(content, item[kept])
    away = (liked[kept] - expected[item[kept]])[:, None] * design
    users = len(histories.user_ids)
    squares = design**2
    total, own = _by_user(away, user[kept], users), (away**2).sum(0)
    leverage, own_leverage = _by_user(squares, user[kept], users), (squares**2).sum(0)
    noise = max(mean * (1 - mean), 1e-6)
    variance = ((total**2).sum(0) - own) / np.maximum((leverage**2).sum(0) - own_leverage, 1e-9)
    # A direction without taste keeps a prior that plays hardly move.
    precision = noise / np.clip(variance, 1e-4 * noise, None)
    model = TasteModel(expected, usual, precision, np.ones(2))
    if not len(rows):
        return model
    count = np.bincount(user, minlength=users)
    offsets = np.concatenate([[0], np.cumsum(count)])
    columns = ("item", "action", "time", "surface", "hour_of_week")
    taught = replace(histories, offsets=offsets, **{name: getattr(histories, name)[rows] for name in columns})
    ends = offsets[1:][count > 0][:_SCALED_USERS]
    known = _at(taught, content, model, ends - 1, ends, taught.time[ends - 1])
    P = content.shape[1]
    spread = [float(np.std(known[:, 1 + P * k : 1 + P * (k + 1)] @ content.T.astype(np.float64))) for k in range(2)]
    return TasteModel(expected, usual, precision, 1.0 / np.maximum(spread, 1e-6))


def tastes(
    histories: Histories, decisions: Decisions, content: NDArray[np.floating], model: TasteModel
) -> NDArray[np.float32]:
    """Tastes (D, 1 + 2 P) before each decision: the general liking, the weights of content in liking, and the content
    of what was played lately less the usual. Only interactions before `start` are read."""
    found = np.zeros((len(decisions), taste_width(content.shape[1])), np.float32)
    past = decisions.start > histories.offsets[decisions.user]
    if past.any():
        at = decisions.start[past] - 1
        found[past] = _at(histories, content, model, at, decisions.start[past], decisions.time[past])
    return found


def _at(
    histories: Histories,
    content: NDArray[np.floating],
    model: TasteModel,
    last: NDArray[np.integer],
    end: NDArray[np.integer],
    time: NDArray[np.integer],
) -> Floats:
    """Tastes (n, 1 + 2 P) from interactions up to `last`, of its user, inclusive; end = last + 1."""
    P = content.shape[1]
    found = np.zeros((len(last), taste_width(P)))
    for queries, low, high in _blocks(histories, last):
        item, liked = histories.item[low:high], liking(histories.action[low:high])
        kept = (~np.isnan(liked) & (item >= 0)).astype(np.float64)
        safe = np.maximum(item, 0)
        design = _design(content, safe) * kept[:, None]
        away = np.nan_to_num(liked - model.expected[safe]) * kept
        user = np.searchsorted(histories.offsets, last[queries], side="right") - 1
        first, stop = histories.offsets[user] - low, end[queries] - low
        moment = _between(np.cumsum(design * away[:, None], axis=0), first, stop)
        gram = _between(np.cumsum(design[:, :, None] * design[:, None, :], axis=0), first, stop)
        found[queries, : 1 + P] = np.linalg.solve(gram + np.diag(model.precision), moment[..., None])[..., 0]
        found[queries, 1 + P :] = _lately(
            histories, content, model, last[queries], histories.offsets[user], time[queries]
        )
    found[:, 1 : 1 + P] *= model.scale[0]
    found[:, 1 + P :] *= model.scale[1]
    return found


def _lately(
    histories: Histories,
    content: NDArray[np.floating],
    model: TasteModel,
    last: NDArray[np.integer],
    first: NDArray[np.integer],
    time: NDArray[np.integer],
) -> Floats:
    back = last[:, None] - np.arange(_LATELY_PLAYS)  # (n, plays)
    safe = np.maximum(back, 0)
    item = histories.item[safe]
    ago = (time[:, None] - histories.time[safe]) / _DAY
    weight = np.where((back >= first[:, None]) & (item >= 0), np.exp(-ago / LATELY_DAYS), 0.0)
    away = content[np.maximum(item, 0)] - model.usual
    result: Floats = np.einsum("nh,nhp->np", weight, away) / (weight.sum(1, keepdims=True) + PRIOR_PLAYS)
    return result


def _blocks(histories: Histories, last: NDArray[np.integer]) -> Iterator[tuple[NDArray[np.int64], np.int64, np.int64]]:
    """Queries by whole users, about `_BLOCK` interactions at a time: (which queries, first interaction, end)."""
    user = np.searchsorted(histories.offsets, last, side="right") - 1
    order = np.argsort(user, kind="stable")
    block = histories.offsets[user[order]] // _BLOCK
    for part in np.split(order, np.flatnonzero(np.diff(block)) + 1):
        yield part, histories.offsets[user[part[0]]], histories.offsets[user[part[-1]] + 1]


def _design(content: NDArray[np.floating], item: NDArray[np.integer]) -> Floats:
    return np.concatenate([np.ones((len(item), 1)), content[item].astype(np.float64)], axis=1)


def _by_user(values: Floats, user: NDArray[np.integer], users: int) -> Floats:
    return np.stack([np.bincount(user, weights=column, minlength=users) for column in values.T], axis=1)


def _between(sums: Floats, first: NDArray[np.integer], stop: NDArray[np.integer]) -> Floats:
    """Sums over rows first:stop (n, ..) from running sums over all rows."""
    shape = (-1, *([1] * (sums.ndim - 1)))
    before = np.where((first > 0).reshape(shape), sums[np.maximum(first - 1, 0)], 0.0)
    result: Floats = sums[stop - 1] - before
    return result
