"""Who finds the next item? One public log, leave-one-out, every ranker over seeds: a table to compare with papers.

    python scripts/ranking_table.py --config scripts/configs/ranking_table.yaml
    python scripts/ranking_table.py --logs ../shared/data/amazon_scientific --seeds 3 --json true
    python scripts/ranking_table.py --seeds 1 --set history_passes=2 --set sft_slates=500     # a look, in minutes

The log must end on one day for everybody, as the amazon reader makes it: the last item of each user is the test, the
one before validates (SASRec's early stop, the prior's weight), what is before trains. Every ranker orders the whole
catalog less what the user had before; ranks are exact and counted on items. All that is made is an artifact in the
run's folder: a killed command goes on where it was, `--only sft --first_seed 1 --seeds 1` makes one part of it, and
several processes may make a seed each.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from data.artifacts import build, run_lock
from data.errors import InputError, exit_on_input_error
from data.histories import Decisions, contexts
from data.store import LogStore
from eval.intervals import mean_interval
from eval.next_item import choose_prior, rank_by_policy, with_prior
from eval.ranking import (
    Popularity,
    RankingSettings,
    TransitionCount,
    best_unseen,
    evaluate_ranking,
    hits,
    last_items,
    next_item_targets,
    only_unseen,
)
from eval.sasrec import SASRec, SASRecSettings, fit_sasrec
from policy.checkpoint import load_speaker
from policy.examples import next_engaged
from policy.grpo import GroupSettings, train_group
from policy.next_item_reward import NextItemReward
from policy.presets import preset
from policy.sft import SFTSettings, sft_config, train_sft
from scripts import build_catalog, ingest
from scripts.command_line import ScriptParser
from scripts.opened import Opened, open_run

DAY = 86_400.0
K = 10
FLOOR = "transition count"
# A hit is worth less than a slate's reward, in whose unit the default price of a nat of entropy is: at that price GRPO
# grew less sure and nothing else (on the watch's prompts, before the cut).
GRPO = {"entropy_coef": 0.0}
PARTS = ("sasrec", "sft", "grpo", "ranked")


@dataclass
class RankingArguments:
    """Which log, how many seeds, which model."""

    run: str = field(default="runs/ranking", metadata={"help": "run folder"})
    logs: str = field(default="../shared/data/amazon_scientific", metadata={"help": "the log"})
    reader: str = field(default="amazon", metadata={"help": "how to read it"})
    level_sizes: list[int] = field(
        default_factory=lambda: [1024, 8], metadata={"help": "how many codes each level of a semantic ID has"}
    )
    seeds: int = field(default=3, metadata={"help": "trainings of everything that is trained"})
    first_seed: int = field(default=0, metadata={"help": "seed of the first; the others follow"})
    preset: str = field(default="nano", metadata={"help": "model preset"})
    set: list[str] = field(default_factory=list, metadata={"help": "preset fields to change"})
    sasrec_epochs: int = field(default=60, metadata={"help": "epochs of SASRec at most"})
    history_length: int = field(default=20, metadata={"help": "items of a history in the prompt"})
    sft_passes: float = field(default=1.0, metadata={"help": "SFT's passes over the slates, after the histories"})
    word_share: float = field(default=0.1, metadata={"help": "SFT's examples in words per slate"})
    asked: int = field(default=500, metadata={"help": "validation users that the prior's weight is chosen on"})
    only: str | None = field(default=None, metadata={"help": f"make one part and print nothing: {', '.join(PARTS)}"})
    json: bool = field(default=False, metadata={"help": "one JSON line on standard output, all else on standard error"})


@dataclass(frozen=True)
class Split:
    """An opened run and its questions. run.cut lies before the validation's day, which lies before the test's."""

    run: Opened
    validation: Decisions
    test: Decisions

    @property
    def items(self) -> int:
        return len(self.run.catalog)


def split(args: RankingArguments) -> Split:
    """Read the log, make the catalog of what trains, ask the questions. Raises InputError for a log of another end."""
    folder = Path(args.run)
    ingest.stage(ingest.IngestArguments(args.run, args.logs, args.reader, slate_size=1))
    store = LogStore(folder / "logs")
    share = 1 - 1.5 * DAY / (store.end - store.start).total_seconds()
    build_catalog.stage(build_catalog.CatalogArguments(args.run, level_sizes=args.level_sizes, train_share=share))
    run = open_run(folder, share)
    # The log's clock is made up (its reader says so): it must not be said in prompts.
    run = replace(
        run,
        histories=replace(run.histories, hour_of_week=np.full_like(run.histories.hour_of_week, -1)),
        decisions=replace(run.decisions, hour_of_week=np.full_like(run.decisions.hour_of_week, -1)),
    )
    asked = next_item_targets(run.histories, run.cut, RankingSettings(max_targets=None), 0)
    last = asked.time >= int((store.end.timestamp() - 0.5 * DAY) * 1e6)
    if not (np.diff(asked.user[last]) > 0).all() or not (np.diff(asked.user[~last]) > 0).all():
        raise InputError(
            f"{args.logs}: a user has several items on one of the last two days; this table leaves one out"
        )
    return Split(run, asked.take(~last), asked.take(last))


def made(args: RankingArguments, here: Split, seed: int, only: str | None) -> Path:
    """Train and rank with this seed, all of it or one part; the folder of that seed."""
    folder = Path(args.run) / f"seed-{seed}"
    chosen = preset(args.preset, args.set)
    run, inputs = here.run, here.run.inputs
    sasrec = SASRecSettings(epochs=args.sasrec_epochs)
    # Nobody here asks for anything in words, or for a balance of objectives.
    sft = SFTSettings(
        slate_size=1,
        until=run.cut,
        history_length=args.history_length,
        word_share=args.word_share,
        balance_share=0.0,
        seed=seed,
    )
    trl = {"num_train_epochs": args.sft_passes}

    def make_sasrec(place: Path) -> None:
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(f"SASRec, seed {seed}", total=sasrec.epochs)
            model = fit_sasrec(
                run.histories,
                here.items,
                run.cut,
                here.validation,
                sasrec,
                seed,
                lambda epoch, ndcg: bar.update(
                    task, completed=epoch, description=f"SASRec, seed {seed}: NDCG@10 {ndcg:.4f}"
                ),
            )
        torch.save(model.state_dict(), place / "weights.pt")

    def make_sft(place: Path) -> None:
        config = sft_config(chosen, place, seed, trl)
        train_sft(run.histories, run.decisions, run.catalog, chosen, sft, place, config)

    def make_grpo(place: Path) -> None:
        rows, answers = next_engaged(run.histories, run.decisions, 1, run.cut)
        reward = NextItemReward.of(answers[:, 0], run.catalog)
        settings = GroupSettings(until=run.cut, seed=seed)
        train_group(
            folder / "sft",
            None,
            run.histories,
            run.decisions.take(rows),
            run.catalog,
            reward,
            chosen,
            settings,
            place,
            changed=GRPO,
            title=f"GRPO, seed {seed}",
        )

    def make_ranked(place: Path) -> None:
        ranked, prior = rankers(args, here, folder, sasrec, seed)
        np.savez(place / "ranked.npz", allow_pickle=False, **ranked)
        (place / "prior.json").write_text(json.dumps(prior, indent=1, sort_keys=True) + "\n")

    said = {"preset": chosen.training("sft")}
    ranked_of = [*inputs, *(folder / part for part in PARTS[:3])]
    stages: dict[str, tuple[dict[str, Any], list[Path], Any]] = {
        "sasrec": (asdict(sasrec), inputs, make_sasrec),
        "sft": (said | asdict(sft) | trl, inputs, make_sft),
        "grpo": ({"preset": chosen.training("grpo"), "trl": GRPO}, [*inputs, folder / "sft"], make_grpo),
        "ranked": ({"asked": args.asked}, ranked_of, make_ranked),
    }
    for name in [only] if only else PARTS:
        config, needed, make = stages[name]
        Console(stderr=True).rule(f"[bold]seed {seed}: {name}", align="left")
        build(folder / name, config=config, inputs=needed, seed=seed, make=make)
    return folder


def rankers(
    args: RankingArguments, here: Split, folder: Path, sasrec: SASRecSettings, seed: int
) -> tuple[dict[str, NDArray[np.int32]], dict[str, Any]]:
    """The ten best items of every trained ranker for the test's questions, and the priors that validation chose."""
    run = here.run
    histories, test = run.histories, here.test
    counted = TransitionCount.fit(histories, here.items, run.cut)
    some = here.validation.take(np.sort(np.random.default_rng(seed).permutation(len(here.validation))[: args.asked]))
    neural = SASRec(here.items, sasrec)
    neural.load_state_dict(torch.load(folder / "sasrec" / "weights.pt", weights_only=True))
    neural.eval()
    policies = {
        "SFT": load_speaker(folder / "sft", run.catalog),
        "GRPO from SFT": load_speaker(folder / "sft", run.catalog, folder / "grpo"),
    }
    ranked: dict[str, NDArray[np.int32]] = {"SASRec": neural.rank(histories, test, K)}
    chosen: dict[str, Any] = {}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"ranking, seed {seed}", total=5)
        asked = list(neural.scores(contexts(histories, some, neural.length)))
        latest = last_items(histories, some)
        prior = choose_prior(
            lambda tried: best_unseen(with_prior(asked, tried, latest), histories, some, K), counted, some
        )
        known = neural.scores(contexts(histories, test, neural.length))
        with_counts = with_prior(known, prior, last_items(histories, test))
        ranked["SASRec + counts"] = best_unseen(with_counts, histories, test, K)
        chosen["SASRec + counts"] = {"weight": prior.weight, "backing": prior.backing}
        bar.advance(task)
        for name, spoken in policies.items():
            ranked[name] = rank_by_policy(spoken, histories, test, K)
            bar.advance(task)
        spoken = policies["SFT"]
        prior = choose_prior(lambda tried: rank_by_policy(spoken, histories, some, K, tried), counted, some)
        bar.advance(task)
        ranked["SFT + counts"] = rank_by_policy(spoken, histories, test, K, prior)
        chosen["SFT + counts"] = {"weight": prior.weight, "backing": prior.backing}
        bar.advance(task)
    return ranked, chosen


def counting(here: Split) -> dict[str, NDArray[np.int32]]:
    """The floors' ten best new items, fitted on what trains."""
    histories, test = here.run.histories, here.test
    longest = K + int(np.diff(histories.offsets).max())
    counted = TransitionCount.fit(histories, here.items, here.run.cut)
    everybody = Popularity.fit(histories, here.items, here.run.cut)
    return {
        "popularity": only_unseen(everybody.rank(len(test), longest), histories, test, K),
        FLOOR: only_unseen(counted.rank(last_items(histories, test), longest), histories, test, K),
    }


def findings(here: Split, folders: Sequence[Path]) -> dict[str, Any]:
    """The JSON object: {"seeds", "targets", "rankers": {name: {metric: {mean, lo, hi, seeds}}}, "paired": {...}}.

    lo and hi are over users, each with the mean of their seeds; seeds lists each seed's mean. paired: each ranker less
    the floor, and what was trained less what it began from, on the same users.
    """
    stored = []
    for folder in folders:
        with np.load(folder / "ranked" / "ranked.npz") as arrays:
            stored.append({name: arrays[name] for name in arrays.files})
    every = [counting(here) | one for one in stored]
    test, settings = here.test, RankingSettings()
    again = test.take(np.tile(np.arange(len(test)), len(every)))
    together = {name: np.concatenate([one[name] for one in every]) for name in every[0]}
    results = evaluate_ranking(together, again, settings, floor=FLOOR)
    told: dict[str, Any] = {}
    for name, result in results.items():
        of_seed = [hits(one[name], test.slate[:, 0], settings.cutoffs) for one in every]
        told[name] = {
            metric: {
                "mean": by.value,
                "lo": by.lo,
                "hi": by.hi,
                "seeds": [float(one[metric].mean()) for one in of_seed],
            }
            for metric, by in result.metrics.items()
        }
    pairs = [(name, FLOOR) for name in together if name != FLOOR]
    pairs += [("GRPO from SFT", "SFT"), ("SFT + counts", "SFT"), ("SFT", "SASRec"), ("SFT + counts", "SASRec + counts")]
    answers = again.slate[:, 0]
    scored = {name: hits(rows, answers, settings.cutoffs) for name, rows in together.items()}
    paired = {}
    for a, b in pairs:
        gaps = {metric: mean_interval(scored[a][metric] - scored[b][metric], again.user) for metric in scored[a]}
        paired[f"{a} - {b}"] = {metric: {"diff": gap.value, "lo": gap.lo, "hi": gap.hi} for metric, gap in gaps.items()}
    priors = {folder.name: json.loads((folder / "ranked" / "prior.json").read_text()) for folder in folders}
    return {"seeds": len(folders), "targets": len(test), "rankers": told, "paired": paired, "priors": priors}


def print_findings(found: Mapping[str, Any], console: Console) -> None:
    """Rankers and paired differences as tables."""
    title = f"the next item, {found['targets']:,} users, {found['seeds']} seeds (95% over users; in brackets each seed)"
    rankers_table = Table("ranker", "HR@10", "NDCG@10", title=title)
    for name, by in found["rankers"].items():
        cells = []
        for metric in ("hr@10", "ndcg@10"):
            one = by[metric]
            seeds = "" if len(set(one["seeds"])) == 1 else f" ({', '.join(f'{mean:.4f}' for mean in one['seeds'])})"
            cells.append(f"{one['mean']:.4f} [{one['lo']:.4f}, {one['hi']:.4f}]{seeds}")
        rankers_table.add_row(name, *cells)
    console.print(rankers_table)
    pairs = Table("pair", "HR@10", "NDCG@10", title="paired differences")
    for name, by in found["paired"].items():
        cells = [f"{gap['diff']:+.4f} [{gap['lo']:+.4f}, {gap['hi']:+.4f}]" for gap in by.values()]
        pairs.add_row(name, *cells)
    console.print(pairs)


def main() -> None:
    (args,) = ScriptParser((RankingArguments,)).parse_args_and_config()
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: a table needs at least one seed")
    if args.only not in (None, *PARTS):
        raise InputError(f"--only {args.only}: choose one of {', '.join(PARTS)}")
    console = Console(stderr=args.json)
    # Progress is for people: with --json nothing but the result is on standard output.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        with run_lock(Path(args.run)):
            here = split(args)
        folders = []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            with run_lock(Path(args.run) / f"seed-{seed}"):  # other seeds may be made by other processes
                folders.append(made(args, here, seed, args.only))
        if args.only:
            return
        found = findings(here, folders)
        print_findings(found, console)
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    exit_on_input_error(main)
