"""Watching reinforcement learning: on held-out prompts, what it is for, what it must not lose, and when to stop.

A policy tuned against a learned reward goes on gaining reward after it has stopped gaining listeners (Gao, Schulman &
Hilton 2023), and forgets what comes next. Every few steps the watch draws slates for listeners' moments that training
does not see. It keeps the adapter with the best held-out reward, and stops when that has not risen for a while, or when
next-item ranking has fallen below a share of where it began. `KLTarget` steers the penalty so that the divergence from
the reference stays about where it is wanted, `EntropyTarget` what is paid for entropy so that a policy gets as sure as
it may.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.errors import InputError
from data.histories import Contexts, Decisions, Histories, contexts
from policy.beam import likeliest_items
from policy.checkpoint import Speaker
from policy.examples import next_engaged
from policy.trade_off import Reward, Wants, draw_wants

KL_STEP = 0.1
ENTROPY_GAIN = 5.0
RANKED = 10


@dataclass(frozen=True)
class WatchSettings:
    """every: steps between looks. prompts: held-out decisions looked at, samples: slates drawn for each.

    patience: looks without a better reward before training stops. least_entropy: share of the first entropy below which
    a policy is not kept, whatever its reward: it has collapsed onto a few slates. least_ranking: share of the first hit
    rate below which training stops at once (0: ranking is only written down).
    """

    every: int = 6
    prompts: int = 192
    samples: int = 4
    patience: int = 4
    least_entropy: float = 0.5
    least_ranking: float = 0.25


@dataclass(frozen=True)
class Look:
    """Of the held-out moments: mean reward of what was drawn, and its entropy (nats)."""

    reward: float
    entropy: float


@dataclass(frozen=True)
class SlateLook(Look):
    """Of slates also: the share of the catalog drawn, and how often the item engaged with next is among the ten
    likeliest first ones (nan where nobody engaged again)."""

    coverage: float
    hit_rate: float


class TrainingEndError(Exception):
    """The watch has seen enough. Raised, because TRL's PPOTrainer does not ask its control whether to stop."""


@dataclass(frozen=True)
class HeldOut:
    """Moments that training does not see: rows of the decisions, their contexts, and the next engaged item of some.

    wants: the trade-off asked for at each moment, where trade-offs are what is learned.
    """

    rows: NDArray[np.int64]
    known: Contexts
    asked: NDArray[np.int64]  # which of them have a next item
    answers: NDArray[np.int32]
    wants: Wants | None = None

    @classmethod
    def choose(
        cls,
        histories: Histories,
        decisions: Decisions,
        until: int,
        taken: NDArray[np.int64],
        count: int,
        length: int,
        rng: np.random.Generator,
    ) -> HeldOut:
        """At most `count` decisions before `until` that are not among `taken`; none where training takes them all."""
        free = np.setdiff1d(np.flatnonzero(decisions.time < until), taken)
        rows = np.sort(rng.permutation(free)[:count]).astype(np.int64)
        chosen = decisions.take(rows)
        asked, answers = next_engaged(histories, chosen, 1, until)
        return cls(rows, contexts(histories, chosen, length), asked, answers[:, 0])


class Watching(TrainerCallback, ABC):
    """Looks every few steps, keeps the best adapter, and says when to stop. `looks`: step -> what was seen."""

    def __init__(self, spoken: Speaker, settings: WatchSettings) -> None:
        self.spoken, self.settings = spoken, settings
        self.looks: dict[int, Any] = {}
        self.best_step = 0
        self.first: Any = None
        self._best: Mapping[str, Tensor] = {}

    @abstractmethod
    def look(self) -> Look:
        """What the policy is like now; the same luck at every look."""

    def lost(self, now: Any) -> bool:
        """Whether the policy has lost what it must not lose."""
        return False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._remember(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.settings.every:
            return
        now = self._remember(state.global_step)
        stale = (state.global_step - self.best_step) // self.settings.every >= self.settings.patience
        if self.lost(now) or stale:
            control.should_training_stop = True
            raise TrainingEndError

    def begin(self) -> None:
        """Take what the policy is like now for where it started from: what is lost is lost against that."""
        self.first = self.look()

    def restore(self) -> None:
        """Give the model back the adapter that was best."""
        set_peft_model_state_dict(self._adapter(), dict(self._best))

    def written(self) -> list[dict[str, float]]:
        """What was seen, as lines of the training log."""
        return [
            {"step": step, **{f"watch/{name}": value for name, value in asdict(seen).items()}}
            for step, seen in self.looks.items()
        ] + [{"watch/best_step": self.best_step, "watch/first_entropy": self.first.entropy}]

    def _adapter(self) -> PeftModel:
        assert isinstance(self.spoken.model, PeftModel)
        return self.spoken.model

    def _remember(self, step: int) -> Look:
        now = self.looks[step] = self.look()
        self.first = self.first or now
        varied = now.entropy >= self.settings.least_entropy * self.first.entropy
        if step == 0 or (varied and now.reward > self.looks[self.best_step].reward):
            self.best_step = step
            weights = get_peft_model_state_dict(self._adapter())
            self._best = {name: weight.detach().clone() for name, weight in weights.items()}
        return now


class Watch(Watching):
    """The watch of policies that show slates."""

    def __init__(self, spoken: Speaker, reward: Reward, held_out: HeldOut, settings: WatchSettings, seed: int) -> None:
        super().__init__(spoken, settings)
        self.reward, self.held_out, self.seed = reward, held_out, seed

    @classmethod
    def beside(
        cls,
        spoken: Speaker,
        reward: Reward,
        histories: Histories,
        decisions: Decisions,
        until: int,
        taken: NDArray[np.int64],
        settings: WatchSettings,
        seed: int,
        trade_off: bool = False,
    ) -> Watch | None:
        """A watch of a training on the decisions `taken`, on others before `until`; None where it takes them all."""
        length = spoken.settings.history_length
        rng = np.random.default_rng([seed, 1])
        held_out = HeldOut.choose(histories, decisions, until, taken, settings.prompts, length, rng)
        if trade_off:
            held_out = replace(held_out, wants=draw_wants(len(held_out.rows), rng))
        return cls(spoken, reward, held_out, settings, seed) if len(held_out.rows) else None

    @torch.no_grad()
    def look(self) -> SlateLook:
        """Draw, score and rank now; the same luck at every look."""
        model = self.spoken.model
        learning = model.training
        model.eval()
        wants = self.held_out.wants
        ids, mask = self.spoken.prompt.encode(self.held_out.known, wants)
        device = self.spoken.legal.device
        generator = torch.Generator().manual_seed(self.seed)
        drawn = self.spoken.legal.draw(
            ids.to(device), mask.to(device), samples=self.settings.samples, generator=generator
        )
        items = self.spoken.grammar.decode(drawn.tokens.flatten(0, 1))[1].view(len(ids), self.settings.samples, -1)
        rewards = self.reward(torch.from_numpy(self.held_out.rows), items, *([] if wants is None else [wants]))
        hit_rate = float("nan")
        if len(self.held_out.asked):
            asked = torch.from_numpy(self.held_out.asked)
            ranked = likeliest_items(self.spoken.legal, ids[asked].to(device), mask[asked].to(device), RANKED, 16).cpu()
            hit_rate = float((ranked == torch.from_numpy(self.held_out.answers)[:, None]).any(1).float().mean())
        model.train(learning)
        seen = len(items.unique()) / len(self.spoken.catalog)
        return SlateLook(float(rewards.mean()), float(-drawn.log_probs.mean()), seen, hit_rate)

    def lost(self, now: SlateLook) -> bool:
        """Whether next-item ranking has fallen below a share of where it began."""
        return bool(self.first.hit_rate > 0 and now.hit_rate < self.settings.least_ranking * self.first.hit_rate)


class KLTarget(TrainerCallback):
    """Steers the penalty on the divergence from the reference: too far and it grows, too near and it shrinks.

    The proportional controller of Ziegler et al. 2019 (section 2.2): coefficient *= 1 + 0.1 clip(kl / target - 1, -.2,
    .2). `target` is in nats per completion of `length` tokens; `steer` multiplies the trainer's coefficient.
    """

    def __init__(self, steer: Callable[[float], object], target: float, length: int) -> None:
        self.steer, self.target, self.length = steer, target, length

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        told = logs or {}
        if "objective/kl" in told:  # PPO: of whole completions
            kl = float(told["objective/kl"])
        elif "kl" in told:  # GRPO and RLOO: a mean over tokens
            kl = float(told["kl"]) * self.length
        else:
            return
        self.steer(1 + KL_STEP * float(np.clip(kl / self.target - 1, -0.2, 0.2)))


class EntropyTarget(TrainerCallback):
    """Pays for entropy by how near it is to the least that is wanted, so that how sure a policy gets does not depend on
    how much its reward tells slates apart.

    A fixed price (Ziebart 2010) makes the one policy broader than it need be and another narrower than it may; Haarnoja
    et al. 2018 (Soft Actor-Critic Algorithms and Applications, section 5) learn the price for a wanted entropy. Entropy
    follows its price within a step or two here, so the price is in proportion to what is missing: price x (1 + 5 (1 -
    entropy / target)), and none where that is below 0. `target` is in nats per completion of `length` tokens; `ask`
    takes the price of a nat.
    """

    def __init__(self, ask: Callable[[float], object], price: float, target: float, length: int) -> None:
        self.ask, self.price, self.target, self.length = ask, price, target, length

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if "entropy" in (told := logs or {}):  # a mean over tokens
            missing = 1 - float(told["entropy"]) * self.length / self.target
            self.ask(self.price * max(0.0, 1 + ENTROPY_GAIN * missing))


def check_kl_target(target: float | None) -> None:
    """Raises InputError for a divergence that cannot be steered to."""
    if target is not None and not 0 < target < float("inf"):
        raise InputError(
            f"kl_target {target}: give nats per slate above 0, or 0 on the command line for a fixed penalty"
        )


def train_watched(trainer: Trainer, watch: Watching | None) -> None:
    """Train to the end, or to where the watch ends it: the model has its best adapter then, the log what was seen."""
    if watch is None:
        trainer.train()
        return
    trainer.add_callback(watch)
    try:
        trainer.train()
    except TrainingEndError:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    watch.restore()
    trainer.state.log_history += watch.written()
