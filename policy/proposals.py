"""Slates that a reward would show itself, and a first lesson in them for a policy.

A policy gradient sees the items that it happens to draw; a reward can be asked about every item that there is. The best
policy there is at a price of t per nat of certainty shows a slate with probability that goes with exp(reward / t)
(Ziebart 2010), and where a slate's reward is the sum over its items that is drawn item by item. So GRPO begins with a
policy that imitates such draws, on the log's own moments (distillation of a planner: Levine & Koltun, Guided Policy
Search, ICML 2013; of a softmax over values: Peng et al., Advantage-Weighted Regression, 2019), and does what a sum of
items does not know. A large catalog's draws are from the items that the log shows most, of which the reward knows most.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.catalog import Catalog
from data.histories import Decisions
from policy.examples import BARE, Requests, SlateExamples, forgotten
from policy.moves import move_of
from policy.trade_off import Reward, TradeOffReward, Wants, draw_wants

CANDIDATES = 1024
MARK_PRICE = 0.3  # of a nat, in standard deviations of an item's mark
_AT_ONCE = 256


def propose(
    reward: Reward,
    rows: NDArray[np.int64],
    candidates: NDArray[np.int64],
    size: int,
    price: float,
    seed: int,
    wants: Wants | None = None,
    requests: Requests | None = None,
) -> NDArray[np.int32]:
    """Slates (M, size) for the decisions `rows` (M,), without repeats: each next item of the `candidates` (N,) with
    probability that goes with exp(reward / price) of the slate of that item alone. Who asks for something gets what
    fits, and other items only where too few do."""
    luck = torch.Generator().manual_seed(seed)
    items = torch.from_numpy(candidates)
    drawn = []
    for start in range(0, len(rows), _AT_ONCE):
        block = torch.from_numpy(rows[start : start + _AT_ONCE])
        asked = [] if wants is None else [{name: all_[start : start + _AT_ONCE] for name, all_ in wants.items()}]
        worth = reward(block, items[None, :, None].expand(len(block), -1, -1), *asked).double() / price  # (B, N)
        if requests is not None:
            fits = requests.fits[requests.which[start : start + _AT_ONCE]][:, candidates]
            worth = worth - 1e6 * ~torch.from_numpy(fits)
        race = torch.empty_like(worth).exponential_(generator=luck).log()  # Gumbel's top k, as exponential races
        drawn.append(items[(worth - race).topk(size, 1).indices])
    return torch.cat(drawn).numpy().astype(np.int32)


def candidates(decisions: Decisions, rows: NDArray[np.int64], most: int = CANDIDATES) -> NDArray[np.int64]:
    """The catalog rows that the decisions `rows` show most often, in the catalog's order."""
    shown = decisions.slate[rows]
    counts = np.bincount(shown[shown >= 0])
    order = np.argsort(-counts, kind="stable")[: min(most, int((counts > 0).sum()))]
    return np.sort(order).astype(np.int64)


def balance_slates(
    base: SlateExamples,
    catalog: Catalog,
    among: NDArray[np.int64],
    marked: Mapping[str, NDArray[np.float64]],
    limit: int,
    seed: int,
) -> tuple[SlateExamples, Wants]:
    """Alignment examples: `limit` contexts of `base`, what each wants of the objectives, and K items by that.

    They are what a reward would show that adds up what items are `marked` with (objective -> (N,), `policy.examples`),
    `among` these catalog rows. What a balance really is only a reward model can say, and an adapter that is tuned on
    one learns it; but an adapter cannot teach a model words that it has never met (rewards in context begin so too:
    Yang et al. 2024). Most are said by somebody without a history, as in `word_slates`.
    """
    rng = np.random.default_rng(seed)
    wants = draw_wants(limit, rng, silent=0.0)
    reward = TradeOffReward({name: partial(_marks_of, torch.from_numpy(mark)) for name, mark in marked.items()})
    slates = propose(reward, np.arange(limit), among, base.slates.shape[1], MARK_PRICE, seed, wants)
    rows = rng.integers(len(base), size=limit)
    known = forgotten(base.contexts.take(rows), rng.random(limit) < BARE, [None] * limit)
    return SlateExamples(known, slates, move_of(known.item, known.action, slates, catalog)), wants


def _marks_of(mark: Tensor, rows: Tensor, slates: Tensor) -> Tensor:
    return mark[slates].sum(-1)
