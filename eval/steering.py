"""Steering: does a policy play what was asked for, what does obeying cost, and do its moves do what they say.

Requests are put to a policy at logged moments in which nobody asked for anything. Each names a tag, a kind or a creator
of the catalog: by its name, in other words (where other words are known), or with a typing error. The same moments
without a request, drawn with the same luck, say what would have been played anyway; differences are paired by moment.

What obeying costs is judged by a reward model that hears the request too: the slate that the policy plays on hearing
it, less the slate that it plays without, both for a listener who has just asked. It is in standard deviations of the
reward under the logging policy.

A move is what a policy says before its slate. Of drawn slates, by what was said: how often the slate is such a move by
the definition (`policy.moves`), how much of it is new to the listener, and how sure the policy is of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Decisions, Histories, contexts
from data.world.words import with_typo
from eval.intervals import Floats, Interval
from eval.rollout import Json, known_mean
from policy.agent import prompts
from policy.checkpoint import Speaker
from policy.hearing import askable
from policy.moves import MOVES, move_of
from rewards.model import RewardModel

FORMS = ("named", "in other words", "misspelled")
SENTENCES = ("{x}", "play {x}", "{x} please", "in the mood for {x}")
EXPLORING, EXPLOITING = ("explore", "switch"), ("continue", "deepen")
FEWEST = 5  # items that fit, or there is nothing to fill a slate with

Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Asked:
    """M requests. column: which of FIELDS each names; said: its words; fits (M, N): the items that were asked for."""

    column: list[str]
    said: list[str | None]
    fits: NDArray[np.bool_]


def requests(catalog: Catalog, count: int, form: str, other_words: Words, seed: int) -> Asked:
    """`count` requests, a third each for tags, kinds and creators where a catalog has them; the same ones by any form.

    In other words: only what `other_words` has some for is asked, so these are other requests. Raises InputError for a
    catalog of which nothing can be asked.
    """
    rng = np.random.default_rng(seed)
    known = [one for one in askable(catalog) if len(one[2]) >= FEWEST]
    if form == "in other words":
        known = [one for one in known if one[1] in other_words]
    columns = list(dict.fromkeys(column for column, _, _ in known))
    if not columns:
        raise InputError(f"steering: nothing of which {FEWEST} items are can be asked for {form} in this catalog")
    asked = Asked([], [], np.zeros((count, len(catalog)), np.bool_))
    for row in range(count):
        column = columns[row % len(columns)]
        choices = [one for one in known if one[0] == column]
        _, text, fitting = choices[int(rng.integers(len(choices)))]
        sentence = SENTENCES[int(rng.integers(len(SENTENCES)))]
        luck = np.random.default_rng([seed, row])
        if form == "in other words":
            text = other_words[text][int(luck.integers(len(other_words[text])))]
        elif form == "misspelled":
            text = with_typo(luck, text)
        asked.column.append(column)
        asked.said.append(sentence.format(x=text))
        asked.fits[row, fitting] = True
    return asked


@dataclass(frozen=True)
class Moments:
    """M logged moments without a request, and the reward that judges what is played in them."""

    histories: Histories
    decisions: Decisions
    reward: RewardModel

    @classmethod
    def choose(
        cls, histories: Histories, decisions: Decisions, rows: NDArray[np.int64], reward: RewardModel, count: int
    ) -> Moments:
        """The first `count` of the decisions `rows` in which nobody asked for anything."""
        silent = [row for row in rows.tolist() if decisions.steer[row] is None][:count]
        if len(silent) < 2:
            raise InputError("steering: fewer than two logged moments in which nobody asked for anything")
        return cls(histories, decisions.take(np.array(silent)), reward)


@torch.no_grad()
def drawn(
    spoken: Speaker, moments: Moments, steer: Sequence[str | None], samples: int, seed: int, listening: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves (M, N), slates (M, N, K), and log-probabilities (M, N) of the slates given their moves.

    Not `listening`: what is said is in the prompt alone.
    """
    known = replace(contexts(moments.histories, moments.decisions, spoken.settings.history_length), steer=list(steer))
    generator = torch.Generator().manual_seed(seed)
    moves, slates, given = [], [], []
    for ids, mask, heard in prompts(spoken, known, listening=listening):
        found = spoken.legal.draw(ids, mask, samples=samples, generator=generator, prior=heard)
        move, items = spoken.grammar.decode(found.tokens.flatten(0, 1))
        of_move = spoken.legal.token_distributions(ids, mask, found.tokens, prior=heard).log_probs[..., 0]
        moves.append(move.view(len(ids), samples).cpu())
        slates.append(items.view(len(ids), samples, -1).cpu())
        given.append((found.log_probs - of_move).cpu())
    return torch.cat(moves), torch.cat(slates), torch.cat(given)


def obedience(
    spoken: Speaker, moments: Moments, other_words: Words = MappingProxyType({}), samples: int = 4, seed: int = 0
) -> Json:
    """form -> {requests, fits, by_prompt, unasked, gain, cost, by: {column: {fits, unasked}}}, each figure {mean, lo,
    hi}.

    fits: share of a slate's items that are what was asked for; by_prompt: when the words are in the prompt alone and
    the catalog is not asked (`policy.hearing`); unasked: of the slate without the request; gain: fits less unasked;
    cost: mid-term reward given up by obeying (negative: obeying gains). A form that cannot be asked in this catalog is
    left out.
    """
    count = len(moments.decisions)
    _, plain, _ = drawn(spoken, moments, [None] * count, samples, seed)
    told: Json = {}
    for form in FORMS:
        if form == "in other words" and not other_words:
            continue
        asked = requests(spoken.catalog, count, form, other_words, seed)
        _, heard, _ = drawn(spoken, moments, asked.said, samples, seed)
        _, read, _ = drawn(spoken, moments, asked.said, samples, seed, listening=False)
        fits, unasked = share_of(asked.fits, heard), share_of(asked.fits, plain)
        worth = rewarded(moments, asked.said, torch.cat([plain, heard], 1)).view(count, 2, samples).mean(2)
        column = np.array(asked.column)
        told[form] = {
            "requests": count,
            "fits": as_json(known_mean(fits)),
            "by_prompt": as_json(known_mean(share_of(asked.fits, read))),
            "unasked": as_json(known_mean(unasked)),
            "gain": as_json(known_mean(fits - unasked)),
            "cost": as_json(known_mean((worth[:, 0] - worth[:, 1]).double().numpy())),
            "by": {
                name: {
                    "fits": as_json(known_mean(fits[column == name])),
                    "unasked": as_json(known_mean(unasked[column == name])),
                }
                for name in dict.fromkeys(asked.column)
            },
        }
    return told


def share_of(fits: NDArray[np.bool_], slates: Tensor) -> Floats:
    """Share (M,) of the items of slates (M, N, K) that are among those which `fits` (M, N items)."""
    rows = np.arange(len(fits))[:, None, None]
    found: Floats = fits[rows, slates.numpy()].mean(axis=(1, 2))
    return found


def rewarded(moments: Moments, steer: Sequence[str | None], slates: Tensor) -> Tensor:
    """Lower bound (M, N) of slates (M, N, K) for listeners who said `steer`."""
    states = moments.reward.encode(moments.histories, replace(moments.decisions, steer=list(steer)))
    return moments.reward.objective().lower_bound(moments.reward.advantage(states, slates))


def moves_told(spoken: Speaker, moments: Moments, samples: int = 32, seed: int = 0) -> Json:
    """{"moves": {move: {share, carried_out, new_styles, new_creators, entropy, reward}}, "explore - exploit": {..}}.

    share: of drawn slates that are said to be this move. carried_out: of those, the share that are one. new_styles,
    new_creators: share of their items by a style not heard in the prompt's history, a creator not in the whole one.
    entropy: nats, of the slate given the move. reward: its lower bound. The difference is of `explore` and `switch`
    less `continue` and `deepen`, paired by moment where both were said.
    """
    count = len(moments.decisions)
    said, slates, given = drawn(spoken, moments, [None] * count, samples, seed)
    known = contexts(moments.histories, moments.decisions, spoken.settings.history_length)
    rows = np.repeat(np.arange(count), samples)
    flat = slates.flatten(0, 1).numpy()
    done = move_of(known.item[rows], known.action[rows], flat, spoken.catalog).reshape(count, samples)
    measures = {
        "new_styles": not_among(_codes(spoken.catalog, "tags"), known.item, slates.numpy()),
        "new_creators": not_among(_codes(spoken.catalog, "creator"), whole_past(moments), slates.numpy()),
        "entropy": -given.double().numpy(),
        "reward": rewarded(moments, [None] * count, slates).double().numpy(),
    }
    moves: Json = {}
    for code, move in enumerate(MOVES):
        at = said.numpy() == code
        if not at.any():
            moves[move] = {"share": 0.0}
            continue
        moves[move] = {
            "share": float(at.mean()),
            "carried_out": float((done == code)[at].mean()),
            **{name: float(values[at].mean()) for name, values in measures.items()},
        }
    told: Json = {"moves": moves}
    far = np.isin(said.numpy(), [MOVES.index(move) for move in EXPLORING])
    if (far.any(1) & ~far.all(1)).sum() >= 2:
        told["explore - exploit"] = {
            name: as_json(known_mean(_mean_where(values, far) - _mean_where(values, ~far)))
            for name, values in measures.items()
        }
    return told


def not_among(code: NDArray[np.int64], past: NDArray[np.int32], slates: NDArray[np.int64]) -> Floats:
    """Share (M, N) of the items of slates (M, N, K) whose `code` no item of the past (M, H, -1 padded) has."""
    met = np.zeros((len(past), int(code.max()) + 1), np.bool_)
    row, place = np.nonzero(past >= 0)
    met[row, code[past[row, place]]] = True
    new: Floats = (~met[np.arange(len(past))[:, None, None], code[slates]]).mean(2)
    return new


def whole_past(moments: Moments) -> NDArray[np.int32]:
    """Every item (M, longest) known at each moment, -1 padded."""
    decisions, histories = moments.decisions, moments.histories
    begin = histories.offsets[decisions.user]
    longest = int((decisions.start - begin).max(initial=1))
    at = begin[:, None] + np.arange(max(1, longest))
    inside = at < decisions.start[:, None]
    found: NDArray[np.int32] = np.where(inside, histories.item[np.minimum(at, len(histories.item) - 1)], -1)
    return found


def _codes(catalog: Catalog, column: str) -> NDArray[np.int64]:
    """Dense code of each item's first tag or creator; unknown ones share one."""
    values = catalog.items["tags"].list.first() if column == "tags" else catalog.items[column]
    _, codes = np.unique(values.fill_null("").to_numpy(), return_inverse=True)
    return codes.astype(np.int64)


def _mean_where(values: Floats, at: NDArray[np.bool_]) -> Floats:
    """Row means (M,) of values (M, N) where `at`; nan in rows without any."""
    count = at.sum(1)
    none = np.full(len(values), np.nan)
    found: Floats = np.divide((values * at).sum(1), count, out=none, where=count > 0)
    return found


def as_json(found: Interval) -> dict[str, float]:
    """{mean, lo, hi}."""
    return {"mean": found.value, "lo": found.lo, "hi": found.hi}
