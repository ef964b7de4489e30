"""One step of our GRPO beside the same step of stock TRL: draw the groups, score them, update the adapter."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOTrainer

from data.catalog import Catalog
from data.histories import HISTORY_LENGTH
from data.schema import ACTIONS
from data.semantic_ids import choose_level_sizes
from policy.checkpoint import PolicySettings, Speaker, speaker
from policy.group_trainer import Rollouts, group_trainer
from policy.grpo import group_config
from policy.moves import MOVES
from policy.presets import NANO, Preset, base_model
from policy.prompt import neutral_contexts
from policy.training import adapter, with_progress
from policy.vocabulary import extend_tokenizer
from scripts.benches.measure import Measure
from scripts.benches.trie import DictTrie

GROUP = 16
SMOLLM2_VOCABULARY = 49_228


class StepTimes(TrainerCallback):
    """Processor seconds of each optimisation step, its draw included: a busy neighbour does not count."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self._started)


def bench_rl(
    items: int = 600, batch: int = 256, slate: int = 5, rounds: int = 3, preset: Preset = NANO
) -> Iterable[Measure]:
    """Steps a second of `SlateGRPOTrainer` and of TRL's GRPOTrainer, on one thread, in turns, medians of `rounds`.

    Both have the same weights, LoRA, prompts, groups, completion length, reward, reference (the adapter disabled) and
    optimiser. What the peer does is what Hugging Face offers for a catalog today: `generate` over the whole vocabulary
    with a dictionary trie behind `prefix_allowed_tokens_fn`, every slate reading its own prompt, and log-probabilities
    over the whole vocabulary at the completion's positions. (So its policy is not the one it draws from: its loss gives
    probability to illegal tokens. That is the peer's loss, not ours to mend.) Both draw slates that are legal, which is
    checked. The trunk is nano's; held is its own vocabulary, and that of a real language model beside it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, vocabulary, slates in (
            ("nano's vocabulary", None, batch),
            ("SmolLM2's vocabulary", SMOLLM2_VOCABULARY, batch // 4),  # the peer's logits of more would take gigabytes
        ):
            ours, peer = step_seconds(items, slates, slate, rounds, preset, vocabulary)
            shape = f"{slates} slates in groups of {GROUP}"
            yield Measure(f"rl: a GRPO step, {shape}, {name}", "steps/s", 1 / ours, 1 / peer, 2.0, "higher")
    finally:
        torch.set_num_threads(threads)


def step_seconds(
    items: int, batch: int, slate: int, rounds: int, preset: Preset, vocabulary: int | None
) -> tuple[float, float]:
    """Median processor seconds of a step, ours and the peer's. Raises AssertionError where either draws what is not
    legal."""
    catalog = made_up_catalog(items)
    spoken, plain = two_of_one(catalog, slate, preset, vocabulary)
    rng = np.random.default_rng(0)
    known = neutral_contexts([None] * (2 * batch // GROUP))
    shape = (len(known), HISTORY_LENGTH)
    known = replace(
        known,
        item=rng.integers(items, size=shape).astype(np.int32),
        action=rng.integers(len(ACTIONS), size=shape).astype(np.int8),
        hour_of_week=rng.integers(168, size=len(known)).astype(np.int16),
        gap_hours=np.full(len(known), 20.0, np.float32),
    )
    prompts = spoken.prompt.tokens(known)
    drawn: list[Tensor] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        shown = spoken.grammar.decode(torch.tensor(completion_ids))[1]  # raises where a completion spells no slate
        drawn.append(shown)
        return (shown % 2 == 0).float().mean(1).tolist()

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = group_config(
            "grpo",
            preset,
            Path(folder),
            GROUP,
            spoken.grammar.length,
            0,
            {"max_steps": 2, "per_device_train_batch_size": batch},
        )
        ours = group_trainer(Rollouts(spoken, prompts), reward, config)
        texts = ["".join(spoken.tokenizer.convert_ids_to_tokens(prompt)) for prompt in prompts]
        assert spoken.tokenizer(text=texts)["input_ids"] == prompts, "the peer would be asked something else"
        model: Any = get_peft_model(plain, adapter(preset))
        mark = spoken.vocabulary.ids["<slate>"]
        model.generate = partial(model.generate, prefix_allowed_tokens_fn=allowed(spoken, catalog, mark))
        peer = GRPOTrainer(
            model=model,
            args=config,
            processing_class=spoken.tokenizer,
            reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": texts}),
        )
        took = [timed(trainer) for trainer in (ours, peer)]
        for _ in range(1 + rounds):
            for trainer in (ours, peer):
                quietly(trainer)
    for shown in drawn:
        assert shown.shape == (batch, slate)
        assert (shown.sort(1).values.diff(dim=1) > 0).all(), "a slate has an item twice"
    # The first steps of each warm up.
    return median(took[0].seconds[2:]), median(took[1].seconds[2:])


def timed(trainer: Trainer) -> StepTimes:
    """Watch a trainer's steps."""
    times = StepTimes()
    with_progress(trainer, "").add_callback(times)
    return times


def quietly(trainer: Trainer) -> None:
    """Train without a word: a bench prints its table only."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            trainer.train()
    finally:
        transformers_logging.set_verbosity(level)


def made_up_catalog(items: int) -> Catalog:
    """A catalog whose codes are random: an RL step does not care where codes come from."""
    rng = np.random.default_rng(0)
    sizes = choose_level_sizes(items, 3)
    paths = rng.choice(int(np.prod(sizes)), items, replace=False)
    codes = np.stack(np.unravel_index(paths, sizes), axis=1).astype(np.int32)
    frame = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(items)],
            "kind": ["track"] * items,
            "title": [f"Piece number {row}" for row in range(items)],
            "creator": [f"maker {row % 97}" for row in range(items)],
            "tags": [["calm"]] * items,
            "text": ["A quiet piece for the evening"] * items,
        }
    )
    vectors = rng.normal(size=(items, 8)).astype(np.float32)
    return Catalog(frame, vectors, codes, sizes, tuple(rng.normal(size=(size, 8)).astype(np.float32) for size in sizes))


def two_of_one(catalog: Catalog, slate: int, preset: Preset, vocabulary: int | None) -> tuple[Speaker, PreTrainedModel]:
    """The same weights twice: as our policy with an adapter, and as a plain causal LM."""
    models = []
    for _ in range(2):
        model, tokenizer = base_model(preset, catalog, 0)
        model.resize_token_embeddings(vocabulary or len(tokenizer), mean_resizing=False)
        models.append(model)
    models[1].load_state_dict(models[0].state_dict())
    bound = PolicySettings(preset.name, catalog.version, slate, HISTORY_LENGTH)
    spoken = speaker(models[0], tokenizer, extend_tokenizer(tokenizer, catalog), catalog, bound)
    return replace(spoken, model=get_peft_model(spoken.legal, adapter(preset))), models[1]


def allowed(spoken: Speaker, catalog: Catalog, mark: int) -> Callable[[int, Tensor], list[int]]:
    """A `prefix_allowed_tokens_fn` for prompts that end with `mark`: a move, then items that are not repeated."""
    tree = DictTrie(torch.from_numpy(spoken.vocabulary.code_tokens), torch.ones(len(catalog), dtype=torch.bool))
    moves = [spoken.vocabulary.ids[f"<{move}>"] for move in MOVES]
    by_start: dict[int, Callable[[int, Tensor], list[int]]] = {}

    def legal(row: int, ids: Tensor) -> list[int]:
        start = int((ids == mark).long().argmax()) + 1  # of the completion
        if start == len(ids):
            return moves
        if start not in by_start:
            by_start[start] = tree.allowed(start + 1, spoken.grammar.trie.levels)
        return by_start[start](row, ids)

    return legal
