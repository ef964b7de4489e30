"""Proximal policy optimisation of slates with TRL's PPOTrainer (Schulman et al. 2017; Ziegler et al. 2019).

The trainer is used as it is. What makes it fit: the policy's own `generate` and `forward` are already legal (see
`policy.language_model`), the reference is the same model with its adapter disabled, the reward is a module that decodes
token ids to (listener, slate), and the critic is a small transformer of its own, because the policy's trunk is frozen
under LoRA and twice its price for a baseline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerBase

from data.catalog import Catalog
from data.histories import Decisions, Histories, contexts
from policy.checkpoint import save_adapter
from policy.presets import Preset
from policy.slate_reward import RewardModule, SlateReward
from policy.training import machine_arguments, speaker_to_tune, with_progress, write_metrics
from policy.watch import KLTarget, Watch, WatchSettings, check_kl_target, train_watched

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.ppo import PPOConfig, PPOTrainer


@dataclass(frozen=True)
class PPOSettings:
    """until: prompts come from decisions before this time (us since 1970). watch: how it is watched on held-out ones.

    kl_target: divergence from the reference to steer to, nats per slate (None: a fixed penalty).
    """

    until: int
    watch: WatchSettings = field(default_factory=lambda: WatchSettings(every=2))  # it is sure of itself in few steps
    kl_target: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_kl_target(self.kl_target)


class Critic(nn.Module):
    """A two-layer transformer that predicts the reward from each prefix, in the shape PPOTrainer asks for."""

    base_model_prefix = "backbone"

    def __init__(self, vocabulary: int, hidden: int = 64) -> None:
        super().__init__()
        self.backbone = LlamaModel(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=1024,
            )
        )
        self.score = nn.Linear(hidden, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)


class AnnouncingCollator:
    """Left-pads prompts and tells the reward which decisions they belong to."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reward: RewardModule) -> None:
        self.pad = int(tokenizer.pad_token_id)
        self.reward = reward

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        prompts = [example["input_ids"] for example in examples]
        self.reward.expect([example["row"] for example in examples], prompts)
        width = max(map(len, prompts))
        return {"input_ids": torch.tensor([[self.pad] * (width - len(prompt)) + prompt for prompt in prompts])}


def ppo_config(preset: Preset, output: Path, seed: int, changed: Mapping[str, Any] = MappingProxyType({})) -> PPOConfig:
    """The preset's arguments for TRL's PPOTrainer. `train_ppo` sets the completion's length.

    One process takes `ppo_batch` rollouts a step and updates on four minibatches of them, twice. The only reward comes
    at the end of a slate, so nothing is discounted (gamma = lambda = 1). `kl_coef` is in the reward's unit a nat, as in
    `policy.grpo.group_config`.
    """
    return PPOConfig(
        **{
            **machine_arguments(preset, output, seed),
            "logging_steps": 1,
            "per_device_train_batch_size": preset.ppo_batch,
            "gradient_accumulation_steps": 1,
            "num_mini_batches": 4,
            "num_ppo_epochs": 2,
            "local_rollout_forward_batch_size": preset.ppo_batch,
            "total_episodes": preset.ppo_episodes,
            "temperature": 1.0,
            "learning_rate": preset.ppo_lr,
            "lr_scheduler_type": "constant",
            "kl_coef": 0.15,
            "kl_estimator": "k3",
            "gamma": 1.0,
            "lam": 1.0,
            "cliprange": 0.2,
            "vf_coef": 0.1,
            "whiten_rewards": False,
            "num_sample_generations": 0,
            **changed,
        }
    )


def train_ppo(
    base: Path,
    start: Path | None,
    histories: Histories,
    decisions: Decisions,
    catalog: Catalog,
    reward: SlateReward,
    preset: Preset,
    settings: PPOSettings,
    folder: Path,
    config: PPOConfig | None = None,
    title: str = "PPO",
) -> None:
    """Train a LoRA adapter over the policy in `base` and write it to `folder`.

    start: the adapter to begin from (DPO's), none for a fresh one; the reference is `base` either way. `reward` scores
    slates for `decisions`, row by row.
    """
    # The seed is set, because PPOTrainer shuffles its minibatches with NumPy's global generator.
    spoken, model = speaker_to_tune(base, catalog, start, preset, settings.seed)
    config = config or ppo_config(preset, folder, settings.seed)
    config.response_length = spoken.grammar.length
    rng = np.random.default_rng(settings.seed)
    eligible = np.flatnonzero(decisions.time < settings.until)
    needed = int(config.total_episodes or preset.ppo_episodes)
    rows = np.sort(rng.choice(eligible, size=min(needed, len(eligible)), replace=False))
    prompts = spoken.prompt.tokens(contexts(histories, decisions.take(rows), spoken.settings.history_length))
    module = RewardModule(reward, spoken.grammar)
    trainer = PPOTrainer(
        args=config,
        processing_class=spoken.tokenizer,
        model=model,
        ref_model=None,
        reward_model=module,
        value_model=Critic(spoken.legal.config.vocab_size),
        train_dataset=Dataset.from_dict({"input_ids": prompts, "row": rows.tolist()}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:1], "row": rows[:1].tolist()}),
        data_collator=AnnouncingCollator(spoken.tokenizer, module),
    )
    if settings.kl_target is not None:

        def steer(change: float) -> None:
            config.kl_coef *= change

        trainer.add_callback(KLTarget(steer, settings.kl_target, spoken.grammar.length))
    watch = Watch.beside(spoken, reward, histories, decisions, settings.until, rows, settings.watch, settings.seed)
    train_watched(with_progress(trainer, title), watch)
    write_metrics(trainer, folder, "ppo")
    save_adapter(model, folder)
