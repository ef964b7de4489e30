"""The flywheel for DPO: draw slates from the policy, score them with the reward's lower bound, keep telling pairs.

Pairs are chosen within one listener and moment. Three are taken from each prompt's draws: the best against a random one
of the worse half, the best against the hard negative (the slate of the worse half that the policy likes most: what it
must unlearn), and the runner-up against the median. They are then balanced over buckets of their margin, because the
widest margins alone teach only what is already easy, and the narrowest are noise of the reward model.

With several negatives (`choose_rivals`) each kept pair's chosen slate is compared with further worse ones of its prompt
at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from data.histories import Contexts
from data.progress import track
from policy.checkpoint import Speaker
from policy.slate_reward import SlateReward

PROMPTS_AT_ONCE = 128


@dataclass(frozen=True)
class PairSettings:
    """samples: slates drawn per prompt. pairs: the most pairs to keep. buckets: margin quantile buckets to balance.

    least_margin: pairs closer than this, in standard deviations of the reward under the logging policy, are dropped.
    """

    samples: int
    pairs: int
    buckets: int = 3
    least_margin: float = 0.1


@dataclass(frozen=True)
class Draws:
    """N slates for each of M prompts: tokens (M, N, T), rewards (M, N), log_probs (M, N) under the drawing policy."""

    tokens: Tensor
    rewards: Tensor
    log_probs: Tensor


def draw_slates(
    spoken: Speaker, contexts: Contexts, reward: SlateReward, rows: Tensor, samples: int, seed: int, title: str
) -> Draws:
    """Draw and score slates for `contexts` (M), which belong to the decisions `rows` (M,) of `reward`."""
    generator = torch.Generator().manual_seed(seed)
    tokens, rewards, log_probs = [], [], []
    starts = range(0, len(contexts), PROMPTS_AT_ONCE)
    for start in track(starts, description=title):
        block = np.arange(start, min(start + PROMPTS_AT_ONCE, len(contexts)))
        ids, mask = spoken.prompt.encode(contexts.take(block), None)
        drawn = spoken.legal.draw(ids, mask, samples=samples, generator=generator)
        _, items = spoken.grammar.decode(drawn.tokens.flatten(0, 1))
        rewards.append(reward(rows[block], items.view(len(block), samples, -1)))
        tokens.append(drawn.tokens)
        log_probs.append(drawn.log_probs)
    return Draws(torch.cat(tokens), torch.cat(rewards), torch.cat(log_probs))


def choose_pairs(draws: Draws, settings: PairSettings, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt, chosen draw and rejected draw of each kept pair: three (P,) index tensors.

    Fewer than `settings.pairs` come back when too few have the least margin.
    """
    prompts, samples = draws.rewards.shape
    generator = torch.Generator().manual_seed(seed)
    order = draws.rewards.argsort(1, descending=True)
    worse = order[:, samples // 2 :]
    pick = torch.randint(worse.shape[1], (prompts, 1), generator=generator)
    easy = worse.gather(1, pick).squeeze(1)
    hard = worse.gather(1, draws.log_probs.gather(1, worse).argmax(1, keepdim=True)).squeeze(1)
    prompt = torch.arange(prompts).repeat(3)
    chosen = torch.cat([order[:, 0], order[:, 0], order[:, min(1, samples - 1)]])
    rejected = torch.cat([easy, hard, order[:, samples // 2]])
    margin = draws.rewards[prompt, chosen] - draws.rewards[prompt, rejected]
    differ = (draws.tokens[prompt, chosen] != draws.tokens[prompt, rejected]).any(1)
    kept = ((margin >= settings.least_margin) & differ).nonzero().squeeze(1)
    if len(kept) == 0:
        return kept, kept, kept
    ranked = kept[margin[kept].argsort()]
    share = -(-settings.pairs // settings.buckets)
    balanced = [
        bucket[torch.randperm(len(bucket), generator=generator)[:share]]
        for bucket in ranked.tensor_split(settings.buckets)
    ]
    final = torch.cat(balanced)
    final = final[torch.randperm(len(final), generator=generator)[: settings.pairs]]
    return prompt[final], chosen[final], rejected[final]


def choose_rivals(
    draws: Draws, pairs: tuple[Tensor, Tensor, Tensor], negatives: int, settings: PairSettings, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt (P,), chosen draw (P,) and `negatives` rejected draws (P, negatives) for each pair that has so many.

    The pair's own rejected draw is the first; the others are drawn at random from those of its prompt whose reward is
    lower than the chosen one's by the least margin. A slate that was drawn several times counts once.
    """
    prompt, chosen, rejected = pairs
    generator = torch.Generator().manual_seed(seed)
    rewards, tokens = draws.rewards[prompt], draws.tokens[prompt]  # (P, N), (P, N, T)
    worse = rewards.gather(1, chosen[:, None]) - rewards >= settings.least_margin
    same = (tokens[:, :, None] == tokens[:, None]).all(-1)  # (P, N, N)
    first = ~same.tril(-1).any(2)
    taken = same.gather(1, rejected[:, None, None].expand(-1, 1, same.shape[2])).squeeze(1)  # the pair's own slate
    order = torch.rand(worse.shape, generator=generator).masked_fill(~(worse & first & ~taken), -1.0)
    luck, others = order.sort(1, descending=True)
    enough = torch.ones(len(prompt), dtype=torch.bool)
    if negatives > 1:
        enough = luck[:, : negatives - 1].amin(1) >= 0 if luck.shape[1] >= negatives - 1 else ~enough
    every = torch.cat([rejected[:, None], others[:, : negatives - 1]], 1)
    return prompt[enough], chosen[enough], every[enough]


def rival_dataset(spoken: Speaker, contexts: Contexts, draws: Draws, rivals: tuple[Tensor, Tensor, Tensor]) -> Dataset:
    """Token ids of each prompt, of its chosen completion and the rejected ones behind it, and all their reference
    log-probabilities.
    """
    prompt, chosen, rejected = rivals
    real = spoken.prompt.tokens(contexts)
    every = torch.cat([chosen[:, None], rejected], 1)  # (P, 1 + negatives)
    return Dataset.from_dict(
        {
            "prompt_ids": [real[row] for row in prompt.tolist()],
            "completions": draws.tokens[prompt[:, None], every].tolist(),
            "ref_logps": draws.log_probs[prompt[:, None], every].tolist(),
        }
    )


def preference_dataset(
    spoken: Speaker, contexts: Contexts, draws: Draws, pairs: tuple[Tensor, Tensor, Tensor]
) -> Dataset:
    """Token ids of the pairs with their reference log-probabilities, as TRL's DPOTrainer reads them."""
    prompt, chosen, rejected = pairs
    real = spoken.prompt.tokens(contexts)
    return Dataset.from_dict(
        {
            "prompt_ids": [real[row] for row in prompt.tolist()],
            "chosen_ids": draws.tokens[prompt, chosen].tolist(),
            "rejected_ids": draws.tokens[prompt, rejected].tolist(),
            "ref_chosen_logps": draws.log_probs[prompt, chosen].tolist(),
            "ref_rejected_logps": draws.log_probs[prompt, rejected].tolist(),
        }
    )
