"""What a slate truly did, in a world that can be lived twice: the yardstick of an advantage.

At a moment of a world's life the visitors of a slot are each shown two slates that the logging policy might have shown
them, in lives that are otherwise the same: the same luck, the same policy afterwards, many times over. The difference
of the days on which they come later is the effect of one slate over the other, for this listener, now. Who the listener
is cancels out, which is what an advantage is about.

A life is mostly luck, so the effect of one pair is known with an error, however often it is lived. The correlation
with an estimate is therefore divided by that of two halves of the lives, stepped up to all of them (Spearman, 1904): it
is the correlation with the effect itself. Calibration is the slope of the effect on the estimate, which noise in the
effect leaves alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from data.errors import InputError
from data.world import World
from data.world.coming import visit_probability
from data.world.dynamics import play_session
from data.world.environment import SlatePoints
from data.world.policies import LoggingPolicy, WorldContexts
from data.world.settings import SLOTS
from data.world.shocks import Purpose, generator

Floats = NDArray[np.float64]
DRAWS = 500


@dataclass(frozen=True)
class LifeSettings:
    """lives: how often each pair is lived, an even number. horizon_days: for how long. sessions: how often the session
    alone is played, for the enjoyment that is expected of it."""

    lives: int = 16
    horizon_days: int = 28
    sessions: int = 64


@dataclass(frozen=True)
class Pairs:
    """P pairs of slates, each for one listener at one moment, and what the second did beyond the first.

    listener (P,): row of the world's listeners. time (P,): us, of the decision. slates (P, 2, K): item rows. days (P,
    lives): active days within the horizon, in expectation given the life so far. enjoyment (P,): of the session.
    """

    listener: NDArray[np.int32]
    time: NDArray[np.int64]
    slates: NDArray[np.int32]
    days: Floats
    enjoyment: Floats

    @staticmethod
    def joined(parts: "list[Pairs]") -> "Pairs":
        """Pairs of several moments in one."""
        names = ("listener", "time", "slates", "days", "enjoyment")
        return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def live_moments(
    world: World, days: Sequence[int], seed: int, settings: LifeSettings = LifeSettings()
) -> Iterator[Pairs]:
    """Pairs of the visitors of one slot on each of `days`, in order, of a world on its first morning whose log was
    written by the logging policy with the world's seed. The slots take turns.

    Raises InputError where messages are sent.
    """
    if world.mailroom is not None:
        raise InputError(f"world {world.settings.name}: who is shown what hangs on messages too: take one without")
    policy, rng = world.built_in("logging"), np.random.default_rng(world.seed)
    for at, day in enumerate(days):
        while world.day < day:
            world.play(policy, 1, rng)
            world.rounds.clear()
        moment, draws = world.branch(), deepcopy(rng)
        for _ in range(at % len(SLOTS)):
            slates, log_propensity = policy.choose(_visitors(moment).contexts, draws)
            moment.act(slates, log_propensity, policy.name)
        yield live_pairs(moment, seed + at, settings)


def _visitors(world: World) -> SlatePoints:
    points = world.observe()
    assert isinstance(points, SlatePoints), "no messages are sent"
    return points


def live_pairs(world: World, seed: int, settings: LifeSettings = LifeSettings()) -> Pairs:
    """Two slates for every visitor of the world's present slot; the world itself does not move."""
    policy = world.built_in("logging")
    assert isinstance(policy, LoggingPolicy)
    points = _visitors(world.branch())
    came = len(points.listeners)
    rng = np.random.default_rng([seed, world.day])
    arms = [policy.choose(points.contexts, rng)[0] for _ in range(2)]
    rows = np.tile(np.arange(came), settings.lives)
    lived = [_days(world.gathered(rows, seed), policy, np.tile(s, (settings.lives, 1)), settings) for s in arms]
    felt = [_enjoyment(world.gathered(np.arange(came), seed), s, settings.sessions) for s in arms]
    return Pairs(
        listener=points.listeners,
        time=points.contexts.time,
        slates=np.stack(arms, axis=1),
        days=(lived[1] - lived[0]).reshape(settings.lives, came).T,
        enjoyment=felt[1] - felt[0],
    )


@dataclass(frozen=True)
class Agreement:
    """How well estimated effects agree with true ones: each a value with a 95% interval (bootstrap over listeners).

    days: correlation with the effect on active days. slope: the effect on them per unit of estimate; 1 is calibrated
    for an estimate in days. enjoyment: rank correlation with the effect on the session's expected enjoyment, which is
    known almost without error.
    """

    days: tuple[float, float, float]
    slope: tuple[float, float, float]
    enjoyment: tuple[float, float, float]


def agreement(pairs: Pairs, estimates: Mapping[str, Floats], seed: int = 0) -> dict[str, Agreement]:
    """How well each estimate (P,) of what the second slate does beyond the first agrees with the truth."""
    _, at = np.unique(pairs.listener, return_inverse=True)
    half = pairs.days.shape[1] // 2
    days = pairs.days.mean(1)
    halves = pairs.days[:, :half].mean(1), pairs.days[:, half:].mean(1)
    ranked = {name: rankdata(estimate) for name, estimate in estimates.items()}
    felt = rankdata(pairs.enjoyment)
    rng = np.random.default_rng(seed)
    users = int(at.max()) + 1
    draws = [np.ones(len(at))]
    draws += [np.bincount(rng.integers(0, users, users), minlength=users)[at].astype(float) for _ in range(DRAWS)]
    kept = []
    for weight in draws:
        both = max(_correlation(*halves, weight), 1e-3)
        reliability = 2.0 * both / (1.0 + both)
        kept.append(
            [
                (
                    _correlation(estimate, days, weight) / reliability**0.5,
                    _slope(estimate, days, weight),
                    _correlation(ranked[name], felt, weight),
                )
                for name, estimate in estimates.items()
            ]
        )
    found = np.array(kept)  # (1 + DRAWS, estimates, 3)
    low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    return {
        name: Agreement(*((float(found[0, e, j]), float(low[e, j]), float(high[e, j])) for j in range(3)))
        for e, name in enumerate(estimates)
    }


def _slope(x: Floats, y: Floats, weight: Floats) -> float:
    # Pairs are exchangeable, so both have mean zero and the line goes through the origin.
    return float((weight * x * y).sum() / max(float((weight * x * x).sum()), 1e-30))


def _correlation(x: Floats, y: Floats, weight: Floats) -> float:
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    scale = np.sqrt((weight * x * x).sum() * (weight * y * y).sum())
    return float((weight * x * y).sum()) / max(float(scale), 1e-30)


def _days(world: World, policy: LoggingPolicy, slates: NDArray[np.int32], settings: LifeSettings) -> Floats:
    """Active days (n,) after today within the horizon: each day by its chance given what came before, not by its coin
    (Rao-Blackwell), so that fewer lives are enough."""
    today, n = world.day, len(slates)  # before the slates are shown: after those of an evening it is tomorrow
    world.act(slates, np.zeros(len(slates)), policy.name)
    total, active = np.zeros(n), np.zeros(n, np.bool_)
    while world.day <= today + settings.horizon_days:
        day, slot = world.state.day, world.state.slot
        chance = visit_probability(world.state, world.listeners, world.settings.dynamics, world.settings.messages)
        if slot == 0:
            active[:] = False
        if today < day:
            total += np.where(active, 0.0, chance)
        points = _visitors(world)
        # A listener's luck with the policy has an address too: who else comes does not move it.
        luck = generator(world.listener_seed, day * len(SLOTS) + slot, Purpose.SHOWN).random((n, slates.shape[1]))
        world.act(_drawn(policy.scores(points.contexts), luck[points.listeners]), np.zeros(len(points.listeners)), "")
        active[points.listeners] = True
        world.rounds.clear()
    return total


def _drawn(scores: NDArray[np.float32], luck: Floats) -> NDArray[np.int32]:
    """Plackett-Luce slates (B, K) of scores (B, N), item by item from uniform luck (B, K)."""
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    slates = np.empty(luck.shape, np.int32)
    row = np.arange(len(scores))
    for k in range(luck.shape[1]):
        upto = weight.cumsum(axis=1)
        slates[:, k] = np.minimum((upto < luck[:, k, None] * upto[:, -1:]).sum(axis=1), scores.shape[1] - 1)
        weight[row, slates[:, k]] = 0.0
    return slates


def _enjoyment(world: World, slates: NDArray[np.int32], sessions: int) -> Floats:
    points = _visitors(world)
    assert isinstance(points.contexts, WorldContexts)
    moment = points.contexts.moment
    assert moment is not None
    total = np.zeros(len(slates))
    for session in range(sessions):
        step = world.day * len(SLOTS) + session * 1_000_003
        total += play_session(moment, slates, points.listeners, len(slates), step, world.listener_seed)[0].enjoyment
    result: Floats = total / sessions
    return result
