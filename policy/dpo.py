"""Direct preference optimisation of slates (Rafailov et al. 2023, eq. 7) on pairs ranked by the reward's lower bound.

Rounds iterate: slates are drawn from the current policy, which also is that round's reference, so the reference
log-probabilities are those of the draw and no second model or pass is needed.

With more than one negative a slate is preferred to all of them at once (softmax DPO: Chen et al. 2024, eq. 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor, nn
from trl import DPOConfig, DPOTrainer

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Contexts, Decisions, Histories, contexts
from policy.checkpoint import Speaker, load_speaker, save_adapter
from policy.preferences import (
    Draws,
    PairSettings,
    choose_pairs,
    choose_rivals,
    draw_slates,
    preference_dataset,
    rival_dataset,
)
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
class RivalCollator:
    """Pads prompts on the left, and stacks the chosen completion and the rejected ones behind it: (B, 1 + R, T)."""

    pad: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        width = max(len(example["prompt_ids"]) for example in examples)
        short = [width - len(example["prompt_ids"]) for example in examples]
        return {
            "input_ids": torch.tensor([[self.pad] * gap + e["prompt_ids"] for gap, e in zip(short, examples)]),
            "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in short]),
            "completions": torch.tensor([example["completions"] for example in examples]),
            "ref_logps": torch.tensor([example["ref_logps"] for example in examples]),
        }


class SoftmaxDPOTrainer(TokenDPOTrainer):
    """TokenDPOTrainer for one chosen slate and several rejected ones. One more method differs, `_compute_loss`: the
    loss is softmax DPO's, and a prompt is read once for all its slates.
    """

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        told = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            completions=inputs["completions"],
        )
        rewards = self.beta * (told.log_probs.sum(-1) - inputs["ref_logps"])  # (B, 1 + R)
        loss = softmax_dpo_loss(rewards).mean()
        mode, seen = "train" if self.model.training else "eval", self.accelerator.gather(rewards.detach())
        hardest = seen[:, 1:].amax(1)
        for name, value in (
            ("rewards/chosen", seen[:, 0]),
            ("rewards/rejected", seen[:, 1:]),
            ("rewards/accuracies", (seen[:, 0] > hardest).float()),
            ("rewards/margins", seen[:, 0] - hardest),
        ):
            self._metrics[mode][name].append(value.mean().item())
        return (loss, told) if return_outputs else loss


def softmax_dpo_loss(rewards: Tensor) -> Tensor:
    """Loss (B,) of implicit rewards (B, 1 + R), the chosen slate's first.

    -log sigmoid(-log sum exp(rejected - chosen)): Chen et al. 2024, "On Softmax Direct Preference Optimization for
    Recommendation", eq. 9. With one rejected slate it is DPO's.
    """
    return -nn.functional.logsigmoid(-(rewards[:, 1:] - rewards[:, :1]).logsumexp(1))


@dataclass(frozen=True)
class DPOSettings:
    """until: prompts come from decisions before this time (us since 1970). rounds: draw-rank-train rounds, over which
    the preset's prompts and pairs are divided. negatives: slates that each chosen one is preferred to at once.
    """

    until: int
    rounds: int = 2
    negatives: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.negatives < 1:
            raise InputError(f"{self.rounds} rounds, {self.negatives} negatives: give 1 or more of each")


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
        trainer = preference_trainer(spoken, known, draws, pairs, pairing, settings, turn, config, title)
        with_progress(trainer, f"{title}: round {turn + 1} of {settings.rounds}").train()
        # After training, because the trainer begins by emptying its log.
        trainer.state.log_history.append({"draw/reward": draws.rewards.mean().item(), "pairs": len(pairs[0])})
        write_metrics(trainer, folder, f"round {turn + 1}")
        if "ref" in model.peft_config:  # the trainer's copy of the adapter it started from
            model.delete_adapter("ref")
    save_adapter(model, folder)


def preference_trainer(
    spoken: Speaker,
    known: Contexts,
    draws: Draws,
    pairs: tuple[Tensor, Tensor, Tensor],
    pairing: PairSettings,
    settings: DPOSettings,
    turn: int,
    config: DPOConfig,
    title: str,
) -> TokenDPOTrainer:
    """A round's trainer on those pairs, or on as many negatives as the settings ask for.

    Raises InputError where no prompt has that many worse slates.
    """
    given: dict[str, Any] = {"model": spoken.model, "args": config, "processing_class": spoken.tokenizer}
    if settings.negatives == 1:
        return TokenDPOTrainer(train_dataset=preference_dataset(spoken, known, draws, pairs), **given)
    rivals = choose_rivals(draws, pairs, settings.negatives, pairing, settings.seed + turn)
    if len(rivals[0]) == 0:
        raise InputError(
            f"{title}: no prompt has {settings.negatives} different worse slates among its {pairing.samples} draws: "
            "ask for fewer negatives or more dpo_samples"
        )
    return SoftmaxDPOTrainer(
        train_dataset=rival_dataset(spoken, known, draws, rivals),
        data_collator=RivalCollator(int(spoken.tokenizer.pad_token_id)),
        **given,
    )
