"""Tuning the policy's decisions about messages by GRPO against the message reward: an adapter over policy/sft.

A decision is rewarded by how much better it is than the others drawn for the same listener and morning. The reward is
in standard deviations of a logged decision, by its lower bound: nothing for holding, less than nothing for a message
that costs more than it brings. The reference is policy/sft, which decides as the log did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from data.catalog import Catalog
from data.errors import InputError
from data.message_log import MessageLog, take_contexts
from policy.checkpoint import save_adapter
from policy.grpo import Rollouts, group_config, group_trainer
from policy.messaging.agent import Allowed
from policy.messaging.prompt import MessagePrompt
from policy.messaging.rules import allowed_by_clock
from policy.messaging.watch import WATCHED, MessageWatch, Worth
from policy.presets import Preset
from policy.training import speaker_to_tune, with_progress, write_metrics
from policy.watch import KLTarget, WatchSettings, check_kl_target, train_watched
from rewards.messages import MessageReward

REWARDS = ("midterm", "opens")
NAME = "messages"  # of the adapter in a run's policy/
MESSAGE_POLICY = "messages.json"  # beside an adapter that decides on messages and shows no slates


@dataclass(frozen=True)
class MessageSettings:
    """until: prompts come from decisions before this time (us since 1970). group: decisions drawn for each prompt.

    watch: how it is watched on held-out mornings. kl_target: divergence from the reference to steer to, nats per
    decision (None: a fixed penalty).
    """

    until: int
    group: int = 16
    watch: WatchSettings = WATCHED
    kl_target: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.group < 2:
            raise InputError(
                f"a group of {self.group}: a decision is compared with others of its group, give 2 or more"
            )
        check_kl_target(self.kl_target)


def is_message_policy(folder: Path) -> bool:
    """Whether the adapter in `folder` decides on messages."""
    return (folder / MESSAGE_POLICY).is_file()


def worth(reward: MessageReward, name: str) -> Worth:
    """What a decision is rewarded with: `midterm`, the lower bound of the reward's objective; `opens`, how likely it is
    opened; both in standard deviations of a logged decision. Raises InputError for any other name."""
    if name not in REWARDS:
        raise InputError(f"unknown message reward {name!r}: choose one of {', '.join(REWARDS)}")
    if name == "midterm":
        return lambda contexts, *sent: reward.score(contexts, *sent).lower
    opens = reward.weighted({"opens": 1.0})
    return lambda contexts, *sent: opens.score(contexts, *sent).mean


def train_messages(
    base: Path,
    start: Path | None,
    log: MessageLog,
    words: Sequence[str],
    catalog: Catalog,
    reward: Worth,
    preset: Preset,
    settings: MessageSettings,
    folder: Path,
    changed: Mapping[str, Any] = MappingProxyType({}),
    rules: Allowed = allowed_by_clock,
    title: str = "GRPO of messages",
) -> None:
    """Train a LoRA adapter over the policy in `base` and write it to `folder`; start: an adapter to begin from.

    Raises InputError when the base has no words for messages, or the log no morning on which anything could be sent.
    """
    spoken, model = speaker_to_tune(base, catalog, start, preset, settings.seed)
    grammar = spoken.legal.decisions
    config = group_config("grpo", preset, folder, settings.group, grammar.length, settings.seed, changed)
    rng = np.random.default_rng(settings.seed)
    before = np.flatnonzero(log.contexts.time < settings.until)
    wanted = -(-preset.grpo_slates // settings.group)
    mixed = rng.permutation(before)[: wanted + settings.watch.prompts]
    may = rules(take_contexts(log.contexts, mixed))
    open_ = may.any(axis=(1, 2, 3))
    mixed, may = mixed[open_], may[open_]
    if not len(mixed):
        raise InputError("messages: on no morning before the cut could anything have been sent")
    # What training does not see is watched, where there is more than training takes.
    unseen, unseen_may, asked, may = mixed[wanted:], may[wanted:], mixed[:wanted], may[:wanted]
    prompts = MessagePrompt(spoken.prompt, words).tokens(take_contexts(log.contexts, asked), may)
    # What may be sent is looked up by the prompt, so of those that read alike the first is asked.
    first = sorted({tuple(prompt): row for row, prompt in reversed(list(enumerate(prompts)))}.values())
    contexts = take_contexts(log.contexts, asked[first])
    rollouts = Rollouts(spoken, [prompts[row] for row in first], allowed=torch.from_numpy(may[first]))

    def message_reward(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        sent = grammar.decode(torch.tensor(completion_ids, device=grammar.ids.device))
        moves = (part.cpu().numpy()[:, None] for part in sent)
        values: list[float] = reward(take_contexts(contexts, np.array(number)), *moves)[:, 0].tolist()
        return values

    trainer = group_trainer(rollouts, message_reward, config)
    if settings.kl_target is not None:
        trainer.add_callback(KLTarget(trainer.steer, settings.kl_target, grammar.length))
    watch = None
    if len(unseen):
        mornings = take_contexts(log.contexts, unseen)
        watch = MessageWatch(spoken, words, reward, mornings, unseen_may, settings.watch, settings.seed)
    train_watched(with_progress(trainer, title), watch)
    write_metrics(trainer, folder, "messages")
    save_adapter(model, folder)
    (folder / MESSAGE_POLICY).write_text(json.dumps({"group": settings.group, "base": "../sft"}) + "\n")
