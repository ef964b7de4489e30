"""Training a reward model: two networks on two halves of the users, effects on the half each has not seen, judged
later.

Order: labels as they stood at the cut; one network per half of the users; on the other half, surprise on difference
(`rewards.advantage`); calibration on labels that matured after the cut; the second moments under the logging policy;
quality on labels that matured later still, beside the baselines.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from threadpoolctl import threadpool_limits
from torch import Tensor

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Decisions, Histories
from data.progress import progress
from rewards.advantage import AdvantageSettings, Effects, Fold, FoldReport, position_weights
from rewards.calibration import fit_readout
from rewards.event_file import EventFile
from rewards.heads import Targets
from rewards.model import RewardModel, side_by_side
from rewards.network import Known, Network, Shape
from rewards.objective import LoggingMoments
from rewards.period_trees import fit_period_trees
from rewards.quality import Forecasts, head_quality
from rewards.reactions import Channels
from rewards.sequences import Batch, batches
from rewards.slices import BackTest, SliceSettings, back_test
from rewards.steps import streamed
from rewards.taste import fit_tastes
from rewards.training import TrainSettings, Watched, fit, states
from rewards.trunk import Inputs, TrunkSettings

log = logging.getLogger(__name__)
FEWEST_DECISIONS = 50


@dataclass(frozen=True)
class RewardSettings:
    """All that fixes a reward model but its data and its seed.

    labels: only these heads (None: all carried). taste: directions of content along which a listener's taste is read
    (`rewards.taste`), 0 for none. Tastes say better what one slate does to one listener; a policy that was tuned on
    them brought fewer people back, for it fed each what they liked until they were tired of it (docs/rewards.md).
    """

    labels: tuple[str, ...] | None = None
    trunk: TrunkSettings = field(default_factory=TrunkSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    slices: SliceSettings = field(default_factory=SliceSettings)
    advantage: AdvantageSettings = field(default_factory=AdvantageSettings)
    taste: int = 0
    baselines: bool = True


CLICK = ("plays",)  # the click-only twin: the same code with the immediate tap as its one label


def train_rewards(
    histories: Histories,
    decisions: Decisions,
    outcomes: pl.DataFrame,
    end: datetime,
    catalog: Catalog,
    settings: RewardSettings = RewardSettings(),
    seed: int = 0,
    users: pl.DataFrame | None = None,
    accelerator: Accelerator | None = None,
    along: Path | None = None,
) -> tuple[RewardModel, dict[str, Any]]:
    """A reward model and its quality report (JSON).

    outcomes: the OUTCOMES table, matched to decisions by decision_id; `end` is the end of the log and `users` its users
    (for their time zones). In the folder `along`, if one is given, go a checkpoint after every epoch, which an
    interrupted training goes on from, and the losses of every step for TensorBoard. Raises InputError where the log
    cannot carry a model.
    """
    if len(decisions) < FEWEST_DECISIONS:
        raise InputError(
            f"rewards: {len(decisions)} decisions, at least {FEWEST_DECISIONS} are needed: give a longer log"
        )
    accelerator = accelerator or Accelerator(cpu=True)
    clock = _Clock()
    test = back_test(decisions, outcomes, end, users, settings.slices, settings.labels, histories.left(decisions))
    content = item_coordinates(catalog.embeddings, settings.trunk.content)
    inputs = Inputs.of(histories, decisions)
    trained_on = np.flatnonzero(decisions.time < test.cut)
    channels = Channels.of(decisions, trained_on)
    shape = Shape(
        trunk=settings.trunk,
        labels=test.labels,
        bins=test.train.bins,
        slate_size=decisions.slate.shape[1],
        classes=1 + len(channels.codes),
        directions=min(settings.taste, content.shape[1]),
    )
    reference, log_share = _reference(decisions, trained_on, len(content), settings.advantage.reference)
    half = np.random.default_rng(seed).permutation(len(histories.user_ids)) % 2  # (U,)
    known = _known(decisions, test.train, channels, reference, trained_on)
    clock.lap("inputs")

    networks: list[Network] = []
    tasted: list[Inputs] = []
    everything = batches(
        histories, decisions, np.arange(len(decisions)), settings.trunk.window, 4 * settings.train.tokens
    )
    sides = [trained_on[half[decisions.user[trained_on]] == side] for side in (0, 1)]
    plans = [_plan(histories, decisions, rows, settings) for rows in sides]
    steps = settings.train.epochs * sum(len(plan) for plan in plans)
    with progress(transient=True, disable=not accelerator.is_main_process) as bar:
        task = bar.add_task("reward model", total=steps)
        for side, plan in enumerate(plans):
            if not plan:
                raise InputError(
                    "rewards: half of the users have no decision before the training cut: give a longer log"
                )
            torch.manual_seed(seed + side)
            network = Network(shape, torch.from_numpy(content), reference, log_share)
            rows = np.concatenate([batch.decision for batch in plan])
            network.trunk.standardize(inputs.recency[torch.from_numpy(rows)])
            network.heads.start(test.train, rows)
            network.learn_tastes(
                fit_tastes(histories, content[:, : shape.directions], _played(histories, half == side, test.cut))
            )
            tasted.append(replace(inputs, taste=network.tastes(histories, decisions)))
            about = "" if along is None else _digest(tasted[-1], known)
            watched = _watched(along, side, about, accelerator.is_main_process, lambda: bar.advance(task))
            place = None if along is None else along / f"half{side}.steps"
            with streamed(place, tasted[-1], known, plan, seed + side, accelerator) as streaming:
                fit(network, streaming, settings.train, seed + side, accelerator, watched)
            networks.append(network)
        clock.lap("networks")
        encoded = [states(n, seen, everything, len(decisions)) for n, seen in zip(networks, tasted, strict=True)]
        clock.lap("states")

    position = position_weights(decisions, trained_on, channels)
    directions = content[:, : settings.advantage.directions]
    values = test.advantage.matrix()
    effects: list[Effects] = []
    reports: list[FoldReport] = []
    for side, network in enumerate(networks):
        rows = np.flatnonzero(test.informs & (half[decisions.user] != side))
        # Many small factorisations: the threads of a BLAS wait for each other longer than they work.
        with threadpool_limits(1, user_api="blas"):
            fold = Fold(
                network,
                encoded[side],
                inputs.recency,
                decisions,
                rows,
                values,
                channels,
                directions,
                position,
                settings.advantage,
                seed + side,
                seed,
            )
            found, told = fold.fit(test.labels)
        effects.append(found)
        reports.append(told)
    clock.lap("advantage")

    both = side_by_side(encoded, inputs.recency, histories, decisions)
    model = RewardModel(
        shape=shape,
        channels=channels,
        networks=tuple(networks),
        effects=tuple(effects),
        readout=None,
        moments=LoggingMoments(tuple(label.name for label in test.labels), np.eye(len(test.labels))),
        support_floor=0.0,
        content=torch.from_numpy(content),
        catalog_version=catalog.version,
    )
    # What the log says without calibration, then with it.
    plain = model.outcomes(both)
    with threadpool_limits(1, user_api="blas"):
        features = torch.cat([*encoded, networks[0].trunk.counts(inputs.recency)], dim=1).numpy()
        model = replace(model, readout=_calibrate(plain, features, test))
    facts = model.known(both)[0].numpy()
    forecasts = _forecasts(model, both, half[decisions.user], decisions, test, seed)
    trees = fit_period_trees(test.labels, facts, test.periods, decisions.user, test.day, seed)
    model = replace(model, trees=trees)
    sample = _sample(np.flatnonzero(test.informs), 20_000, seed)
    logged = model.advantage(both[sample], torch.from_numpy(decisions.slate[sample].astype(np.int64))[:, None])
    advantages, spread = logged.mean[:, 0].numpy().astype(np.float64), logged.spread[:, 0].numpy().astype(np.float64)
    # What is not known of an effect counts as well: an outcome that slates hardly move would else be blown up to the
    # size of the others, and its noise with it.
    moments = np.atleast_2d(np.cov(advantages.T)) + np.diag(np.mean(spread**2, axis=0))
    model = model.normalised(
        LoggingMoments(model.labels, moments),
        float(np.quantile(logged.support.numpy(), 0.01)),
    )
    clock.lap("calibration")
    report = {
        "heads": head_quality(forecasts, plain, histories, decisions, test, seed, settings.baselines),
        "advantage": _advantage_report(model, reports, advantages, spread),
        "overlap": overlap(networks, encoded, half, decisions, sample),
        "rows": {"decisions": len(decisions), "trained_on": len(trained_on), "informing": int(test.informs.sum())},
        "settings": asdict(settings),
    }
    clock.lap("quality")
    report["seconds"] = clock.laps
    return model, report


def _watched(along: Path | None, side: int, about: str, main: bool, advance: Callable[[], None]) -> Watched:
    if along is None:
        return Watched(advance)
    checkpoint = along / f"half{side}.safetensors"
    if not main:
        return Watched(advance, checkpoint=checkpoint, about=about)
    events = EventFile(along / f"half{side}", "rewards")
    return Watched(advance, events.add, checkpoint, about)


def _digest(*parts: Inputs | Known) -> str:
    """SHA-256 of what a network learns from."""
    seen = hashlib.sha256()
    for value in (value for part in parts for value in vars(part).values() if isinstance(value, Tensor)):
        seen.update(value.contiguous().numpy().tobytes())
    return seen.hexdigest()


def _forecasts(
    model: RewardModel,
    states: Tensor,
    side: np.ndarray,
    decisions: Decisions,
    test: BackTest,
    seed: int,
) -> Forecasts:
    """What is to be judged, where it is: by trees of the periods of listeners of the other half, side (D,).

    The model's own trees have learned from the first days of the very windows that are judged, and a listener's other
    windows hold the same days. What is published is by trees that know neither.
    """
    time, user, facts = decisions.time, decisions.user, model.known(states)[0].numpy()
    judged = time >= test.calibrated
    for label in test.labels:
        judged[test.judged_rows(label.name, time)] = True
    outcomes = {name: np.full(len(time), np.nan, np.float32) for name in model.labels}
    curve = np.full((len(time), model.shape.bins), np.nan)
    for half in (0, 1):
        rows = judged & (side == half)
        known = {f: np.where((side == half)[:, None], np.nan, happened) for f, happened in test.periods.items()}
        if not rows.any():
            continue
        of_others = replace(model, trees=fit_period_trees(test.labels, facts, known, user, test.day, seed))
        at = states[torch.from_numpy(rows)]
        for name, value in of_others.outcomes(at).items():
            outcomes[name][rows] = value
        if model.shape.bins:
            curve[rows] = of_others.return_curve(at)
    return Forecasts(outcomes, curve, side)


def _played(histories: Histories, users: np.ndarray, until: int) -> np.ndarray:
    """Interactions of some users (U,) before a moment (us)."""
    return np.flatnonzero(np.repeat(users, np.diff(histories.offsets)) & (histories.time < until))


def _plan(histories: Histories, decisions: Decisions, rows: np.ndarray, settings: RewardSettings) -> Sequence[Batch]:
    read = int(np.sum(np.diff(histories.offsets)[np.unique(decisions.user[rows])]))
    tokens = min(settings.train.tokens, max(read // settings.train.least_steps, 64))
    return batches(histories, decisions, rows, settings.trunk.window, tokens)


def item_coordinates(embeddings: np.ndarray, most: int) -> np.ndarray:
    """Principal coordinates of the items, (N, <= most) float32, each of unit variance over the catalog."""
    centred = embeddings.astype(np.float64) - embeddings.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    order = np.argsort(-values)
    keep = order[: min(most, int(np.sum(values > 1e-8 * max(float(values.max(initial=0.0)), 1e-12))))]
    if len(keep) == 0:
        return np.zeros((len(embeddings), 1), np.float32)
    # The sign of an eigenvector is arbitrary; fix it, so that the same catalog gives the same bytes everywhere.
    sign = np.sign(vectors[np.abs(vectors[:, keep]).argmax(0), keep])
    result: np.ndarray = (centred @ (vectors[:, keep] * sign) / np.sqrt(values[keep])).astype(np.float32)
    return result


def overlap(
    networks: list[Network], encoded: list[Tensor], half: np.ndarray, decisions: Decisions, rows: np.ndarray
) -> dict[str, float]:
    """How well the estimated exposure explains what was shown, and how evenly: known propensities are the yardstick.

    The estimate is a Plackett-Luce log-probability of the slate with the estimated rates, out of fold.
    """
    logp = np.zeros(len(rows))
    entropy = np.zeros(len(rows))
    with torch.no_grad():
        for side, (network, state) in enumerate(zip(networks, encoded)):
            mine = half[decisions.user[rows]] != side
            at = rows[mine]
            rates = network.exposure(state[torch.from_numpy(at)], network.tower(network.exposure.reference)).exp()
            place = np.full(int(network.trunk.item.content.shape[0]), -1)
            place[network.exposure.reference.numpy()] = np.arange(rates.shape[1])
            slate = decisions.slate[at]
            index = np.where(slate >= 0, place[np.maximum(slate, 0)], -1)
            picked = np.take_along_axis(rates.numpy(), np.maximum(index, 0), axis=1)
            picked = np.where(index >= 0, picked, 0.0).astype(np.float64)
            left = 1.0 - np.concatenate([np.zeros((len(at), 1)), np.cumsum(picked, axis=1)[:, :-1]], axis=1)
            ratio = np.maximum(picked, 1e-9) / np.maximum(left, 1e-6)
            logp[mine] = np.where(slate >= 0, np.log(ratio), 0.0).sum(1)
            entropy[mine] = -(rates * rates.clamp_min(1e-12).log()).sum(1).numpy()
    result = {"effective_items": float(np.exp(entropy).mean()), "mean_log_probability": float(logp.mean())}
    truth = decisions.log_propensity[rows]
    stated = ~np.isnan(truth)
    result["propensity_known_share"] = float(stated.mean())
    if stated.sum() > 10 and truth[stated].std() > 0:
        result["correlation_with_known"] = float(np.corrcoef(logp[stated], truth[stated])[0, 1])
        result["mean_error_per_position"] = float((logp - truth)[stated].mean() / decisions.slate.shape[1])
    return result


def _reference(decisions: Decisions, rows: np.ndarray, items: int, most: int) -> tuple[Tensor, Tensor]:
    counts = np.bincount(decisions.slate[rows][decisions.slate[rows] >= 0], minlength=items)
    order = np.argsort(-counts, kind="stable")[: min(most, int((counts > 0).sum()))]
    reference = np.sort(order)
    share = np.log(counts[reference] / counts[reference].sum())
    return torch.from_numpy(reference.astype(np.int64)), torch.from_numpy(share.astype(np.float32))


def _known(decisions: Decisions, targets: Targets, channels: Channels, reference: Tensor, rows: np.ndarray) -> Known:
    place = np.full(int(decisions.slate.max(initial=0)) + 1, -1, np.int64)
    inside = reference.numpy()
    place[inside] = np.arange(len(inside))
    slate = np.full(decisions.slate.shape, -1, np.int64)
    slate[rows] = decisions.slate[rows]
    return Known(
        values=torch.from_numpy(targets.matrix()),
        return_day=torch.from_numpy(targets.return_day),
        returned=torch.from_numpy(targets.returned),
        left_day=torch.from_numpy(targets.left_day),
        left=torch.from_numpy(targets.left),
        slate=torch.from_numpy(slate),
        reaction=torch.from_numpy(channels.classes(decisions.reaction)),
        reference=torch.from_numpy(np.where(slate >= 0, place[np.maximum(slate, 0)], -1)),
    )


def _calibrate(plain: dict[str, np.ndarray], states: np.ndarray, test: BackTest) -> np.ndarray:
    rows = []
    for label in test.labels:
        later = test.calibration_rows(label.name)
        share = plain[label.name][later] / label.trials
        rows.append(fit_readout(share, states[later], test.calibration.values[label.name][later] / label.trials))
    return np.stack(rows)


def _sample(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(rows, min(most, len(rows)), replace=False))


def _advantage_report(
    model: RewardModel, reports: list[FoldReport], advantages: np.ndarray, spread: np.ndarray
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for column, label in enumerate(model.labels):
        result[label] = {
            "sd_under_logging": float(advantages[:, column].std()),
            "mean_under_logging": float(advantages[:, column].mean()),
            "mean_spread": float(spread[:, column].mean()),
            "index_slope": [float(report.index_slope[column]) for report in reports],
            "index_slope_error": [float(report.index_slope_error[column]) for report in reports],
            "index_explains": [float(report.index.explained[column]) for report in reports],
            "design_effect": [float(report.design_effect[column]) for report in reports],
            "proxy": {
                report.proxy: float(report.proxy_slope[column])
                for report in reports
                if report.proxy_slope[column] == report.proxy_slope[column]
            },
            "index_weights": {
                name: [round(float(report.index.weights[c, column]), 5) for report in reports]
                for c, name in enumerate(model.channels.names)
            },
        }
    return result


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        """Seconds since the last lap, under this name."""
        now = perf_counter()
        self.laps[name] = round(now - self._last, 2)
        self._last = now
        log.info("%s: %.1f s", name, self.laps[name])
