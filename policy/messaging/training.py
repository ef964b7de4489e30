"""Tuning the policy's decisions about messages by GRPO against the message reward: an adapter over policy/sft.

A decision is rewarded by how much better it is than the others drawn for the same listener and morning. The reward is
in standard deviations of a logged decision, by its lower bound: nothing for holding, less than nothing for a message
that costs more than it brings. The reference is policy/sft, which decides as the log did.

Most messages are worth less than none, so a policy that only compares what it draws learns to hold before it has met
the few that are worth sending, and holds for ever after: within six steps its entropy was 5e-5 nats. So the adapter
first imitates what the reward would decide itself (`policy.messaging.proposals`), on mornings as they come, and GRPO
has what the reward likes best as one decision of every group (the anchor of `policy.group_trainer.Rollouts`).

A nat is cheap here: of a dozen sends that could be made on a morning nearly all are worth less than nothing, and at the
price that slates pay for variety most of what is sent would be sent for variety's sake.
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
from torch import Tensor

from data.catalog import Catalog
from data.errors import InputError
from data.message_log import MessageLog, take_contexts
from data.world.environment import MessageContexts
from policy.checkpoint import save_adapter
from policy.grpo import group_config
from policy.messaging.agent import Allowed
from policy.messaging.examples import MixedCollator, decision_examples
from policy.messaging.prompt import MessagePrompt
from policy.messaging.proposals import Worth, propose
from policy.messaging.rules import allowed_by_clock
from policy.messaging.watch import WATCHED, MessageWatch
from policy.presets import Preset
from policy.sft import imitate, sft_config
from policy.training import speaker_to_tune, with_progress, write_metrics
from policy.watch import KLTarget, WatchSettings, check_kl_target, train_watched
from rewards.messages import MessageReward

REWARDS = ("midterm", "opens")
NAME = "messages"  # of the adapter in a run's policy/
BETA = 0.02  # in the reward's unit, a nat of divergence from the reference
ENTROPY = 0.02  # the same, a nat of entropy
MESSAGE_POLICY = "messages.json"  # beside an adapter that decides on messages and shows no slates


@dataclass(frozen=True)
class MessageSettings:
    """until: prompts come from decisions before this time (us since 1970). group: decisions drawn for each prompt.

    watch: how it is watched on held-out mornings. kl_target: divergence from the reference to steer to, nats per
    decision (None: a fixed penalty).
    """

    until: int
    group: int = 8
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
    from policy.group_trainer import Rollouts, group_trainer  # brings vLLM along

    spoken, model = speaker_to_tune(base, catalog, start, preset, settings.seed)
    grammar = spoken.legal.decisions
    ours = {"beta": BETA, "entropy_coef": ENTROPY, "learning_rate": preset.message_lr, **changed}
    config = group_config("grpo", preset, folder, settings.group, grammar.length, settings.seed, ours)
    rng = np.random.default_rng(settings.seed)
    before = np.flatnonzero(log.contexts.time < settings.until)
    wanted = -(-preset.grpo_slates // settings.group)
    looked_at = rng.permutation(before)[: settings.watch.prompts + wanted + preset.message_lesson]
    may = rules(take_contexts(log.contexts, looked_at))
    open_ = may.any(axis=(1, 2, 3))
    looked_at, may = looked_at[open_], may[open_]
    if not len(looked_at):
        raise InputError("messages: on no morning before the cut could anything have been sent")
    watched = min(settings.watch.prompts, len(looked_at) // 4)  # of a small log a quarter; training does not see them
    pool, open_to = looked_at[watched:], may[watched:]
    written = MessagePrompt(spoken.prompt, words)

    def proposed(mornings: MessageContexts, may: NDArray[np.bool_], price: float) -> Tensor:
        parts = propose(reward, mornings, may, price, rng)
        return grammar.encode(*(torch.from_numpy(part) for part in parts))

    watch = None
    if watched:
        mornings = take_contexts(log.contexts, looked_at[:watched])
        watch = MessageWatch(spoken, words, reward, mornings, may[:watched], settings.watch, settings.seed)
        watch.begin()  # at the reference
    if preset.message_lesson:
        lessons = slice(-preset.message_lesson, None)  # what GRPO does not ask about, as far as the log goes
        mornings, open_then = take_contexts(log.contexts, pool[lessons]), open_to[lessons]
        said = proposed(mornings, open_then, config.beta + config.entropy_coef).tolist()
        examples = decision_examples(written.tokens(mornings, open_then), said, open_then)
        # Many small steps teach more than few large ones, at the same cost.
        steps = {"per_device_train_batch_size": max(1, preset.batch // 4), "learning_rate": preset.grpo_lesson_lr}
        lesson = sft_config(preset, folder, settings.seed, {**steps, "weight_decay": 0.0})
        collator = MixedCollator(int(spoken.tokenizer.pad_token_id), open_to.shape[1])
        imitate(spoken, model, examples, lesson, f"{title}: what the reward would decide", "proposals", collator)

    prompts = written.tokens(take_contexts(log.contexts, pool[:wanted]), open_to[:wanted])
    # What may be sent is looked up by the prompt, so of those that read alike the first is asked.
    kept = sorted({tuple(prompt): row for row, prompt in reversed(list(enumerate(prompts)))}.values())
    contexts = take_contexts(log.contexts, pool[kept])
    anchors = dict(enumerate(proposed(contexts, open_to[kept], 0.0)))
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
