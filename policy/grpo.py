"""Group-relative policy optimisation of slates, and its leave-one-out sister, with TRL's GRPOTrainer and RLOOTrainer.

GRPO (Shao et al. 2024) rewards a slate by how much better it is than the other slates drawn for the same listener and
moment, in standard deviations of the group; RLOO (Ahmadian et al. 2024) by how much better than the mean of the others.
No critic is needed. The reward is the same as PPO's: by decision row, never by prompt text.

With `anchor`, one member of each group is the slate that was logged for that listener, so that the group is also
compared with what was really shown (ABPO).

GRPO can be told which item of a slate a reward is due to (`credit="item"`): each item is then compared with what stands
in its place in the group's other slates, by what it adds to its own slate (`policy.slate_reward.item_credits`), and the
move by the slate as a whole. Of K items, the other K - 1 are noise to each one's lesson; without them a step teaches
several times as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from trl import GRPOConfig, RLOOConfig

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Contexts, Decisions, Histories, contexts
from policy.checkpoint import Speaker, save_adapter
from policy.examples import Example, Requests, SlateExamples, made_up_requests, told
from policy.moves import MOVES, move_of
from policy.presets import Preset
from policy.proposals import candidates, propose
from policy.sft import imitate, sft_config
from policy.slate_reward import item_credits
from policy.trade_off import Reward, Wants, draw_wants
from policy.training import machine_arguments, speaker_to_tune, with_progress, write_metrics
from policy.watch import EntropyTarget, KLTarget, Watch, WatchSettings, check_kl_target, train_watched

METHODS = ("grpo", "rloo")
CREDITS = ("item", "slate")
BETA = {"grpo": 0.03, "rloo": 0.15}  # in the reward's unit, a nat of divergence from the reference
ENTROPY = 0.12  # the same, a nat of entropy, which is GRPO's only: TRL's RLOO has no such term
ENTROPY_MARGIN = 1.2  # the entropy that is steered to, over the least that is kept
OBEYING = 1.0  # what an item is worth, in the reward's unit, to somebody who asked for its like


@dataclass(frozen=True)
class GroupSettings:
    """until: prompts come from decisions before this time (us since 1970). group: slates drawn for each prompt.

    method: grpo or rloo. credit: who is rewarded, the slate or each of its items (GRPO only). lesson: whether slates
    that the reward would show are imitated first (`policy.proposals`). asked: the share of silent prompts in which a
    request is made up, whose answer is worth more the more of it fits. anchor: whether the logged slate takes the place
    of one of the group. trade_off: whether every prompt asks for a drawn trade-off, which the reward then has to heed.
    watch: how it is watched on held-out prompts. kl_target: divergence from the reference to steer to, nats per slate
    (None: a fixed penalty).
    """

    until: int
    method: str = "grpo"
    group: int = 16
    credit: str = "item"
    lesson: bool = False
    asked: float = 0.0
    anchor: bool = False
    trade_off: bool = False
    watch: WatchSettings = field(default_factory=WatchSettings)
    kl_target: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}")
        if self.credit not in CREDITS or (self.credit == "item" and self.method != "grpo"):
            raise InputError(f"credit {self.credit!r} with {self.method}: choose slate, or item with grpo")
        if not 0 <= self.asked <= 1:
            raise InputError(f"asked {self.asked}: give the share of prompts, 0 to 1")
        if self.group < 2:
            raise InputError(f"a group of {self.group}: a slate is compared with others of its group, give 2 or more")
        check_kl_target(self.kl_target)


def group_config(
    method: str,
    preset: Preset,
    output: Path,
    group: int,
    length: int,
    seed: int,
    changed: Mapping[str, Any] = MappingProxyType({}),
) -> GRPOConfig | RLOOConfig:
    """The preset's arguments for TRL's trainer of that method; `length` is a completion's, in tokens, and `group` how
    many are drawn for each prompt.

    Every generation of `grpo_batch` slates makes one step, so nothing is off-policy. Rewards stay in their own unit,
    standard deviations under the logging policy, and so do the prices of a nat: `beta`, of divergence from the
    reference, and `entropy_coef`, of certainty (to begin with: `policy.watch.EntropyTarget`). The best policy there is
    gives a slate a probability that goes with reference^(beta / price) exp(reward / price), where price is the sum of
    both: mostly certainty is paid for, because what SFT finds likely is what is tapped. Every sampling field is set:
    the model's own `generation_config` is never asked.
    """
    kind = GRPOConfig if method == "grpo" else RLOOConfig
    strangers = sorted(set(changed) - {field.name for field in fields(kind)})
    if strangers:
        raise InputError(
            f"{strangers[0]}: TRL's {kind.__name__} has no such argument; leave it out, or change --method"
        )
    if changed.get("temperature", 1.0) != 1.0:
        raise InputError("temperature: slates are drawn at 1, as they will be served; leave it out")
    if changed.get("use_vllm"):
        raise InputError("use_vllm: the policy that is trained draws its slates itself; leave it out")
    batch = int(changed.get("per_device_train_batch_size", preset.grpo_batch))
    if batch % group:
        raise InputError(f"a batch of {batch} slates is not made of groups of {group}: change --group or the batch")
    per_method: dict[str, Any] = (
        {"scale_rewards": "none", "loss_type": "grpo", "entropy_coef": ENTROPY}
        if method == "grpo"
        else {"normalize_advantages": False}
    )
    return kind(
        **{
            **machine_arguments(preset, output, seed),
            "logging_steps": 1,
            "per_device_train_batch_size": preset.grpo_batch,
            "gradient_accumulation_steps": 1,
            "num_generations": group,
            "num_iterations": 1,
            "max_steps": max(1, preset.grpo_slates // preset.grpo_batch),
            "max_completion_length": length,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "repetition_penalty": 1.0,
            "learning_rate": preset.grpo_lr,
            "lr_scheduler_type": "constant",
            "beta": BETA[method],
            "epsilon": 0.2,
            "disable_dropout": True,
            **per_method,
            **changed,
        }
    )


def train_group(
    base: Path,
    start: Path | None,
    histories: Histories,
    decisions: Decisions,
    catalog: Catalog,
    reward: Reward,
    preset: Preset,
    settings: GroupSettings,
    folder: Path,
    changed: Mapping[str, Any] = MappingProxyType({}),
    title: str = "GRPO",
) -> None:
    """Train a LoRA adapter over the policy in `base` by GRPO or RLOO and write it to `folder`.

    start: the adapter to begin from, none for a fresh one; the reference is `base` either way (its adapter disabled).
    `reward` scores slates for `decisions`, row by row. `changed`: fields of TRL's config to set otherwise.
    """
    from policy.group_trainer import Rollouts, SlateGRPOTrainer, group_trainer  # brings vLLM along

    spoken, model = speaker_to_tune(base, catalog, start, preset, settings.seed)
    length = spoken.grammar.length
    config = group_config(settings.method, preset, folder, settings.group, length, settings.seed, changed)
    rng = np.random.default_rng(settings.seed)
    eligible = np.flatnonzero(decisions.time < settings.until)
    wanted = -(-preset.grpo_slates // settings.group)
    rows = rng.permutation(rng.choice(eligible, size=min(wanted, len(eligible)), replace=False))
    known, wants, requests = _asked(spoken, histories, decisions, rows, settings, rng)
    fits = torch.from_numpy(requests.fits).float()
    fits[-1] = 0.0  # who asks for nothing is owed nothing more
    prompts = spoken.prompt.tokens(known, wants)
    anchors = logged_completions(spoken, known, decisions.slate[rows]) if settings.anchor else {}

    def slate_reward(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        items = spoken.grammar.decode(torch.tensor(completion_ids))[1]
        of = partial(reward_of, np.asarray(number))
        if settings.credit == "item":
            trainer.credits = item_credits(of, items[:, None])[:, 0]
        values: list[float] = of(items[:, None])[:, 0].tolist()
        return values

    def reward_of(number: NDArray[np.int64], slates: Tensor) -> Tensor:
        asked = [] if wants is None else [{objective: weight[number] for objective, weight in wants.items()}]
        worth = reward(torch.from_numpy(rows[number]), slates, *asked)
        fitting = fits[torch.from_numpy(requests.which[number])]  # (B, N)
        heard = fitting.gather(1, slates.clamp_min(0).flatten(1)).view(slates.shape) * (slates >= 0)
        return worth + OBEYING * heard.sum(-1)

    watch = Watch.beside(
        spoken, reward, histories, decisions, settings.until, rows, settings.watch, settings.seed, settings.trade_off
    )
    if watch is not None:
        watch.begin()
    if settings.lesson and preset.grpo_lesson:
        if watch is not None:
            eligible = np.setdiff1d(eligible, watch.held_out.rows)
        price = config.beta + getattr(config, "entropy_coef", 0.0)
        examples = _proposed(spoken, histories, decisions, eligible, reward, price, preset.grpo_lesson, settings)
        # Many small steps teach more than few large ones, at the same cost.
        steps = {"per_device_train_batch_size": max(1, preset.batch // 4), "learning_rate": preset.grpo_lesson_lr}
        lesson = sft_config(preset, folder, settings.seed, {**steps, "weight_decay": 0.0})
        imitate(spoken, model, examples, lesson, f"{title}: what the reward would show", "proposals")
    trainer = group_trainer(Rollouts(spoken, prompts, anchors), slate_reward, config)
    if settings.kl_target is not None:
        trainer.add_callback(KLTarget(trainer.steer, settings.kl_target, length))
    least = settings.watch.least_entropy * (0.0 if watch is None else watch.first.entropy)
    if isinstance(trainer, SlateGRPOTrainer) and least > 0 and "entropy_coef" not in changed:
        trainer.add_callback(EntropyTarget(trainer.ask_for_entropy, ENTROPY, ENTROPY_MARGIN * least, length))
    train_watched(with_progress(trainer, title), watch)
    write_metrics(trainer, folder, settings.method)
    save_adapter(model, folder)


def _asked(
    spoken: Speaker,
    histories: Histories,
    decisions: Decisions,
    rows: NDArray[np.int64],
    settings: GroupSettings,
    rng: np.random.Generator,
) -> tuple[Contexts, Wants | None, Requests]:
    """The moments of the decisions `rows`, what each wants of the objectives, and what some are made to ask for."""
    known = contexts(histories, decisions.take(rows), spoken.settings.history_length)
    wants = draw_wants(len(rows), rng) if settings.trade_off else None
    requests = made_up_requests(spoken.catalog, spoken.grammar.slate_size, known.steer, settings.asked, rng)
    return replace(known, steer=requests.said), wants, requests


def _proposed(
    spoken: Speaker,
    histories: Histories,
    decisions: Decisions,
    eligible: NDArray[np.int64],
    reward: Reward,
    price: float,
    count: int,
    settings: GroupSettings,
) -> list[Example]:
    """The first lesson: `count` slates that the reward would show itself, at the price that GRPO then asks.

    Raises InputError where fewer items were ever shown than a slate has.
    """
    among, size = candidates(decisions, eligible), spoken.grammar.slate_size
    if size > len(among):
        raise InputError(f"the log shows {len(among)} items, a slate has {size}: train with --lesson false")
    rng = np.random.default_rng([settings.seed, 2])
    # A log of fewer moments is gone through again: what is proposed differs.
    rows = np.sort(rng.choice(eligible, size=count, replace=len(eligible) < count))
    known, wants, requests = _asked(spoken, histories, decisions, rows, settings, rng)
    slates = propose(reward, rows, among, size, price, settings.seed, wants, requests)
    moves = move_of(known.item, known.action, slates, spoken.catalog)
    return told(spoken, SlateExamples(known, slates, moves), wants)


@torch.no_grad()
def logged_completions(
    spoken: Speaker, known: Contexts, slates: NDArray[np.int32], at_once: int = 256
) -> dict[int, Tensor]:
    """Row -> logged slate (of (M, K) catalog rows, -1 behind short ones) as a completion (T,), for the whole slates.

    Each has the move that the policy finds likeliest before it: a log of another policy has none.
    """
    size = spoken.grammar.slate_size
    whole = np.flatnonzero((slates[:, :size] >= 0).all(1)) if slates.shape[1] >= size else np.zeros(0, np.int64)
    moves, device = torch.arange(len(MOVES)), spoken.legal.device
    found: dict[int, Tensor] = {}
    for start in range(0, len(whole), at_once):
        block = whole[start : start + at_once]
        ids, mask = spoken.prompt.encode(known.take(block), None)
        items = torch.from_numpy(slates[block, :size].astype(np.int64))[:, None].expand(-1, len(MOVES), -1)  # (B, 4, K)
        every = spoken.grammar.encode(moves.repeat(len(block)), items.reshape(-1, size)).view(
            len(block), len(MOVES), -1
        )
        likely = spoken.legal.completion_log_probs(ids.to(device), mask.to(device), every.to(device)).argmax(1).cpu()
        found |= dict(zip(block.tolist(), every[torch.arange(len(block)), likely], strict=True))
    return found
