"""What message policies really do in a world: day by day, person by person, and in words.

Every policy goes on from the same evening with the same people, the same luck and the same slates; only what is sent
differs (`eval.rollout` pairs them). Held-out people are those whom no log has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.local_time import local_clock
from data.message_log import take_contexts
from data.schema import ACTION_CODE
from data.world import PRESETS, World, burned_in
from data.world.environment import MessageContexts, MessagePoints, MessagePolicy, Messages, no_messages
from data.world.messages import Mailing
from data.world.settings import CHANNELS
from data.world.truth import Tally, message_metrics, metrics
from eval.intervals import Floats
from eval.rollout import Rollout, RolloutSettings
from policy.message_choice import BestMessages, by_opens
from policy.messaging.caps import RulesWithCaps
from rewards.messages import MessageReward

DAILY = ("sent", "opened", "sessions", "opt_outs", "reachable")
BURN_IN_DAYS = 28
FRESH_LISTENERS = 1_000_003  # added to a world's seed: people the log has never seen
SHOWN_DAY = 0  # of which examples are told: only then is everybody in the same situation under every policy
PLAYED = RolloutSettings(reference="logging")
EXAMPLES = 4


@dataclass(frozen=True)
class Example:
    """One decision in words. told: what was known; offered: titles; decided: what was done; came: what came of it."""

    listener: str
    told: str
    offered: tuple[str, ...]
    decided: Mapping[str, str]
    came: Mapping[str, str]


@dataclass(frozen=True)
class MessageSection:
    """Message policies compared. rollouts: one a seed; daily: policy -> DAILY -> (T,) per listener (of `reachable`: the
    share of listeners), of the first seed; examples: the same listeners in the same situation under every policy."""

    world: str
    rollouts: Sequence[Rollout]
    daily: Mapping[str, Mapping[str, Floats]]
    examples: Sequence[Example] = ()


class _Kept:
    """A message policy whose decisions of one day are kept."""

    def __init__(self, policy: MessagePolicy) -> None:
        self.policy, self.name = policy, policy.name
        self.last: tuple[MessageContexts, Messages] | None = None

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> tuple[Messages, NDArray[np.float64]]:
        """As the policy does."""
        decided = self.policy.choose(contexts, rng)
        self.last = contexts, decided[0]
        return decided


@dataclass(frozen=True)
class _Shown:
    """What was decided on the day that examples are of."""

    contexts: MessageContexts
    mailing: Mailing


def play_messages(
    world: World,
    policies: Mapping[str, MessagePolicy],
    settings: RolloutSettings = PLAYED,
    seed: int = 0,
    on_day: Callable[[], None] = lambda: None,
) -> MessageSection:
    """Plays each message policy for `horizon_days` from the world's today, all with the logging policy's slates.

    The world does not move. Raises InputError where the world sends no messages, there is no policy, or the horizon is
    under 28 days.
    """
    if world.mailroom is None:
        raise InputError(f"world {world.settings.name} sends no messages: choose world messaging")
    if not policies:
        raise InputError("messages: no policy to play: give at least one")
    if settings.horizon_days < 28:
        raise InputError(f"messages: horizon_days is {settings.horizon_days}; the metrics need at least 28")
    lived: dict[str, dict[str, Floats]] = {}
    daily: dict[str, dict[str, Floats]] = {}
    shown: dict[str, _Shown] = {}
    for name, policy in policies.items():
        lived[name], daily[name], shown[name] = _live(world, policy, settings.horizon_days, seed, on_day)
    examples = _examples(world, shown)
    return MessageSection(world.settings.name, [Rollout(lived, seed, settings)], daily, examples)


def true_effects(world: World, choice: Messages, lucks: Sequence[int], days: int = 28) -> Floats:
    """(lucks, B) what sending `choice` this morning adds to active days over `days`, instead of holding.

    Both are lived by the same people with the same luck, once for every luck; afterwards the logging policies decide.
    One life says little of one listener's effect: it is their mean over lucks, or over listeners, that is known.
    """
    points = world.observe()
    if not isinstance(points, MessagePoints):
        raise InputError("messages: this is no morning on which messages are decided on")
    held = no_messages(len(points.listeners))
    gaps = [_active_days(world, choice, luck, days) - _active_days(world, held, luck, days) for luck in lucks]
    found: Floats = np.stack(gaps)[:, points.listeners]
    return found


def _active_days(world: World, choice: Messages, luck: int, days: int) -> Floats:
    """(U,) days with a visit, from a morning on which `choice` is sent."""
    future = world.branch()
    future.observe()  # this morning's opportunities are the world's own; the luck is another from here on
    future.listener_seed = luck
    future.act(choice, np.zeros(len(choice.column)), "sent@1")
    rng, slates = np.random.default_rng(luck), future.built_in("logging")
    visits = np.zeros((len(future.listeners), days))
    for day in range(days):
        future.play(slates, 1, rng)
        for lived in future.rounds:
            visits[lived.listeners, day] = 1.0
        future.rounds.clear()
    total: Floats = visits.sum(axis=1)
    return total


def fresh_evening(world: str, seed: int, listeners: int) -> World:
    """A world from which policies go on: people whom no log has seen, after BURN_IN_DAYS of the logging policies."""
    return burned_in(PRESETS[world].with_listeners(listeners), seed, BURN_IN_DAYS, seed + FRESH_LISTENERS)


def sent_by(
    world: World, reward: Path, tuned: Mapping[str, MessagePolicy] = MappingProxyType({})
) -> dict[str, MessagePolicy]:
    """Everybody to compare: what a sender without a model does, those of the message reward in that folder, if there
    is one (the best by its lower bound, and what it takes for likeliest to be opened), `tuned` ones, and the oracle."""
    found = {name: world.message_policy(name) for name in ("logging", "hold", "send_always", "most_opens")}
    found["rules"] = RulesWithCaps()
    if reward.is_dir():
        model = MessageReward.load(reward)
        found["clicks"] = BestMessages(model, by_opens, name="clicks@1")
        found["reward"] = BestMessages(model)
    return {**found, **tuned, "oracle": world.message_policy("oracle")}


def pooled_sections(sections: Sequence[MessageSection]) -> MessageSection:
    """Sections of several seeds as one: rollouts of all, days and examples of the first. Raises InputError on none."""
    if not sections:
        raise InputError("messages: no rollout: play at least one seed")
    return replace(sections[0], rollouts=[rollout for section in sections for rollout in section.rollouts])


def _live(
    world: World, policy: MessagePolicy, days: int, seed: int, on_day: Callable[[], None]
) -> tuple[dict[str, Floats], dict[str, Floats], _Shown]:
    """(metric -> (U,), DAILY -> (T,), the decisions of the day that is shown) under one policy."""
    future = world.branch()
    assert future.mailroom is not None
    rng = np.random.default_rng([seed, world.listener_seed, 2])
    kept, slates = _Kept(policy), world.built_in("logging")
    people = len(world.listeners)
    tally, opted = Tally.of(~world.state.premium, days), np.zeros(people)
    by_day = {name: np.zeros(days) for name in DAILY}
    shown: _Shown | None = None
    for day in range(days):
        future.play(slates, 1, rng, on_day, kept)
        for lived in future.rounds:
            tally.add_round(day, lived)
            by_day["sessions"][day] += len(lived.listeners) / people
        for mailing in future.mailroom.mailings:
            tally.add_mailing(mailing)
            out = mailing.opted_out >= 0
            opted[mailing.listeners] += out
            by_day["sent"][day] += (mailing.sent >= 0).sum() / people
            by_day["opened"][day] += (mailing.opened >= 0).sum() / people
            by_day["opt_outs"][day] += out.sum() / people
            if day == SHOWN_DAY:
                assert kept.last is not None
                shown = _Shown(kept.last[0], mailing)
        tally.satisfaction += future.state.satisfaction
        by_day["reachable"][day] = _reachable(future).mean()
        future.rounds.clear()
        future.mailroom.mailings.clear()
    assert shown is not None
    found = metrics(tally) | message_metrics(tally, _reachable(future))
    found["opt_outs_28"] = opted * 28.0 / days
    return found, by_day, shown


def _reachable(world: World) -> NDArray[np.bool_]:
    """(U,) who can be reached by push or e-mail."""
    reach: NDArray[np.bool_] = world.state.consent[:, 0] | world.state.consent[:, 1]
    return reach


def _examples(world: World, shown: Mapping[str, _Shown]) -> list[Example]:
    """A few listeners about whom the policies differ most, on the first day."""
    assert world.mailroom is not None
    titles = world.mailroom.messages.frame["title"].to_list()
    first = next(iter(shown.values()))
    made = np.stack([one.mailing.sent.astype(np.int64) * len(CHANNELS) + one.mailing.channel for one in shown.values()])
    differs = np.array([len(np.unique(made[:, row])) for row in range(made.shape[1])])
    chosen = np.argsort(-differs, kind="stable")[:EXAMPLES].tolist()
    return [
        Example(
            listener=f"u{int(first.mailing.listeners[row]):05d}",
            told=_known(first, row),
            offered=tuple(titles[item] for item in first.mailing.eligible[row].tolist() if item >= 0),
            decided={name: _decided(one.mailing, row, titles) for name, one in shown.items()},
            came={name: _came(one.mailing, row) for name, one in shown.items()},
        )
        for row in chosen
    ]


def _known(one: _Shown, row: int) -> str:
    """What was known of a listener, in words."""
    contexts = take_contexts(one.contexts, np.array([row]))
    zone = contexts.zones[int(contexts.zone[0])]
    frame = pl.DataFrame({"time": pl.Series(contexts.time).cast(pl.Datetime("us", "UTC")), "time_zone": [zone]})
    words = [f"{local_clock(frame).dt.strftime('%A').item()} in {zone.split('/')[-1].replace('_', ' ')}"]
    gap = float(contexts.gap_hours[0])
    words.append("never heard before" if np.isnan(gap) else f"last listened {_span(gap)} ago")
    words.append("pays" if contexts.premium[0] else "does not pay")
    agreed = [channel for channel, yes in zip(CHANNELS, contexts.consent[0].tolist(), strict=True) if yes]
    words.append(f"may be sent {', '.join(agreed).replace('_', '-')}")
    sent = (contexts.sent_item[0] >= 0) & (contexts.sent_days_ago[0] <= 14)
    opened = sent & (contexts.sent_answer[0] == ACTION_CODE["open"])
    words.append(
        f"opened {int(opened.sum())} of {int(sent.sum())} messages of two weeks"
        if sent.any()
        else "no message in two weeks"
    )
    return ". ".join(word[0].upper() + word[1:] for word in words) + "."


def _span(hours: float) -> str:
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def _decided(mailing: Mailing, row: int, titles: Sequence[str]) -> str:
    if mailing.sent[row] < 0:
        return "holds"
    channel = CHANNELS[int(mailing.channel[row])].replace("_", "-")
    return f"“{titles[int(mailing.sent[row])]}” by {channel} at {int(mailing.hour[row]):02d}:00"


def _came(mailing: Mailing, row: int) -> str:
    if mailing.sent[row] < 0:
        return ""
    answer = "opened" if mailing.opened[row] >= 0 else "dismissed" if mailing.dismissed[row] >= 0 else "no answer"
    return f"{answer}, and opted out" if mailing.opted_out[row] >= 0 else answer


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (x, y) that no other is better than in both, from left to right."""
    kept = [
        name
        for name, (x, y) in points.items()
        if not any((a >= x and b >= y) and (a > x or b > y) for other, (a, b) in points.items() if other != name)
    ]
    return sorted(kept, key=lambda name: points[name])
