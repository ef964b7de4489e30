"""Training examples for supervised fine-tuning: what listeners engaged with, and what words mean.

Five kinds, all in the one prompt format:
- engaged slates: after a logged context, the next K different items the listener finished, saved or liked;
- words: a context in which the listener asks for a tag, a kind or a creator, and items that fit;
- balances: a context in which a balance of objectives is wanted, and items that are roughly of that kind;
- moves: a context, a drawn move, and items that carry it out (the move itself is given, not learned);
- histories: whole listening histories in semantic IDs, packed, every token a target. They have no `<slate>`, so they
  train the plain language model: a history of n items is n free lessons in what follows what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Contexts, Decisions, Histories, contexts
from data.schema import ACTIONS
from data.world.words import with_typo
from policy.checkpoint import Speaker
from policy.hearing import askable
from policy.moves import MOVES, move_of, relation_of
from policy.prompt import Weights

Example = dict[str, Any]  # input_ids and labels of one sequence, and what a collator is told beside

# Reactions that say the item was wanted. A log that only has plays (news clicks) offers those.
ENGAGED = ("complete", "save", "like", "convert")
# How a name is said in lessons, how often with a slip of the finger, and how often by somebody without a history.
_SENTENCES = ("{}", "{}", "something {}", "more {}", "some {}", "i want {}", "give me {}")
_SLIPS = 0.2
BARE = 0.85
_FEW_TAKEN = 10  # interactions by which an item's share of those that went well is drawn to 0
_MOVES_AT_ONCE, _MOVE_POOL = 256, 1024  # contexts, and items that a move's slate is made of
WINDOW = 4  # engaged interactions looked at per slate place, to find K different items


@dataclass(frozen=True)
class SlateExamples:
    """M contexts with the slates (M, K) of catalog rows and moves (M,) to be said after them."""

    contexts: Contexts
    slates: NDArray[np.int32]
    moves: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.slates)


def engaged_rows(histories: Histories) -> NDArray[np.int64]:
    """Interactions (rows of `histories`) the listener engaged with; plays where the log knows nothing stronger."""
    codes = [ACTIONS.index(action) for action in ENGAGED]
    engaged = np.isin(histories.action, codes)
    if not engaged.any():
        engaged = histories.action == ACTIONS.index("play")
    return np.flatnonzero(engaged & (histories.item >= 0)).astype(np.int64)


def next_engaged(
    histories: Histories, decisions: Decisions, size: int, until: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Per decision the next `size` different items engaged with from then on and before `until` (us since 1970).

    Returns the decisions (rows, (M,)) that have that many and their items (M, size), in order of engagement.
    """
    rows = engaged_rows(histories)
    rows = rows[histories.time[rows] < until]
    end = np.searchsorted(rows, histories.offsets[decisions.user + 1])  # first engaged row past the user
    begin = np.searchsorted(rows, decisions.start)
    window = begin[:, None] + np.arange(size * WINDOW)  # (D, W)
    inside = window < end[:, None]
    if not inside.any():
        return np.empty(0, np.int64), np.empty((0, size), np.int32)
    items = np.where(inside, histories.item[rows[np.minimum(window, len(rows) - 1)]], -1)
    earlier = np.tril(np.ones((items.shape[1], items.shape[1]), dtype=bool), -1)
    kept = np.empty(items.shape, dtype=bool)
    for start in range(0, len(items), 16_384):  # blocks, because the comparison is D x W x W
        block = items[start : start + 16_384]
        repeated = ((block[:, :, None] == block[:, None, :]) & earlier).any(2)
        kept[start : start + 16_384] = (block >= 0) & ~repeated
    enough = np.flatnonzero(kept.sum(1) >= size)
    order = np.argsort(~kept[enough], axis=1, kind="stable")[:, :size]
    return enough.astype(np.int64), np.take_along_axis(items[enough], order, 1).astype(np.int32)


def engaged_slates(
    histories: Histories,
    decisions: Decisions,
    catalog: Catalog,
    slate_size: int,
    length: int,
    until: int,
    limit: int,
    seed: int,
) -> SlateExamples:
    """Engaged-slate examples from decisions before `until`, at most `limit` of them, drawn at random by `seed`.

    Raises InputError when no decision is followed by a whole slate of engaged items.
    """
    before = np.flatnonzero(decisions.time < until)
    rows, slates = next_engaged(histories, decisions.take(before), slate_size, until)
    if len(rows) == 0:
        raise InputError(
            f"no listener engaged with {slate_size} different items after a decision: the log is too short to learn "
            "slates of that size, lower slate_size"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])
    known = contexts(histories, decisions.take(before[rows[chosen]]), length)
    picked = slates[chosen]
    return SlateExamples(known, picked, move_of(known.item, known.action, picked, catalog))


def word_slates(
    base: SlateExamples, catalog: Catalog, weight: NDArray[np.float64], limit: int, seed: int
) -> SlateExamples:
    """Alignment examples: contexts of `base` in which the listener names a tag, kind or creator, and K items that fit.

    `weight` (N,) says how often each item was engaged with; fitting items are drawn in proportion. Names come in
    sentences and with a slip of the finger now and then. Most (`BARE`) are said by somebody without a history: such a
    prompt is a sixth as long, and a word's meaning is the same for everybody. Empty when the catalog has no words.
    """
    rng = np.random.default_rng(seed)
    size = base.slates.shape[1]
    fitting = _nameable(catalog, size)
    if not fitting or len(base) == 0:
        nothing = np.empty(0, np.int64)
        return SlateExamples(base.contexts.take(nothing), base.slates[nothing], base.moves[nothing])
    rows = rng.integers(len(base), size=limit)
    wanted = rng.integers(len(fitting), size=limit)
    slates = np.empty((limit, size), np.int32)
    for row, choice in enumerate(wanted.tolist()):
        pool = fitting[choice][1]
        keys = rng.exponential(size=len(pool)) / (weight[pool] + 1.0)  # exponential races draw without replacement
        slates[row] = pool[np.argsort(keys)[:size]]
    said = [_sentence(fitting[choice][0], rng) for choice in wanted.tolist()]
    known = forgotten(base.contexts.take(rows), rng.random(limit) < BARE, said)
    return SlateExamples(known, slates, move_of(known.item, known.action, slates, catalog))


def marks(histories: Histories, until: int, items: int) -> dict[str, NDArray[np.float64]]:
    """Objective -> (items,) what a log says of each item at first sight, in standard deviations, 0 where it says none.

    clicks: how much is made of it (the logarithm of its interactions); midterm: of those, the share that went well
    (`ENGAGED`) less the share that was turned down. Interactions before `until` (us since 1970) count.
    """
    known = (histories.item >= 0) & (histories.time < until)
    item, action = histories.item[known], histories.action[known]

    def count(*names: str) -> NDArray[np.float64]:
        among = np.isin(action, [ACTIONS.index(name) for name in names])
        return np.bincount(item[among], minlength=items).astype(np.float64)

    taken = np.bincount(item, minlength=items).astype(np.float64)
    found = {
        "midterm": (count(*ENGAGED) - count("skip", "dislike", "dismiss")) / (taken + _FEW_TAKEN),
        "clicks": np.log1p(taken),
    }
    spreads = {name: float(mark.std()) for name, mark in found.items()}
    return {name: (mark - mark.mean()) / spreads[name] if spreads[name] else 0 * mark for name, mark in found.items()}


@dataclass(frozen=True)
class Requests:
    """What M listeners ask for. said (M,): in words, None for nothing. which (M,): a row of `fits` (F + 1, N), the
    items that do; in the last row, of those who ask for nothing, all of them.
    """

    said: list[str | None]
    which: NDArray[np.int64]
    fits: NDArray[np.bool_]


def made_up_requests(
    catalog: Catalog, size: int, given: Sequence[str | None], share: float, rng: np.random.Generator
) -> Requests:
    """Requests (M,) for a `share` of those who have said nothing (`given`), each for what `size` items or more are."""
    fitting = _nameable(catalog, size)
    fits = np.zeros((len(fitting) + 1, len(catalog)), np.bool_)
    for row, (_, items) in enumerate(fitting):
        fits[row, items] = True
    fits[-1] = True
    silent = np.array([text is None for text in given], np.bool_)
    asks = silent & (rng.random(len(given)) < share) & (len(fitting) > 0)
    which = np.where(asks, rng.integers(max(len(fitting), 1), size=len(given)), len(fitting))
    said = [_sentence(fitting[at][0], rng) if ask else text for text, at, ask in zip(given, which.tolist(), asks)]
    return Requests(said, which, fits)


def _nameable(catalog: Catalog, size: int) -> list[tuple[str, NDArray[np.int32]]]:
    """Names of which there are `size` items or more, and the catalog rows that fit."""
    return [(text, rows) for _, text, rows in askable(catalog) if len(rows) >= size]


def _sentence(name: str, rng: np.random.Generator) -> str:
    if rng.random() < _SLIPS:
        name = with_typo(rng, name)
    return _SENTENCES[int(rng.integers(len(_SENTENCES)))].format(name)


def forgotten(contexts: Contexts, who: NDArray[np.bool_], steer: Sequence[str | None]) -> Contexts:
    """Contexts in which nothing is known of some listeners (B,), who say `steer`."""
    gone = who[:, None]
    return replace(
        contexts,
        item=np.where(gone, -1, contexts.item),
        action=np.where(gone, -1, contexts.action).astype(np.int8),
        gap_hours=np.where(who, np.nan, contexts.gap_hours).astype(np.float32),
        hour_of_week=np.where(who, -1, contexts.hour_of_week).astype(np.int16),
        steer=list(steer),
    )


def move_slates(
    base: SlateExamples, catalog: Catalog, weight: NDArray[np.float64], limit: int, seed: int
) -> SlateExamples:
    """Alignment examples: contexts of `base`, each with a drawn move and K items that all are such a move.

    `weight` (N,) as in `word_slates`. A move for which a context has fewer than K items is not drawn for it.
    """
    rng = np.random.default_rng(seed)
    size, rows = base.slates.shape[1], rng.integers(len(base), size=limit if len(base) else 0)
    slates, moves, kept = [], [], []
    for start in range(0, len(rows), _MOVES_AT_ONCE):
        some = rows[start : start + _MOVES_AT_ONCE]
        pool = rng.permutation(len(catalog.items))[:_MOVE_POOL]
        offered = np.broadcast_to(pool, (len(some), len(pool)))
        relation = relation_of(base.contexts.item[some], base.contexts.action[some], offered, catalog)
        keys = rng.exponential(size=relation.shape) / (weight[pool] + 1.0)
        for at, row in enumerate(some.tolist()):
            counts = np.bincount(relation[at], minlength=len(MOVES))
            possible = np.flatnonzero(counts >= size)
            if len(possible):
                move = int(rng.choice(possible))
                slates.append(pool[np.argsort(np.where(relation[at] == move, keys[at], np.inf))[:size]])
                moves.append(move)
                kept.append(row)
    if not kept:
        nothing = np.empty(0, np.int64)
        return SlateExamples(base.contexts.take(nothing), base.slates[nothing], base.moves[nothing])
    return SlateExamples(
        base.contexts.take(np.array(kept)), np.stack(slates).astype(np.int32), np.array(moves, np.int8)
    )


def told(
    spoken: Speaker, examples: SlateExamples, wants: Weights | None = None, moves_given: bool = False
) -> list[Example]:
    """input_ids, of prompt and completion, and labels that count the completion only (-100 elsewhere).

    wants: the trade-off that each prompt asks for. moves_given: the move does not count either; what is learned is what
    follows it.
    """
    if len(examples) == 0:
        return []
    completions = spoken.grammar.encode(
        torch.from_numpy(examples.moves.astype(np.int64)), torch.from_numpy(examples.slates.astype(np.int64))
    ).tolist()
    return [
        {
            "input_ids": prompt + completion,
            "labels": [-100] * len(prompt) + ([-100, *completion[1:]] if moves_given else completion),
        }
        for prompt, completion in zip(spoken.prompt.tokens(examples.contexts, wants), completions, strict=True)
    ]


@dataclass(frozen=True)
class HistoryBlocks:
    """Histories packed for reading: `tokens` of each block, and how long each of the parts in it is (they sum up).

    A part is of one user and begins with `<history>`. Parts of a block know nothing of each other: a reader must not
    let one see the next (`policy.sft` restarts positions, and attention stops there).
    """

    tokens: list[list[int]]
    parts: list[list[int]]


def history_blocks(
    spoken: Speaker,
    histories: Histories,
    until: int,
    length: int,
    passes: float,
    seed: int,
    thinning: float = 0.0,
) -> HistoryBlocks:
    """Histories before `until`, packed into blocks of at most `length` tokens: codes and reaction of each interaction.

    `passes` below 1 takes that share of the users, above 1 repeats them in other orders. From the second pass on, every
    interaction is left out with probability `thinning`, so that a history is not the same lesson twice and what nearly
    follows is learned too. A history that does not fit into what is left of a block goes into the next; one longer than
    half a block is cut.
    """
    rng = np.random.default_rng(seed)
    code = spoken.vocabulary.code_tokens  # (N, L)
    reaction = np.asarray([spoken.vocabulary.ids[f"<did_{action}>"] for action in ACTIONS])
    opening = spoken.vocabulary.ids["<history>"]
    each = code.shape[1] + 1
    users = len(histories.user_ids)
    whole = int(passes)
    order = [rng.permutation(users) for _ in range(whole)]
    order.append(rng.permutation(users)[: round((passes - whole) * users)])
    packed = HistoryBlocks([[]], [[]])
    for number, of_pass in enumerate(order):
        for user in of_pass.tolist():
            rows = np.arange(int(histories.offsets[user]), int(histories.offsets[user + 1]))
            rows = rows[(histories.time[rows] < until) & (histories.item[rows] >= 0)]
            if number and thinning:
                rows = rows[rng.random(len(rows)) >= thinning]
            while len(rows) >= 2:
                room = (length - len(packed.tokens[-1]) - 1) // each
                if room < 2 or (room < len(rows) and 2 * (1 + each * len(rows)) <= length):
                    packed.tokens.append([])
                    packed.parts.append([])
                    continue
                part, rows = rows[:room], rows[room:]
                said = np.concatenate([code[histories.item[part]], reaction[histories.action[part]][:, None]], 1)
                packed.tokens[-1] += [opening, *said.ravel().tolist()]
                packed.parts[-1].append(1 + said.size)
    return packed if packed.tokens[-1] else HistoryBlocks(packed.tokens[:-1], packed.parts[:-1])
