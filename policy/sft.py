"""Supervised fine-tuning: from a base model to a policy that speaks the catalog and follows what was engaged with.

A model made from scratch first reads packed histories (plain language modelling over semantic IDs and reactions), then
all presets learn slates in the prompt format with the loss on the completion only, normalised over legal tokens. A
pretrained base gets LoRA and its new vocabulary rows; both are merged, because vLLM serves RL adapters only over a base
that already has the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from data.catalog import Catalog
from data.histories import HISTORY_LENGTH, Decisions, Histories
from policy.checkpoint import PolicySettings, Speaker, save_speaker, speaker
from policy.examples import engaged_rows, engaged_slates, history_sequences, slate_sequences, word_slates
from policy.language_model import causal_model
from policy.presets import Preset, base_model
from policy.start_rows import start_rows
from policy.training import adapter, machine_arguments, with_progress, write_metrics
from policy.vocabulary import extend_tokenizer

BLOCK = 256  # tokens of a packed history


@dataclass(frozen=True)
class SFTSettings:
    """What is learned from.

    slate_size: K items per slate. until: only what happened before this time (us since 1970) is learned from.
    history_length: interactions in a prompt. word_share: alignment examples per engaged slate.
    """

    slate_size: int
    until: int
    history_length: int = HISTORY_LENGTH
    word_share: float = 0.15
    seed: int = 0


def sft_config(preset: Preset, output: Path, seed: int, changed: Mapping[str, Any] = MappingProxyType({})) -> SFTConfig:
    """The preset's arguments for TRL's SFTTrainer."""
    return SFTConfig(
        **{
            **machine_arguments(preset, output, seed),
            "per_device_train_batch_size": preset.batch,
            "learning_rate": preset.sft_lr,
            "num_train_epochs": 1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 20,
            "weight_decay": 0.0 if preset.pretrained else 0.01,
            "max_length": None,
            "packing": False,
            "loss_type": "nll",  # the default would replace `forward`, and with it the restriction to legal tokens
            "dataset_kwargs": {"skip_prepare_dataset": True},
            **changed,
        }
    )


def train_sft(
    histories: Histories,
    decisions: Decisions,
    catalog: Catalog,
    preset: Preset,
    settings: SFTSettings,
    folder: Path,
    config: SFTConfig | None = None,
) -> Speaker:
    """Train and write the base policy to `folder`; returns it loaded.

    Raises InputError when the log holds no slate of engaged items before `settings.until`.
    """
    config = config or sft_config(preset, folder, settings.seed)
    model, tokenizer = base_model(preset, catalog, settings.seed)
    vocabulary = extend_tokenizer(tokenizer, catalog)
    start_rows(model, tokenizer, vocabulary, catalog, settings.seed, pretrained=preset.pretrained)
    bound = PolicySettings(preset.name, catalog.version, settings.slate_size, settings.history_length)
    spoken = speaker(model, tokenizer, vocabulary, catalog, bound)
    if preset.history_passes > 0:
        _read_histories(spoken, histories, preset, settings, config, folder)
    trained = _adapted(spoken, preset) if preset.pretrained else model
    trainer = SFTTrainer(
        model=trained,
        args=config,
        train_dataset=_slates(spoken, histories, decisions, preset, settings),
        processing_class=tokenizer,
    )
    with_progress(trainer, f"SFT {preset.name}: slates").train()
    write_metrics(trainer, folder, "slates")
    whole: Any = cast(Any, trained).merge_and_unload() if isinstance(trained, PeftModel) else model
    whole.eval()
    done = replace(spoken, model=whole)
    save_speaker(done, folder)
    return done


def _read_histories(
    spoken: Speaker, histories: Histories, preset: Preset, settings: SFTSettings, config: SFTConfig, folder: Path
) -> None:
    blocks = history_sequences(spoken, histories, settings.until, BLOCK, preset.history_passes, settings.seed)
    if not blocks:
        return
    arguments: dict[str, Any] = {
        **machine_arguments(preset, folder, settings.seed),
        "per_device_train_batch_size": max(1, preset.batch // 4),
        "learning_rate": config.learning_rate * 1.5,
        "num_train_epochs": 1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "weight_decay": config.weight_decay,
        "max_length": None,
        "loss_type": "nll",
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    trainer = SFTTrainer(
        model=spoken.model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_dict({"input_ids": blocks, "labels": blocks}),
        processing_class=spoken.tokenizer,
    )
    with_progress(trainer, f"SFT {preset.name}: histories").train()
    write_metrics(trainer, folder, "histories")


def _slates(
    spoken: Speaker, histories: Histories, decisions: Decisions, preset: Preset, settings: SFTSettings
) -> Dataset:
    engaged = engaged_slates(
        histories,
        decisions,
        spoken.catalog,
        settings.slate_size,
        settings.history_length,
        settings.until,
        preset.sft_slates,
        settings.seed,
    )
    liked = np.bincount(histories.item[engaged_rows(histories)], minlength=len(spoken.catalog.items)).astype(np.float64)
    words = word_slates(engaged, spoken.catalog, liked, int(len(engaged) * settings.word_share), settings.seed)
    sequences, labels = slate_sequences(spoken, engaged)
    more, more_labels = slate_sequences(spoken, words)
    return Dataset.from_dict({"input_ids": sequences + more, "labels": labels + more_labels})


def _adapted(spoken: Speaker, preset: Preset) -> PeftModel:
    """LoRA on the trunk, and the new vocabulary rows trainable in place: the old rows' gradients are set to zero.

    (Adam moves a weight whose gradients were always zero by nothing, and there is no weight decay here.)
    """
    model = get_peft_model(spoken.model, adapter(preset))
    causal: Any = causal_model(model)
    table = causal.get_input_embeddings().weight
    new = torch.zeros(len(table), 1)
    new[sorted(spoken.vocabulary.ids.values())] = 1.0

    def only_new(gradient: Tensor) -> Tensor:
        return gradient * new.to(gradient)

    for weight in {id(w): w for w in (table, causal.get_output_embeddings().weight)}.values():
        weight.requires_grad_(True)
        weight.register_hook(only_new)
    return model
