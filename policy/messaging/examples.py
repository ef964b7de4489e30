"""Logged decisions about messages as training examples, and what carries their rules into a training batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.message_log import MessageLog, take_contexts
from data.world.settings import CHANNELS
from policy.checkpoint import Speaker
from policy.examples import Example
from policy.messaging.agent import Allowed
from policy.messaging.grammar import HOURS
from policy.messaging.prompt import MessagePrompt
from policy.messaging.rules import allowed_by_clock


def lawful(log: MessageLog, may: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(D,) whether each logged decision is among what `may` (D, M, channels, hours) allows: all but broken logs are."""
    row = np.arange(len(log))
    sent = may[row, np.maximum(log.column, 0), np.maximum(log.channel, 0), np.maximum(log.hour, 0)]
    found: NDArray[np.bool_] = (log.column < 0) | sent
    return found


@dataclass(frozen=True)
class MessageLesson:
    """What is learned of messages beside slates. words: of each message row; limit: decisions learned from at most."""

    log: MessageLog
    words: Sequence[str]
    limit: int = 8_000
    rules: Allowed = allowed_by_clock

    @property
    def most(self) -> int:
        """Opportunities that a listener may have."""
        return int(self.log.contexts.eligible.shape[1])

    def examples(self, spoken: Speaker, until: int, seed: int) -> list[Example]:
        """Lawful decisions before `until` (us since 1970) with something to decide, drawn at random.

        input_ids, labels (-100 but for the completion) and `allowed`, the flat places of what might have been sent.
        """
        before = np.flatnonzero(self.log.contexts.time < until)
        rows = np.random.default_rng(seed).permutation(before)[: 2 * self.limit]
        may = self.rules(take_contexts(self.log.contexts, rows))
        kept = np.flatnonzero(lawful(self.log.take(rows), may) & may.any(axis=(1, 2, 3)))[: self.limit]
        if not len(kept):
            return []
        taken, may = self.log.take(rows[kept]), may[kept]
        parts = (torch.from_numpy(part.astype(np.int64)) for part in (taken.column, taken.channel, taken.hour))
        whole = spoken.legal.decisions.encode(*parts).tolist()
        return decision_examples(MessagePrompt(spoken.prompt, self.words).tokens(taken.contexts, may), whole, may)


def decision_examples(
    prompts: Sequence[list[int]], decisions: Sequence[list[int]], may: NDArray[np.bool_]
) -> list[Example]:
    """Prompts and what is decided after each, as `MessageLesson.examples`. may: (P, M, channels, HOURS)."""
    return [
        {"input_ids": said + made, "labels": [-100] * len(said) + made, "allowed": np.flatnonzero(open_).tolist()}
        for said, made, open_ in zip(prompts, decisions, may, strict=True)
    ]


@dataclass(frozen=True)
class MixedCollator:
    """Batches of slates and decisions: input_ids, attention_mask and labels, right padded, and `allowed` where any has.

    most: opportunities a listener may have, the same in every batch.
    """

    pad: int
    most: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        width = max(len(example["input_ids"]) for example in examples)

        def padded(name: str, filler: int) -> Tensor:
            return torch.tensor([[*example[name], *[filler] * (width - len(example[name]))] for example in examples])

        real = [[1] * len(example["input_ids"]) + [0] * (width - len(example["input_ids"])) for example in examples]
        batch = {
            "input_ids": padded("input_ids", self.pad),
            "attention_mask": torch.tensor(real),
            "labels": padded("labels", -100),
        }
        places = [example.get("allowed") for example in examples]
        if any(place is not None for place in places):
            batch["allowed"] = unpacked(places, self.most)
        return batch


def unpacked(places: Sequence[Sequence[int] | None], most: int) -> Tensor:
    """Allowed sends (B, most, channels, HOURS) from their flat places; None: nothing is."""
    allowed_ = torch.zeros((len(places), most * len(CHANNELS) * HOURS), dtype=torch.bool)
    for row, open_ in enumerate(places):
        allowed_[row, list(open_ or [])] = True
    return allowed_.view(len(places), most, len(CHANNELS), HOURS)
