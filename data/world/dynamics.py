"""What happens in a session and what it leaves behind.

A listener goes down the slate and stops somewhere (examination falls with position: the cascade of Craswell et al.,
WSDM 2008). What they examine they play if it draws them: logit p = play_base + play_allure a + play_match m, with
allure a (what is clicked and not watched: Covington et al., RecSys 2016) and match m = <taste, place> + liking of the
kind. What they play they enjoy as

    e = enjoy_base + enjoy_quality q + enjoy_match m - satiation - exposure_cost exp(-f) - ads + noise

Satiation with the item's style and creator grows with every play and recovers by a share a day (Baucells & Sarin,
Operations Research 2007; Leqi et al., Rebounding Bandits, NeurIPS 2021). Familiarity f counts good meetings with the
creator: a new one costs some enjoyment, and sticks after a few (mere exposure: Zajonc 1968; Bornstein's meta-analysis,
1989). Free listeners pay with advertising (Huang, Reiley & Riabov 2018, who varied Pandora's). Spoken word fits the
commute (Li et al., Do podcasts and music compete with one another?, WWW 2020). Enjoyment decides on completing,
saving and disliking, and its mean over the session is what moves satisfaction and habit (data/world/coming.py). So the
tap answers to allure, the return answers to quality, and a world sets how they relate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.schema import ACTION_CODE
from data.world.items import Items, inner
from data.world.settings import DynamicsSettings, OracleSettings
from data.world.shocks import Purpose, normal, uniform

ASK_STRENGTH = 2.0  # length of the taste vector of somebody who asked for a style; an unasked one is about sqrt(D)


@dataclass(frozen=True)
class Moment:
    """What B listeners are like when they open the app: the hidden state that an oracle may see."""

    items: Items
    settings: DynamicsSettings
    oracle: OracleSettings
    taste: NDArray[np.float32]  # (B, D)
    liking: NDArray[np.float32]  # (B, kinds)
    satiation: NDArray[np.float32]  # (B, S)
    tired: NDArray[np.float32]  # (B, C) satiation with creators
    familiarity: NDArray[np.float32]  # (B, C) good meetings with creators
    ads: NDArray[np.float32]  # (B,) enjoyment that advertising costs

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

    def reaction(self) -> NDArray[np.int8]:
        """Strongest reaction to each position as an action code, -1 where nothing was played."""
        code = np.where(self.completed, ACTION_CODE["complete"], ACTION_CODE["skip"])
        code = np.where(self.saved, ACTION_CODE["save"], code)
        code = np.where(self.disliked, ACTION_CODE["dislike"], code)
        return np.where(self.played, code, -1).astype(np.int8)


@dataclass(frozen=True)
class Aftertaste:
    """What B listeners are like after a session; columns as in `Moment`."""

    satiation: NDArray[np.float32]  # (B, S)
    tired: NDArray[np.float32]  # (B, C)
    familiarity: NDArray[np.float32]  # (B, C)


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logistic function, float32 in and out."""
    result: NDArray[np.float32] = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def play_probability(moment: Moment, match: NDArray[np.float32], items: NDArray[np.int32]) -> NDArray[np.float32]:
    """Probability that an examined item is played: allure and match, no more. Shape of `match`."""
    s = moment.settings
    return sigmoid(s.play_base + s.play_allure * moment.items.allure[items] + s.play_match * match)


def complete_probability(settings: DynamicsSettings, liked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability that what is played is heard to its end."""
    return sigmoid(settings.complete_base + settings.complete_enjoyment * liked)


def play_session(
    moment: Moment, slates: NDArray[np.int32], listeners: NDArray[np.int32], population: int, step: int, seed: int
) -> tuple[Session, Aftertaste]:
    """Plays one slate to each of B listeners; `listeners` (B,) are rows of the `population` for whom shocks are drawn.

    slates: (B, K) item indices, in the order shown. step: the address of the shocks.
    """
    s, items = moment.settings, moment.items
    size = slates.shape[1]
    shape = (population, size)

    def luck(purpose: Purpose) -> NDArray[np.float32]:
        return uniform(seed, step, purpose, shape)[listeners]

    depth = uniform(seed, step, Purpose.EXAMINE, population)[listeners]
    examined = depth[:, None] < np.asarray(s.examination[:size], dtype=np.float32)
    match = moment.match_of(slates)
    played = examined & (luck(Purpose.PLAY) < play_probability(moment, match, slates))

    noise = normal(seed, step, Purpose.ENJOY, shape)[listeners]
    liked = s.enjoy_base + s.enjoy_quality * items.quality[slates] + s.enjoy_match * match + s.enjoy_noise * noise
    liked -= moment.ads[:, None]
    finish, save, dislike = luck(Purpose.COMPLETE), luck(Purpose.SAVE), luck(Purpose.DISLIKE)
    satiation, tired, familiarity = moment.satiation.copy(), moment.tired.copy(), moment.familiarity.copy()
    completed = np.zeros(slates.shape, np.bool_)
    row, style, creator = np.arange(len(slates)), items.style[slates], items.creator[slates]
    for k in range(size):  # what was just played already tires, so a slate of one style pays less
        here, by = (row, style[:, k]), (row, creator[:, k])
        liked[:, k] -= s.satiation_weight * satiation[here] + s.creator_satiation_weight * tired[by]
        liked[:, k] -= s.exposure_cost * np.exp(-familiarity[by])
        completed[:, k] = played[:, k] & (finish[:, k] < complete_probability(s, liked[:, k]))
        satiation[here] += s.satiation_gain * played[:, k]
        tired[by] += s.creator_satiation_gain * played[:, k]
        familiarity[by] += completed[:, k]

    skipped = played & ~completed
    saved = completed & (save < sigmoid(s.save_base + s.save_enjoyment * liked))
    disliked = skipped & (dislike < sigmoid(s.dislike_base - s.dislike_enjoyment * liked))
    share = np.where(completed, 1.0, 0.04 + 0.56 * luck(Purpose.SECONDS))
    seconds = np.where(played, share * items.duration[slates], 0.0).astype(np.float32)

    # One play is half a verdict: the +1 shrinks short sessions towards indifference.
    enjoyment = (np.tanh(liked) * played).sum(axis=1) / (played.sum(axis=1) + 1.0)
    session = Session(played, completed, saved, disliked, seconds, enjoyment.astype(np.float32))
    return session, Aftertaste(satiation, tired, familiarity)
