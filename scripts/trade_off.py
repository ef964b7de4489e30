"""Two ways to trade return against clicks, compared on held-out reward: runs/<name>/trade_off.

    python scripts/trade_off.py --run runs/demo
    python scripts/trade_off.py --run runs/demo --moments 400 --json true

One way is a policy that was trained to hear the wanted balance in its prompt (train_grpo.py --trade_off); the other is
to add up two policies' adapters in shares, each tuned for one of the two (`policy.trade_off.blended`). What is not
trained yet is trained first: grpo, grpo_click and trade_off, all with the preset's budget. Both are asked for the same
balances at the same moments after the cut, and each slate is worth what was asked for: weight x midterm reward +
(1 - weight) x click reward, in standard deviations under the logging policy.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.artifacts import build
from data.errors import InputError, exit_on_input_error
from data.histories import Decisions, contexts
from data.progress import track
from eval.rollout import known_mean
from eval.sections import Judged
from eval.steering import as_json
from policy.agent import prompts
from policy.checkpoint import Speaker, load_speaker
from policy.slate_reward import SlateReward
from policy.trade_off import blended
from rewards.model import RewardModel
from scripts import train_grpo
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, Opened, open_run

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the mid-term reward; what can be said in a prompt
TUNED = {"grpo": "midterm", "grpo_click": "click"}


@dataclass
class TradeOffArguments(ModelArguments):
    """Which run, how many moments."""

    moments: int = field(default=200, metadata={"help": "logged moments after the cut"})
    samples: int = field(default=8, metadata={"help": "slates drawn at each moment for each balance"})
    seed: int = field(default=0, metadata={"help": "seed of training and draws"})
    json: bool = field(
        default=False, metadata={"help": "one JSON object on standard output, all else on standard error"}
    )


@torch.no_grad()
def worth(
    run: Opened,
    spoken: Speaker,
    decisions: Decisions,
    rewards: Mapping[str, SlateReward],
    weights: Mapping[str, float] | None,
    samples: int,
    seed: int,
) -> dict[str, Tensor]:
    """Per moment (M,): mean reward of drawn slates by each of `rewards`, and their entropy in nats."""
    generator = torch.Generator().manual_seed(seed)
    known = contexts(run.histories, decisions, spoken.settings.history_length)
    slates, surprise = [], []
    for ids, mask, heard in prompts(spoken, known, weights):
        drawn = spoken.legal.draw(ids, mask, samples=samples, generator=generator, prior=heard)
        slates.append(spoken.grammar.decode(drawn.tokens.flatten(0, 1))[1].view(len(ids), samples, -1).cpu())
        surprise.append(-drawn.log_probs.mean(1).cpu())
    rows, items = torch.arange(len(decisions)), torch.cat(slates)
    return {name: reward(rows, items).mean(1) for name, reward in rewards.items()} | {"entropy": torch.cat(surprise)}


def compared(args: TradeOffArguments, run: Opened) -> dict[str, Any]:
    """{"prompt"|"blend": [{weight, midterm, clicks, entropy, wanted}], "prompt - blend": [wanted]}, by weight."""
    judged = Judged(run.catalog, run.histories, run.decisions, run.cut, {})
    decisions = run.decisions.take(judged.later(args.moments, args.seed))
    if len(decisions) < 2:
        raise InputError(f"{args.run}: fewer than two decisions after the cut: nothing to compare on")
    rewards = {}
    for said, name in (("midterm", "midterm"), ("clicks", "click")):
        model = RewardModel.load(run.folder / "rewards" / name)
        rewards[said] = SlateReward(model, model.objective(), model.encode(run.histories, decisions))
    policy = run.folder / "policy"
    hears = load_speaker(policy / "sft", run.catalog, policy / "trade_off")
    told: dict[str, Any] = {"prompt": [], "blend": [], "prompt - blend": []}
    for weight in track(WEIGHTS, description="weighing"):
        wanted = {"midterm": weight, "clicks": 1 - weight}
        mixed = blended(policy / "sft", run.catalog, {policy / "grpo": weight, policy / "grpo_click": 1 - weight})
        found = {
            "prompt": worth(run, hears, decisions, rewards, wanted, args.samples, args.seed),
            "blend": worth(run, mixed, decisions, rewards, None, args.samples, args.seed),
        }
        asked = {}
        for way, by in found.items():
            by["wanted"] = asked[way] = sum((w * by[said] for said, w in wanted.items()), torch.zeros(len(decisions)))
            told[way].append({"weight": weight} | {name: as_json(known_mean(floats(one))) for name, one in by.items()})
        told["prompt - blend"].append(as_json(known_mean(floats(asked["prompt"] - asked["blend"]))))
    return told


def floats(values: Tensor) -> np.ndarray:
    """As float64 for intervals."""
    return values.double().numpy()


def print_compared(told: Mapping[str, Any], console: Console) -> None:
    """Both fronts, and their paired difference in what was asked for."""
    table = Table("weight of return", "way", "mid-term, sd", "clicks, sd", "as asked", "entropy, nats")
    for place, weight in enumerate(WEIGHTS):
        for way in ("prompt", "blend"):
            one = told[way][place]
            cells = [f"{one[name]['mean']:+.2f}" for name in ("midterm", "clicks", "wanted")]
            table.add_row(f"{weight:g}", way, *cells, f"{one['entropy']['mean']:.1f}")
        gap = told["prompt - blend"][place]
        table.add_row("", "prompt less blend", "", "", f"{gap['mean']:+.2f} [{gap['lo']:+.2f}, {gap['hi']:+.2f}]", "")
    console.print(table)


def main() -> None:
    (args,) = ScriptParser((TradeOffArguments,)).parse_args_and_config()
    # Progress is for people: with --json nothing but the result is on standard output.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        run = open_run(Path(args.run))
        model = (args.run, args.preset, args.base_model, args.set)
        for name, reward in TUNED.items():
            train_grpo.stage(train_grpo.GroupArguments(*model, reward=reward, name=name, model_seed=args.seed))
        train_grpo.stage(train_grpo.GroupArguments(*model, trade_off=True, name="trade_off", model_seed=args.seed))

        def make(place: Path) -> None:
            (place / "trade_off.json").write_text(json.dumps(compared(args, run), indent=1) + "\n")

        policies = [run.folder / "policy" / name for name in ("sft", *TUNED, "trade_off")]
        inputs = [*run.inputs, *policies, *(run.folder / "rewards" / name for name in TUNED.values())]
        folder, config = run.folder / "trade_off", {"moments": args.moments, "samples": args.samples}
        build(folder, config=config, inputs=inputs, seed=args.seed, make=make)
        told = json.loads((folder / "trade_off.json").read_text())
        print_compared(told, Console(stderr=args.json))
    if args.json:
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    exit_on_input_error(main)
