"""Supervised fine-tuning: from a base model to a policy that speaks the catalog and follows what was engaged with.

A model made from scratch first reads packed histories (plain language modelling over semantic IDs and reactions), then
all presets learn slates in the prompt format with the loss on the completion only, normalised over legal tokens. A
pretrained base gets LoRA and its new vocabulary rows; both are merged, because vLLM serves RL adapters only over a base
that already has the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, Trainer
from trl import SFTConfig, SFTTrainer

from data.catalog import Catalog
from data.errors import InputError
from data.histories import HISTORY_LENGTH, Decisions, Histories
from policy.checkpoint import PolicySettings, Speaker, save_speaker, speaker
from policy.examples import (
    Example,
    engaged_rows,
    engaged_slates,
    history_blocks,
    marks,
    move_slates,
    told,
    word_slates,
)
from policy.language_model import causal_model
from policy.messaging.examples import MessageLesson, MixedCollator
from policy.presets import Preset, base_model
from policy.proposals import balance_slates, candidates
from policy.start_rows import start_rows
from policy.training import adapter, machine_arguments, with_progress, write_metrics
from policy.vocabulary import extend_tokenizer

BLOCK = 256  # tokens of a packed history


@dataclass(frozen=True)
class SFTSettings:
    """What is learned from.

    slate_size: K items per slate. until: only what happened before this time (us since 1970) is learned from.
    history_length: interactions in a prompt. word_share, balance_share, move_share: alignment examples per engaged
    slate, of words, of balances of objectives and of moves.
    """

    slate_size: int
    until: int
    history_length: int = HISTORY_LENGTH
    word_share: float = 0.5
    balance_share: float = 0.15
    move_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("word_share", "balance_share", "move_share"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)}: give a share of 0 or more")


def sft_config(preset: Preset, output: Path, seed: int, changed: Mapping[str, Any] = MappingProxyType({})) -> SFTConfig:
    """The preset's arguments for TRL's SFTTrainer."""
    return SFTConfig(
        **{
            **machine_arguments(preset, output, seed),
            "per_device_train_batch_size": max(1, preset.batch // 2),
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
    messages: MessageLesson | None = None,
) -> Speaker:
    """Train and write the base policy to `folder`; returns it loaded.

    With `messages` logged decisions about messages are among the examples: what an adapter says of them later, it says
    in words that only the base can learn.

    Raises InputError when the log holds no slate of engaged items before `settings.until`.
    """
    config = config or sft_config(preset, folder, settings.seed)
    model, tokenizer = base_model(preset, catalog, settings.seed)
    vocabulary = extend_tokenizer(tokenizer, catalog)
    start_rows(model, tokenizer, vocabulary, catalog, settings.seed, pretrained=preset.pretrained)
    bound = PolicySettings(preset.name, catalog.version, settings.slate_size, settings.history_length)
    spoken = speaker(model, tokenizer, vocabulary, catalog, bound)
    with dropped_out(spoken.legal, preset.sft_dropout):
        trained = _taught(spoken, histories, decisions, preset, settings, config, folder, messages)
    whole: Any = cast(Any, trained).merge_and_unload() if isinstance(trained, PeftModel) else model
    whole.eval()
    done = replace(spoken, model=whole)
    save_speaker(done, folder)
    return done


def _taught(
    spoken: Speaker,
    histories: Histories,
    decisions: Decisions,
    preset: Preset,
    settings: SFTSettings,
    config: SFTConfig,
    folder: Path,
    messages: MessageLesson | None,
) -> PreTrainedModel | PeftModel:
    """All lessons in their order; the model that took them, in place."""
    model = spoken.model
    if preset.history_passes > 0:
        _read_histories(spoken, histories, preset, settings, config, folder)
    trained = _adapted(spoken, preset) if preset.pretrained else model
    examples, words = _slates(spoken, histories, decisions, preset, settings)
    if words and not preset.pretrained:
        # Words, those of balances too, come first, in small steps (last, they would cost what slates teach about
        # listeners), and again among the slates, or they are forgotten.
        small = replace(config, per_device_train_batch_size=max(1, config.per_device_train_batch_size // 2))
        imitate(spoken, trained, words, small, f"SFT {preset.name}: words", "words")
    examples += words
    if messages is not None:
        examples += messages.examples(spoken, settings.until, settings.seed)
        examples = [{"allowed": None, **example} for example in examples]  # the first one says which columns there are
    pad = int(spoken.tokenizer.pad_token_id)
    collator = None if messages is None else MixedCollator(pad, messages.most)
    imitate(spoken, trained, examples, config, f"SFT {preset.name}: slates", "slates", collator)
    return trained


def _read_histories(
    spoken: Speaker, histories: Histories, preset: Preset, settings: SFTSettings, config: SFTConfig, folder: Path
) -> None:
    blocks = history_blocks(
        spoken,
        histories,
        settings.until,
        BLOCK,
        preset.history_passes,
        settings.seed,
        preset.history_thinning,
    )
    if not blocks.tokens:
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
    trainer = HistoryTrainer(
        model=spoken.model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_dict({"input_ids": blocks.tokens, "parts": blocks.parts}),
        processing_class=spoken.tokenizer,
        data_collator=PartsCollator(int(spoken.tokenizer.pad_token_id)),
    )
    with_progress(trainer, f"SFT {preset.name}: histories").train()
    write_metrics(trainer, folder, "histories")


def imitate(
    spoken: Speaker,
    model: PreTrainedModel | PeftModel,
    examples: Sequence[Example],
    config: SFTConfig,
    title: str,
    stage: str,
    collator: MixedCollator | None = None,
) -> None:
    """Teach `model` to say what the examples say, in place; losses go to the training log of `config.output_dir` as
    `stage`. collator: where examples carry more than tokens."""
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(list(examples)),
        processing_class=spoken.tokenizer,
        data_collator=collator,
    )
    with_progress(trainer, title).train()
    write_metrics(trainer, Path(str(config.output_dir)), stage)


class HistoryTrainer(SFTTrainer):
    """TRL's SFTTrainer less one thing: `compute_loss` is that of transformers, because TRL's also takes the entropy of
    every token over the whole vocabulary, which for a small model costs as much as the model.
    """

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        return Trainer.compute_loss(self, model, inputs, *rest, **named)


@dataclass(frozen=True)
class PartsCollator:
    """Pads blocks of histories to one width, and numbers positions from 0 in each part.

    There is no attention mask: where positions restart, transformers lets attention stop
    (`find_packed_sequence_indices`), so a user's history is read as it is when asked about, alone. A part's first token
    is not predicted from the part before it.
    """

    pad: int

    def __call__(self, examples: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
        width = max(len(example["input_ids"]) for example in examples)
        ids = torch.full((len(examples), width), self.pad)
        labels = torch.full((len(examples), width), -100)
        positions = torch.zeros(len(examples), width, dtype=torch.long)
        for row, example in enumerate(examples):
            tokens = torch.tensor(example["input_ids"])
            at = torch.cat([torch.arange(part) for part in example["parts"]])
            ids[row, : len(tokens)], positions[row, : len(tokens)] = tokens, at
            labels[row, : len(tokens)] = torch.where(at > 0, tokens, -100)
        return {"input_ids": ids, "labels": labels, "position_ids": positions}


@contextmanager
def dropped_out(model: PreTrainedModel, share: float) -> Iterator[None]:
    """While it lasts, a training `model` drops this share of what its embedding, attention and MLPs add to the stream.

    (Residual dropout of Vaswani et al. 2017, section 5.4; Llama's own config knows dropout of attention weights only.)
    """
    if not share:
        yield
        return
    drop = torch.nn.Dropout(share)

    def thin(module: torch.nn.Module, _: Any, out: Any) -> Any:
        if not module.training:
            return out
        return (drop(out[0]), *out[1:]) if isinstance(out, tuple) else drop(out)

    parts = [part for name, part in model.named_modules() if name.endswith((".mlp", ".self_attn"))]
    hooks = [part.register_forward_hook(thin) for part in (model.get_input_embeddings(), *parts)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _slates(
    spoken: Speaker, histories: Histories, decisions: Decisions, preset: Preset, settings: SFTSettings
) -> tuple[list[Example], list[Example]]:
    """Examples of what people engaged with (and of moves carried out), and of words and balances and what fits them."""
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
    rows = engaged_rows(histories)
    rows = rows[histories.time[rows] < settings.until]
    liked = np.bincount(histories.item[rows], minlength=len(spoken.catalog)).astype(np.float64)
    words = word_slates(engaged, spoken.catalog, liked, int(len(engaged) * settings.word_share), settings.seed)
    examples = told(spoken, engaged)
    if settings.move_share:
        far = move_slates(engaged, spoken.catalog, liked, int(len(engaged) * settings.move_share), settings.seed)
        examples += told(spoken, far, moves_given=True)
    taught = told(spoken, words)
    among = candidates(decisions, np.flatnonzero(decisions.time < settings.until))
    if (balances := int(len(engaged) * settings.balance_share)) and len(among) >= settings.slate_size:
        marked = marks(histories, settings.until, len(spoken.catalog))
        taught += told(spoken, *balance_slates(engaged, spoken.catalog, among, marked, balances, settings.seed))
    return examples, taught


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
