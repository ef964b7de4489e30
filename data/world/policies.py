"""Policies that come with every world: the one that writes the log, and the marks to measure others against.

`LoggingPolicy`, `RandomPolicy` and `PopularityPolicy` know what a product knows. `GreedyClick` and `Oracle` see hidden
state and so only play inside a world: they are the ends of the scale, the most taps and the most return.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import Contexts
from data.schema import ACTION_CODE
from data.world import words
from data.world.dynamics import Moment, complete_probability, play_probability
from data.world.environment import Choice
from data.world.items import Items, inner
from data.world.settings import FAVOURITES, LoggingSettings


@dataclass(frozen=True)
class WorldContexts(Contexts):
    """Contexts with the hidden state behind them. An honest policy reads only what `Contexts` has."""

    moment: Moment | None = None


def plackett_luce(scores: NDArray[np.float32], size: int, rng: np.random.Generator) -> Choice:
    """Draws ordered slates without replacement, each next item with probability proportional to exp(score).

    Sampling is by exponential races, the Gumbel top-k trick without its logarithm (Kool et al., ICML 2019); the
    log-probability is that of the ordered slate.

    scores: (B, N). Returns slates (B, size) int32 and log-probabilities (B,) float64.
    """
    weight = _weights(scores)
    # The smallest of E / weight with E exponential is item i with probability proportional to its weight, and so on
    # down the order. In float32 the draws are too coarse for rare items, hence float64.
    slates = _smallest(rng.standard_exponential(scores.shape) / weight, size)
    return slates, _log_probability(weight, slates)


def plackett_luce_log_probability(scores: NDArray[np.float32], slates: NDArray[np.int32]) -> NDArray[np.float64]:
    """Log-probability (B,) of ordered slates (B, K) under Plackett-Luce with scores (B, N), in float64."""
    return _log_probability(_weights(scores), slates)


def _weights(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return weights


def _log_probability(weight: NDArray[np.float64], slates: NDArray[np.int32]) -> NDArray[np.float64]:
    chosen = np.take_along_axis(weight, slates, axis=1)
    rest = weight.copy()
    np.put_along_axis(rest, slates, 0.0, axis=1)
    # What was left to choose from at each position, summed from the end: subtracting from the start would cancel.
    left = rest.sum(axis=1, keepdims=True) + np.cumsum(chosen[:, ::-1], axis=1)[:, ::-1]
    result: NDArray[np.float64] = (np.log(chosen) - np.log(left)).sum(axis=1)
    return result


def _smallest(keys: NDArray[np.floating], size: int) -> NDArray[np.int32]:
    part = np.argpartition(keys, size - 1, axis=1)[:, :size]
    order = np.argsort(np.take_along_axis(keys, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1).astype(np.int32)


# What a reaction says about taste, to a product that counts.
_REACTION_WEIGHT = {"play": 0.3, "skip": -0.4, "complete": 1.0, "save": 1.5, "like": 1.5, "dislike": -1.5}


@dataclass(frozen=True)
class LoggingPolicy:
    """Plackett-Luce over all items on popularity and on taste guessed from the history; looks up plain style names."""

    items: Items
    settings: LoggingSettings
    slate_size: int
    name: str = "logging@1"
    _asked: dict[str, NDArray[np.float32] | None] = field(default_factory=dict, repr=False, compare=False)

    def scores(self, contexts: Contexts) -> NDArray[np.float32]:
        """Scores (B, N), already divided by the temperature."""
        s, known = self.settings, contexts.item >= 0
        weight = np.zeros(max(ACTION_CODE.values()) + 1, dtype=np.float32)
        for action, value in _REACTION_WEIGHT.items():
            weight[ACTION_CODE[action]] = value
        said = np.where(known, weight[np.maximum(contexts.action, 0)], 0.0).astype(np.float32)  # (B, H)
        place = self.items.seen_place[np.maximum(contexts.item, 0)]  # (B, H, D)
        taste = np.einsum("bh,bhd->bd", said, place) / np.sqrt(1.0 + known.sum(axis=1, keepdims=True))
        scores = inner(taste.astype(np.float32), self.items.seen_place)
        scores *= s.match / s.temperature
        scores += np.float32(s.popularity / s.temperature) * self.items.popularity
        for row, text in enumerate(contexts.steer):
            if text is not None and (bonus := self._bonus(text)) is not None:
                scores[row] += bonus
        return scores

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> Choice:
        """Slates and exact log-probabilities of the ordered slates."""
        return plackett_luce(self.scores(contexts), self.slate_size, rng)

    def _bonus(self, text: str) -> NDArray[np.float32] | None:
        if text not in self._asked:
            said = text.lower().replace(",", " ").split()
            hit = np.zeros(len(self.items), dtype=np.float32)
            for style in range(len(self.items.centre)):
                hit += (words.STYLES[style].name in said) * (self.items.style == style)
            for kind, kind_name in enumerate(self.items.kinds):
                hit += any(word in said for word in words.KIND_WORDS[kind_name]) * (self.items.kind == kind)
            strength = self.settings.asked / self.settings.temperature
            self._asked[text] = strength * hit if hit.any() else None
        return self._asked[text]


@dataclass(frozen=True)
class RandomPolicy:
    """Every ordered slate is as likely as any other."""

    items: int
    slate_size: int
    name: str = "random@1"

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> Choice:
        """Slates and log-probabilities; the latter are all -log(N (N-1) ... (N-K+1))."""
        batch = len(contexts.time)
        slates = _smallest(rng.random((batch, self.items)), self.slate_size)
        log_probability = -np.log(self.items - np.arange(self.slate_size, dtype=np.float64)).sum()
        return slates, np.full(batch, log_probability)


@dataclass(frozen=True)
class PopularityPolicy:
    """The items most played as the product counts it, the same for everybody."""

    items: Items
    slate_size: int
    name: str = "popularity@1"

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> Choice:
        """Slates and log-probabilities (0: it never varies)."""
        batch = len(contexts.time)
        best = _smallest(-self.items.popularity[None], self.slate_size)
        return np.repeat(best, batch, axis=0), np.zeros(batch)


def _moment(contexts: Contexts, name: str) -> Moment:
    moment = getattr(contexts, "moment", None)
    if not isinstance(moment, Moment):
        raise InputError(f"policy {name} sees hidden state and plays only inside a world: give it World.observe()")
    return moment


@dataclass(frozen=True)
class GreedyClick:
    """The K items most likely to be played now, with the click model known exactly."""

    slate_size: int
    name: str = "greedy_click@1"

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> Choice:
        """Slates and log-probabilities (0)."""
        moment = _moment(contexts, self.name)
        everything = np.arange(len(moment.items), dtype=np.int32)
        plays = play_probability(moment, moment.match(), everything)
        return _smallest(-plays, self.slate_size), np.zeros(len(contexts.time))


@dataclass(frozen=True)
class Oracle:
    """Fills the slate item by item with what adds most to the enjoyment of this session and of those to come.

    Sees quality, allure, taste, satiation, familiarity and what was asked for. What is to come it values by two prices
    (`OracleSettings`): a good meeting that brings a creator nearer to sticking, the more the fewer have stuck, and a
    play's cost in what it tires.
    """

    slate_size: int
    name: str = "oracle@1"

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> Choice:
        """Slates and log-probabilities (0)."""
        moment = _moment(contexts, self.name)
        s, items, batch = moment.settings, moment.items, len(contexts.time)
        match = moment.match()
        play = play_probability(moment, match, np.arange(len(items), dtype=np.int32))
        liked = s.enjoy_base + s.enjoy_quality * items.quality + s.enjoy_match * match - moment.ads[:, None]
        liked -= s.exposure_cost * np.exp(-moment.familiarity)[:, items.creator]
        later = self._worth_later(moment, liked)
        satiation, tired = moment.satiation.copy(), moment.tired.copy()
        slates = np.empty((batch, self.slate_size), dtype=np.int32)
        row = np.arange(batch)
        sum_so_far, plays_so_far = np.zeros(batch, np.float32), np.zeros(batch, np.float32)
        for k in range(self.slate_size):
            tiring = s.satiation_weight * satiation[:, items.style]
            tiring += s.creator_satiation_weight * tired[:, items.creator]
            enjoyed = np.tanh(liked - tiring)
            # Expected session enjoyment if this item came next, to first order in the number of plays.
            value = (sum_so_far[:, None] + play * enjoyed) / (plays_so_far[:, None] + play + 1.0)
            value += play * later
            value[row[:, None], slates[:, :k]] = -np.inf
            best = value.argmax(axis=1)
            slates[:, k] = best
            seen = s.examination[k] * play[row, best]
            sum_so_far += seen * enjoyed[row, best]
            plays_so_far += seen
            satiation[row, items.style[best]] += s.satiation_gain * seen
            tired[row, items.creator[best]] += s.creator_satiation_gain * seen
        return slates, np.zeros(batch)

    def _worth_later(self, moment: Moment, liked: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a play of each item is worth to later sessions, (B, N)."""
        s, prices, items, met = moment.settings, moment.oracle, moment.items, moment.familiarity
        tires = s.satiation_weight * s.satiation_gain + s.creator_satiation_weight * s.creator_satiation_gain
        stuck = (met >= s.favourite_at).sum(axis=1, keepdims=True)
        nearer = np.where(met < s.favourite_at, (met + 1.0) / (s.favourite_at + 1.0), 0.0)
        gain = prices.discovery * s.visit_favourites * nearer * np.exp(-stuck / FAVOURITES)  # (B, C)
        worth = complete_probability(s, liked) * gain[:, items.creator] - prices.satiation * tires
        result: NDArray[np.float32] = worth.astype(np.float32)
        return result
