"""A language-model policy that chooses slates for batches of contexts: in a world, offline, or behind a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import InputError
from data.histories import Contexts
from policy.beam import likeliest_items
from policy.checkpoint import Speaker
from policy.item_prior import ItemPrior
from policy.moves import MOVES

BATCH = 512


class LanguageModelPolicy:
    """Draws slates from a trained policy; follows the `SlatePolicy` protocol of `data.world`.

    temperature: of the draw; 0 takes the likeliest continuation. weights: the trade-off asked for in every prompt. The
    propensity returned is that of the (move, slate) pair under the distribution drawn from.
    """

    def __init__(
        self, name: str, spoken: Speaker, temperature: float = 1.0, weights: Mapping[str, float] | None = None
    ) -> None:
        self.name = name
        self.spoken = spoken
        self.temperature = temperature
        self.weights = weights
        self.last_moves: list[str] = []

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Slates (B, K) of catalog rows and their log-probabilities (B,), one per context."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        slates, log_probs, moves = [], [], []
        for ids, mask, heard in prompts(self.spoken, contexts, self.weights):
            drawn = self.spoken.legal.draw(ids, mask, temperature=self.temperature, generator=generator, prior=heard)
            move, items = self.spoken.grammar.decode(drawn.tokens[:, 0])
            slates.append(items)
            log_probs.append(drawn.log_probs[:, 0])
            moves.append(move)
        self.last_moves = [MOVES[m] for m in torch.cat(moves).tolist()]
        return (
            torch.cat(slates).cpu().numpy().astype(np.int32),
            torch.cat(log_probs).cpu().numpy().astype(np.float64),
        )


@torch.no_grad()
def slate_log_probs(
    spoken: Speaker, contexts: Contexts, slates: NDArray[np.int32], moves: Sequence[str | None] = ()
) -> NDArray[np.float64]:
    """Log-probability (B,) under the policy of what was logged: slates (B, K), and `moves` (B) where they are known.

    A log of a policy that says its move first has the probability of the pair, so the pair is what is scored. Where the
    move is None, or `moves` is empty, it is the marginal of the slate: log sum_move p(move, slate). Raises InputError
    for a word that is no move, and as `SlateGrammar.encode`.
    """
    said = torch.tensor([-1 if move is None else _move_code(move) for move in moves or [None] * len(slates)])
    results = []
    every = torch.arange(len(MOVES))
    for start, (ids, mask, heard) in zip(range(0, len(slates), BATCH), prompts(spoken, contexts), strict=True):
        items = torch.from_numpy(slates[start : start + BATCH].astype(np.int64))
        many = items[:, None].expand(-1, len(MOVES), -1)  # (B, 4, K)
        flat = spoken.grammar.encode(every.repeat(len(items)), many.reshape(-1, items.shape[1]))
        completions = flat.view(len(items), len(MOVES), -1).to(ids.device)
        pairs = spoken.legal.completion_log_probs(ids, mask, completions, prior=heard)  # (B, 4)
        move = said[start : start + BATCH].to(ids.device)
        of_pair = pairs.gather(1, move.clamp(min=0)[:, None]).squeeze(1)
        results.append(torch.where(move >= 0, of_pair, pairs.logsumexp(1)))
    return torch.cat(results).double().cpu().numpy()


def _move_code(move: str) -> int:
    if move not in MOVES:
        raise InputError(f"move {move!r}: not one of {', '.join(MOVES)}: mend it in the log, or leave it empty")
    return MOVES.index(move)


@torch.no_grad()
def position_log_probs(
    spoken: Speaker, contexts: Contexts, slates: NDArray[np.int32], samples: int, generator: torch.Generator
) -> NDArray[np.float64]:
    """Log-probability (B, K) under the policy that a logged item stands at its position, whatever stands elsewhere.

    A mean over `samples` slates drawn from the policy: given what stands before the position in a drawn slate, the
    policy says how likely the logged item is there; zero where it already stands before. Unbiased for the probability
    at any number of samples, and noisy at few.
    """
    size, levels, results = slates.shape[1], spoken.grammar.trie.levels, []
    few = BATCH // 8  # every drawn slate is read once a position
    for start in range(0, len(slates), few):
        rows = np.arange(start, min(start + few, len(slates)))
        ((ids, mask, heard),) = prompts(spoken, contexts.take(rows))
        logged = torch.from_numpy(slates[rows].astype(np.int64)).to(ids.device)  # (b, K)
        drawn = spoken.legal.draw(ids, mask, samples=samples, generator=generator, prior=heard).tokens.flatten(0, 1)
        moves, items = spoken.grammar.decode(drawn)  # (b samples,), (b samples, K)
        wanted = logged.repeat_interleave(samples, 0)
        tried, before = with_item_at(items, wanted)
        flat = spoken.grammar.encode(moves.repeat_interleave(size), tried.flatten(0, 1))
        tried_here = flat.view(len(ids), samples * size, -1).to(ids.device)
        tokens = spoken.legal.token_distributions(ids, mask, tried_here, prior=heard).log_probs
        of_items = tokens[..., 1:].reshape(-1, size, size, levels).sum(-1)  # (b samples, K tried, K positions)
        at = of_items.diagonal(dim1=1, dim2=2).masked_fill(before, -torch.inf)
        results.append(at.view(len(ids), samples, size).double().logsumexp(1) - np.log(samples))
    found: NDArray[np.float64] = torch.cat(results).cpu().numpy()
    return found


def with_item_at(items: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Slates (B, K, K): row l is `items` (B, K) with wanted[:, l] at position l; and whether it stood before l, (B, K).

    Where it stands later the two change places, so that no item is there twice; where before, the slate is left alone.
    """
    size = items.shape[1]
    same = items[:, None, :] == wanted[:, :, None]  # (B, l, position)
    place = torch.arange(size, device=items.device)
    before = (same & (place[None, None] < place[None, :, None])).any(2)
    tried = items[:, None, :].expand(-1, size, -1)
    swapped = torch.where(same, items[:, :, None], tried)  # what stood at l goes where the wanted one was
    here = torch.eye(size, dtype=torch.bool, device=items.device)[None]
    placed = torch.where(here, wanted[:, :, None], swapped)
    return torch.where(before[..., None], tried, placed), before


@torch.no_grad()
def top_items(spoken: Speaker, contexts: Contexts, count: int, beams: int = 16) -> NDArray[np.int32]:
    """The policy's `count` likeliest first items per context, by constrained beam search: (B, count) catalog rows.

    A beam is (move, code, code, ...); an item reached through several moves gets the sum of their probabilities.
    """
    ranked = [
        likeliest_items(spoken.legal, ids, mask, count, max(beams, count), prior=heard)
        for ids, mask, heard in prompts(spoken, contexts)
    ]
    return torch.cat(ranked).cpu().numpy().astype(np.int32)


def prompts(
    spoken: Speaker, contexts: Contexts, weights: Mapping[str, float] | None = None, listening: bool = True
) -> Iterator[tuple[Tensor, Tensor, ItemPrior | None]]:
    """Encoded prompts in batches: input_ids and attention_mask, (b, S) each, on the model's device, and the prior of
    what is asked for in words (`policy.hearing`). Not `listening`: the words are in the prompt and nowhere else.
    """
    device = spoken.legal.device
    for start in range(0, len(contexts), BATCH):
        rows = np.arange(start, min(start + BATCH, len(contexts)))
        some = contexts.take(rows)
        ids, mask = spoken.prompt.encode(some, weights)
        heard = spoken.hearing.prior(spoken.grammar.trie, some.steer) if listening else None
        yield ids.to(device), mask.to(device), heard
