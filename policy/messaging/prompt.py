"""The prompt of a decision about messages: the listener as always, then what was sent, what may be, what could be.

In order, and nothing else::

    <other> <tue> <hour_05> <gap_4> <premium> <history> {<s0_3> <s1_0> <s2_7> <did_complete>} ...
    <sent> {<push> <did_open> <ago_2>} ... <may> <push> <in_app>
    <offers> {offer <value_none> <o_0>} {new release jazz <value_5> <o_2>} ... <message>

`<premium>` is there only for those who pay, a channel behind `<may>` only where something may be sent through it today,
an opportunity only where it may be sent. Opportunities are told in the order of their values, the highest last: what
is most often decided about stands where a small model looks first, next to `<message>`. An opportunity is told in the
words of its tags, cut at 8 tokens: messages are no part of the catalog, and new domains come with words. `<message>`
begins the decision as `<slate>` begins a slate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import InputError
from data.message_log import message_items
from data.schema import ACTIONS
from data.world.environment import MessageContexts
from data.world.settings import CHANNELS
from policy.prompt import Ids, Prompt, left_padded
from policy.vocabulary import DAYS_AGO, MOST_OPPORTUNITIES, VALUE_STEPS, spoken

MAX_WORD_TOKENS = 8
HISTORY = 6  # interactions told: who is asked here is known by their sends and their tastes, not by one evening


def message_words(items: pl.DataFrame) -> tuple[str, ...]:
    """The words of each message of an items table: a row here is the number in MessageContexts.eligible."""
    frame = message_items(items).select("tags", "title")
    return tuple(" ".join(tags or [title or ""]).replace("_", " ") for tags, title in frame.iter_rows())


@dataclass(frozen=True)
class MessagePrompt:
    """Writes prompts about messages. prompt: of the same vocabulary and tokenizer; words: of each message row."""

    prompt: Prompt
    words: Sequence[str]

    def tokens(self, contexts: MessageContexts, allowed: NDArray[np.bool_]) -> list[list[int]]:
        """The ids of each prompt, without padding."""
        ids, mask = self.encode(contexts, allowed)
        return [row[len(row) - keep :] for row, keep in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]

    def encode(self, contexts: MessageContexts, allowed: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Ids (B, S) int64, left padded, and attention mask (B, S), for what is allowed (B, M, channels, hours).

        Raises InputError for more opportunities than can be listed, and for a message of which there are no words.
        """
        rows, most = contexts.eligible.shape
        if most > MOST_OPPORTUNITIES:
            raise InputError(
                f"{most} opportunities a listener: a prompt lists {MOST_OPPORTUNITIES}, give the best of them"
            )
        if contexts.eligible.size and int(contexts.eligible.max()) >= len(self.words):
            raise InputError(
                f"message row {int(contexts.eligible.max())}, but the prompt has words for {len(self.words)}"
            )
        ids, column = self.prompt.vocabulary.ids, np.full((rows, 1), 1, dtype=np.int64)
        recent = max(0, contexts.item.shape[1] - HISTORY)
        parts = [
            self.prompt.place(contexts),
            np.where(contexts.premium, ids["<premium>"], -1)[:, None],
            column * ids["<history>"],
            self.prompt.history(contexts.item[:, recent:], contexts.action[:, recent:]),
            column * ids["<sent>"],
            self._sent(contexts),
            column * ids["<may>"],
            np.where(allowed.any(axis=(1, 3)), self._named(CHANNELS), -1),
            column * ids["<offers>"],
            self._offers(contexts, np.asarray(allowed.any(axis=(2, 3)))),
            column * ids["<message>"],
        ]
        said, mask = left_padded(parts, int(self.prompt.tokenizer.pad_token_id))
        return torch.from_numpy(said), torch.from_numpy(mask)

    def _named(self, names: Sequence[str]) -> Ids:
        return np.array([self.prompt.vocabulary.ids[f"<{name}>"] for name in names], dtype=np.int64)

    def _sent(self, contexts: MessageContexts) -> Ids:
        """Channel, answer and age of each earlier send, -1 where there was none. (B, 3 R)"""
        there = (contexts.sent_item >= 0)[..., None]
        answers = self._named([*(f"did_{action}" for action in ACTIONS), "did_none"])
        ages = self._named([f"ago_{bucket}" for bucket in range(len(DAYS_AGO) + 1)])
        age = ages[np.searchsorted(DAYS_AGO, contexts.sent_days_ago, side="right")]
        said = np.stack([self._named(CHANNELS)[contexts.sent_channel], answers[contexts.sent_answer], age], axis=2)
        return np.where(there, said, -1).reshape(len(said), -1)

    def _offers(self, contexts: MessageContexts, open_: NDArray[np.bool_]) -> Ids:
        """Words, value signal and slot of each opportunity that is open (B, M), the highest value last and -1 in place
        of those that are not. (B, M (words + 2))"""
        most = contexts.eligible.shape[1]
        slots = self._named([f"o_{place}" for place in range(most)])
        values = self._named([*(f"value_{bucket}" for bucket in range(len(VALUE_STEPS) + 1)), "value_none"])
        bucket = np.searchsorted(VALUE_STEPS, contexts.value, side="right")
        said = np.concatenate(
            [
                self._words[np.maximum(contexts.eligible, 0)],
                values[np.where(np.isnan(contexts.value), -1, bucket)][..., None],
                np.broadcast_to(slots, open_.shape)[..., None],
            ],
            axis=2,
        )
        said = np.where(open_[..., None], said, -1)
        order = np.argsort(np.nan_to_num(contexts.value, nan=-np.inf), axis=1, kind="stable")
        return np.take_along_axis(said, order[..., None], axis=1).reshape(len(said), -1)

    @cached_property
    def _words(self) -> Ids:
        """Token ids of each message's words, -1 padded. (messages, MAX_WORD_TOKENS)"""
        found = np.full((len(self.words), MAX_WORD_TOKENS), -1, dtype=np.int64)
        texts = [f" {spoken(text)}" for text in self.words]
        for row, ids in enumerate(self.prompt.tokenizer(texts, add_special_tokens=False)["input_ids"]):
            found[row, : len(ids[:MAX_WORD_TOKENS])] = ids[:MAX_WORD_TOKENS]
        return found
