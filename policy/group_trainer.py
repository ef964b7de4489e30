"""TRL's trainers of groups with slates drawn by the policy itself, each prompt read once for all of its group.

Apart from what they are asked for (`policy.grpo`), because TRL's trainers of groups import vLLM wherever it is
installed, which takes nearly as long as all else that a command imports: so this module is imported where groups are
trained, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from policy.checkpoint import Speaker

REFERENCE = "ref"  # what TRL calls its copy of the adapter that training starts from


@dataclass(frozen=True)
class Rollouts:
    """What groups are drawn from: the policy, the prompts (token ids) and, by prompt, a logged completion (T,).

    allowed: of prompts about messages, what may be sent (P, M, channels, hours); such prompts all read differently.
    """

    spoken: Speaker
    prompts: list[list[int]]
    anchors: Mapping[int, Tensor] = field(default_factory=dict)
    allowed: Tensor | None = None

    def beside(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What the model is told beside left-padded prompts (B, S) that are among these, in any order."""
        if self.allowed is None:
            return {}
        said = zip(ids.tolist(), mask.sum(1).tolist(), strict=True)
        numbers = [self._number[tuple(row[len(row) - length :])] for row, length in said]
        return {"allowed": self.allowed[numbers].to(ids.device)}

    @cached_property
    def _number(self) -> dict[tuple[int, ...], int]:
        return {tuple(prompt): number for number, prompt in enumerate(self.prompts)}

    @torch.no_grad()
    def draw(self, asked: list[int]) -> list[list[int]]:
        """A completion for each of the prompts asked for; neighbours that ask for the same one are drawn together."""
        numbers, counts = torch.tensor(asked).unique_consecutive(return_counts=True)
        known = [self.prompts[number] for number in numbers.tolist()]
        width = max(map(len, known))
        pad = int(self.spoken.tokenizer.pad_token_id)
        device = self.spoken.legal.device
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in known], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in known], device=device)
        allowed = None if self.allowed is None else self.allowed[numbers].to(device)
        drawn = self.spoken.legal.draw(ids, mask, samples=int(counts.max()), allowed=allowed).tokens  # (B, N, T)
        for row, number in enumerate(numbers.tolist()):
            if number in self.anchors:
                drawn[row, 0] = self.anchors[number]
        return [row for block, count in zip(drawn.tolist(), counts.tolist(), strict=True) for row in block[:count]]


class _SlateTrainer:
    """Mixed in front of TRL's trainers, of which three methods differ: `_tokenize_prompts`, because a prompt is given
    by its number (it is token ids already), `_generate_single_turn`, because a group's prompt is read once and a
    completion is legal and of one length by construction, and `_get_per_token_logps_and_entropies`, because there too
    a prompt is read once for all of its group, not once for each slate.
    """

    rollouts: Rollouts
    beta: float
    temperature: float

    def steer(self, change: float) -> None:
        """Multiply the penalty on the divergence from the reference."""
        self.beta *= change

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        self._asked = [int(number) for number in prompts]
        return [self.rollouts.prompts[number] for number in self._asked], None, {}

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities and entropies (B, T) of the last T = `logits_to_keep` tokens of sequences (B, S), which may
        come in any order, and no auxiliary loss.
        """
        prompt = torch.stack([input_ids, attention_mask], 2)[:, :-logits_to_keep]  # (B, S - T, 2)
        kinds, kind = prompt.flatten(1).unique(dim=0, return_inverse=True)
        order = kind.argsort(stable=True)
        counts = kind.bincount(minlength=len(kinds))
        place = torch.empty_like(order)  # of each sequence among those with its prompt
        place[order] = torch.arange(len(kind), device=kind.device) - (counts.cumsum(0) - counts)[kind[order]]
        completions = input_ids[:1, -logits_to_keep:].repeat(len(kinds), int(counts.max()), 1)
        completions[kind, place] = input_ids[:, -logits_to_keep:]
        ids, mask = kinds.view(len(kinds), -1, 2).unbind(2)
        told = model(
            input_ids=ids,
            attention_mask=mask,
            completions=completions,
            temperature=self.temperature,
            **self.rollouts.beside(ids, mask),
        )
        return told.log_probs[kind, place], told.entropy[kind, place], None


class SlateGRPOTrainer(_SlateTrainer, GRPOTrainer):
    """TRL's GRPOTrainer with slates drawn by the policy itself (see `_SlateTrainer`).

    One more method differs, `_generate_and_score_completions`: where items are given credit, an advantage goes to each
    token instead of one to the slate (TRL's loss takes either).
    """

    credits: Tensor | None = None  # (B, K) of the last rewards, in their order

    def ask_for_entropy(self, price: float) -> None:
        """Pay this much for a nat of entropy from the next step on."""
        self.entropy_coef = price

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return self.rollouts.draw(self._asked), None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.credits is not None:
            levels = self.rollouts.spoken.grammar.trie.levels
            made["advantages"] = token_advantages(made["advantages"], self.credits, self.num_generations, levels)
        return made


class SlateRLOOTrainer(_SlateTrainer, RLOOTrainer):
    """TRL's RLOOTrainer with slates drawn by the policy itself (see `_SlateTrainer`)."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        return self.rollouts.draw(self._asked)


def token_advantages(slate: Tensor, credit: Tensor, group: int, levels: int) -> Tensor:
    """Advantages (B, 1 + K L) of completions: the slate's (B,) for the move, each item's own for its L tokens.

    credit (B, K), neighbours in groups. An item is compared with those at its place in its group, in the reward's own
    unit: in standard deviations of what is drawn now, a policy that grows surer would weigh the same differences ever
    more against the penalty on its divergence, until it has collapsed.
    """
    grouped = credit.view(-1, group, credit.shape[1])
    own = (grouped - grouped.mean(1, keepdim=True)).view_as(credit)
    return torch.cat([slate[:, None], own.to(slate).repeat_interleave(levels, 1)], 1)


def group_trainer(
    rollouts: Rollouts, reward: Callable[..., list[float]], config: GRPOConfig | RLOOConfig
) -> SlateGRPOTrainer | SlateRLOOTrainer:
    """A trainer on those prompts; `reward` is given `completion_ids` and, of their prompts, `number`."""
    model, count = rollouts.spoken.model, len(rollouts.prompts)
    trainer = (SlateGRPOTrainer if isinstance(config, GRPOConfig) else SlateRLOOTrainer)(
        model=model,
        args=config,
        processing_class=rollouts.spoken.tokenizer,
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": [str(k) for k in range(count)], "number": range(count)}),
    )
    assert isinstance(model, PeftModel)
    if REFERENCE in model.peft_config:  # then the reference is the model with its adapter disabled: nothing is copied
        model.delete_adapter(REFERENCE)
    trainer.rollouts = rollouts
    return trainer
