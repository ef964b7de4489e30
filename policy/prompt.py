"""The one prompt. Training, evaluation and serving all ask the policy through `Prompt.encode`.

In order, and nothing else::

    <now_playing> <tue> <hour_08> <gap_4> <history> {<s0_3> <s1_0> <s2_7> <did_complete>} ...
    <says> something calm <wants> <w_midterm_4> <w_clicks_0> <slate>

`<says>` and its words are there only when the listener said something, `<wants>` only when weights are given, weekday
and hour only when the local time is known. Words are cut at 120 characters and 64 tokens (a chat, at the characters).
Prompts are left padded, so that every completion starts in the same column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.errors import InputError
from data.histories import HISTORY_LENGTH, Contexts
from data.schema import ACTIONS, SURFACES
from policy.vocabulary import GAP_HOURS, OBJECTIVES, WEEKDAYS, WEIGHT_STEPS, Vocabulary, spoken

MAX_TEXT_TOKENS = 64
_TEXTS_KEPT = 50_000

Ids = npt.NDArray[np.int64]
Weights = Mapping[str, float | npt.NDArray[Any]]


def neutral_contexts(steers: Sequence[str | None]) -> Contexts:
    """Listeners of whom nothing is known but what they say. One row per element of `steers`."""
    rows = len(steers)
    return Contexts(
        time=np.zeros(rows, dtype=np.int64),
        hour_of_week=np.full(rows, -1, dtype=np.int16),
        surface=np.full(rows, SURFACES.index("now_playing"), dtype=np.int8),
        gap_hours=np.full(rows, np.nan, dtype=np.float32),
        item=np.full((rows, 0), -1, dtype=np.int32),
        action=np.full((rows, 0), -1, dtype=np.int8),
        steer=list(steers),
    )


@dataclass(frozen=True)
class Prompt:
    """Writes prompts for one vocabulary and tokenizer. Only the last `history_length` items of a history are said."""

    vocabulary: Vocabulary
    tokenizer: PreTrainedTokenizerBase
    history_length: int = HISTORY_LENGTH
    _texts: dict[str, Ids] = field(default_factory=dict, repr=False, compare=False)

    @property
    def max_length(self) -> int:
        """The most tokens a prompt can have."""
        levels = len(self.vocabulary.level_sizes)
        return 4 + 1 + self.history_length * (levels + 1) + 1 + MAX_TEXT_TOKENS + 1 + len(OBJECTIVES) + 1

    def tokens(self, contexts: Contexts, weights: Weights | None = None) -> list[list[int]]:
        """The ids of each prompt, without padding: what TRL's datasets hold."""
        ids, mask = self.encode(contexts, weights)
        return [row[len(row) - keep :] for row, keep in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]

    def encode(self, contexts: Contexts, weights: Weights | None = None) -> tuple[Tensor, Tensor]:
        """Ids (B, T) int64, left padded with the tokenizer's pad id, and attention mask (B, T) int64.

        `weights` says how much each of OBJECTIVES counts, in [0, 1], for all rows or by row (B,); an objective left
        out, or nan in a row, is not said. Raises InputError for an objective that does not exist, a weight outside
        [0, 1], a surface, action or item outside its vocabulary.
        """
        rows = len(contexts.surface)
        words = self.vocabulary.ids
        column = np.full((rows, 1), 1, dtype=np.int64)
        older = max(0, contexts.item.shape[1] - self.history_length)
        parts = [
            self.place(contexts),
            column * words["<history>"],
            self.history(contexts.item[:, older:], contexts.action[:, older:]),
            self._says(contexts.steer),
            *self._wants(weights, rows),
            column * words["<slate>"],
        ]
        ids, said = left_padded(parts, int(self.tokenizer.pad_token_id))
        return torch.from_numpy(ids), torch.from_numpy(said)

    def _table(self, names: Sequence[str]) -> Ids:
        return np.array([self.vocabulary.ids[f"<{name}>"] for name in names], dtype=np.int64)

    def place(self, contexts: Contexts) -> Ids:
        """Surface, weekday, hour, gap. (B, 4)"""
        surface = np.asarray(contexts.surface, dtype=np.int64)
        if surface.size and not ((surface >= 0) & (surface < len(SURFACES))).all():
            raise InputError(f"a surface code is outside 0..{len(SURFACES) - 1}: surfaces are {', '.join(SURFACES)}")
        hour = np.asarray(contexts.hour_of_week, dtype=np.int64)
        if hour.size and hour.max() >= 168:
            raise InputError(f"hour of week {hour.max()} is outside 0..167 (Monday midnight is 0, unknown is -1)")
        gap = np.asarray(contexts.gap_hours, dtype=np.float64)
        days, hours = self._table(WEEKDAYS), self._table([f"hour_{h:02d}" for h in range(24)])
        gaps = self._table([*(f"gap_{bucket}" for bucket in range(len(GAP_HOURS) + 1)), "gap_never"])
        bucket = np.where(np.isnan(gap), len(GAP_HOURS) + 1, np.searchsorted(GAP_HOURS, gap, side="right"))
        known = hour >= 0
        return np.stack(
            [
                self._table(SURFACES)[surface],
                np.where(known, days[np.maximum(hour, 0) // 24], -1),
                np.where(known, hours[np.maximum(hour, 0) % 24], -1),
                gaps[bucket],
            ],
            axis=1,
        )

    def history(self, item: npt.NDArray[np.integer], action: npt.NDArray[np.integer]) -> Ids:
        """L codes and a reaction for each of (B, H) items, -1 where the history is shorter. (B, H (L + 1))"""
        code_tokens = self.vocabulary.code_tokens
        if item.size and item.max() >= len(code_tokens):
            raise InputError(f"a history has item {item.max()}, the catalog has rows 0..{len(code_tokens) - 1}")
        if action.size and action.max() >= len(ACTIONS):
            raise InputError(f"a history has action code {action.max()}, there are {len(ACTIONS)}")
        reactions = self._table([*(f"did_{name}" for name in ACTIONS), "did_none"])  # -1 indexes did_none
        known = (item >= 0)[..., None]
        said = np.concatenate([code_tokens[item], reactions[action][..., None]], axis=2)  # (B, H, L + 1)
        return np.where(known, said, -1).reshape(len(item), -1)

    def _says(self, steers: Sequence[str | None]) -> Ids:
        """`<says>` and the words, -1 padded. (B, longest)"""
        texts = [spoken(steer) if steer else "" for steer in steers]
        fresh = sorted({text for text in texts if text and text not in self._texts})
        if fresh:
            if len(self._texts) > _TEXTS_KEPT:
                self._texts.clear()
                fresh = sorted({text for text in texts if text})
            # The control token in front makes a tokenizer that treats a text's first word differently see what a server
            # sees; the words themselves have no angle bracket left to make a control token of.
            encoded = self.tokenizer([f"<says>{text}" for text in fresh], add_special_tokens=False)["input_ids"]
            for text, ids in zip(fresh, encoded):
                self._texts[text] = np.asarray(ids[: MAX_TEXT_TOKENS + 1], dtype=np.int64)
        width = max((len(self._texts[text]) for text in texts if text), default=0)
        said = np.full((len(texts), width), -1, dtype=np.int64)
        for row, text in enumerate(texts):
            if text:
                ids = self._texts[text]
                said[row, : len(ids)] = ids
        return said

    def _wants(self, weights: Weights | None, rows: int) -> list[Ids]:
        """`<wants>` and one token per objective given, -1 where a row wants nothing of it."""
        if not weights:
            return []
        unknown = sorted(set(weights) - set(OBJECTIVES))
        if unknown:
            raise InputError(f"there is no objective {unknown[0]!r}: weights are given for {', '.join(OBJECTIVES)}")
        columns = []
        for objective in OBJECTIVES:
            if objective in weights:
                weight = np.broadcast_to(np.asarray(weights[objective], dtype=np.float64), (rows,))
                said = ~np.isnan(weight)
                if not ((weight[said] >= 0) & (weight[said] <= 1)).all():
                    raise InputError(f"the weight of {objective} must lie in [0, 1]")
                steps = np.rint(np.where(said, weight, 0.0) * (WEIGHT_STEPS - 1)).astype(np.int64)
                words = self._table([f"w_{objective}_{step}" for step in range(WEIGHT_STEPS)])[steps]
                columns.append(np.where(said, words, -1))
        wanted = np.stack(columns, axis=1)
        opening = np.where((wanted >= 0).any(1, keepdims=True), self.vocabulary.ids["<wants>"], -1)
        return [np.concatenate([opening, wanted], axis=1)]


def left_padded(parts: Sequence[Ids], pad: int) -> tuple[Ids, Ids]:
    """Prompts (B, T) said in `parts`, (B, any) each with -1 where nothing is, left padded with `pad`; their mask."""
    wide = np.concatenate(parts, axis=1)
    said = wide >= 0
    # A stable sort on "is something said" moves the gaps to the left and keeps the order of the rest.
    order = np.argsort(said, axis=1, kind="stable")
    length = int(said.sum(1).max(initial=1))
    ids = np.take_along_axis(wide, order, 1)[:, wide.shape[1] - length :]
    mask = ids >= 0
    return np.where(mask, ids, pad), mask.astype(np.int64)
