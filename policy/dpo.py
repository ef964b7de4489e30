"""Direct preference optimisation of slates (Rafailov et al. 2023, eq. 7) on pairs ranked by the reward's lower bound.

Rounds iterate: slates are drawn from the current policy, which also is that round's reference, so the reference
log-probabilities are those of the draw and no second model or pass is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from trl import DPOConfig, DPOTrainer

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Decisions, Histories, contexts
from policy.checkpoint import load_speaker, save_adapter
from policy.preferences import PairSettings, choose_pairs, draw_slates, preference_dataset
from policy.presets import Preset
from policy.slate_reward import SlateReward
from policy.training import adapter, machine_arguments, with_progress, write_metrics


class TokenDPOTrainer(DPOTrainer):
    """TRL's DPOTrainer on data that is already token ids with reference log-probabilities.

    Two methods differ. `_prepare_dataset` would render text and append an end token: a slate has neither.
    `_precompute_ref_logps` would run the reference over the data: the draw already knows its own log-probabilities.
    """

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


@dataclass(frozen=True)
class DPOSettings:
    """until: prompts come from decisions before this time (us since 1970). rounds: draw-rank-train rounds.
    The preset's
       prompts and pairs are divided over them.
    """

    until: int
    rounds: int = 2
    seed: int = 0


def dpo_config(preset: Preset, output: Path, seed: int, changed: Mapping[str, Any] = MappingProxyType({})) -> DPOConfig:
    """The preset's arguments for TRL's DPOTrainer. One epoch a round; beta is DPO's inverse temperature."""
    return DPOConfig(
        **{
            **machine_arguments(preset, output, seed),
            "per_device_train_batch_size": max(4, preset.batch // 2),
            "learning_rate": preset.dpo_lr,
            "num_train_epochs": 1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 5,
            "beta": 0.1,
            "max_length": None,
            "precompute_ref_log_probs": True,
            **changed,
        }
    )


def train_dpo(
    base: Path,
    histories: Histories,
    decisions: Decisions,
    catalog: Catalog,
    reward: SlateReward,
    preset: Preset,
    settings: DPOSettings,
    folder: Path,
    config: DPOConfig | None = None,
    title: str = "DPO",
) -> None:
    """Train a LoRA adapter over the policy in `base` and write it to `folder`.

    `reward` scores slates for `decisions`, row by row. Raises InputError when no pair is told apart by the reward.
    """
    config = config or dpo_config(preset, folder, settings.seed)
    spoken = load_speaker(base, catalog)
    torch.manual_seed(settings.seed)
    model = get_peft_model(spoken.legal, adapter(preset))
    spoken = replace(spoken, model=model)
    rng = np.random.default_rng(settings.seed)
    pairing = PairSettings(
        samples=preset.dpo_samples,
        pairs=-(-preset.dpo_pairs // settings.rounds),
    )
    eligible = np.flatnonzero(decisions.time < settings.until)
    wanted = -(-preset.dpo_prompts // settings.rounds)
    for turn in range(settings.rounds):
        rows = np.sort(rng.choice(eligible, size=min(wanted, len(eligible)), replace=False))
        known = contexts(histories, decisions.take(rows), spoken.settings.history_length)
        model.eval()
        draws = draw_slates(
            spoken,
            known,
            reward,
            torch.from_numpy(rows),
            pairing.samples,
            settings.seed + turn,
            f"{title}: draw, score",
        )
        pairs = choose_pairs(draws, pairing, settings.seed + turn)
        if len(pairs[0]) == 0:
            raise InputError(
                f"{title}: the reward tells no two drawn slates apart: it has learned nothing from this log"
            )
        trainer = TokenDPOTrainer(
            model=model,
            args=config,
            train_dataset=preference_dataset(spoken, known, draws, pairs),
            processing_class=spoken.tokenizer,
        )
        with_progress(trainer, f"{title}: round {turn + 1} of {settings.rounds}").train()
        # After training, because the trainer begins by emptying its log.
        trainer.state.log_history.append({"draw/reward": draws.rewards.mean().item(), "pairs": len(pairs[0])})
        write_metrics(trainer, folder, f"round {turn + 1}")
        if "ref" in model.peft_config:  # the trainer's copy of the adapter it started from
            model.delete_adapter("ref")
    save_adapter(model, folder)
