"""Trade-offs as input: what is wanted of each objective is said in the prompt, and rewarded as it was said.

A policy that is trained on prompts with drawn weights learns the whole front at once (multi-objective RL by
conditioning: Abels et al. 2019; rewards-in-context: Yang et al. 2024). `blended` is the alternative to compare it with:
two adapters, each trained for one objective, added up in shares (rewarded soups: Rame et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor

from data.catalog import Catalog
from data.errors import InputError
from policy.checkpoint import Speaker, load_speaker
from policy.vocabulary import OBJECTIVES, WEIGHT_STEPS

UNSAID = {"midterm": 1.0, "clicks": 0.0}  # what is wanted where nothing is said
SILENT = 0.2  # share of training prompts that say nothing, as most requests do

Wants = dict[str, NDArray[np.float64]]  # objective -> (M,) weights, one a prompt
Reward = Callable[
    ..., Tensor
]  # (rows, slates) -> rewards, as `SlateReward`; with `wants` where trade-offs are asked for


def draw_wants(count: int, rng: np.random.Generator, silent: float = SILENT) -> Wants:
    """Weights (count,) per objective for training prompts, in the steps that can be said; nan: that prompt says none,
    as the share `silent` of them does.

    Half of those that say something lie on the line where both sum to 1, the rest anywhere but at nothing at all.
    """
    steps = WEIGHT_STEPS - 1
    first = rng.integers(0, steps + 1, count)
    second = np.where(rng.random(count) < 0.5, steps - first, rng.integers(0, steps + 1, count))
    second = np.where((first == 0) & (second == 0), steps, second)
    drawn = np.where(rng.random(count) < silent, np.nan, np.stack([first, second]) / steps)
    return dict(zip(OBJECTIVES, drawn, strict=True))


@dataclass(frozen=True)
class TradeOffReward:
    """A reward per objective, each of unit variance under the logging policy, added up as each prompt wants it."""

    parts: Mapping[str, Callable[[Tensor, Tensor], Tensor]]

    def __post_init__(self) -> None:
        if set(self.parts) != set(OBJECTIVES):
            raise InputError(f"a trade-off needs a reward for each of {', '.join(OBJECTIVES)}")

    def __call__(self, rows: Tensor, slates: Tensor, wants: Wants) -> Tensor:
        """Rewards (M, N) of slates (M, N, K) for the decisions in `rows` (M,), of which `wants` says what counts."""
        total = torch.zeros(slates.shape[:2])
        for objective, part in self.parts.items():
            weight = np.nan_to_num(wants[objective], nan=UNSAID[objective])
            total += torch.from_numpy(weight).float()[:, None] * part(rows, slates)
        return total


def blended(base: Path, catalog: Catalog, adapters: Mapping[Path, float]) -> Speaker:
    """The policy in `base` with several adapters' changes added up in the given shares (exactly: their ranks add up).

    Raises InputError for fewer than two adapters or a share outside [0, 1], and as `load_speaker`.
    """
    if len(adapters) < 2 or not all(0 <= share <= 1 for share in adapters.values()):
        raise InputError("a blend is made of two adapters or more, each with a share in [0, 1]")
    first, *others = adapters
    spoken = load_speaker(base, catalog, first, trainable=True)  # so that it is not merged
    assert isinstance(spoken.model, PeftModel)
    names = ["default"]
    for number, folder in enumerate(others):
        names.append(f"other_{number}")
        spoken.model.load_adapter(str(folder), names[-1])
    spoken.model.add_weighted_adapter(names, list(adapters.values()), "blend", combination_type="cat")
    spoken.model.set_adapter("blend")
    spoken.model.eval()
    spoken.model.merge_adapter()
    return replace(spoken, model=spoken.model)
