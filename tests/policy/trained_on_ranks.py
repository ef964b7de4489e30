"""What every rank of test_ranks.py does: SFT, GRPO and DPO over a tiny run, written to a folder of its own.

torchrun --nproc_per_node 2 tests/policy/trained_on_ranks.py RUN OUT
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.catalog import Catalog
from data.histories import load
from data.store import LogStore
from policy import group_trainer
from policy.dpo import DPOSettings, dpo_config, train_dpo
from policy.grpo import GroupSettings, train_group
from policy.presets import NANO
from policy.sft import SFTSettings, sft_config, train_sft
from policy.training import build_on_ranks

LATER, GLOBAL_BATCH = 2**62, 16
TINY = replace(
    NANO,
    hidden=32,
    heads=1,
    layers=1,
    text_tokens=300,
    history_passes=0.0,
    sft_slates=48,
    grpo_slates=64,
    grpo_batch=GLOBAL_BATCH,
    grpo_lr=5e-3,
    dpo_prompts=40,
    dpo_samples=6,
    dpo_pairs=64,
    lora_rank=4,
)


def likes_even(rows: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
    return (slates % 2 == 0).float().mean(-1)


@dataclass(frozen=True)
class SameLuck(group_trainer.Rollouts):
    """Draws each prompt's group with luck of its own.

    As policies are trained, each rank has its own luck, as TRL wants it: then one rank and two draw different slates,
    and there is nothing to compare.
    """

    @torch.no_grad()
    def draw(self, asked: list[int]) -> list[list[int]]:
        drawn = []
        for number in dict.fromkeys(asked):
            ids = torch.tensor([self.prompts[number]])
            luck = torch.Generator().manual_seed(number)
            group = asked.count(number)
            drawn += self.spoken.legal.draw(ids, torch.ones_like(ids), samples=group, generator=luck).tokens[0].tolist()
        return drawn


def main(run: Path, out: Path) -> None:
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    catalog = Catalog.load(run / "catalog")
    histories, decisions = load(LogStore(run / "logs"), catalog.index_of)
    group_trainer.Rollouts = SameLuck  # type: ignore[misc]
    share = {"per_device_train_batch_size": GLOBAL_BATCH // ranks, "logging_steps": 1}
    share["dataloader_drop_last"] = True  # or two ranks fill up the last batch with what was there before
    places = {name: out / f"{name}-{rank}" for name in ("sft", "grpo", "dpo")}
    for place in places.values():
        place.mkdir(parents=True)
    sft = SFTSettings(slate_size=2, until=LATER, word_share=3.0)
    train_sft(histories, decisions, catalog, TINY, sft, places["sft"], sft_config(TINY, places["sft"], 0, share))
    base, given = run / "policy" / "sft", (histories, decisions, catalog, likes_even, TINY)
    train_group(base, None, *given, GroupSettings(LATER, group=4), places["grpo"], share)
    train_dpo(base, *given, DPOSettings(LATER), places["dpo"], dpo_config(TINY, places["dpo"], 0, share))
    made = [
        build_on_ranks(
            out / "built",
            config={},
            inputs=[],
            seed=0,
            make=lambda place: (place / "by").write_text(str(rank)) and None,
        )
        for _ in range(2)
    ]
    (out / f"made-{rank}.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
