"""What is traded for what: the front between two outcomes, and the price of a promise, in plain words.

Weights are a question, not an answer. The sweep asks it many times: for each mixture of two heads the best slates are
chosen, and what they would do to every head is written down. A mixture is dominated when another one is better at both.

Slates are chosen by one set of scores and may be valued by another (the other network's, fitted on other people):
scores that chose a slate flatter it, because the highest of many guesses is also the luckiest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from data.errors import InputError
from rewards.objective import LoggingMoments, Objective, SlateScores

# Beyond these multipliers, in the reward's own unit, float32 forgets what else there is to an objective, and what is
# outside a log's support is bought for its promise.
MOST_PRICE = 2.0**16
_HALVINGS = 30


@dataclass(frozen=True)
class Point:
    """One mixture: its weights, the mean advantage of its slates per head in the head's unit, standard errors of those
    over states and of what sets them apart from the front's first point (paired by state), and whether another point is
    better at both ends."""

    weights: Mapping[str, float]
    gain: Mapping[str, float]
    error: Mapping[str, float]
    apart: Mapping[str, float]
    dominated: bool = False


@dataclass(frozen=True)
class Front:
    """Points from all weight on the first of `traded` to all on the second."""

    traded: tuple[str, str]
    points: tuple[Point, ...]

    def json(self) -> dict[str, Any]:
        """The front as plain numbers."""
        told = ("weights", "gain", "error", "dominated")
        return {
            "traded": list(self.traded),
            "points": [{name: getattr(point, name) for name in told} for point in self.points],
        }

    def sentences(self) -> tuple[str, ...]:
        """What it says, for people: both ends, what comes free, and the rate of exchange in between."""
        first, second = self.traded
        start, end = self.points[0], self.points[-1]
        told = [f"All weight on {_words(first)}: {_both(start, first, second)}."]
        told.append(f"All weight on {_words(second)}: {_both(end, first, second)}.")
        free = _free(self)
        if free is not None:
            # The furthest mixture whose loss on the first head is within the standard error of that loss.
            more = free.gain[second] - start.gain[second]
            told.append(
                f"Up to weight {free.weights[second]:.2f} on {_words(second)}, {more:+.3f} {_unit(second)} cost no "
                f"{_unit(first)} that one could measure."
            )
        lost, won = start.gain[first] - end.gain[first], end.gain[second] - start.gain[second]
        if lost > 0 and won > 0:
            told.append(
                f"From end to end, each {_unit(second).removesuffix('s')} gained costs {lost / won:.2f} {_unit(first)}."
            )
        elif lost <= 0 and won <= 0:
            told.append("Each end is no worse at the other's outcome: nothing is traded here.")
        return tuple(told)


def sweep(
    moments: LoggingMoments,
    traded: tuple[str, str],
    choose: SlateScores,
    value: SlateScores | None = None,
    steps: int = 11,
    kappa: float = 1.0,
    penalty: float = 0.5,
) -> Front:
    """The front between two heads over the candidate slates (B, N) of B states; each state's best slate is chosen.

    Every mixture is normalised under the logging policy first, so that equal weights mean equal standard deviations.
    Raises InputError for a head that is not there, fewer than 2 states or fewer than 2 steps.
    """
    if steps < 2 or choose.mean.shape[0] < 2:
        raise InputError(f"Pareto front: {steps} steps over {choose.mean.shape[0]} states: at least 2 of each")
    valued = value if value is not None else choose
    points: list[Point] = []
    first: Tensor | None = None
    for step in range(steps):
        share = step / (steps - 1)
        weights = {traded[0]: 1.0 - share, traded[1]: share}
        best = moments.objective(weights, kappa, penalty).lower_bound(choose).argmax(1)
        taken = _taken(valued.mean, best)  # (B, Hd)
        first = taken if first is None else first
        root = len(taken) ** 0.5
        told = (taken.mean(0), taken.std(0) / root, (taken - first).std(0) / root)
        gain, error, apart = (dict(zip(moments.labels, of.tolist(), strict=True)) for of in told)
        points.append(Point(weights, gain, error, apart))
    return Front(traded, tuple(replace(point, dominated=_dominated(point, points, traded)) for point in points))


@dataclass(frozen=True)
class Kept:
    """An objective whose multipliers keep its constraints, the level of each (standard deviations under logging), which
    of them no multiplier could keep, what keeping them took from the weighted sum (same unit), and the most that is on
    offer of each: its level if every state took the slate with most of it."""

    objective: Objective
    levels: Mapping[str, float]
    broken: tuple[str, ...]
    price: float
    offered: Mapping[str, float]

    def sentences(self) -> tuple[str, ...]:
        """The price of every promise, for people."""
        told = []
        for constraint in self.objective.constraints:
            name, level = _words(constraint.label), self.levels[constraint.label]
            offered = self.offered[constraint.label]
            if constraint.label in self.broken and offered < constraint.floor:
                told.append(f"{name} cannot be kept at {constraint.floor:+.2f}: the best on offer is {offered:+.2f}.")
            elif constraint.label in self.broken:
                told.append(
                    f"{name} is not kept at {constraint.floor:+.2f} by any price: it comes to {level:+.2f}, because "
                    f"what would bring it to {offered:+.2f} is uncertain, rare in the log or breaks another promise."
                )
            elif constraint.multiplier == 0:
                told.append(f"{name} stays at {level:+.2f} by itself: the promise of {constraint.floor:+.2f} is free.")
            else:
                told.append(
                    f"{name} is held at {level:+.2f} (promised {constraint.floor:+.2f}) by a price of "
                    f"{constraint.multiplier:.2f}."
                )
        if any(constraint.multiplier > 0 for constraint in self.objective.constraints):
            told.append(f"Keeping what was promised takes {max(self.price, 0.0):.3f} off the reward it had without.")
        return tuple(told)


def keep(objective: Objective, scores: SlateScores, rounds: int = 200, tolerance: float = 0.02) -> Kept:
    """The smallest multipliers with which the best slates (B, N) of the objective keep its constraints.

    Each is found beside the others', by doubling and bisection: where the objective takes nothing off for spread, a
    level never falls as its own multiplier grows (Everett, 1963, "lambda theorem"). All are gone through until none
    moves, at most `rounds` times.

    The levels are those of each state's best slate. A constraint more than `tolerance` below its floor after all
    rounds is broken: on these candidates it cannot be kept, whatever it is worth. Its multiplier is the smallest with
    which it comes as near as it goes.
    """
    free = replace(objective, constraints=tuple(replace(c, multiplier=0.0) for c in objective.constraints))
    before = _level(free.value(scores), free.lower_bound(scores).argmax(1))
    offered = {c.label: _most(objective, c.label, scores) for c in objective.constraints}
    best: Objective | None = None
    now = free
    for _ in range(rounds):
        last = now
        for place in range(len(now.constraints)):
            now = _kept_alone(now, place, scores, offered[now.constraints[place].label])
        levels = levels_of(now, scores)
        if all(levels[c.label] >= c.floor for c in now.constraints) and (best is None or _total(now) < _total(best)):
            best = now
        if now.constraints == last.constraints:
            break
    chosen = best if best is not None else now
    levels = levels_of(chosen, scores)
    broken = tuple(c.label for c in chosen.constraints if levels[c.label] < c.floor - tolerance)
    # In the currency of the objective without its constraints, at the slates now chosen.
    after = _level(free.value(scores), chosen.lower_bound(scores).argmax(1))
    return Kept(chosen, levels, broken, before - after, offered)


def levels_of(objective: Objective, scores: SlateScores) -> dict[str, float]:
    """Mean advantage of each state's best slate on every constrained head, in standard deviations under logging."""
    taken = _taken(scores.mean, objective.lower_bound(scores).argmax(1)).mean(0)
    at = {label: index for index, label in enumerate(objective.labels)}
    return {c.label: float(taken[at[c.label]]) / objective.scales[at[c.label]] for c in objective.constraints}


def _kept_alone(objective: Objective, place: int, scores: SlateScores, offered: float) -> Objective:
    """The objective with the smallest multiplier of one constraint that keeps it beside the multipliers of the others,
    or, where none does, the smallest that brings it nearest."""
    of = objective.constraints[place]

    def priced(multiplier: float) -> Objective:
        given = [*objective.constraints]
        given[place] = replace(of, multiplier=multiplier)
        return replace(objective, constraints=tuple(given))

    def level(multiplier: float) -> float:
        return levels_of(priced(multiplier), scores)[of.label]

    aim = min(of.floor, offered)  # more than there is cannot be asked for
    tried = [(0.0, level(0.0))]
    while tried[-1][1] < aim and tried[-1][0] < MOST_PRICE * objective.total:
        multiplier = 2.0 * tried[-1][0] if len(tried) > 1 else objective.total
        tried.append((multiplier, level(multiplier)))
    aim = min(aim, max(reached for _, reached in tried))
    first = next(at for at, (_, reached) in enumerate(tried) if reached >= aim)
    low, high = tried[max(first - 1, 0)][0], tried[first][0]
    for _ in range(_HALVINGS if first else 0):
        middle = 0.5 * (low + high)
        if level(middle) >= aim:
            high = middle
        else:
            low = middle
    return priced(high)


def _most(objective: Objective, label: str, scores: SlateScores) -> float:
    """The level of a head if every state took the slate that has most of it, in standard deviations under logging."""
    at = objective.labels.index(label)
    return float(_taken(scores.mean, scores.mean[..., at].argmax(1)).mean(0)[at]) / objective.scales[at]


def _total(objective: Objective) -> float:
    return sum(constraint.multiplier for constraint in objective.constraints)


def _taken(mean: Tensor, best: Tensor) -> Tensor:
    return mean[torch.arange(len(best)), best]


def _level(value: Tensor, best: Tensor) -> float:
    return float(value[torch.arange(len(best)), best].mean())


def _dominated(point: Point, points: Sequence[Point], traded: tuple[str, str]) -> bool:
    mine = [point.gain[label] for label in traded]
    for other in points:
        theirs = [other.gain[label] for label in traded]
        if all(t >= m for t, m in zip(theirs, mine)) and any(t > m for t, m in zip(theirs, mine)):
            return True
    return False


def _free(front: Front) -> Point | None:
    """The last point that has more of the second head and has lost no more of the first than the standard error of that
    loss, paired by state."""
    first, second = front.traded
    start = front.points[0]
    within = [
        point
        for point in front.points[1:]
        if start.gain[first] - point.gain[first] <= point.apart[first] and point.gain[second] > start.gain[second]
    ]
    return within[-1] if within else None


def _both(point: Point, first: str, second: str) -> str:
    parts = [f"{point.gain[one]:+.3f} ±{1.96 * point.error[one]:.3f} {_unit(one)}" for one in (first, second)]
    return f"{parts[0]} and {parts[1]} a decision"


def _words(label: str) -> str:
    return label.replace("_", " ")


def _unit(label: str) -> str:
    if label.startswith(("active_days", "sticky_days")):
        kind, days = label.rsplit("_", 1)
        return f"{kind.replace('_', ' ')} of {days}"
    if label.startswith("habit"):
        return "habit weeks"
    return {"plays": "plays", "completes": "completes", "saves": "saves", "dislikes": "dislikes"}.get(
        label, f"of chance ({_words(label)})"
    )
