"""The policy as a ranker of single items: all of them exactly, or the likeliest by constrained beam search."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policy.branches import Branches
from policy.grammar import ILLEGAL
from policy.item_prior import ItemPrior
from policy.language_model import LegalSlateModel
from policy.moves import MOVES
from policy.trie import Eligibility


@torch.no_grad()
def item_log_probs(
    model: LegalSlateModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    eligible: Tensor | None = None,
    prior: ItemPrior | None = None,
) -> Tensor:
    """Log-probability of every item of the catalog to be the first of a slate, whatever the move: (B, N), exact.

    input_ids, attention_mask: (B, S) prompts, left padded, ending with `<slate>`. eligible: (N,) or (B, N) bool, all
    items by default; the others get -inf. prior: added to the logits at each step (`policy.item_prior`).

    The trie is read level by level, each prefix once for each move, so the work is that of its inner nodes and not that
    of its items; where only the best are wanted, `best_items` reads fewer. All of a batch is held at once: B x 4 x
    (inner nodes) states, and a mask of that squared.
    """
    grammar, head = model.grammar, model.catalog_head()
    trie, first = grammar.trie, grammar.vocabulary.first
    batch, moves = len(input_ids), len(MOVES)
    counted = grammar.eligibility(eligible)
    branches = Branches(model.trunk(), input_ids, attention_mask)
    logits = nn.functional.linear(branches.hidden[:, 0], head[:moves]).float()
    reached = logits.log_softmax(-1)[..., None]  # (B, moves, nodes of the level)
    tokens = torch.arange(moves, device=input_ids.device)
    parent = torch.zeros_like(tokens)
    for level in range(trie.levels):
        branches.grow((tokens + first).expand(batch, -1), parent.expand(batch, -1))
        offset, size = trie.level_offsets[level], trie.level_sizes[level]
        logits = nn.functional.linear(branches.hidden, head[offset : offset + size]).float()
        logits = logits.view(batch, moves, trie.nodes_at[level], size)
        if prior is not None:
            logits = logits + prior.after_all(level)[:, None].clamp(min=ILLEGAL)
        legal = trie.legal_after_all(level, counted)[:, None]
        above, code = trie.edges(level)
        steps = logits.masked_fill(~legal, ILLEGAL).log_softmax(-1)[:, :, above, code]
        reached = reached[..., above] + steps
        tokens = (code + offset).repeat(moves)
        parent = (torch.arange(moves, device=code.device)[:, None] * trie.nodes_at[level] + above).flatten()
    total = torch.empty(batch, trie.items, device=input_ids.device)
    total[:, trie.leaf_item] = reached.logsumexp(1)
    if eligible is not None:
        total = total.masked_fill(~eligible.to(total.device), -torch.inf)
    return total


@torch.no_grad()
def best_items(
    model: LegalSlateModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    count: int,
    eligible: Tensor | None = None,
    prior: ItemPrior | None = None,
    width: int = 32,
) -> Tensor:
    """The `count` likeliest first items of a slate, best first, exactly: (B, count) catalog rows, -1 where fewer are.

    The ranks are those of `item_log_probs`, without reading every prefix. No item is likelier than a prefix of it is,
    all moves together; so once `count` items are found that are at least as likely as the best prefix left unread,
    nothing better is left. `width` prefixes of each level are read at first, and four times as many for the rows where
    that did not settle it.
    """
    found = input_ids.new_full((len(input_ids), count), -1)
    rows = torch.arange(len(input_ids), device=input_ids.device)
    counted = model.grammar.eligibility(eligible)
    while len(rows):
        items, scores, left = _best_within(
            model,
            input_ids[rows],
            attention_mask[rows],
            count,
            counted.rows(rows),
            None if prior is None else prior.rows(rows),
            width,
        )
        found[rows] = items
        rows = rows[scores[:, -1] < left]
        width *= 4
    return found


def _best_within(
    model: LegalSlateModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    count: int,
    counted: Eligibility,
    prior: ItemPrior | None,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Items (B, count) and their log-probabilities, as far as the `width` best prefixes of each level lead to them, and
    the log-probability (B,) of the best prefix that was not followed (-inf: all were).
    """
    trie, head, first = model.grammar.trie, model.catalog_head(), model.grammar.vocabulary.first
    batch, moves, device = len(input_ids), len(MOVES), input_ids.device
    branches = Branches(model.trunk(), input_ids, attention_mask)
    logits = nn.functional.linear(branches.hidden[:, 0], head[:moves]).float()
    reached = logits.log_softmax(-1)[..., None]  # (B, moves, W)
    nodes = torch.zeros(batch, 1, dtype=torch.long, device=device)  # (B, W), of the level
    left = torch.full((batch,), -torch.inf, device=device)
    tokens = torch.arange(moves, device=device).expand(batch, -1) + first
    parent = torch.zeros_like(tokens)
    for level in range(trie.levels):
        branches.grow(tokens, parent)
        offset, size = trie.level_offsets[level], trie.level_sizes[level]
        logits = nn.functional.linear(branches.hidden, head[offset : offset + size]).float()
        logits = logits.view(batch, moves, -1, size)
        if prior is not None:
            row = torch.arange(batch, device=device).repeat_interleave(nodes.shape[1])
            more = prior.rows(row).at(level, nodes.flatten()).clamp(min=ILLEGAL)
            logits = logits + more.view(batch, 1, -1, size)
        children = trie.window[level][nodes]  # (B, W, size)
        legal = trie.open_under(level, children, counted)
        steps = logits.masked_fill(~legal[:, None], ILLEGAL).log_softmax(-1)
        paths = (reached[..., None] + steps).flatten(2)  # (B, moves, W size)
        total = paths.logsumexp(1).masked_fill(~legal.flatten(1), -torch.inf)
        last = level + 1 == trie.levels
        best, order = total.sort(1, descending=True)
        kept = min(count if last else width, total.shape[1])
        if not last and kept < total.shape[1]:
            left = torch.maximum(left, best[:, kept])
        best, order = best[:, :kept], order[:, :kept]
        nodes = children.flatten(1).gather(1, order)
        if last:
            break
        reached = paths.gather(2, order[:, None].expand(-1, moves, -1))
        tokens = (order % size + offset + first).repeat(1, moves)
        before = torch.arange(moves, device=device)[:, None] * children.shape[1]
        parent = (before + (order // size)[:, None]).flatten(1)
    items = trie.leaf_item[nodes.clamp(max=trie.items - 1)].masked_fill(best == -torch.inf, -1)
    short = (0, count - items.shape[1])
    return nn.functional.pad(items, short, value=-1), nn.functional.pad(best, short, value=-torch.inf), left


@torch.no_grad()
def likeliest_items(
    model: LegalSlateModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    count: int,
    beams: int,
    eligible: Tensor | None = None,
    prior: ItemPrior | None = None,
) -> Tensor:
    """The `count` likeliest first items of a slate, best first: (B, count) catalog rows, -1 where fewer were found.

    As `item_log_probs`, but only `beams` prefixes are followed. A beam is (move, code, code, ...); an item that several
    moves lead to gets the sum of their probabilities. Each prompt is read once.
    """
    grammar, head = model.grammar, model.catalog_head()
    first, size = grammar.vocabulary.first, grammar.vocabulary.size
    batch, width = len(input_ids), 1
    counted = grammar.eligibility(eligible)
    branches = Branches(model.trunk(), input_ids, attention_mask)
    tokens = input_ids.new_empty(batch, 0)
    scores = torch.zeros(batch, 1, device=input_ids.device)
    for step in range(1 + grammar.trie.levels):
        logits = nn.functional.linear(branches.hidden, head).float().flatten(0, 1)  # (B W, C)
        row = torch.arange(batch, device=tokens.device).repeat_interleave(width)
        logits = grammar.restricted(logits, tokens, counted.rows(row), None if prior is None else prior.rows(row))
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
