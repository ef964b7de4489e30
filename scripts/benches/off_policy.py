"""Off-policy values beside the Open Bandit Pipeline, which runs in an environment of its own."""

from __future__ import annotations

from collections.abc import Iterable

from scripts.benches.measure import Measure
from scripts.benches.off_policy_work import measured


def bench_off_policy(
    rounds: int = 1_000_000, actions: int = 200, more: int = 1000, agreeing: int = 20_000
) -> Iterable[Measure]:
    """Doubly robust values with 1,000 bootstrap draws, beside the Open Bandit Pipeline in its own environment.

    Each side runs the same two models on the same log in a process of its own (off_policy_work.py); seconds are of
    one thread. The peer draws rounds, ours draws users, which is the interval that covers.
    """
    size = f"{rounds:,} rounds x {actions:,} actions"
    ours, theirs = (measured(rounds, actions, who) for who in ("ours", "peer"))
    yield Measure(f"ope: DR and 1,000 draws, {size}", "s", ours["seconds"], theirs["seconds"], 10.0)
    yield Measure(f"ope: peak memory, {size}", "MiB", ours["mib"], theirs["mib"], 10.0)
    apart = abs(ours["values"]["dr"] - theirs["values"]["dr"])
    large = measured(rounds, more, "ours")
    yield Measure(f"ope: DR and 1,000 draws, {rounds:,} x {more:,}", "s", large["seconds"], None, 30.0)
    yield Measure(f"ope: peak memory, {rounds:,} x {more:,}", "MiB", large["mib"], None, 1024.0)
    every = [measured(agreeing, actions, who, agree=True)["values"] for who in ("ours", "peer")]
    apart = max(apart, *(abs(every[0][name] - value) for name, value in every[1].items()))
    yield Measure(f"ope: largest difference, {len(every[1])} estimators", "", apart, None, 1e-6)
