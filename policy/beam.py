"""Constrained beam search for one item: the policy as a ranker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policy.branches import Branches
from policy.language_model import ILLEGAL, LegalSlateModel
from policy.moves import MOVES


@torch.no_grad()
def likeliest_items(
    model: LegalSlateModel, input_ids: Tensor, attention_mask: Tensor, count: int, beams: int
) -> Tensor:
    """The `count` likeliest first items of a slate, best first: (B, count) catalog rows, -1 where fewer were found.

    input_ids, attention_mask: (B, S) prompts, left padded, ending with `<slate>`. A beam is (move, code, code, ...); an
    item that several moves lead to gets the sum of their probabilities. Each prompt is read once.
    """
    grammar, head = model.grammar, model.catalog_head()
    first, size = grammar.vocabulary.first, grammar.vocabulary.size
    batch, width = len(input_ids), 1
    branches = Branches(model.trunk(), input_ids, attention_mask)
    tokens = input_ids.new_empty(batch, 0)
    scores = torch.zeros(batch, 1, device=input_ids.device)
    for step in range(1 + grammar.trie.levels):
        logits = nn.functional.linear(branches.hidden, head).float().flatten(0, 1)  # (B W, C)
        logits = logits.masked_fill(~grammar.legal(tokens), ILLEGAL)
        paths = (scores.view(-1, 1) + logits.log_softmax(-1)).view(batch, width * size)
        kept = len(MOVES) if step == 0 else min(beams, width * size)
        scores, best = paths.topk(kept, 1)  # (B, kept)
        # Beams beyond the legal continuations carry an illegal token: park them on the best beam, at no probability.
        legal = scores > ILLEGAL / 2
        best = torch.where(legal, best, best[:, :1])
        scores = scores.masked_fill(~legal, ILLEGAL)
        parent = best // size  # (B, kept)
        row = (parent + torch.arange(batch, device=best.device)[:, None] * width).view(-1)
        tokens = torch.cat([tokens[row], (best % size).view(-1, 1) + first], 1)
        width = kept
        if step < grammar.trie.levels:
            branches.grow(tokens[:, -1].view(batch, width), parent)
    node = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    for level in range(grammar.trie.levels):
        node = grammar.trie.follow(node, tokens[:, 1 + level] - first)
    items = grammar.trie.leaf_item[grammar.trie.node_lo[node]].view(batch, width)
    return _merge(items, scores, count)


def _merge(items: Tensor, scores: Tensor, count: int) -> Tensor:
    """Sum the probability of beams that reached the same item, and rank: (B, W) items and log-probs to (B, count)."""
    same = items.unsqueeze(2) == items.unsqueeze(1)  # (B, W, W)
    total = scores.unsqueeze(1).masked_fill(~same, ILLEGAL).logsumexp(2)
    repeated = same.tril(-1).any(2) | (scores <= ILLEGAL / 2)
    ranked, order = total.masked_fill(repeated, -torch.inf).topk(min(count, items.shape[1]), 1)
    found = items.gather(1, order).masked_fill(ranked == -torch.inf, -1)
    return nn.functional.pad(found, (0, count - found.shape[1]), value=-1)
