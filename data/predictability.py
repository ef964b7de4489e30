"""Predictability: how much better a person's context foretells their visits than their rate of visits does.

A context is a slot of `slot_hours` hours on one local day of one person, who comes in it when a visit starts in it.
Each context of the last third of a person's time is forecast from what came strictly before it, by

    logit p = logit(rate x share of this slot of the week) + beta' (own past, days since the last visit, ...)

* rate: the person's visited slots per slot so far, shrunk to the mean of all people (beta-binomial); a day counts half
  as much after `half_life` days, so that who has left is soon expected no more, and leaving is not taken for timing;
* share: how the person's own visits so far are spread over slots of the day, shrunk to the crowd's spread, and over
  weekdays within a slot, shrunk to the crowd's weekdays in that slot (Dirichlet-multinomial);
* beta: one ridge logistic regression for all people, shrunk to 0, that is to the counts above being enough. Its columns
  are `COLUMNS`.

It is set against the same without any clock, logit p = logit(rate) + gamma' (columns LEVEL, which say how often and how
lately they came, smoothly): who leaves is foretold to come no more by both, so that is not taken for a habit, whereas
coming every other day or every seventh is.

How strongly people are shrunk (three concentrations, empirical Bayes by the method of moments, Robbins 1956; Kleinman
1973) and beta are learned from the first two thirds of everybody's time. In the last third nothing is fitted, but a
person's counts go on: every forecast is one step ahead. Losses are proper scores of such forecasts and nobody is chosen
by how often they came in that third, so they need no correction for how few visits there are.

One concentration serves everybody. Where half the people are clockwork, the past of the others is taken too seriously
and they come out below 0.

After Buyalskaya et al., "What can machine learning teach us about habit formation?" (PNAS 2023), who fit one LASSO
logistic regression to each person, hundreds of observations long, and read habit off its held-out AUC. Logs hold many
people with a dozen visits, for whom that is noise: hence the pooling. Two more differences. Their context has places
and colleagues; ours is time and past visits, which is what a log has. And an AUC over hours of the day and night is
high for anybody who sleeps: so the log-loss is set against one who comes at random hours (loss_rate, above) and one
who follows the crowd's clock at the same rate (loss_crowd).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import logit

from data.logistic import fit_logistic

Floats = NDArray[np.float64]

COLUMNS = (
    "constant",
    "own spread over slots, less the crowd's",
    "came earlier today",
    "came in this slot yesterday",
    "came in this slot a week ago",
    "share of the last 7 days with a visit",
    "log of the days since the last one with a visit",
    "last day with a visit: yesterday",
    "last day with a visit: 2 days ago",
    "last day with a visit: 3 to 6 days ago",
    "last day with a visit: 8 to 13 days ago",
    "last day with a visit: 14 days ago or more",
)
LEVEL = (0, 5, 6)
_LAST_SEEN = ((1, 1), (2, 2), (3, 6), (8, 13), (14, 1 << 20))  # 7 days ago is what these compare with
_BLOCK = 1 << 18  # contexts at a time


@dataclass(frozen=True)
class PredictabilitySettings:
    """slot_hours divides 24. held_out: the last share of each person's days. least_days: fewer, after the first visit,
    are not forecast. half_life: days, of the rate. least_visits: with fewer in the held-out days there is no AUC, which
    within one person takes a visit for a reason to expect no other. contexts: at most so many are looked at, by taking
    fewer people; fit_contexts of them, drawn at random, beta is fitted on, with `ridge` on its square.
    """

    slot_hours: int = 3
    held_out: float = 1 / 3
    least_days: int = 9
    half_life: float = 14.0
    least_visits: int = 3
    contexts: int = 3_000_000
    fit_contexts: int = 200_000
    ridge: float = 3.0


@dataclass(frozen=True)
class _Crowd:
    """What is shared by all: mean rate per context, spread over slots (S,) and weekdays in a slot (7, S), and the
    concentrations with which a person's own counts are shrunk to them.
    """

    rate: float
    slots: Floats
    weekdays: Floats
    rate_weight: float
    slots_weight: float
    weekdays_weight: float


@dataclass(frozen=True)
class _Block:
    """Contexts of some people, (B, T, S) for days 1 .. T after each one's first.

    came: is there a visit; rate: (B, T) logit of own rate; crowd: logit of own rate times the crowd's clock; columns:
    (B, T, S, K) as COLUMNS; train, held: (B, T) which days are which.
    """

    users: NDArray[np.int64]
    came: NDArray[np.bool_]
    rate: Floats
    crowd: Floats
    columns: NDArray[np.float32]
    train: NDArray[np.bool_]
    held: NDArray[np.bool_]


@dataclass(frozen=True)
class _Drawn:
    """Contexts (N,) to fit on; columns (N, K); rate, crowd: logits."""

    columns: Floats
    rate: Floats
    crowd: Floats
    came: NDArray[np.bool_]


@dataclass(frozen=True)
class _Models:
    """Coefficients of what is known without a clock, by the crowd's clock (both of LEVEL) and by all COLUMNS."""

    rate: Floats
    crowd: Floats
    full: Floats


def predictability(
    visits: pl.DataFrame,
    people: pl.DataFrame,
    settings: PredictabilitySettings = PredictabilitySettings(),
    seed: int = 0,
) -> pl.DataFrame:
    """Held-out forecasts per person: user, held_visits, loss, loss_rate, loss_crowd, auc.

    `visits`: user, day (since 1970, local), hour (of the week). `people`: user, first_day (of their first visit),
    last_day (the last that the log saw to its end). Losses are nats summed over the person's held-out contexts. So
    1 - loss / loss_rate is the share of the uncertainty about their visits that context takes away: 0 for a person
    without memory at any rate, below 0 where context misleads. auc is the chance that a context with a visit was given
    higher odds, against the rate of that moment, than one without (ties count half); null for people with too few of
    either.

    Left out are people followed for less than `least_days` and, where there are more than `contexts`, people drawn at
    random.
    """
    slots = 24 // settings.slot_hours
    empty = {"user": pl.Int64, "held_visits": pl.Int64, "loss": pl.Float64, "loss_rate": pl.Float64}
    empty |= {"loss_crowd": pl.Float64, "auc": pl.Float64}
    able = people.filter(pl.col("last_day") - pl.col("first_day") >= settings.least_days).sort("user")
    if able.is_empty():
        return pl.DataFrame(schema=empty)
    rng = np.random.default_rng(seed)
    size = (able["last_day"] - able["first_day"]).to_numpy() * slots
    order = rng.permutation(able.height)
    order = order[np.cumsum(size[order]) <= max(settings.contexts, int(size[order[0]]))]
    able = able[np.sort(order)]
    came = (
        visits.join(able, on="user")
        .filter(pl.col("day") <= pl.col("last_day"))
        .select(
            "user", "first_day", t=pl.col("day") - pl.col("first_day"), s=pl.col("hour") % 24 // settings.slot_hours
        )
        .unique()
        .sort("user", "t", "s")
    )
    crowd = _crowd(came, able, settings)
    drawn = _fit_rows(came, able, crowd, settings, rng)
    models = _Models(
        ridge_logistic(drawn.columns[:, LEVEL], drawn.rate, drawn.came, settings.ridge),
        ridge_logistic(drawn.columns[:, LEVEL], drawn.crowd, drawn.came, settings.ridge),
        ridge_logistic(drawn.columns, drawn.crowd + drawn.columns[:, 1], drawn.came, settings.ridge),
    )
    held = [_held_out(block, models, settings.least_visits) for block in _blocks(came, able, crowd, settings)]
    return pl.concat([pl.DataFrame(schema=empty), *held])


def _held_days(days: NDArray[np.generic], settings: PredictabilitySettings) -> NDArray[np.int64]:
    held: NDArray[np.int64] = np.maximum(1, np.rint(np.asarray(days) * settings.held_out)).astype(np.int64)
    return held


def _crowd(came: pl.DataFrame, able: pl.DataFrame, settings: PredictabilitySettings) -> _Crowd:
    """The crowd's clock and how much people differ from it, from everybody's first two thirds."""
    slots = 24 // settings.slot_hours
    days = (able["last_day"] - able["first_day"]).to_numpy()
    trained = days - _held_days(days, settings)
    first = came.join(able.select("user", row=pl.int_range(pl.len()), trained=pl.Series(trained)), on="user")
    first = first.filter(pl.col("t") <= pl.col("trained"))
    row, slot = first["row"].to_numpy(), first["s"].to_numpy().astype(np.int64)
    weekday = (first["first_day"].to_numpy() + first["t"].to_numpy() + 3) % 7
    cells = np.bincount((row * 7 + weekday) * slots + slot, minlength=able.height * 7 * slots)
    count: Floats = cells.reshape(able.height, 7, slots).astype(np.float64)
    by_slot: Floats = count.sum(1)
    share = (by_slot.sum(0) + 0.5) / (by_slot.sum() + 0.5 * slots)
    weekdays: Floats = (count.sum(0) + 0.5) / (count.sum((0, 1)) + 3.5)
    after: Floats = np.bincount(row[first["t"].to_numpy() > 0], minlength=able.height).astype(np.float64)
    contexts = (trained * slots).astype(np.float64)
    rate = float((after.sum() + 0.5) / (contexts.sum() + 1.0))
    return _Crowd(
        rate,
        share,
        weekdays,
        concentration(after[:, None], contexts, np.array([rate])),
        concentration(by_slot, by_slot.sum(1), share),
        concentration(count.transpose(0, 2, 1).reshape(-1, 7), by_slot.ravel(), np.tile(weekdays.T, (able.height, 1))),
    )


def concentration(count: Floats, total: Floats, mean: Floats) -> float:
    """Concentration of the Dirichlet (beta) prior around `mean` from which (N, G) counts of `total` (N,) draws come.

    Method of moments: with rho = 1 / (1 + concentration), the squared deviations from total * mean are in expectation
    sum_g total mean (1 - mean) (1 + (total - 1) rho) (Mosimann 1962). Between 0.02 and 10,000: never quite the
    person's own counts alone, nor the crowd's.
    """
    spread = total * (mean * (1 - mean)).sum(-1)
    excess = ((count - total[:, None] * mean) ** 2).sum(-1) - spread
    room = float((spread * (total - 1)).sum())
    rho = float(excess.sum()) / room if room > 0 else 0.0
    return float(np.clip(1 / rho - 1, 0.02, 1e4)) if rho > 1e-4 else 1e4


def _blocks(
    came: pl.DataFrame, able: pl.DataFrame, crowd: _Crowd, settings: PredictabilitySettings
) -> Iterator[_Block]:
    """All people's contexts, some people at a time."""
    slots = 24 // settings.slot_hours
    longest = int((able["last_day"] - able["first_day"]).to_numpy().max()) + 1
    people = max(1, _BLOCK // (longest * slots))
    user = came["user"].to_numpy()
    for start in range(0, able.height, people):
        part = able[start : start + people]
        users = part["user"].to_numpy()
        lo, hi = np.searchsorted(user, [users[0], users[-1] + 1])
        mine = came[int(lo) : int(hi)]
        grid = np.zeros((len(users), longest, slots), dtype=bool)
        grid[np.searchsorted(users, user[lo:hi]), mine["t"].to_numpy(), mine["s"].to_numpy()] = True
        yield _block(grid, part, crowd, settings)


def _block(grid: NDArray[np.bool_], part: pl.DataFrame, crowd: _Crowd, settings: PredictabilitySettings) -> _Block:
    """Forecasts and columns of `grid` (B, 1 + T, S), whose day 0 is the day of the first visit: never forecast."""
    days = grid.shape[1] - 1
    last = (part["last_day"] - part["first_day"]).to_numpy()[:, None]
    t = np.arange(1, days + 1)
    weekday = (part["first_day"].to_numpy()[:, None] + t + 3) % 7  # (B, T); day 0 of 1970 was a Thursday
    seen = grid.astype(np.float64)
    slot = np.cumsum(seen, axis=1)[:, :-1]  # (B, T, S) visits in this slot before the day
    cell = np.zeros_like(seen)  # the same, on this weekday
    for day in range(7, days + 1):
        cell[:, day] = cell[:, day - 7] + seen[:, day - 7]
    cell = cell[:, 1:]
    total = slot.sum(2, keepdims=True)
    # The first visit is why we look at this person at all: it says when they come, but not how often.
    fade = 0.5 ** (1 / settings.half_life)
    often, chances = np.zeros((len(grid), days)), np.zeros(days)
    for day in range(1, days):  # day t is column t - 1, and counts days 1 .. t - 1
        often[:, day] = fade * often[:, day - 1] + seen[:, day].sum(1)
        chances[day] = fade * chances[day - 1] + grid.shape[2]
    rate = (often + crowd.rate_weight * crowd.rate) / (chances + crowd.rate_weight)
    own = (slot + crowd.slots_weight * crowd.slots) / (total + crowd.slots_weight)
    own *= (cell + crowd.weekdays_weight * crowd.weekdays[weekday]) / (slot + crowd.weekdays_weight)
    theirs = crowd.slots * crowd.weekdays[weekday]
    week = rate[..., None] * 7 * grid.shape[2]
    crowd_logit = logit(np.clip(week * theirs, 1e-6, 0.95))
    own_logit = logit(np.clip(week * own, 1e-6, 0.95))

    active = grid.any(2)
    latest = np.maximum.accumulate(np.where(active, np.arange(days + 1), 0), axis=1)
    ago = t - latest[:, :-1]  # (B, T), at least 1: day 0 has a visit
    past = np.cumsum(active, axis=1)
    recent = past[:, :-1].astype(np.float64)
    recent[:, 7:] -= past[:, : max(days - 7, 0)]
    weekly = np.zeros_like(grid)
    weekly[:, 7:] = grid[:, :-7]
    columns = np.empty((*own.shape, len(COLUMNS)), dtype=np.float32)
    columns[..., 0] = 1.0
    columns[..., 1] = own_logit - crowd_logit
    columns[..., 2] = (np.cumsum(grid, axis=2) - grid)[:, 1:] > 0
    columns[..., 3] = grid[:, :-1]
    columns[..., 4] = weekly[:, 1:]
    columns[..., 5] = (recent / np.minimum(t, 7))[..., None]
    columns[..., 6] = np.log(ago)[..., None]
    for place, (low, high) in enumerate(_LAST_SEEN):
        columns[..., 7 + place] = ((ago >= low) & (ago <= high))[..., None]
    train = t <= last - _held_days(last, settings)
    held = ~train & (t <= last)
    return _Block(
        part["user"].to_numpy(), grid[:, 1:], logit(np.clip(rate, 1e-6, 0.95)), crowd_logit, columns, train, held
    )


def _fit_rows(
    came: pl.DataFrame, able: pl.DataFrame, crowd: _Crowd, settings: PredictabilitySettings, rng: np.random.Generator
) -> _Drawn:
    """At most about `fit_contexts` contexts of the first two thirds."""
    days = (able["last_day"] - able["first_day"]).to_numpy()
    share = settings.fit_contexts / float(((days - _held_days(days, settings)) * (24 // settings.slot_hours)).sum())
    parts = []
    for block in _blocks(came, able, crowd, settings):
        drawn = block.train[..., None] & (rng.random(block.came.shape) < share)
        rate = np.broadcast_to(block.rate[..., None], drawn.shape)
        parts.append((block.columns[drawn].astype(np.float64), rate[drawn], block.crowd[drawn], block.came[drawn]))
    columns, rates, crowds, came_there = zip(*parts)
    return _Drawn(np.concatenate(columns), np.concatenate(rates), np.concatenate(crowds), np.concatenate(came_there))


def ridge_logistic(columns: Floats, offset: Floats, came: NDArray[np.bool_], ridge: float) -> Floats:
    """beta (K,) of came ~ expit(offset + columns beta), all but the first (a constant) shrunk by `ridge`."""
    prior = np.full(columns.shape[1], ridge)
    prior[0] = 1e-6
    return fit_logistic(columns, came, prior, offset=offset)


def _held_out(block: _Block, models: _Models, least_visits: int) -> pl.DataFrame:
    """Losses and AUC of each person of a block."""
    held = np.broadcast_to(block.held[..., None], block.came.shape)
    row = np.nonzero(held)[0]
    people = len(block.users)
    came = block.came[held].astype(np.float64)
    columns = block.columns[held].astype(np.float64)
    score = block.crowd[held] + columns[:, 1] + columns @ models.full
    crowd = block.crowd[held] + columns[:, LEVEL] @ models.crowd
    rate = np.broadcast_to(block.rate[..., None], held.shape)[held] + columns[:, LEVEL] @ models.rate
    visits = np.bincount(row, came, people)
    # A visit raises the rate that later contexts are forecast by, and one of a few visits within so many days is the
    # less likely followed by another: ranked by the whole forecast, a person without memory would fall below one half.
    auc = _auc(score - rate, came, row, people)
    return pl.DataFrame(
        {
            "user": block.users,
            "held_visits": visits.astype(np.int64),
            **{
                name: np.bincount(row, np.logaddexp(0.0, of) - came * of, people)
                for name, of in (("loss", score), ("loss_rate", rate), ("loss_crowd", crowd))
            },
            "auc": np.where(visits >= least_visits, auc, np.nan),
        }
    ).with_columns(pl.col("auc").fill_nan(None))


def _auc(score: Floats, came: Floats, row: NDArray[np.int64], people: int) -> Floats:
    """Mann-Whitney (B,): nan for people whose contexts are all of one kind."""
    ranks = pl.DataFrame({"row": row, "score": score}).select(pl.col("score").rank("average").over("row"))
    ones = np.bincount(row, came, people)
    zeros = np.bincount(row, 1 - came, people)
    above = np.bincount(row, came * ranks["score"].to_numpy(), people) - ones * (ones + 1) / 2
    shares: Floats = np.divide(above, ones * zeros, out=np.full(people, np.nan), where=ones * zeros > 0)
    return shares
