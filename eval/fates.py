"""Fates: one population lived on under several policies, week by week, each policy learning from its own log.

Every fate goes on from the same evening with the same people and the same luck (`data.world.shocks`), so from the first
week on fates differ by what was shown, and by what each policy then learned from it. A week that was lived is kept as
what was shown in it (`Shown`): the world gives the same answers to the same slates, so that a stopped run is lived
again from its records, without asking any model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.world import MessagePoints, SlatePolicy, World
from eval.exposure import of_slates
from eval.intervals import Floats
from eval.rollout import Json, known_mean
from policy.agent import LanguageModelPolicy
from policy.moves import MOVES

WEEK = 7  # days
METRICS = ("active_days", "plays_per_session", "came")


@dataclass(frozen=True)
class Shown:
    """What was shown in S slots, one after the other, to B visitors in all.

    visitors (S,): how many came in each slot. slates (B, K), log_propensity (B,) of each, move (B,): place in MOVES,
    -1 where the policy says none.
    """

    visitors: NDArray[np.int64]
    slates: NDArray[np.int32]
    log_propensity: Floats
    move: NDArray[np.int8]

    def save(self, path: Path) -> None:
        """Write one npz file."""
        np.savez(path, allow_pickle=False, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Shown:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def live(world: World, policy: SlatePolicy, days: int, rng: np.random.Generator) -> Shown:
    """Let `policy` fill slates for `days` days of `world`, which moves; what it showed.

    A policy that says its move first has it logged: its propensity is that of both. Raises InputError for a world that
    sends messages.
    """
    visitors, slates, log_propensity, moves = [], [], [], []
    until, size = world.day + days, world.settings.dynamics.slate_size
    while world.day < until:
        points = world.observe()
        if isinstance(points, MessagePoints):
            raise InputError(f"world {world.settings.name} sends messages: fates are lived in a world without")
        shown, chance = np.empty((0, size), np.int32), np.empty(0)
        said: list[str] | None = None
        if len(points.listeners):
            shown, chance = policy.choose(points.contexts, rng)
            said = list(policy.last_moves) if isinstance(policy, LanguageModelPolicy) else None
        world.act(shown, chance, policy.name, said)
        visitors.append(len(shown))
        slates.append(shown)
        log_propensity.append(chance)
        moves.append(np.array([-1] * len(shown) if said is None else [MOVES.index(one) for one in said], np.int8))
    return Shown(np.array(visitors), np.concatenate(slates), np.concatenate(log_propensity), np.concatenate(moves))


def live_again(world: World, shown: Shown, policy: str) -> None:
    """Live the days that `shown` records, to the same end."""
    ends = np.cumsum(shown.visitors)
    for start, end in zip(ends - shown.visitors, ends, strict=True):
        said = [MOVES[move] for move in shown.move[start:end].tolist()] if (shown.move[start:end] >= 0).any() else None
        world.act(shown.slates[start:end], shown.log_propensity[start:end], policy, said)


@dataclass(frozen=True)
class Week:
    """One week of U listeners: metric of METRICS -> (U,), and what was shown of the catalog.

    active_days: days with a visit, of 7. came: 1 for those who came at all. plays_per_session: nan for the others.
    coverage: share of the catalog shown. effective_items: exp(entropy) of showings. slate_entropy: nats, of the draw.
    """

    metrics: Mapping[str, Floats]
    coverage: float
    effective_items: float
    slate_entropy: float


def week_of(world: World, first_day: int) -> Week:
    """The week that began on `first_day`, read off what `world` has lived (its rounds since its last branch)."""
    people, items = len(world.listeners), len(world.items)
    visits, plays, sessions = np.zeros((people, WEEK), np.bool_), np.zeros(people), np.zeros(people)
    rounds = [one for one in world.rounds if 0 <= one.day - first_day < WEEK]
    for one in rounds:
        visits[one.listeners, one.day - first_day] = True
        sessions[one.listeners] += 1
        plays[one.listeners] += one.session.played.sum(axis=1)
    days = visits.sum(axis=1).astype(np.float64)
    none = np.full(people, np.nan)
    shown = of_slates(
        np.concatenate([one.slates for one in rounds]), items, np.concatenate([one.log_propensity for one in rounds])
    )
    return Week(
        {
            "active_days": days,
            "plays_per_session": np.divide(plays, sessions, out=none, where=sessions > 0),
            "came": (days > 0).astype(np.float64),
        },
        shown.coverage(),
        shown.effective_items(),
        shown.entropy if shown.entropy is not None else float("nan"),
    )


def fates_json(fates: Mapping[str, Sequence[Week]], pairs: Sequence[tuple[str, str]]) -> Json:
    """{"fates": {name: {metric: [{mean, lo, hi}, ..]}}, "paired": {"a - b": {metric: [{diff, lo, hi}, ..]}}}.

    Lists have one entry a week; coverage, effective_items and slate_entropy are lists of numbers. Intervals are over
    listeners; those for whom a metric is undefined in either of two fates are left out of their difference.
    """
    told: dict[str, Json] = {}
    for name, weeks in fates.items():
        by: Json = {}
        for metric in METRICS:
            found = [known_mean(week.metrics[metric]) for week in weeks]
            by[metric] = [{"mean": one.value, "lo": one.lo, "hi": one.hi} for one in found]
        for shown in ("coverage", "effective_items", "slate_entropy"):
            by[shown] = [getattr(week, shown) for week in weeks]
        told[name] = by
    paired: dict[str, Json] = {}
    for a, b in pairs:
        gaps: Json = {}
        for metric in METRICS:
            found = [
                known_mean(one.metrics[metric] - other.metrics[metric])
                for one, other in zip(fates[a], fates[b], strict=True)
            ]
            gaps[metric] = [{"diff": one.value, "lo": one.lo, "hi": one.hi} for one in found]
        paired[f"{a} - {b}"] = gaps
    return {"fates": told, "paired": paired}
