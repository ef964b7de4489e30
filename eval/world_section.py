"""A world shown: how its habits grow, what brings its people back, what its own policies trade for what.

Its built-in policies play to people whom no log has seen, from their first day on, with the same luck. Who comes back
after which slate is read off the random policy: there no taste and no history has chosen the slate, so what differs is
the slate's doing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.world import PRESETS, World
from data.world.record import Round
from data.world.truth import Tally, message_metrics, metrics
from eval.intervals import Interval, mean_interval
from eval.report.inputs import WorldPortrait
from eval.rollout import known_mean
from eval.survival import SurvivalCurve, kaplan_meier

POLICIES = ("logging", "random", "popularity", "greedy_click", "oracle")
MESSAGE_POLICIES = ("logging", "hold", "send_always", "most_opens", "oracle")
DAYS = 56
LISTENERS = 300
EXTREME = 0.2  # share of slates that count as the best, and as the worst
_US_PER_DAY = 86_400e6


def world_portrait(
    name: str,
    seed: int,
    listeners: int = LISTENERS,
    days: int = DAYS,
    on_policy: Callable[[], None] = lambda: None,
) -> WorldPortrait:
    """The world of this name and seed, with `listeners` fresh people over `days` days (28 or more) per policy."""
    world = World(PRESETS[name].with_listeners(listeners), seed)
    world.reset(seed + 2_000_003)  # neither the log's people nor those whom the policies are judged on
    habit, means, returns = {}, {}, {}
    for policy in POLICIES:
        lived, grown, tally = _live(world, policy, "logging", days)
        habit[policy] = grown
        means[policy] = {metric: known_mean(values) for metric, values in tally.items()}
        if policy == "random":
            returns = return_by_slate(world, lived)
        on_policy()
    sent = {}
    if world.mailroom is not None:
        for policy in MESSAGE_POLICIES:
            _, _, tally = _live(world, "logging", policy, days)
            sent[policy] = {metric: known_mean(values) for metric, values in tally.items()}
            on_policy()
    return WorldPortrait(name, listeners, days, habit, returns, means, sent)


def _live(
    world: World, policy: str, messages: str, days: int
) -> tuple[list[Round], list[Interval], dict[str, NDArray[np.float64]]]:
    """(rounds, mean over listeners of their strongest habit after each day, truth of metrics) under a policy."""
    future, rng = world.branch(), np.random.default_rng([0, world.listener_seed, 3])
    grown, tally = [], Tally.of(~world.state.premium, days)
    for _ in range(days):
        future.play(world.built_in(policy), 1, rng, messages=world.message_policy(messages))
        grown.append(mean_interval(future.state.habit.max(axis=1).astype(np.float64)))
        tally.satisfaction += future.state.satisfaction
    for one in future.rounds:
        tally.add_round(one.day - world.day, one)
    found = metrics(tally)
    if future.mailroom is not None:
        for mailing in future.mailroom.mailings:
            tally.add_mailing(mailing)
        found |= message_metrics(tally, future.state.consent[:, 0] | future.state.consent[:, 1])
    return future.rounds, grown, found


def return_by_slate(world: World, rounds: list[Round]) -> dict[str, SurvivalCurve]:
    """Days from a session to the next one, by what it was shown: the best and the worst fifth of slates.

    "quality" and "allure" are means over the slate; keys are "highest quality", "lowest quality" and so on.
    Clustered by listener; the last sessions are censored at the end.
    """
    who = np.concatenate([one.listeners for one in rounds])
    time = np.concatenate([one.time for one in rounds]).astype(np.float64) / _US_PER_DAY
    slates = np.concatenate([one.slates for one in rounds])
    order = np.lexsort((time, who))
    who, time, slates = who[order], time[order], slates[order]
    follows = np.append(who[1:] == who[:-1], False)
    end = time.max()
    wait = np.where(follows, np.append(time[1:], end) - time, end - time)
    curves = {}
    for worth, values in (("quality", world.items.quality), ("allure", world.items.allure)):
        mean = values[slates].mean(axis=1)
        low, high = np.quantile(mean, [EXTREME, 1.0 - EXTREME])
        for extreme, rows in ((f"highest {worth}", mean >= high), (f"lowest {worth}", mean <= low)):
            # To the hour: a step for every microsecond would make a page of megabytes.
            hours = np.ceil(wait[rows] * 24.0) / 24.0
            curves[extreme] = kaplan_meier(hours, follows[rows], who[rows])
    return curves
