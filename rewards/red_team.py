"""Looking for slates that the reward loves and the world hates, as an optimiser would without meaning to.

A policy that is tuned hard finds whatever a reward is wrong about. So does a search: from random slates it changes one
position at a time to what scores best, until nothing does. Two searches are made. The `climber` sees the reward alone,
like a policy in training. The `hunter` also sees the truth, which only a world can tell, and looks among the slates
that are truly bad for those the reward loves most. Done once for the plain mean and once for the lower bound, the
difference in `Found.fooled` is what the bound is worth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import InputError

# rows (B,) of decisions, slates (B, N, K) of catalog rows -> (B, N): a policy.slate_reward.SlateReward, or a truth
Scored = Callable[[Tensor, Tensor], Tensor]
MUCH = 1e3  # standard deviations of reward that one of truth above the bar costs the hunter


@dataclass(frozen=True)
class SearchSettings:
    """starts: slates that the search begins from, per decision. tries: items tried at a position. sweeps: passes over
    the slate. tail: the share of logged slates that counts as hated, the worst by truth, and as loved, the best by
    reward."""

    starts: int = 2
    tries: int = 32
    sweeps: int = 3
    tail: float = 0.1


@dataclass(frozen=True)
class Found:
    """What a search came to, for B decisions: slates (B, K), reward and truth (B,) of them.

    reward_sd: how far the rewards lie above those of logged slates, truth_sd: the truths likewise, both in standard
    deviations over logged slates. hated: share of found slates that are as bad, by truth, as the worst tail of the
    logged ones. fooled: share that are hated and whose reward is in the best tail; error: its standard error.
    """

    slates: Tensor
    reward: Tensor
    truth: Tensor
    reward_sd: float
    truth_sd: float
    hated: float
    fooled: float
    error: float


def red_team(
    reward: Scored,
    truth: Scored,
    rows: Tensor,
    logged: Tensor,
    items: int,
    seed: int,
    settings: SearchSettings = SearchSettings(),
) -> dict[str, Found]:
    """Both searches for the decisions `rows` (B,) whose slates were `logged` (B, K), over a catalog of `items`.

    Slates keep their length and repeat no item. Raises InputError when there are fewer items than positions, or logged
    slates that all have one truth.
    """
    B, K = logged.shape
    if items <= K:
        raise InputError(f"red team: {items} items for slates of {K}: there is nothing to choose")
    usual_reward, usual_truth = reward(rows, logged[:, None])[:, 0], truth(rows, logged[:, None])[:, 0]
    if float(usual_truth.std()) == 0 or float(usual_reward.std()) == 0:
        raise InputError("red team: all logged slates are worth the same: there is nothing to get wrong")
    bad = torch.quantile(usual_truth.float(), settings.tail)
    top = torch.quantile(usual_reward.float(), 1.0 - settings.tail)

    def though_bad(at: Tensor, slates: Tensor) -> Tensor:
        loved = reward(at, slates) / usual_reward.std()
        too_good = torch.relu(truth(at, slates) - bad) / usual_truth.std()
        return loved - MUCH * too_good

    found = {}
    for name, aim in (("climber", reward), ("hunter", though_bad)):
        generator = torch.Generator().manual_seed(seed)
        slates = _search(aim, rows, K, items, settings, generator)
        loved, good = reward(rows, slates[:, None])[:, 0], truth(rows, slates[:, None])[:, 0]
        hates = good <= bad + 1e-6
        fooled = float((hates & (loved >= top)).float().mean())
        found[name] = Found(
            slates,
            loved,
            good,
            float((loved.mean() - usual_reward.mean()) / usual_reward.std()),
            float((good.mean() - usual_truth.mean()) / usual_truth.std()),
            float(hates.float().mean()),
            fooled,
            (fooled * (1 - fooled) / B) ** 0.5,
        )
    return found


def _search(
    aim: Scored, rows: Tensor, K: int, items: int, settings: SearchSettings, generator: torch.Generator
) -> Tensor:
    B = len(rows)
    drawn = torch.rand((B, settings.starts, items), generator=generator).argsort(-1)[..., :K]  # (B, starts, K)
    best = aim(rows, drawn)  # (B, starts)
    which = torch.arange(B)
    for _ in range(settings.sweeps):
        for position in range(K):
            for start in range(settings.starts):
                now = drawn[:, start]
                tried = torch.randint(items, (B, settings.tries), generator=generator)
                slates = now[:, None].expand(-1, settings.tries, -1).clone()
                slates[:, :, position] = tried
                value = aim(rows, slates)
                twice = (now[:, None] == tried[..., None]).any(-1)
                value = torch.where(twice, -torch.inf, value)
                at = value.argmax(1)
                better = value[which, at] > best[:, start]
                drawn[better, start] = slates[which, at][better]
                best[better, start] = value[which, at][better]
    return drawn[which, best.argmax(1)]
