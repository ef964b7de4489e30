"""Exponential reward-weighted fine-tuning: imitate the logged slates, the better ones more. The baseline to beat.

A slate of the log is imitated with weight exp(r / temperature), r being the same lower bound of its advantage that
DPO, PPO and GRPO are given (advantage-weighted regression: Peters & Schaal 2007; Peng et al. 2019, eq. 7). It can only
choose among what was shown, and needs no draw, no critic and no propensity. Weights are applied by drawing slates in
proportion to them, with replacement, so that the trainer is TRL's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Decisions, Histories, contexts
from policy.checkpoint import save_adapter
from policy.examples import SlateExamples, told
from policy.moves import move_of
from policy.presets import Preset
from policy.sft import imitate, sft_config
from policy.slate_reward import SlateReward
from policy.training import speaker_to_tune

_AT_ONCE = 8192


@dataclass(frozen=True)
class WeightedSettings:
    """until: only decisions before this time (us since 1970) are imitated. temperature: in the reward's unit, standard
    deviations under the logging policy; the lower, the fewer slates are imitated.
    """

    until: int
    temperature: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: give a number above 0, or nothing is imitated")


def train_weighted_sft(
    base: Path,
    histories: Histories,
    decisions: Decisions,
    catalog: Catalog,
    reward: SlateReward,
    preset: Preset,
    settings: WeightedSettings,
    folder: Path,
    changed: Mapping[str, Any] = MappingProxyType({}),
    title: str = "reward-weighted SFT",
) -> None:
    """Train a LoRA adapter over the policy in `base` and write it to `folder`.

    `reward` scores slates for `decisions`, row by row; `weighted_slates` of the preset are drawn. Raises InputError
    where no logged slate has the policy's size.
    """
    spoken, model = speaker_to_tune(base, catalog, None, preset, settings.seed)
    size = spoken.grammar.slate_size
    long_enough = decisions.slate.shape[1] >= size
    whole = (decisions.slate[:, :size] >= 0).all(axis=1) & long_enough
    rows = np.flatnonzero(whole & (decisions.time < settings.until))
    if len(rows) == 0:
        raise InputError(f"{title}: the log shows no slate of {size} items: lower slate_size in SFT")
    chosen = draw_by_reward(reward, rows, decisions.slate[rows, :size], preset.weighted_slates, settings)
    slates = decisions.slate[chosen, :size]
    known = contexts(histories, decisions.take(chosen), spoken.settings.history_length)
    examples = SlateExamples(known, slates, move_of(known.item, known.action, slates, catalog))
    given = {"learning_rate": preset.weighted_lr, "weight_decay": 0.0, **changed}
    imitate(spoken, model, told(spoken, examples), sft_config(preset, folder, settings.seed, given), title, "weighted")
    save_adapter(model, folder)


def draw_by_reward(
    reward: SlateReward, rows: NDArray[np.int64], slates: NDArray[np.int32], count: int, settings: WeightedSettings
) -> NDArray[np.int64]:
    """`count` of the decisions `rows` (M,) that showed `slates`, with replacement, as exp(reward / temperature)."""
    scores = torch.cat(
        [
            reward(torch.from_numpy(rows[start : start + _AT_ONCE]), items[:, None])[:, 0]
            for start in range(0, len(rows), _AT_ONCE)
            for items in [torch.from_numpy(slates[start : start + _AT_ONCE].astype(np.int64))]
        ]
    )
    share = torch.softmax(scores.double() / settings.temperature, 0).numpy()
    rng = np.random.default_rng(settings.seed)
    return np.sort(rng.choice(rows, size=count, p=share / share.sum()))
