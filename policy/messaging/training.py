"""Tuning the policy's decisions about messages by GRPO against the message reward: an adapter over policy/sft.

A decision is rewarded by how much better it is than the others drawn for the same listener and morning. The reward is
in standard deviations of a logged decision, by its lower bound: nothing for holding, less than nothing for a message
that costs more than it brings. The reference is policy/sft, which decides as the log did.

Most messages are worth less than none, so a policy that only compares what it draws learns to hold before it has met
the few that are worth sending, and holds for ever after: within six steps its entropy was 5e-5 nats. So the adapter
first imitates what the reward likes best, on mornings of which half are worth a message; GRPO then sees mornings as
they come, with what the reward likes best as one decision of every group (the anchor of `policy.grpo.Rollouts`).
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
from numpy.typing import NDArray

from data.catalog import Catalog
from data.errors import InputError
from data.message_log import MessageLog, take_contexts
from data.world.environment import MessageContexts
from policy.checkpoint import save_adapter
from policy.grpo import Rollouts, group_config, group_trainer
from policy.message_choice import HOURS as SLOT_HOURS
from policy.messaging.agent import Allowed
from policy.messaging.examples import MixedCollator, decision_examples
from policy.messaging.prompt import MessagePrompt
from policy.messaging.rules import allowed_by_clock
from policy.messaging.watch import WATCHED, Ints, MessageWatch, Worth
from policy.presets import Preset
from policy.sft import imitate, sft_config
from policy.training import speaker_to_tune, with_progress, write_metrics
from policy.watch import KLTarget, WatchSettings, check_kl_target, train_watched
from rewards.messages import MessageReward

REWARDS = ("midterm", "opens")
NAME = "messages"  # of the adapter in a run's policy/
POOL = 4  # mornings looked at for each that is imitated, to find those that are worth a message
PASSES = 2  # over what is imitated
MESSAGE_POLICY = "messages.json"  # beside an adapter that decides on messages and shows no slates


@dataclass(frozen=True)
class MessageSettings:
    """until: prompts come from decisions before this time (us since 1970). group: decisions drawn for each prompt.

    watch: how it is watched on held-out mornings. kl_target: divergence from the reference to steer to, nats per
    decision (None: a fixed penalty).
    """

    until: int
    group: int = 4
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
    looked_at = rng.permutation(before)[: POOL * wanted + settings.watch.prompts]
    may = rules(take_contexts(log.contexts, looked_at))
    open_ = may.any(axis=(1, 2, 3))
    looked_at, may = looked_at[open_], may[open_]
    if not len(looked_at):
        raise InputError("messages: on no morning before the cut could anything have been sent")
    # What training does not see is watched, where there is more than training takes.
    watched = settings.watch.prompts if len(looked_at) > wanted + settings.watch.prompts else 0
    pool, open_to = looked_at[watched:], may[watched:]
    best = best_decisions(reward, take_contexts(log.contexts, pool), open_to)
    written, said = MessagePrompt(spoken.prompt, words), grammar.encode(*(torch.from_numpy(part) for part in best))
    first = first_lessons(best[0] >= 0, wanted)
    lessons = decision_examples(
        written.tokens(take_contexts(log.contexts, pool[first]), open_to[first]), said[first].tolist(), open_to[first]
    )
    watch = None
    if watched:
        mornings = take_contexts(log.contexts, looked_at[:watched])
        watch = MessageWatch(spoken, words, reward, mornings, may[:watched], settings.watch, settings.seed)
        watch.begin()  # at the reference
    lesson = sft_config(preset, folder, settings.seed, {"learning_rate": preset.grpo_lr, "num_train_epochs": PASSES})
    collator = MixedCollator(int(spoken.tokenizer.pad_token_id), open_to.shape[1])
    imitate(spoken, model, lessons, lesson, "messages: what the reward likes best", "imitation", collator)

    prompts = written.tokens(take_contexts(log.contexts, pool[:wanted]), open_to[:wanted])
    # What may be sent is looked up by the prompt, so of those that read alike the first is asked.
    kept = sorted({tuple(prompt): row for row, prompt in reversed(list(enumerate(prompts)))}.values())
    contexts, anchors = take_contexts(log.contexts, pool[kept]), dict(enumerate(said[kept]))
    rollouts = Rollouts(spoken, [prompts[row] for row in kept], anchors, torch.from_numpy(open_to[kept]))

    def message_reward(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        sent = grammar.decode(torch.tensor(completion_ids, device=grammar.ids.device))
        moves = (part.cpu().numpy()[:, None] for part in sent)
        values: list[float] = reward(take_contexts(contexts, np.array(number)), *moves)[:, 0].tolist()
        return values

    trainer = group_trainer(rollouts, message_reward, config)
    if settings.kl_target is not None:
        trainer.add_callback(KLTarget(trainer.steer, settings.kl_target, grammar.length))
    train_watched(with_progress(trainer, title), watch)
    write_metrics(trainer, folder, "messages")
    save_adapter(model, folder)
    (folder / MESSAGE_POLICY).write_text(json.dumps({"group": settings.group, "base": "../sft"}) + "\n")


def first_lessons(worth_it: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """At most `count` places of mornings, as many worth a message as not, as far as there are such."""
    sends, holds = np.flatnonzero(worth_it), np.flatnonzero(~worth_it)
    sends = sends[: count - min(len(holds), count // 2)]
    return np.sort(np.concatenate([sends, holds[: count - len(sends)]]))


def best_decisions(reward: Worth, contexts: MessageContexts, may: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """(column, channel, hour) (B,) worth the most of what `may` (B, M, channels, HOURS) allows, -1 to hold.

    Of the hours those of `policy.message_choice` are asked, one in each slot, where any of them is ever allowed."""
    batch, most, channels, _ = may.shape
    open_hours = np.flatnonzero(may.any(axis=(0, 1, 2)))
    hours = np.intersect1d(open_hours, SLOT_HOURS) if np.isin(SLOT_HOURS, open_hours).any() else open_hours
    grids = np.meshgrid(np.arange(most), np.arange(channels), hours, indexing="ij")
    column, channel, hour = (np.broadcast_to(grid.ravel(), (batch, grid.size)) for grid in grids)
    rows = np.arange(batch)
    open_ = may[rows[:, None], column, channel, hour]
    value = np.where(open_, reward(contexts, np.where(open_, column, -1), channel, hour), -np.inf)
    at = value.argmax(axis=1)
    sends = value[rows, at] > 0
    return tuple(np.where(sends, part[rows, at], -1).astype(np.int64) for part in (column, channel, hour))  # type: ignore[return-value]
