"""What would really have happened: policies played in a world, to the same people with the same luck.

Every policy goes on from the same evening of a burned-in world (`data.world.burned_in`). Shocks have addresses
(data/world/shocks.py), so policies differ only by what they show, and their difference per listener is far sharper
than the difference of two means.

Two intervals answer two questions. The listener interval pools listeners of all seeds and clusters by listener: these
trained policies, over people like these. The seed interval is Student's t over per-seed differences, each seed a fresh
world and a fresh training: would doing it all again give this again? With three seeds it is wide, and rightly so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from data.errors import InputError
from data.world.environment import Environment, SlatePolicy
from eval.exposure import Exposure, Watched
from eval.intervals import Floats, Interval, finite, from_influence, mean_interval, seeds_interval

Json = dict[str, object]


@dataclass(frozen=True)
class RolloutSettings:
    """How long policies are watched (days, at least 28), what they are paired with, what gap_closed is about."""

    horizon_days: int = 28
    reference: str = "sft"
    start: str = "logging"  # gap_closed is 0 here
    end: str = "oracle"  # and 1 here
    headline: str = "active_days_28"


@dataclass(frozen=True)
class Rollout:
    """Per-listener truth of every policy in one world.

    metrics: policy -> metric -> (U,) float64, the same people in the same order; nan = undefined for that listener
    (plays per session of somebody who never came). exposure: policy -> what it showed. segments: (U,) of the listeners
    on the evening from which all policies go on, places in `rewards.segments.SEGMENTS`; None = not looked up.
    """

    metrics: Mapping[str, Mapping[str, Floats]]
    seed: int
    settings: RolloutSettings = field(default_factory=RolloutSettings)
    exposure: Mapping[str, Exposure] = field(default_factory=dict)
    segments: NDArray[np.int8] | None = None


def play(
    world: Environment,
    policies: Mapping[str, SlatePolicy],
    settings: RolloutSettings,
    seed: int,
    progress: Progress | None = None,
) -> Rollout:
    """Plays each policy (name in the report -> policy) for `horizon_days` from the world's today.

    The world does not move. The same world, policies and seed give the same numbers, whatever the order of policies.
    """
    task = None if progress is None else progress.add_task("playing", total=len(policies) * settings.horizon_days)

    def advance() -> None:
        if progress is not None and task is not None:
            progress.advance(task)

    metrics, exposure = {}, {}
    for name, policy in policies.items():
        if progress is not None and task is not None:
            progress.update(task, description=f"playing {name}")
        watched = Watched(policy, world.items_frame().height)
        lived = world.truth(watched, settings.horizon_days, seed, on_day=advance)
        metrics[name] = {metric: np.asarray(values, dtype=np.float64) for metric, values in lived.items()}
        exposure[name] = watched.exposure()
    return Rollout(metrics, seed, settings, exposure)


def save_rollout(rollout: Rollout, folder: Path) -> None:
    """Write rollout.npz into `folder`: what `load_rollout` reads. Its settings are the default ones."""
    if rollout.settings != RolloutSettings():
        raise ValueError("only rollouts of the default settings are kept")
    arrays: dict[str, Any] = {"seed": np.array(rollout.seed)}
    for policy, metrics in rollout.metrics.items():
        arrays |= {f"metric/{policy}/{name}": values for name, values in metrics.items()}
    for policy, seen in rollout.exposure.items():
        arrays[f"shown/{policy}"] = seen.shown
        arrays[f"told/{policy}"] = np.array([seen.slates, np.nan if seen.entropy is None else seen.entropy])
    if rollout.segments is not None:
        arrays["segments"] = rollout.segments
    np.savez(folder / "rollout.npz", **arrays)


def load_rollout(folder: Path) -> Rollout:
    """Read what `save_rollout` wrote."""
    with np.load(folder / "rollout.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    metrics: dict[str, dict[str, Floats]] = {}
    exposure: dict[str, Exposure] = {}
    for key, values in arrays.items():
        kind, _, rest = key.partition("/")
        if kind == "metric":
            policy, _, name = rest.rpartition("/")
            metrics.setdefault(policy, {})[name] = values
        elif kind == "shown":
            slates, entropy = arrays[f"told/{rest}"].tolist()
            exposure[rest] = Exposure(values, int(slates), None if np.isnan(entropy) else entropy)
    return Rollout(metrics, int(arrays["seed"]), RolloutSettings(), exposure, arrays.get("segments"))


def side_by_side(rollouts: Sequence[Rollout]) -> Rollout:
    """Policies that were played one at a time, in this order, as if they had been played together.

    Raises InputError unless all were played to the same listeners with the same luck.
    """
    first = rollouts[0]
    metrics = {name: by for rollout in rollouts for name, by in rollout.metrics.items()}
    exposure = {name: seen for rollout in rollouts for name, seen in rollout.exposure.items()}
    people = {len(values) for by in metrics.values() for values in by.values()}
    same = all(
        (one.seed, one.settings) == (first.seed, first.settings) and _equal(one.segments, first.segments)
        for one in rollouts
    )
    if len(people) != 1 or not same:
        raise InputError("rollouts of other listeners or other luck cannot be compared: play these policies anew")
    return replace(first, metrics=metrics, exposure=exposure)


def _equal(one: NDArray[np.int8] | None, other: NDArray[np.int8] | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def policy_means(rollouts: Sequence[Rollout]) -> dict[str, dict[str, Interval]]:
    """policy -> metric -> mean over the listeners of all rollouts, each listener of each seed a cluster."""
    return {
        policy: {metric: known_mean(pooled(rollouts, policy, metric)) for metric in rollouts[0].metrics[policy]}
        for policy in common_policies(rollouts)
    }


@dataclass(frozen=True)
class PairedDifference:
    """A policy less another, listener by listener. `over_listeners` pools all seeds; `over_seeds` needs two."""

    over_listeners: Interval
    over_seeds: Interval | None
    by_seed: tuple[float, ...]


def paired(rollouts: Sequence[Rollout], policy: str, other: str) -> dict[str, PairedDifference]:
    """metric -> paired difference `policy` - `other`; listeners for whom either is undefined are left out."""
    result = {}
    for metric in rollouts[0].metrics[policy]:
        gaps = [rollout.metrics[policy][metric] - rollout.metrics[other][metric] for rollout in rollouts]
        by_seed = [float(np.nanmean(gap)) for gap in gaps]
        result[metric] = PairedDifference(known_mean(np.concatenate(gaps)), seeds_interval(by_seed), tuple(by_seed))
    return result


def gap_closed(rollouts: Sequence[Rollout]) -> dict[str, Interval]:
    """policy -> share of the way from the starting policy (logging) to the end (oracle) on the headline metric.

    A ratio of paired differences with the delta-method interval over listeners; empty without both ends, or where
    they do not differ. Above 1 and below 0 are possible and mean what they say.
    """
    settings = rollouts[0].settings
    names = common_policies(rollouts)
    if settings.start not in names or settings.end not in names:
        return {}
    start = pooled(rollouts, settings.start, settings.headline)
    whole = pooled(rollouts, settings.end, settings.headline) - start
    if abs(float(whole.mean())) < 1e-12:
        return {}
    shares = {}
    for name in names:
        way = pooled(rollouts, name, settings.headline) - start
        share = float(way.mean() / whole.mean())
        influence = (way - share * whole) / whole.mean()
        shares[name] = from_influence(share, influence, np.arange(way.size), way.size)
    return shares


def world_json(rollouts: Sequence[Rollout]) -> Json:
    """The `world` part of report.json.

    policies.<name>.<metric>.{mean, lo, hi}; paired_vs_<reference>.<name>.<metric>.{diff, lo, hi} over listeners, with
    {seeds_lo, seeds_hi, by_seed} where there are several seeds, and the same against the starting policy (today's);
    gap_closed.<name>.{share, lo, hi}.
    """
    check_same_shape(rollouts)
    settings = rollouts[0].settings
    names = common_policies(rollouts)
    result: Json = {
        "listeners": sum(listeners(rollout) for rollout in rollouts),
        "seeds": [rollout.seed for rollout in rollouts],
        "horizon_days": settings.horizon_days,
        "policies": {
            policy: {metric: {"mean": i.value, "lo": i.lo, "hi": i.hi} for metric, i in by_metric.items()}
            for policy, by_metric in policy_means(rollouts).items()
        },
        "gap_closed": {name: {"share": i.value, "lo": i.lo, "hi": i.hi} for name, i in gap_closed(rollouts).items()},
    }
    for other in dict.fromkeys((settings.reference, settings.start)):
        if other in names:
            result[f"paired_vs_{other}"] = {name: paired_json(rollouts, name, other) for name in names if name != other}
    return result


def paired_json(rollouts: Sequence[Rollout], policy: str, other: str) -> Json:
    """metric -> {diff, lo, hi} over listeners, and {seeds_lo, seeds_hi, by_seed} with two seeds or more."""
    result: Json = {}
    for metric, gap in paired(rollouts, policy, other).items():
        entry: Json = {"diff": gap.over_listeners.value, "lo": gap.over_listeners.lo, "hi": gap.over_listeners.hi}
        if gap.over_seeds is not None:
            entry |= {"seeds_lo": gap.over_seeds.lo, "seeds_hi": gap.over_seeds.hi, "by_seed": list(gap.by_seed)}
        result[metric] = entry
    return result


def between_runs_json(this: Rollout, other: Rollout) -> Json:
    """policy -> metric -> {diff, lo, hi}: `this` less `other` for every trained policy that both runs have.

    Both must have been played to the same listeners with the same luck; raises InputError when they were not.
    """
    if (this.seed, listeners(this)) != (other.seed, listeners(other)):
        raise InputError("two runs can only be paired when they were played to the same listeners of the same seed")
    marks = (this.settings.start, this.settings.end)
    result: Json = {}
    for name in (name for name in this.metrics if name in other.metrics and name not in marks):
        both = Rollout({"this": this.metrics[name], "other": other.metrics[name]}, this.seed, this.settings)
        result[name] = paired_json([both], "this", "other")
    return result


def pooled(rollouts: Sequence[Rollout], policy: str, metric: str) -> Floats:
    """One metric of one policy over the listeners of all rollouts, one after the other."""
    return np.concatenate([rollout.metrics[policy][metric] for rollout in rollouts])


def common_policies(rollouts: Sequence[Rollout]) -> list[str]:
    """Policies that every rollout played, in the first one's order."""
    return [name for name in rollouts[0].metrics if all(name in rollout.metrics for rollout in rollouts)]


def listeners(rollout: Rollout) -> int:
    """How many people this rollout played to."""
    return next(iter(next(iter(rollout.metrics.values())).values())).size


def known_mean(values: Floats) -> Interval:
    """Mean with its interval over the listeners for whom the metric is defined."""
    known = values[~np.isnan(values)]
    if known.size < 2:
        raise InputError(f"rollout: a metric is defined for {known.size} listeners; play longer or to more people")
    return mean_interval(finite(known, "metric"))


def check_same_shape(rollouts: Sequence[Rollout]) -> None:
    """Raises InputError when there is no rollout, or when policies of one rollout played to different people."""
    if not rollouts or not rollouts[0].metrics:
        raise InputError("rollout: no policy was played; give at least one rollout of one policy")
    for rollout in rollouts:
        sizes = {values.shape for by_metric in rollout.metrics.values() for values in by_metric.values()}
        if len(sizes) != 1:
            raise InputError(f"rollout of seed {rollout.seed}: metrics of {sorted(sizes)} listeners; they must match")
