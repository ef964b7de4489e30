"""What happens in a session and what it leaves behind.

A listener goes down the slate (examination falls with position: the cascade of Craswell et al., WSDM 2008), plays what
draws them (allure and match), and enjoys it or not (quality and match, less satiation with the style). Enjoyment moves
satisfaction (an exponential average) and, when the visit came near the usual hour, habit strength, which grows towards
its ceiling and fades on days without a visit (the asymptotic curve of Lally et al., 2010). Both move the odds of coming
back; nothing else does. So the tap answers to allure, the return answers to quality, and a world sets how they relate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.schema import ACTION_CODE
from data.world.items import Items, inner
from data.world.settings import DynamicsSettings
from data.world.shocks import Purpose, normal, uniform

ASK_STRENGTH = 2.0  # length of the taste vector of somebody who asked for a style; an unasked one is about sqrt(D)


@dataclass(frozen=True)
class Moment:
    """What B listeners are like when they open the app: the hidden state that an oracle may see."""

    items: Items
    settings: DynamicsSettings
    taste: NDArray[np.float32]  # (B, D)
    liking: NDArray[np.float32]  # (B, kinds)
    satiation: NDArray[np.float32]  # (B, S)

    def match(self) -> NDArray[np.float32]:
        """How well each item fits each listener now, (B, N)."""
        fit = inner(self.taste, self.items.place)
        fit += self.liking[:, self.items.kind]
        return fit

    def match_of(self, slates: NDArray[np.int32]) -> NDArray[np.float32]:
        """The same for the items of each listener's slate, (B, K)."""
        fit: NDArray[np.float32] = np.einsum("bd,bkd->bk", self.taste, self.items.place[slates])
        fit += np.take_along_axis(self.liking, self.items.kind[slates], axis=1)
        return fit


@dataclass(frozen=True)
class Session:
    """How B sessions went. All (B, K) unless noted."""

    played: NDArray[np.bool_]
    completed: NDArray[np.bool_]  # of the played; the others were skipped
    saved: NDArray[np.bool_]
    disliked: NDArray[np.bool_]
    seconds: NDArray[np.float32]  # listened
    enjoyment: NDArray[np.float32]  # (B,) in (-1, 1), 0 when nothing was played
    satiation: NDArray[np.float32]  # (B, S) after the session

    def reaction(self) -> NDArray[np.int8]:
        """Strongest reaction to each position as an action code, -1 where nothing was played."""
        code = np.where(self.completed, ACTION_CODE["complete"], ACTION_CODE["skip"])
        code = np.where(self.saved, ACTION_CODE["save"], code)
        code = np.where(self.disliked, ACTION_CODE["dislike"], code)
        return np.where(self.played, code, -1).astype(np.int8)


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logistic function, float32 in and out."""
    result: NDArray[np.float32] = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def play_probability(moment: Moment, match: NDArray[np.float32], items: NDArray[np.int32]) -> NDArray[np.float32]:
    """Probability that an examined item is played: allure and match, no more. Shape of `match`."""
    s = moment.settings
    return sigmoid(s.play_base + s.play_allure * moment.items.allure[items] + s.play_match * match)


def play_session(
    moment: Moment, slates: NDArray[np.int32], listeners: NDArray[np.int32], population: int, day: int, seed: int
) -> Session:
    """Plays one slate to each of B listeners; `listeners` (B,) are rows of the `population` for whom shocks are drawn.

    slates: (B, K) item indices, in the order shown.
    """
    s, items = moment.settings, moment.items
    size = slates.shape[1]
    shape = (population, size)

    def luck(purpose: Purpose) -> NDArray[np.float32]:
        return uniform(seed, day, purpose, shape)[listeners]

    depth = uniform(seed, day, Purpose.EXAMINE, population)[listeners]
    examined = depth[:, None] < np.asarray(s.examination[:size], dtype=np.float32)
    match = moment.match_of(slates)
    played = examined & (luck(Purpose.PLAY) < play_probability(moment, match, slates))

    noise = normal(seed, day, Purpose.ENJOY, shape)[listeners]
    liked = s.enjoy_base + s.enjoy_quality * items.quality[slates] + s.enjoy_match * match + s.enjoy_noise * noise
    satiation = moment.satiation.copy()
    row, style = np.arange(len(slates)), items.style[slates]
    for k in range(size):  # what was just played already tires, so a slate of one style pays less
        liked[:, k] -= s.satiation_weight * satiation[row, style[:, k]]
        satiation[row, style[:, k]] += s.satiation_gain * played[:, k]

    completed = played & (luck(Purpose.COMPLETE) < sigmoid(s.complete_base + s.complete_enjoyment * liked))
    skipped = played & ~completed
    saved = completed & (luck(Purpose.SAVE) < sigmoid(s.save_base + s.save_enjoyment * liked))
    disliked = skipped & (luck(Purpose.DISLIKE) < sigmoid(s.dislike_base - s.dislike_enjoyment * liked))
    share = np.where(completed, 1.0, 0.04 + 0.56 * luck(Purpose.SECONDS))
    seconds = np.where(played, share * items.duration[slates], 0.0).astype(np.float32)

    # One play is half a verdict: the +1 shrinks short sessions towards indifference.
    enjoyment = (np.tanh(liked) * played).sum(axis=1) / (played.sum(axis=1) + 1.0)
    return Session(played, completed, saved, disliked, seconds, enjoyment.astype(np.float32), satiation)


def visit_probability(
    settings: DynamicsSettings,
    logit: NDArray[np.float32],
    satisfaction: NDArray[np.float32],
    habit: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Probability of a visit today; all arguments (U,)."""
    return sigmoid(logit + settings.visit_satisfaction * satisfaction + settings.visit_habit * habit)


def timeliness(settings: DynamicsSettings, hours_off: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far a visit counts towards the habit, 1 at the usual hour."""
    near: NDArray[np.float32] = np.exp(-0.5 * np.square(hours_off / settings.habit_hours))
    return near
